"""Parts of sentences: how a difference, a share or a name is put into words."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps

from everlearn.demo.differences import Difference, Results, between_readers, larger, present
from everlearn.demo.labels import NAMES

Sentence = Callable[[Results], str]
NO_DIFFERENCE = "no difference beyond the spread"
# bits per byte are printed to two decimals; where no spread was measured, less than this is no difference
ROUNDING = 0.005


def needs(*paths: str) -> Callable[[Sentence], Sentence]:
    """Make a sentence empty unless every dotted path is measured."""

    def decorate(sentence: Sentence) -> Sentence:
        @wraps(sentence)
        def checked(results: Results) -> str:
            return sentence(results) if all(present(results, path) for path in paths) else ""

        return checked

    return decorate


def percent(share: float) -> str:
    """Write a share as a percentage: 0.964 is "96.4 %"."""
    return f"{100 * share:.1f} %"


def against(difference: Difference) -> str:
    """Word a difference of two shares, to be followed by what it is held against."""
    size = f"{100 * abs(difference.mean):.1f} points"
    return difference.words(f"{size} more than", f"{size} less than", f"{NO_DIFFERENCE} compared with")


def versus(reading: Results, key: str, name: str) -> str:
    """Word how learning compares with another reader, called `name`, in the last bucket."""
    difference = between_readers(reading, "learning", key, -1)
    size = f"{abs(difference.mean):.2f} bits per byte"
    words = difference.words(f"{size} worse than", f"{size} better than", f"{NO_DIFFERENCE} compared with")
    return f"{words} {name} ({reading['learning'][-1]:.2f} against {reading[key][-1]:.2f})"


def change(row: Results, more: str, less: str, decimals: int = 2) -> str:
    """Word the change from `before` to `after`; where no spread was measured, rounding stands in."""
    spread = row.get("change_sd")
    difference = Difference(row["after"] - row["before"], ROUNDING if spread is None else spread)
    same = "no change" if spread is None else "no change beyond the spread"
    return f"({difference.mean:+.{decimals}f}): {difference.words(more, less, same)}"


def week(digits: Results, key: str) -> str:
    """Word what the week did to Monday's digits under one method."""
    days, deviations = digits[key]["after_day"], digits[key].get("after_day_sd") or [None]
    difference = Difference(days[-1] - days[0], larger(deviations[0], deviations[-1]))
    size = f"{100 * abs(difference.mean):.1f} points"
    words = difference.words(f"gains {size} on", f"loses {size} of", "keeps, within the spread,")
    return f"{inside(NAMES[key])} {words} Monday's digits (from {percent(days[0])} to {percent(days[-1])})"


def positions(start: int, end: int) -> str:
    """Write a half-open range of byte positions by its first and last byte: (256, 1024) is "256 to 1,023"."""
    return f"{start:,} to {end - 1:,}"


def last_bucket(reading: Results) -> str:
    """Write the last range of byte positions: "4,096 to 8,192"."""
    return positions(*reading["buckets"][-1])


def inside(name: str) -> str:
    """Write a name inside a sentence: lower case unless it is an abbreviation."""
    return name if name[:2].isupper() else name[0].lower() + name[1:]


def plural(count: int, noun: str) -> str:
    """Write a count with its noun: "1 byte", "3 bytes"."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"

"""The tables of RESULTS.md, from measured rows."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import toy_tables

from everlearn.demo.labels import METHODS, READERS

Row = dict[str, Any]


def write(text: str, rows: dict[str, Any]) -> str:
    """Put every table between its two marks, where the page has them."""
    tables = {"digits": digits, "reading": reading, "keeping": keeping, "cost": cost, "summary": summary}
    for toy in (toy_tables.capacity, toy_tables.saturation, toy_tables.overlap):
        tables[toy.__name__] = partial(_toy, toy)
    for name, table in tables.items():
        text = put(text, name, lambda table=table: table(rows))
    return text


def _toy(table: Callable[[Row, str], str], rows: dict[str, Any]) -> str:
    """Write the table of one small world."""
    row = rows[table.__name__]
    return table(row, stamp(row))


def put(text: str, name: str, table: Callable[[], str]) -> str:
    """Put one table between its two marks; a page without them is returned as it is."""
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    before, found, rest = text.partition(begin)
    return f"{before}{begin}\n{table()}\n{end}{rest.partition(end)[2]}" if found else text


def stamp(row: Row, command: str = "python benchmarks/results.py") -> str:
    """Say how, where and when a table was measured."""
    at = row["where"]
    return f"`{command}`, commit {at['commit']}, {at['machine']}, torch {at['torch']}, {at['date']}."


def percent(row: Row, key: str = "final") -> str:
    """Write a share and its spread in percent."""
    spread = row.get(f"{key}_sd")
    return f"{100 * row[key]:.1f}" + (f" ± {100 * spread:.1f}" if spread is not None else "")


def over(values: list[float], digits: int = 3, sign: str = "") -> str:
    """Write a mean over base models, and its spread where they differ."""
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(set(values)) > 1 else ""
    return f"{statistics.mean(values):{sign}.{digits}f}{spread}"


def digits(rows: dict[str, Any]) -> str:
    """Accuracies in percent over five seeds."""
    week = rows["digits"]
    lines = [
        "| method | Monday's digits after each day | all ten at the end | stores | images |",
        "|---|---|---|---|---|",
    ]
    for label in METHODS:
        row = week[label.key]
        days = " ".join(f"{100 * share:.1f}" for share in row["after_day"])
        images = "yes" if row["stores_images"] else "no"
        lines.append(f"| {label.name} | {days} | {percent(row)} | {row['stores_kb']:,.0f} KB | {images} |")
    raw, joint = week["raw_pixels"]["precision"], week["joint"]
    lines.append(f"| Precision memory on raw pixels | | {percent(raw)} | {raw['stores_kb']:,.0f} KB | no |")
    lines.append(f"| All data at once, same features ({joint['which']}) | | {percent(joint)} | | |")
    facts = (
        f"The week in reverse: largest difference {week['reverse_difference']:g}. One image forgotten against never "
        f"seen: {week['forget_difference']:g}. {week['seeds']} seeds, which deal the digits to the days, order the "
        f"images and start the networks; what does not depend on order has no spread. {stamp(week)}"
    )
    return "\n".join([*lines, "", facts])


def reading(rows: dict[str, Any]) -> str:
    """Bits per byte by position: mean over eight files, then mean and spread over base models."""
    runs = rows["reading"]
    heads = [f"{a:,}-{b - 1:,}" for a, b in runs[0]["buckets"]]
    lines = [f"| bits per byte at bytes | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    for label in READERS:
        cells = [over([run[label.key][i] for run in runs]) for i in range(len(heads))]
        lines.append(f"| {label.name} | {' | '.join(cells)} |")
    seeds = ", ".join(str(run["base"]["seed"]) for run in runs)
    pairs = [zip(run["per_file"]["learning"], run["per_file"]["frozen"], strict=True) for run in runs]
    fewer = " and ".join(str(sum(learning[-1] < frozen[-1] for learning, frozen in pair)) for pair in pairs)
    facts = (
        f"Base models of seeds {seeds}, 8 files each; ± is over base models. Learning is below frozen in the last "
        f"range in {fewer} of 8 files. {stamp(runs[0])}"
    )
    return "\n".join([*lines, "", facts])


def keeping(rows: dict[str, Any]) -> str:
    """What is kept: damage, A-B-A, names, restart."""
    runs, kills = rows["reading"], rows["restart"]
    ways = (
        ("levels 64/256/1024", "learning", "kept", "no_restart_kept"),
        ("one rate, 64 (control)", "one_rate", "one_rate_restart_kept", "one_rate_kept"),
    )
    lines = [
        "| way | change against frozen, last range | damage, the fast level restarts | damage, nothing restarts |",
        "|---|---|---|---|",
    ]
    for name, way, *kept in ways:
        gain = over([run[way][-1] - run["frozen"][-1] for run in runs], sign="+")
        harm = [over([run[key]["after"] - run[key]["before"] for run in runs], sign="+") for key in kept]
        lines.append(f"| {name} | {gain} | {' | '.join(harm)} |")
    again = {key: over([run["first_again"][key] for run in runs]) for key in ("before", "after", "frozen")}
    names = {
        way: " to ".join(over([run["names"][way][i] for run in runs], 2) for i in (0, -1))
        for way in ("learning", "frozen")
    }
    apart = sum(run["isolation"]["identical"] for run in runs)
    facts = (
        f"A, B, A: the late bytes of A cost {again['frozen']} frozen, {again['before']} when first read, and "
        f"{again['after']} after B without learning.",
        f"Names new to the model ({runs[0]['names']['count']}), first to fifth occurrence, bits per byte: learning "
        f"{names['learning']}, frozen {names['frozen']}.",
        f"Ada's scores beside another content of Bob: bit-identical in {apart} of {len(runs)} runs.",
        f"SIGKILL while reading: {kills['kills']} kills in {kills['runs']} files; {kills['identical']} of "
        f"{kills['runs']} end bit-identical to never having stopped, the roll-back of the fast level included; at most "
        f"{kills['most_lost']} bytes had to be read again.",
    )
    return "\n".join([*lines, "", *(f"- {fact}" for fact in facts), "", stamp(kills)])


def cost(rows: dict[str, Any]) -> str:
    """Microseconds per byte for one reader, as ratios to frozen."""
    row = rows["cost"]
    lines = ["| one reader, one thread | microseconds per byte, median (min to max) | x frozen |", "|---|---|---|"]
    names = {
        "frozen": "frozen, 512 bytes at a time",
        "pieces": "frozen, 64 bytes at a time",
        "learning": "learning, 64 bytes at a time",
        "durable": "learning, each chunk committed to disk",
    }
    for key, name in names.items():
        time = row[key]
        ratio = time["median"] / row["frozen"]["median"]
        lines.append(f"| {name} | {time['median']:.0f} ({time['min']:.0f} to {time['max']:.0f}) | {ratio:.1f} |")
    return "\n".join([*lines, "", f"Seven interleaved rounds of 4,097 bytes in one process. {stamp(row)}"])


def summary(rows: dict[str, Any]) -> str:
    """The few numbers of the README."""
    runs = rows["reading"]
    lines = ["| | bits per byte | damage to the old text |", "|---|---|---|"]
    for name, way, kept in (
        ("frozen", "frozen", None),
        ("learning, levels 64/256/1024; the fast one restarts with each document", "learning", "kept"),
        ("control: another reader's memory", "control", None),
        ("control: one rate, the same restart", "one_rate", "one_rate_restart_kept"),
        ("control: one rate, nothing restarts", "one_rate", "one_rate_kept"),
        ("levels, nothing restarts", "learning", "no_restart_kept"),
        ("all weights (dynamic evaluation)", "all_weights", None),
        ("order-5 byte n-gram that counts while it reads", "ngram_online", None),
    ):
        harm = over([run[kept]["after"] - run[kept]["before"] for run in runs], sign="+") if kept else ""
        lines.append(f"| {name} | {over([run[way][-1] for run in runs])} | {harm} |")
    return "\n".join([*lines, "", f"{len(runs)} base models, 8 files each, ± over base models. {stamp(runs[0])}"])

"""The tables of the small worlds."""

from __future__ import annotations

from typing import Any

Row = dict[str, Any]


def capacity(row: Row, stamp: str) -> str:
    """Recall in percent by number of pairs, for independent keys and for keys that resemble each other."""
    counts = [str(n) for n in row["counts"]]
    heads = " | ".join(["architecture", "objective", "retention", *counts, *[f"{n}, alike" for n in counts]])
    lines = [f"| {heads} |", "|---" * (3 + 2 * len(counts)) + "|"]
    for name, kinds in row["rows"].items():
        cells = [f"{100 * mean:.0f}" for kind in ("independent", "alike") for mean in kinds[kind]["mean"]]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    largest = max(sd for kinds in row["rows"].values() for kind in kinds.values() for sd in kind["sd"])
    facts = (
        f"Percent of the pairs so far that come back, each written once into dimension {row['dim']}; means "
        f"of {row['draws']} draws, standard deviation of a draw at most {100 * largest:.0f} points; chance is "
        f"100 / pairs. Alike: any two keys have cosine 0.5. {stamp}"
    )
    return "\n".join([*lines, "", facts])


def saturation(row: Row, stamp: str) -> str:
    """What can be seen of a memory while it overflows."""
    heads = "memory | pairs written | norm | stable rank | surprise | newest 16 back | oldest 16 back"
    lines = [f"| {heads} |", "|---" * 7 + "|"]
    for name, moments in row["rows"].items():
        for at in moments:
            # sixteen copies of one pair cannot be told apart
            newest = "" if "repeated" in name and at["writes"] > 32 else f"{100 * at['recent']:.0f} %"
            lines.append(
                f"| {name} | {at['writes']:,} | {at['norm']:.1f} | {at['stable_rank']:.1f} | {at['surprise']:.2f} | "
                f"{newest} | {100 * at['oldest']:.0f} % |"
            )
    return "\n".join([*lines, "", f"Dimension {row['dim']}, means of {row['draws']} draws; chance is 6 %. {stamp}"])


def overlap(row: Row, stamp: str) -> str:
    """What is missing of the newest and of the old tasks, by angle and rule."""
    angles = [str(angle) for angle in row["angles"]]
    heads = " | ".join(["rule", *[f"{float(angle):.0f} degrees" for angle in angles]])
    lines = [f"| {heads} |", "|---" * (1 + len(angles)) + "|"]
    for name, by_angle in row["rows"].items():
        cells = [f"{by_angle[a]['newest']:.3f} / {by_angle[a]['old']:.3f} ({by_angle[a]['eta']:.2g})" for a in angles]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    largest = max(by[a][f"{end}_sd"] for by in row["rows"].values() for a in angles for end in ("newest", "old"))
    facts = (
        f"Newest / old (step size): the share of |y|^2 that is missing of a task when its training ends, and of the "
        f"earlier seven at the very end; 1 knows nothing. {row['steps']} steps per task, means of {row['draws']} "
        f"draws, standard deviation of a draw at most {largest:.2f}. {len(row['grid'])} step sizes tried per rule and "
        f"angle on other draws. {stamp}"
    )
    return "\n".join([*lines, "", facts])

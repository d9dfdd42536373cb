"""Put what `everlearn bench` measured of streams of classes into RESULTS.md, from the files of its `--json`.

    everlearn bench banking --data FOLDER --strategies klda streaming_lda --json banking.json
    python benchmarks/class_tables.py --tasks banking.json

Each table stands between marks of its own, so one can be made anew without the others.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rows import ROOT, where
from tables import put

from everlearn.evals.class_incremental import economics, markdown, pictures
from everlearn.evals.class_incremental.tables import needs, percent
from everlearn.memory.files import atomic_write

PAGE = ROOT / "RESULTS.md"
Document = Mapping[str, Any]


def main() -> None:
    """Write the tables of the files that were given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", type=Path, default=[], help="one table for each data set")
    parser.add_argument("--rest", type=Path, help="strategies that stand in no other table")
    parser.add_argument("--domains", type=Path, help="of --stream domains: what is kept of the first domain")
    parser.add_argument("--streams", nargs="+", type=Path, default=[], help="of one data set: one column for each")
    parser.add_argument("--economics", type=Path, help="what accuracy costs")
    options = parser.parse_args()
    written: dict[str, str] = {}
    for file in options.tasks:
        document = read(file)
        written[f"classes-{document['scenario'].lower()}"] = accuracies(document)
    if options.rest:
        written["classes-rest"] = accuracies(read(options.rest))
    if options.domains:
        written["classes-domains"] = first_domain(read(options.domains))
    if options.streams:
        written["classes-streams"] = streams([read(file) for file in options.streams])
    if options.economics:
        document = read(options.economics)
        written["classes-economics"] = costs(document)
        # ten curves share a picture, and RanPAC's is that of KLDA
        drawn = {name: rows for name, rows in document["rows"].items() if name != "ranpac"}
        title = f"{document['scenario']}, {document['seeds']} orders"
        pictures.costs(drawn, ROOT / "docs" / "classes_economics.png", title)
    text = PAGE.read_text()
    for mark, table in written.items():
        text = put(text, mark, lambda table=table: table)
        print(f"{mark}\n{table}\n")
    atomic_write(PAGE, text.encode(), private=False)


def read(file: Path) -> Document:
    """Return what the command wrote."""
    found: Document = json.loads(file.read_text())
    return found


def accuracies(document: Document) -> str:
    """Write all metrics of one stream, what was chosen, and the accuracies without leaked records."""
    table = markdown(document["rows"], document["floor"])
    chosen = "; ".join(f"{name} {settings(given)}" for name, given in document["chosen"].items() if given)
    return "\n\n".join([table, f"Chosen on validation: {chosen}.", *leaks(document), told(document)])


def settings(given: Mapping[str, Any]) -> str:
    """Write settings in a few characters."""
    return " ".join(f"{name}={value}" for name, value in given.items())


def leaks(document: Document) -> list[str]:
    """Write the best accuracies without the test records that were learned as well, where there are such."""
    rows = document["rows"]
    if all(row["final"] == row["final_without_leaks"] for found in rows.values() for row in found):
        return []
    best = sorted(rows, key=lambda name: -statistics.mean(row["final"] for row in rows[name]))[:4]
    pairs = [
        f"{name} {percent([row['final_without_leaks'] for row in rows[name]])} / "
        f"{percent([row['final_macro_without_leaks'] for row in rows[name]])}"
        for name in best
    ]
    return [f"Without the test texts that are also training or validation texts (micro / macro): {', '.join(pairs)}."]


def first_domain(document: Document) -> str:
    """Write the accuracy on the first domain after the first, the second, the third and the last."""
    heads = [
        "strategy",
        "A after A",
        "after B",
        "after C",
        "falls by, each order",
        "after all ten",
        "all classes",
        "needs",
    ]
    lines = [heads, ["---"] * len(heads)]
    for name, rows in {**document["rows"], "*joint probe, trained anew each time*": document["floor"]}.items():
        after = [percent([row["task_a"][place] for row in rows]) for place in (0, 1, 2)]
        falls = ", ".join(f"{100 * (row['task_a'][0] - row['task_a'][2]):+.1f}" for row in rows)
        last = [percent([row["task_a"][-1] for row in rows]), percent([row["final"] for row in rows])]
        lines.append([name, *after, falls, *last, needs(rows[0]) if "needs_oracle" in rows[0] else "all records"])
    return "\n".join([*as_lines(lines), "", told(document)])


def streams(documents: Sequence[Document]) -> str:
    """Write the accuracy on all classes at the end of every stream."""
    names = list(documents[0]["rows"])
    lines = [["strategy", *map(heading, documents)], ["---"] * (1 + len(documents))]
    lines += [[name, *(cell(document["rows"][name]) for document in documents)] for name in names]
    lines.append(["*joint probe*", *(cell(document["floor"]) for document in documents)])
    return "\n".join([*as_lines(lines), "", told(documents[0])])


def heading(document: Document) -> str:
    """Write what is done to a stream."""
    share = document.get("misspelt", 0.0)
    return f"{document['stream']}, {share:.0%} misspelt" if share else str(document["stream"])


def cell(rows: Sequence[Mapping[str, Any]]) -> str:
    """Write the accuracy on all classes at the end, where it was measured."""
    return percent([row["final"] for row in rows]) if rows else ""


def costs(document: Document) -> str:
    """Write what accuracy costs."""
    found = document["economics"]
    return f"{economics.markdown(document['rows'], found['reference'], found['margin'])}\n\n{told(document)}"


def as_lines(lines: Sequence[Sequence[str]]) -> list[str]:
    """Write the lines of a table."""
    return [f"| {' | '.join(line)} |" for line in lines]


def told(document: Document) -> str:
    """Say how many orders there were, and where the table was made."""
    at, seeds = where(), document["seeds"]
    orders = f"{seeds} order{'s' if seeds > 1 else ''}"
    return (
        f"{document['scenario']}, {orders}. `everlearn bench`, written at commit {at['commit']}, {at['machine']}, "
        f"torch {at['torch']}, {at['date']}."
    )


if __name__ == "__main__":
    main()

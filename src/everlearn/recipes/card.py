"""The card of a model that was trained on books: every number on it was measured by the run that wrote it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from string import Template
from typing import Any

WAYS = {
    "gzip": "gzip -9, alone",
    "xz": "xz -9e, alone",
    "ngram_frozen": "order-5 n-gram of the same training text",
    "ngram_learning": "the same, counting while it reads",
    "frozen": "this model, frozen",
    "learning": "this model, learning while it reads",
}

TEXT = Template("""\
# $title

A language model of $parameters parameters ($megabytes MB) that reads and writes bytes. It was trained from nothing on
three novels, on one CPU, to show how a small model goes on learning while it reads. It is no assistant and no source
of facts.

## What it is

- Preset `$preset`, size `$size`; one token is one byte of UTF-8.
- $steps steps of $batch_size windows of $length bytes: $bytes bytes read, $epochs times the text of the books.
  Muon $lr, AdamW $adamw_lr, seed $seed; torch $torch, Python $python.
- SHA-256 of `model.safetensors`: `$sha256`.

## Data and licences

| book | bytes | SHA-256 |
|---|---|---|
$books

Texts of Standard Ebooks. The sources are in the public domain in the United States; Standard Ebooks dedicates its own
contributions to the public domain (CC0 1.0). Where you live, other terms may hold. A block of the books is held out
where a hash of its bytes says so, about one in twenty; nothing else was read. The weights carry the licence of this
project, Apache-2.0.

## What was measured

Held-out blocks of the same books: **$heldout bits per byte**, in windows of $length bytes that begin anew.

Books that it has never seen, $pieces pieces of up to $piece_length bytes, picked by a hash; bits per byte, each byte
scored before anything is learned from it, every piece by a reader of its own:

| | $columns |
|---|$rule
$rows

One seed. gzip and xz see each piece alone and store no model; the n-gram has counted the same training text.

## What it cannot do

- It answers no questions, follows no instructions and knows no facts; what it writes only looks like prose:

  > $sample

- It has read English of the nineteenth century, by five people, two translators included. It has their words for
  people and peoples, and their prejudices; it predicts other text badly, and other languages hardly at all.
- $verdict
- What it learns from a user's text stands in that user's memory, which is personal data.

## Use it

```bash
everlearn generate "$prompt" --base FOLDER --temperature 0.7
everlearn read FILE --base FOLDER --state memory --user ada
everlearn eval FILE --base FOLDER --ppl
```

Made by `$command`.
""")


def card(facts: Mapping[str, Any]) -> str:
    """Write the card of a model of `recipes.books`.

    Args:
        facts: what `recipes.books.make` measured.
    """
    training = facts["training"]
    total = sum(file["bytes"] for file in facts["data"])
    return TEXT.substitute(
        title=f"A small reader of old novels ({facts['preset']}, {facts['size']})",
        parameters=f"{facts['parameters']:,}",
        megabytes=f"{facts['megabytes']:.1f}",
        preset=facts["preset"],
        size=facts["size"],
        steps=f"{facts['steps']:,}",
        batch_size=training["batch_size"],
        length=training["length"],
        bytes=f"{facts['bytes']:,}",
        epochs=f"{facts['bytes'] / total:.1f}",
        lr=f"{training['lr']:g}",
        adamw_lr=f"{training['adamw_lr']:g}",
        seed=training["seed"],
        torch=facts["torch"],
        python=facts["python"],
        sha256=facts["sha256"],
        books="\n".join(f"| {file['name']} | {file['bytes']:,} | `{file['sha256']}` |" for file in facts["data"]),
        heldout=f"{facts['bits_per_byte']:.3f}",
        pieces=len(facts["rows"]),
        piece_length=f"{max(row['bytes'] for row in facts['rows']):,}" if facts["rows"] else "0",
        columns=" | ".join(_books(facts["rows"])),
        rule="---|" * len(_books(facts["rows"])),
        rows="\n".join(_line(facts["rows"], way, title) for way, title in WAYS.items()),
        sample=_quoted(facts["prompt"] + facts["written"]),
        verdict=_verdict(facts["rows"]),
        prompt=facts["prompt"].strip(),
        command=f"python -m everlearn.recipes.books --data BOOKS --out OUT --preset {facts['preset']} "
        f"--steps {facts['steps']} --seed {training['seed']}",
    )


def mean(rows: Sequence[Mapping[str, Any]], way: str) -> float:
    """Return the bits per byte of several pieces together."""
    return sum(row[way] * row["bytes"] for row in rows) / sum(row["bytes"] for row in rows)


def _books(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(row["book"] for row in rows))


def _line(rows: Sequence[Mapping[str, Any]], way: str, title: str) -> str:
    """Write one row of the table: a way of predicting, and each book."""
    cells = [f"{mean([row for row in rows if row['book'] == book], way):.3f}" for book in _books(rows)]
    return f"| {title} | {' | '.join(cells)} |"


def _verdict(rows: Sequence[Mapping[str, Any]]) -> str:
    """Say whether the model is worse than counting."""
    learning, by_count = mean(rows, "learning"), mean(rows, "ngram_learning")
    if learning < by_count:
        return (
            f"While it reads it predicts these pieces better than an n-gram that counts them ({learning:.3f} against "
            f"{by_count:.3f} bits per byte); that is all that was shown."
        )
    return (
        f"An n-gram that merely counts predicts these pieces better while it reads ({by_count:.3f} against "
        f"{learning:.3f} bits per byte)."
    )


def _quoted(text: str) -> str:
    """Write a sample on lines of a quotation."""
    return "\n  > ".join(line.rstrip() for line in text.replace("\ufffd", "?").splitlines() if line.strip())

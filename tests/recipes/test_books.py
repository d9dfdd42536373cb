"""The books' model: what is published loads, and every number on its card is one that was measured."""

from __future__ import annotations

import dataclasses
import gzip
import re

import pytest

from everlearn.learn import Learner
from everlearn.models import load_model
from everlearn.recipes import books
from everlearn.recipes.card import card, mean

SENTENCE = "The captain of chapter {n} met the whale, “so vast,” and wrote {m} letters home.\n\n"


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """Write six short books, and let the recipe measure on short pieces."""
    for i, name in enumerate([*books.BOOKS, *books.UNSEEN]):
        text = "".join(SENTENCE.format(n=n * (i + 1), m=n % 7) for n in range(40))
        (tmp_path / f"{name}.txt.gz").write_bytes(gzip.compress(text.encode()))
    monkeypatch.setattr(books, "LENGTH", 300)
    monkeypatch.setattr(books, "WRITTEN", 20)
    return tmp_path


def test_the_published_folder_holds_the_model_and_its_card(shelf, tmp_path, capsys):
    out = tmp_path / "out"
    one = books.training("hope_attention", steps=2)
    assert (one.training.batch_size, one.training.length) == (16, 256)
    one = dataclasses.replace(one, training=dataclasses.replace(one.training, batch_size=2, length=32))
    facts = books.make(shelf, out, one, preset="hope_attention", say=print)
    assert sorted(path.name for path in (out / "model").iterdir()) == ["README.md", "config.json", "model.safetensors"]
    model, about = load_model(out / "model")
    assert about["steps"] == 2
    learner = Learner(model)
    page = (out / "model" / "README.md").read_text()
    assert f"**{facts['bits_per_byte']:.3f} bits per byte**" in page
    assert facts["sha256"] in page
    for name in books.BOOKS:
        assert page.count(name) == 1
    assert len(facts["rows"]) == len(books.UNSEEN) * books.PIECES
    row = facts["rows"][0]
    text = books.load_book(shelf, row["book"])[300 * row["piece"] : 300 * (row["piece"] + 1)]
    assert row["frozen"] == pytest.approx(learner.score(text).bits_per_byte)
    assert row["gzip"] == 8 * len(gzip.compress(text.encode(), 9, mtime=0)) / len(text.encode())
    for row in facts["rows"][:3]:
        text = books.load_book(shelf, row["book"])[300 * row["piece"] : 300 * (row["piece"] + 1)]
        assert row["learning"] == pytest.approx(Learner(model).read(text, user="new").bits_per_byte)
    # none of what it read to measure itself stayed
    assert facts["written"] == learner.generate(books.PROMPT, max_new_tokens=20, temperature=0.7, seed=0)
    assert books.make(shelf, out, one, preset="hope_attention") == facts


def rows(learning: float) -> list[dict]:
    ways = {"gzip": 3.0, "xz": 3.5, "ngram_frozen": 2.5, "ngram_learning": 2.4, "frozen": 2.2, "learning": learning}
    first = {"book": "one", "piece": 0, "bytes": 100, **ways}
    return [first, {**first, "piece": 1, "bytes": 300, "gzip": 2.0}, {**first, "book": "two", "gzip": 1.0}]


def facts(learning: float) -> dict:
    return {
        "preset": "p", "size": "tiny", "steps": 3, "bytes": 500, "parameters": 1234, "megabytes": 4.0, "sha256": "ab",
        "training": {"batch_size": 2, "length": 8, "lr": 0.1, "adamw_lr": 0.2, "seed": 7}, "torch": "t", "python": "3",
        "data": [{"name": "book", "bytes": 250, "sha256": "cd"}], "rows": rows(learning), "bits_per_byte": 2.0,
        "prompt": "It was ", "written": "a\n\nday \ufffd.",
    }  # fmt: skip


def test_the_card_by_hand():
    page = card(facts(2.3))
    assert "A language model of 1,234 parameters (4.0 MB)" in page
    assert "500 bytes read, 2.0 times the text of the books" in page
    assert "| | one | two |\n|---|---|---|\n| gzip -9, alone | 2.250 | 1.000 |" in page
    assert "  > It was a\n  > day ?." in page
    assert "better than an n-gram that counts them (2.300 against 2.400 bits per byte)" in page
    assert "An n-gram that merely counts predicts these pieces better while it reads (2.400 against 2.600" in card(
        facts(2.6)
    )
    assert "--preset p --steps 3 --seed 7`" in page
    assert mean(rows(1.0), "gzip") == pytest.approx((300 + 600 + 100) / 500)


def test_every_command_on_the_card_exists():
    from tests.test_docs import command_faults

    block = re.search(r"```bash\n(.*?)```", card(facts(2.3)), re.S)
    assert block is not None
    for line in block[1].splitlines():
        assert command_faults(line) == []


def test_a_missing_book_is_named_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match=r"the book 'tolstoy_war-and-peace' is missing"):
        books.make(tmp_path, tmp_path / "out", books.training(steps=1))
    assert not (tmp_path / "out").exists()

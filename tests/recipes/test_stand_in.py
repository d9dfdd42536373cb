"""The stand-in: a folder like anybody's, the same numbers for a seed, and never a look at the books' ends."""

import gzip
from dataclasses import replace

import pytest
import torch

from everlearn.evals.tokens import encode
from everlearn.recipes import stand_in

SENTENCE = "The captain of chapter {n} met the whale, “so vast,” and wrote {m} letters home.\n\n"


@pytest.fixture
def books(tmp_path):
    folder = tmp_path / "books"
    folder.mkdir()
    for i, name in enumerate(stand_in.BOOKS):
        text = "".join(SENTENCE.format(n=n * (i + 1), m=n % 7) for n in range(220))
        data = text.encode()
        if i:
            (folder / f"{name}.txt.gz").write_bytes(gzip.compress(data))
        else:
            (folder / f"{name}.txt").write_bytes(data)
    return folder


def test_it_trains_once_loads_as_any_other_model_and_a_seed_is_one_result(tmp_path, books):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    config = replace(stand_in.training(3), steps=2, batch_size=1)
    seen = []
    about = stand_in.load_or_train(
        tmp_path / "a", books, seed=3, config=config, on_step=lambda step, bits: seen.append(step)
    )
    stand_in.load_or_train(tmp_path / "b", books, seed=3, config=config)
    assert seen == [1, 2]
    assert stand_in.load_or_train(tmp_path / "a", tmp_path / "none") == about
    model, other = (AutoModelForCausalLM.from_pretrained(tmp_path / name).state_dict() for name in "ab")
    assert all(torch.equal(value, other[name]) for name, value in model.items())
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "a")
    text = SENTENCE.format(n=1, m=2)
    assert tokenizer.decode(encode(tokenizer, text)) == text
    assert about["parameters"] == sum(value.numel() for name, value in model.items() if name != "lm_head.weight")


def test_the_stand_in_is_the_size_that_the_page_says():
    assert sum(p.numel() for p in stand_in.build().parameters()) == 935_040
    config = stand_in.training()
    assert config.steps * config.batch_size * config.length == 2_703_360


def test_only_the_matrices_of_the_blocks_go_to_muon():
    from everlearn.train.loop import optimizers

    muon, adamw = optimizers(stand_in.build(64), stand_in.training(), "model.layers.")
    assert sum(len(group["params"]) for group in muon.param_groups) == 4 * 7
    assert sum(len(group["params"]) for group in adamw.param_groups) == 1 + 1 + 4 * 2


def test_the_end_of_a_book_is_held_out_and_a_missing_book_is_named(books):
    text = stand_in.load_book(books, stand_in.BOOKS[1])
    train, rest = stand_in.split(text)
    assert train + rest == text
    assert len(rest) / len(text) == pytest.approx(0.05, abs=1e-3)
    with pytest.raises(ValueError, match=r"the book 'nobody' is missing: .* nobody.txt.gz or nobody.txt is needed"):
        stand_in.load_book(books, "nobody")

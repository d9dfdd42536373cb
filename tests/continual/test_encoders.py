"""Sentence encoders equal the literal pooling of their hidden layers, text by text."""

import importlib
import sys

import pytest
import torch
from transformers import BertConfig, BertModel, BertTokenizer

from everlearn.continual.encoders import POOLS, HFEncoder, SentenceTransformersEncoder

WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "the",
    "cat",
    "sat",
    "on",
    "mat",
    "a",
    "dog",
    "ran",
    "and",
    "then",
    "it",
    "slept",
]
TEXTS = ["the cat sat", "a dog ran and then it slept", "the dog", "", "a bird sang", "the cat sat on the mat"]


def save(folder, seed=0):
    torch.manual_seed(seed)
    shape = {"hidden_size": 8, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 16}
    BertModel(BertConfig(vocab_size=len(WORDS), max_position_embeddings=32, **shape)).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    BertTokenizer(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save(tmp_path_factory.mktemp("encoder"))


def literal(folder, text, layers, pool):
    """One text alone: each layer pooled by hand, of norm sqrt(D), side by side."""
    model, tokenizer = BertModel.from_pretrained(folder).eval(), BertTokenizer.from_pretrained(folder)
    with torch.no_grad():
        hidden = model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True).hidden_states
    pooled = [{"mean": hidden[n][0].mean(0), "first": hidden[n][0, 0], "last": hidden[n][0, -1]}[pool] for n in layers]
    return torch.cat([8**0.5 * x / x.norm() for x in pooled])


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("layers", [(-2, -1), (0, 3), (-1,)])
def test_features_are_the_pooled_layers_of_each_text_alone(folder, pool, layers):
    encoder = HFEncoder(folder, layers=layers, pool=pool)
    got = encoder(TEXTS)
    assert got.shape == (len(TEXTS), encoder.dim) and encoder.dim == 8 * len(layers)
    for text, features in zip(TEXTS, got, strict=True):
        torch.testing.assert_close(features, literal(folder, text, layers, pool), rtol=1e-5, atol=1e-5)


def test_a_text_has_the_same_features_in_any_batch(folder):
    encoder = HFEncoder(folder)
    # a product of other sizes may round another way
    torch.testing.assert_close(torch.cat([encoder([text]) for text in TEXTS]), encoder(TEXTS), rtol=1e-6, atol=1e-6)
    assert encoder([]).shape == (0, 16)


def test_a_long_text_is_cut(folder):
    encoder = HFEncoder(folder, max_length=5)
    assert torch.equal(encoder(["the cat sat on the mat"]), encoder(["the cat sat"]))
    assert not torch.equal(encoder(["the cat sat"]), encoder(["the cat ran"]))


def test_settings_tell_weights_and_choices_apart_but_not_places(folder, tmp_path):
    (tmp_path / "copy").mkdir(), (tmp_path / "other").mkdir()
    known = HFEncoder(folder).settings()
    assert HFEncoder(save(tmp_path / "copy")).settings() == known
    assert HFEncoder(save(tmp_path / "other", seed=1)).settings() != known
    for choice in ({"layers": (-1,)}, {"pool": "first"}, {"max_length": 64}):
        assert HFEncoder(folder, **choice).settings() != known


def test_what_cannot_be_encoded_is_refused_in_one_line(folder, tmp_path):
    refusals = [
        (lambda: HFEncoder(tmp_path / "nowhere"), "does not exist; give a folder"),
        (lambda: HFEncoder(tmp_path), r"config.json is missing\); give a folder"),
        (lambda: HFEncoder(folder, layers=(-5,)), "which has 3; give some of 0 to 3"),
        (lambda: HFEncoder(folder, layers=()), "which has 3; give some of 0 to 3"),
        (lambda: HFEncoder(folder, pool="max"), "choose one of mean, first, last"),
        (lambda: HFEncoder(folder, max_length=0), "leaves nothing of a text; give"),
        (lambda: HFEncoder(folder)("one text"), "give a list of texts"),
        (lambda: HFEncoder(folder)(["a", 1]), "item 1 is of type int"),
    ]
    for refused, words in refusals:
        with pytest.raises(ValueError, match=words) as error:
            refused()
        assert "\n" not in str(error.value)


def test_nothing_in_it_learns(folder):
    encoder = HFEncoder(folder)
    assert not encoder(["the cat"]).requires_grad and not any(p.requires_grad for p in encoder._model.parameters())


def test_the_missing_library_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(ValueError, match="pip install sentence-transformers, or use HFEncoder"):
        SentenceTransformersEncoder()


@pytest.mark.skipif(importlib.util.find_spec("sentence_transformers") is None, reason="sentence-transformers missing")
def test_a_sentence_transformer_gives_what_the_library_gives(folder):
    from sentence_transformers import SentenceTransformer

    theirs = SentenceTransformer(str(folder), device="cpu").encode(TEXTS, convert_to_tensor=True)
    ours = SentenceTransformersEncoder(folder)
    expected = torch.nn.functional.normalize(theirs, dim=-1) * 8**0.5
    torch.testing.assert_close(ours(TEXTS), expected, rtol=1e-5, atol=1e-5)
    assert ours.dim == 8 and ours.settings() == SentenceTransformersEncoder(folder).settings()

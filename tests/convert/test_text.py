"""Text through a tokenizer: bytes are counted right, whatever the tokens are."""

from __future__ import annotations

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from everlearn.convert import stack_levels
from tests.convert.families_fixture import tiny

TEXT = "To be, or not to be \N{EM DASH} that is the question: na\u00efve \U0001f600\n\tand \u4f60\u597d\x00."


def byte_level():
    """Return a tokenizer like GPT-2's, Llama 3's and Qwen's, trained on a few words."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, special_tokens=["<end>"])
    tokenizer.train_from_iterator(["to be or not to be that is the question"] * 4, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>")


def pieces():
    """Return a tokenizer like Llama 2's, Mistral's and Gemma's: pieces of text, and bytes where there are none."""
    words = ["<end>", *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581", *"Tobenrthaisqu,:", "\u2581be", "\u2581to"]
    merges = [("\u2581", "b"), ("\u2581b", "e"), ("\u2581", "t"), ("\u2581t", "o")]
    vocabulary = {word: i for i, word in enumerate(dict.fromkeys([*words, *(a + b for a, b in merges)]))}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=False)
    tokenizer.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>")


@pytest.fixture(params=[byte_level, pieces], ids=["byte level", "pieces"])
def model(request):
    return stack_levels(tiny(vocab_size=512), request.param())


def test_tokens_stand_for_all_bytes_of_a_text(model):
    ids = model.encode(TEXT)
    assert ids.dtype == torch.long and ids.ndim == 1
    assert model.count_bytes(ids).sum().item() == len(TEXT.encode())
    assert (model.count_bytes(ids) >= 1).all()
    assert model.count_bytes(ids).max() >= 3
    assert model.decode(ids) == TEXT
    assert torch.equal(model.encode(TEXT.encode()), ids)


def test_each_token_counts_the_bytes_of_its_own_text(model):
    ids = model.encode("to be to be")
    texts = [model.decode(ids[i : i + 1]) for i in range(len(ids))]
    assert model.count_bytes(ids).tolist() == [len(text.encode()) for text in texts]


def test_special_tokens_stand_for_nothing(model):
    end = torch.tensor([model.tokenizer.eos_token_id])
    assert model.count_bytes(end).tolist() == [0]
    assert model.count_bytes(torch.tensor([511])).tolist() == [0]  # the model has more tokens than the tokenizer
    assert model.decode(torch.cat([model.encode("be"), end])) == "be"


def test_an_empty_text_has_no_tokens(model):
    assert model.encode("").shape == (0,)
    assert model.decode(model.encode("")) == ""


def test_what_is_no_text_is_refused(model):
    with pytest.raises(ValueError, match="got int where a text is needed"):
        model.encode(3)
    with pytest.raises(ValueError, match="no UTF-8 at position 2"):
        model.encode(b"ab\xff")


def test_a_model_without_a_tokenizer_reads_numbers_only():
    model = stack_levels(tiny())
    for call in (
        lambda: model.encode("a"),
        lambda: model.decode(torch.tensor([1])),
        lambda: model.count_bytes(torch.tensor([1])),
    ):
        with pytest.raises(ValueError, match="without a tokenizer"):
            call()

"""A Hugging Face model that is small enough to learn within a test, and a tokenizer for it."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch


def tiny_llama(vocabulary: int = 11) -> Any:
    """Return an untrained LlamaForCausalLM in float64, the same in every call."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=8,
        intermediate_size=12,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=True,
        initializer_range=0.3,
    )
    return LlamaForCausalLM(config).double().eval()


@cache
def tiny_tokenizer() -> Any:
    """Return a byte-level BPE tokenizer with 300 tokens."""
    from everlearn.models.tokenizer import train_tokenizer

    return train_tokenizer(["“The cat sat on the mat;” the dog sat by it — the end.\n\nA café, naïvely. " * 4], 300)

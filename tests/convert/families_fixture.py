"""A tiny model with random weights of each family."""

from __future__ import annotations

import torch
import transformers as hf
from torch import nn

SIZES = {
    "vocab_size": 61,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
WITHOUT_GROUPS = {name: size for name, size in SIZES.items() if name != "num_key_value_heads"}
GPT2 = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64}

# how the twelve families are built, by the name that Hugging Face gives them
FAMILIES: dict[str, tuple[type, type, dict]] = {
    "llama": (hf.LlamaConfig, hf.LlamaForCausalLM, SIZES),
    "qwen2": (hf.Qwen2Config, hf.Qwen2ForCausalLM, SIZES),
    "qwen3": (hf.Qwen3Config, hf.Qwen3ForCausalLM, SIZES | {"head_dim": 8}),
    "mistral": (hf.MistralConfig, hf.MistralForCausalLM, SIZES | {"sliding_window": 12}),
    "gemma": (hf.GemmaConfig, hf.GemmaForCausalLM, SIZES | {"head_dim": 8}),
    "gpt2": (hf.GPT2Config, hf.GPT2LMHeadModel, {**GPT2, "vocab_size": 61, "bos_token_id": 1, "eos_token_id": 2}),
    "gpt_neox": (hf.GPTNeoXConfig, hf.GPTNeoXForCausalLM, WITHOUT_GROUPS),
    "phi": (hf.PhiConfig, hf.PhiForCausalLM, WITHOUT_GROUPS),
    "phi3": (hf.Phi3Config, hf.Phi3ForCausalLM, SIZES),
    "olmo": (hf.OlmoConfig, hf.OlmoForCausalLM, SIZES),
    "stablelm": (hf.StableLmConfig, hf.StableLmForCausalLM, SIZES),
    "falcon": (hf.FalconConfig, hf.FalconForCausalLM, WITHOUT_GROUPS | {"ffn_hidden_size": 24, "alibi": False}),
}


def tiny(family: str = "llama", dtype: torch.dtype = torch.float64, **changes) -> nn.Module:
    """Return a model of a family, the same in every call."""
    config, model, sizes = FAMILIES[family]
    torch.manual_seed(2)
    # large weights, so that no gradient is too small to see
    return model(config(**{**sizes, "initializer_range": 0.2, **changes})).to(dtype).eval()


def tokens(rows: int = 2, length: int = 40, seed: int = 3) -> torch.Tensor:
    """Return random tokens, none of them special."""
    return torch.randint(3, 61, (rows, length), generator=torch.Generator().manual_seed(seed))

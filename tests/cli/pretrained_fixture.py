"""A folder as save_pretrained writes it: a tiny Llama with random weights, and a tokenizer that was trained here."""

from __future__ import annotations

from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

WORDS = b"the cat sat on the mat and the dog sat by the cat while a ship sailed over the sea. " * 4
TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content | trim }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def tokenizer(template: str | None = TEMPLATE) -> transformers.PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer that puts a token before every text."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    special = ["<|begin|>", "<|end|>", "<|user|>", "<|assistant|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator([WORDS.decode()], trainer)
    inner.post_processor = processors.TemplateProcessing(single="<|begin|> $A", special_tokens=[("<|begin|>", 0)])
    outer = transformers.PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<|begin|>", eos_token="<|end|>")
    outer.add_special_tokens({"additional_special_tokens": special[2:]})
    outer.chat_template = template
    return outer


def pretrained(folder: Path, seed: int = 0, template: str | None = TEMPLATE) -> Path:
    """Save the model and its tokenizer; return the folder."""
    own = tokenizer(template)
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        vocab_size=len(own),
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=128,
        initializer_range=0.2,
        bos_token_id=own.bos_token_id,
        eos_token_id=own.eos_token_id,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    own.save_pretrained(folder)
    return folder

"""A small Llama trained on public-domain fiction: the pretrained model of somebody else, made here in ten minutes.

`python -m everlearn.recipes.stand_in --data FOLDER --out FOLDER` trains one seed and writes a Hugging Face folder. What
is measured on it is measured on any causal language model by giving that model's name or folder instead of this one's.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from everlearn.evals.tokens import encode
from everlearn.evals.windows import hf_logits
from everlearn.models.tokenizer import train_tokenizer
from everlearn.train import TrainConfig, train

BOOKS = ("tolstoy_war-and-peace", "eliot_middlemarch", "melville_moby-dick")
VOCABULARY = 1024
# the last twentieth of each book is never trained on: its pages show what learning does to what was known
TRAIN_SHARE = 0.95
CONTEXT = 512
ABOUT = "about.json"


def training(seed: int = 0) -> TrainConfig:
    """Return 660 steps of 8 windows of 512 tokens: 2.7 million tokens, a little more than one pass."""
    return TrainConfig(steps=660, batch_size=8, length=CONTEXT, lr=8e-3, adamw_lr=6e-3, warmup=30, seed=seed)


def load_book(folder: Path | str, name: str) -> str:
    """Return the text of one book, `folder/name.txt.gz` or `folder/name.txt`.

    Raises:
        ValueError: neither file is there.
    """
    packed, plain = Path(folder) / f"{name}.txt.gz", Path(folder) / f"{name}.txt"
    if packed.is_file():
        return gzip.decompress(packed.read_bytes()).decode("utf-8")
    if plain.is_file():
        return plain.read_text(encoding="utf-8")
    raise ValueError(
        f"the book {name!r} is missing: got a folder {str(folder)!r} without it; {packed.name} or {plain.name} is "
        "needed; name the folder of the books"
    )


def split(text: str) -> tuple[str, str]:
    """Cut a book into what is trained on and its held-out end."""
    cut = int(TRAIN_SHARE * len(text))
    return text[:cut], text[cut:]


def build(vocabulary: int = VOCABULARY) -> nn.Module:
    """Return an untrained LlamaForCausalLM: 4 layers of 128, SwiGLU of 352, tied embeddings, 0.94 M parameters."""
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=128,
            intermediate_size=352,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=CONTEXT,
            tie_word_embeddings=True,
            bos_token_id=0,
            eos_token_id=0,
        )
    )


def load_or_train(
    folder: Path | str,
    data: Path | str,
    *,
    seed: int = 0,
    config: TrainConfig | None = None,
    on_step: Callable[[int, float], None] | None = None,
) -> dict[str, Any]:
    """Train a stand-in into `folder` unless one stands there already.

    Args:
        folder: of the model, its tokenizer and `about.json`, which is written last.
        data: folder of the books.
        seed: of the start and of the order of the text.
        config: how it is trained; the default is `training(seed)`.
        on_step: called with steps done and the last loss in bits per token, only while it trains.
    Returns:
        what `about.json` says: tokens, steps, seconds, parameters, seed, last loss in bits per token.
    """
    folder = Path(folder)
    if (folder / ABOUT).is_file():
        return json.loads((folder / ABOUT).read_text())
    config = config or training(seed)
    texts = [split(load_book(data, name))[0] for name in BOOKS]
    tokenizer = train_tokenizer(texts, VOCABULARY)
    ids = torch.cat([encode(tokenizer, text) for text in texts])
    torch.manual_seed(seed)
    model = build(len(tokenizer))
    start = time.process_time()
    losses = train(model, ids, config, on_step, logits=hf_logits, blocks="model.layers.")
    about = {
        "books": list(BOOKS),
        "text_tokens": len(ids),
        "train_tokens": config.steps * config.batch_size * config.length,
        "steps": config.steps,
        "cpu_seconds": round(time.process_time() - start, 1),
        "parameters": sum(p.numel() for p in model.parameters()),
        "last_loss": sum(losses[-20:]) / len(losses[-20:]),
        "seed": seed,
    }
    model.save_pretrained(folder)  # type: ignore[operator]
    tokenizer.save_pretrained(folder)
    (folder / ABOUT).write_text(json.dumps(about, indent=1) + "\n")
    return about


def main(arguments: Sequence[str] | None = None) -> None:
    """Train one seed from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the books")
    parser.add_argument("--out", type=Path, required=True, help="folder of the model")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)

    def show(step: int, bits: float) -> None:
        if step % 20 == 0:
            print(f"step {step}: {bits:.3f} bits per token", file=sys.stderr, flush=True)

    about = load_or_train(options.out, options.data, seed=options.seed, on_step=show)
    print(f"{options.out}: {about['parameters']:,} parameters, {about['last_loss']:.3f} bits per token at the end")


if __name__ == "__main__":
    main()

"""Measure what reading costs with levels stacked on a pretrained model, beside the plain forward.

    python benchmarks/stacking_cost.py [--model ID_OR_FOLDER] [--rows 1 8] [--tokens 2048] [--rounds 5] [--only mlp]

Without --model a Llama with random weights stands in (4 blocks of 128, about a million parameters): the cost does not
depend on what the weights know. Time is that of the process, not of the wall: other work on the machine changes it
less. The rows of a table are interleaved: each round reads every one of them once. A ratio is the median over the
rounds of its time by that of a streaming forward of the same round, which takes one chunk at a time, keys and values
carried, nothing learned; there are two of them:

- plain: the model as it was, with its own cache cut to one chunk, so that a token sees 129 to 256 tokens;
- streaming: the stacked model before it has learned, in which every token sees 256, as it does where it learns.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from everlearn.convert import StackedModel, chain_diff, chain_zero, low_rank, mean, stack_levels
from everlearn.learn.stream import read
from everlearn.levels import Level

CHUNK = 128
ONE, TWO = (Level("fast", CHUNK),), (Level("fast", CHUNK), Level("slow", mean_of="fast"))
THREE = (Level("fast", CHUNK), Level("mid", 4 * CHUNK), Level("slow", 16 * CHUNK))

# what is stacked -> how; one row is read as (W0 + D) x where nothing is said, and as W0 x + D x where it is "apart"
STACKS: dict[str, dict[str, Any]] = {
    "last_down": {"weights": "last_down", "levels": TWO},
    "mlp": {"levels": TWO},
    "mlp apart": {"levels": TWO, "merged": False},
    "mlp merged": {"levels": TWO, "merged": True},
    "mlp, 3 levels": {"levels": THREE},
    "mlp, low rank 8": {"form": low_rank, "levels": ONE},
    "mlp, chain_zero": {"form": chain_zero, "levels": ONE},
    "mlp, chain_diff": {"form": chain_diff, "levels": ONE},
    "mlp, mean of 2": {"form": mean, "levels": THREE[:2]},
}


def build(name: str | None, **options: Any) -> StackedModel:
    """Return a model with levels; without a name, the stand-in."""
    if name is not None:
        base = AutoModelForCausalLM.from_pretrained(name, attn_implementation="sdpa")
    else:
        torch.manual_seed(0)
        sizes = {"hidden_size": 128, "intermediate_size": 352, "num_hidden_layers": 4, "num_attention_heads": 4}
        base = LlamaForCausalLM(
            LlamaConfig(**sizes, vocab_size=1024, max_position_embeddings=512, tie_word_embeddings=True)
        )
    return stack_levels(base, chunk_size=CHUNK, window=2 * CHUNK, **options)


def stream(model: StackedModel, ids: Tensor) -> None:
    """Read chunk by chunk with carried keys and values, nothing learned."""
    state = None
    with torch.no_grad():
        for piece in ids.split(CHUNK, 1):
            _, state = model(piece, state)


def plain(model: StackedModel, ids: Tensor) -> None:
    """Read chunk by chunk with the model as it was, its own cache cut to the same window."""
    from transformers import DynamicCache

    with torch.no_grad():
        cache = DynamicCache()
        for start in range(0, ids.shape[1], CHUNK):
            piece = ids[:, start : start + CHUNK]
            places = torch.arange(start, start + piece.shape[1])[None]
            cache = model.base(piece, past_key_values=cache, position_ids=places, use_cache=True).past_key_values
            for layer in cache.layers:
                layer.keys, layer.values = layer.keys[:, :, -CHUNK:], layer.values[:, :, -CHUNK:]


def learn(model: StackedModel, ids: Tensor) -> None:
    """Read and learn."""
    read(model, ids, model.initial_state(len(ids)), chunk_size=CHUNK, end="flush")


def taught(model: StackedModel, ids: Tensor) -> Callable[[], None]:
    """Return the streaming forward with a state that has moved."""
    _, state = read(model, ids[:, : 2 * CHUNK], model.initial_state(len(ids)), chunk_size=CHUNK, end="flush")

    def run() -> None:
        now = state
        with torch.no_grad():
            for piece in ids.split(CHUNK, 1):
                _, now = model(piece, now)

    return run


def measure(options: argparse.Namespace, rows: int) -> dict[str, list[float]]:
    """Return seconds of every round for each way to read."""
    runs: dict[str, Callable[[], None]] = {}
    for name, stack in STACKS.items():
        if name not in options.only or (rows == 1 and stack.get("merged")) or (rows > 1 and "apart" in name):
            continue
        model = build(options.model, **stack)
        ids = torch.randint(model.vocab_size, (rows, options.tokens), generator=torch.Generator().manual_seed(1))
        if not runs:
            runs["plain"] = lambda model=model, ids=ids: plain(model, ids)  # type: ignore[misc]
            runs["streaming"] = lambda model=model, ids=ids: stream(model, ids)  # type: ignore[misc]
        runs[f"{name}: forward"] = taught(model, ids)
        runs[f"{name}: learn"] = lambda model=model, ids=ids: learn(model, ids)  # type: ignore[misc]
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for round_ in range(options.rounds + 1):
        for name, run in runs.items():
            start = time.process_time()
            run()
            if round_:  # the first round warms up
                seconds[name].append(time.process_time() - start)
    return seconds


def main() -> None:
    """Print one table for each number of rows, and write all rounds where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="a folder or the name of a model; the stand-in when left out")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=STACKS, default=list(STACKS), help="these rows alone")
    parser.add_argument("--json", type=Path, help="where to write the seconds of every round")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = {}
    for rows in options.rows:
        found[rows] = seconds = measure(options, rows)
        print(f"\n{rows} row{'s' if rows > 1 else ''}, {options.tokens} tokens each, {options.rounds} rounds")
        print(f"{'':28} {'x plain':>8} {'(range)':>13} {'x streaming':>12} {'(range)':>13}")
        for name, own in seconds.items():
            cells = [f"{name:28}"]
            for base, width in (("plain", 8), ("streaming", 12)):
                ratios = [a / b for a, b in zip(own, seconds[base], strict=True)]
                cells.append(f"{statistics.median(ratios):{width}.2f} {f'({min(ratios):.2f}-{max(ratios):.2f})':>13}")
            print(*cells, flush=True)
    if options.json:
        options.json.write_text(json.dumps(found))


if __name__ == "__main__":
    main()

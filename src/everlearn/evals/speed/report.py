"""One run of all measurements, as plain data."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import torch

from everlearn.evals.speed import work
from everlearn.evals.speed.footprint import Step, peak_bytes
from everlearn.evals.speed.peers import Layers, beside_titans_pytorch, installed, mixer, mixer_step
from everlearn.evals.speed.products import Bound, against_products, delta_run, self_modifying_run
from everlearn.evals.speed.rounds import Ratio, Run, interleave
from everlearn.evals.speed.subjects import BASELINE, Sizes, subject, tokens
from everlearn.models import Decoder

STEPS: dict[str, Step] = {
    "train": work.train,
    "reading": work.train_reading,
    "through": work.train_through,
    "learn": work.learn,
}


@dataclass(frozen=True)
class Report:
    """What was measured; every ratio is to the baseline without updates, in the same rounds.

    Args:
        sizes: see `Sizes`.
        rounds: of every ratio.
        machine: device, threads, versions.
        parameters: preset -> how many.
        steps: preset -> ratio to the baseline's training step, of "train"; with levels that step while the text is read
            "reading", one backward pass for each chunk, and "through", which also goes back from chunk to chunk; and of
            "learn", reading and learning without a gradient of the parameters. Presets without levels have "train".
        decode: "decode 1024" or "decode 1024, learning" for each context -> preset -> ratio to the baseline's decoding
            at the same context.
        growth: preset -> time per decoded token at the longest context by that at the shortest, learning where the
            preset has levels.
        peak: "train", "reading" and "through" -> preset -> bytes, or None where they cannot be told.
        bounds: op, or mixer of a preset -> how near it comes to its own matrix products.
        peer: our mixers beside titans-pytorch, or None where that is not installed.
        seconds: what all ratios come from: group -> preset -> seconds of every round.
    """

    sizes: Sizes
    rounds: int
    machine: dict[str, Any]
    parameters: dict[str, int]
    steps: dict[str, dict[str, Ratio]]
    decode: dict[str, dict[str, Ratio]]
    growth: dict[str, float]
    peak: dict[str, dict[str, int | None]]
    bounds: dict[str, Bound]
    peer: Layers | None
    seconds: dict[str, dict[str, list[float]]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return asdict(self)


def measure(
    presets: Sequence[str],
    sizes: Sizes,
    device: torch.device,
    *,
    rounds: int = 7,
    on_part: Callable[[str], None] = lambda _: None,
) -> Report:
    """Measure presets beside the baseline, which is always among them.

    Args:
        presets: names of `models.presets.PRESETS`.
        sizes: see `Sizes`.
        device: where everything runs.
        rounds: of every ratio.
        on_part: called with a line before each part.
    Raises:
        ValueError: an unknown preset, or fewer rounds than one.
    """
    if rounds < 1:
        raise ValueError(f"rounds is {rounds}; a ratio needs at least 1, and its spread 5 or more")
    names = list(dict.fromkeys([BASELINE, *presets]))
    models = {name: subject(name, sizes, device) for name in names}
    seconds: dict[str, dict[str, list[float]]] = {}
    on_part(f"training steps of {len(names)} presets, {rounds} rounds")
    steps = _steps(models, sizes, rounds, device, seconds)
    decode: dict[str, dict[str, Ratio]] = {}
    for context in sizes.contexts:
        on_part(f"decoding behind {context:,} tokens")
        decode |= _decode(models, context, rounds, device, seconds)
    on_part("peak memory")
    levels = [name for name in names if models[name].config.levels]
    peak = {
        "train": {name: peak_bytes(name, sizes, work.train, device) for name in names},
        "reading": {name: peak_bytes(name, sizes, work.train_reading, device) for name in levels},
        "through": {name: peak_bytes(name, sizes, work.train_through, device) for name in levels},
    }
    on_part("ops and mixers against their matrix products")
    bounds = {
        name: against_products(run, sizes.rows * sizes.length, rounds, device)
        for name, run in _ops(models, sizes, device).items()
    }
    peer = beside_titans_pytorch(names, sizes, rounds, device) if installed() else None
    return Report(
        sizes=sizes,
        rounds=rounds,
        machine=machine(device),
        parameters={name: sum(p.numel() for p in model.parameters()) for name, model in models.items()},
        steps=steps,
        decode=decode,
        growth=_growth(seconds, sizes),
        peak=peak,
        bounds=bounds,
        peer=peer,
        seconds=seconds,
    )


def _steps(
    models: dict[str, Decoder],
    sizes: Sizes,
    rounds: int,
    device: torch.device,
    seconds: dict[str, dict[str, list[float]]],
) -> dict[str, dict[str, Ratio]]:
    """Time all training steps in the same rounds; keep the seconds."""
    ids = tokens(sizes.rows, sizes.length + 1, device)
    runs: dict[str, Run] = {}
    for kind, step in STEPS.items():
        for name, model in models.items():
            if kind == "train" or model.config.levels:
                runs[f"{kind} {name}"] = partial(step, model, ids)
    times = interleave(runs, rounds, device)
    base = times[f"train {BASELINE}"]
    for kind in STEPS:
        seconds[kind] = {name: times[f"{kind} {name}"] for name in models if f"{kind} {name}" in times}
    return {kind: {name: Ratio.of(own, base) for name, own in seconds[kind].items()} for kind in STEPS}


def _decode(
    models: dict[str, Decoder],
    context: int,
    rounds: int,
    device: torch.device,
    seconds: dict[str, dict[str, list[float]]],
) -> dict[str, dict[str, Ratio]]:
    """Time decoding behind one context, without and with learning; keep the seconds per token."""
    plain, learning = f"decode {context}", f"decode {context}, learning"
    runs: dict[tuple[str, str], Run] = {}
    for name, model in models.items():
        runs[plain, name] = work.Decoding(model, context, learning=False)
        if model.config.levels:
            runs[learning, name] = work.Decoding(model, context, learning=True)
    times = interleave({f"{kind} {name}": run for (kind, name), run in runs.items()}, rounds, device)
    for kind in (plain, learning):
        own = {name: times[f"{kind} {name}"] for which, name in runs if which == kind}
        seconds[kind] = {name: [t / models[name].chunk_size for t in spent] for name, spent in own.items()}
    base = seconds[plain][BASELINE]
    return {
        kind: {name: Ratio.of(own, base) for name, own in seconds[kind].items()}
        for kind in (plain, learning)
        if seconds[kind]
    }


def _ops(models: dict[str, Decoder], sizes: Sizes, device: torch.device) -> dict[str, Run]:
    """Return the ops alone, and the mixer of every preset that has one of its own."""
    dim = sizes.dim // sizes.num_heads
    shape = (sizes.rows, sizes.length, sizes.num_heads, dim, device)
    runs: dict[str, Run] = {"delta rule": delta_run(*shape), "gated delta rule": delta_run(*shape, decay_first=True)}
    for chunk in (16, 64):
        words = f"in chunks of {chunk}"
        runs[f"self-modifying matrices, {words}"] = self_modifying_run(*shape, chunk_size=chunk)
        runs[f"self-modifying MLPs, {words}"] = self_modifying_run(*shape, chunk_size=chunk, hidden_dim=dim)
    plain = models[BASELINE].config.mixer
    for name, model in models.items():
        if model.config.mixer != plain:
            runs[f"mixer of {name}"] = mixer_step(mixer(model), sizes, device)
    return runs


def _growth(seconds: dict[str, dict[str, list[float]]], sizes: Sizes) -> dict[str, float]:
    """Say how decoding slows down between the shortest and the longest context: smallest time by smallest time."""
    first, last = min(sizes.contexts), max(sizes.contexts)
    found = {}
    for name in seconds[f"decode {first}"]:
        kind = ", learning" if name in seconds[f"decode {first}, learning"] else ""
        found[name] = min(seconds[f"decode {last}{kind}"][name]) / min(seconds[f"decode {first}{kind}"][name])
    return found


def machine(device: torch.device) -> dict[str, Any]:
    """Say where this was measured."""
    kind = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {"device": device.type, "name": kind, "threads": torch.get_num_threads(), "torch": torch.__version__}

"""The measurements as tables of Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from everlearn.evals.speed.peers import Layers
from everlearn.evals.speed.report import Report
from everlearn.evals.speed.rounds import Ratio
from everlearn.evals.speed.subjects import BASELINE

STEPS = {
    "train": "forward + backward",
    "reading": "levels step, cut at chunks",
    "through": "levels step, not cut",
    "learn": "reads and learns",
}
PEAKS = {"train": "peak memory", "reading": "peak, cut at chunks", "through": "peak, not cut"}


def markdown(report: Report) -> str:
    """Write the tables: presets, ops, and the peer or why it is missing."""
    return "\n\n".join([presets(report), ops(report), peer(report.peer)])


def presets(report: Report) -> str:
    """Write one row for each preset, every number a multiple of the baseline's."""
    heads = ["preset", "parameters", *STEPS.values(), *PEAKS.values()]
    heads += [_decode_head(kind) for kind in report.decode]
    heads += [f"{max(report.sizes.contexts):,} by {min(report.sizes.contexts):,}"]
    lines = []
    for name, count in report.parameters.items():
        memory = [_peak(report, kind, name) for kind in PEAKS]
        steps = [ratio(report.steps[kind].get(name)) for kind in STEPS]
        decode = [ratio(found.get(name)) for found in report.decode.values()]
        lines.append([name, f"{count / 1e6:.2f} M", *steps, *memory, *decode, f"{report.growth[name]:.2f}"])
    sizes = report.sizes
    words = (
        f"x {BASELINE} in the same rounds: median of {report.rounds}, smallest to largest. Width {sizes.dim}, "
        f"{sizes.num_layers} layers, {sizes.rows} x {sizes.length:,} tokens, float32, {_machine(report)}."
    )
    return f"{table(heads, lines)}\n\n{words}"


def ops(report: Report) -> str:
    """Write how near the ops come to their matrix products."""
    heads = ["op or mixer, forward + backward", "share of the bound", "FLOP per token", "GFLOP/s of the products"]
    lines = [
        [name, f"{b.share:.2f} ({b.low:.2f}-{b.high:.2f})", f"{b.flop_per_token:,.0f}", f"{b.gflop_per_second:.0f}"]
        for name, b in report.bounds.items()
    ]
    return table(heads, lines)


def peer(found: Layers | None) -> str:
    """Write our layers beside those of titans-pytorch."""
    if found is None:
        return "titans-pytorch is not installed, so its layer was not measured; `pip install titans-pytorch` adds it."
    heads = ["one layer, forward + backward", *(f"x NeuralMemory, {kind}" for kind in found.ratios)]
    names = next(iter(found.ratios.values()))
    lines = [[name, *(ratio(ratios[name], best=True) for ratios in found.ratios.values())] for name in names]
    words = (
        f"Time by that of NeuralMemory(chunk_size=64, batch_size=64) of titans-pytorch {found.version} in the same "
        f"{found.rounds} rounds, below 1 where ours is faster: smallest time by smallest, in brackets the smallest and "
        "the largest ratio of a round. Its memory is an MLP of two matrices, as it is built, or one matrix."
    )
    return f"{table(heads, lines)}\n\n{words}"


def table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Write a table of Markdown."""
    drawn = [heads, ["---"] * len(heads), *lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in drawn)


def ratio(found: Ratio | None, *, best: bool = False) -> str:
    """Write a ratio, the median or the best by the best, and its spread; nothing where there is none."""
    if found is None:
        return ""
    return f"{found.best if best else found.median:.2f} ({found.low:.2f}-{found.high:.2f})"


def _peak(report: Report, kind: str, name: str) -> str:
    """Write a peak as a multiple of the baseline's, and in MB."""
    own, base = report.peak[kind].get(name), report.peak["train"][BASELINE]
    return "" if own is None or not base else f"{own / base:.2f} ({own / 1e6:,.0f} MB)"


def _decode_head(kind: str) -> str:
    """Write "decode 1024, learning" with a comma in its number."""
    word, number = kind.split()[:2]
    context = f"{int(number.rstrip(',')):,}"
    return f"{word} at {context}{', levels step' if kind.endswith('learning') else ''}"


def _machine(report: Report) -> str:
    """Say where it was measured."""
    at = report.machine
    threads = f", {at['threads']} thread{'s' if at['threads'] != 1 else ''}" if at["device"] == "cpu" else ""
    return f"{at['device']} ({at['name']}{threads}), torch {at['torch']}"

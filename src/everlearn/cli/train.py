"""Train a model from nothing on your own text."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from everlearn.cli.options import DeviceName, JsonTarget, Number, Seed, Whole

if TYPE_CHECKING:
    from everlearn.train import Processes, Progress, RunConfig


@dataclass(frozen=True)
class Options:
    """Train a model from nothing on text files; run the same command again and it goes on where it stopped.

    Part of the text is held out and measured on: a hash of each block decides which. Under torchrun the processes share
    the model and each batch. What is not given comes from the recipe of the model and its size, which is printed.
    """

    model: str = "hope_attention"
    """preset: transformer++, delta_net, gated_delta_net, hope_attention, ..."""
    size: str = "tiny"
    """tiny (1M parameters), small (30M), 340M, 760M, 1.3B"""
    data: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="FILE ...", help_behavior_hint="")] = ()
    """text files (UTF-8, or packed as .gz), or folders of them"""
    out: Path = Path("run")
    """folder of the run, and afterwards of the model; made when it is missing"""
    attention: int = 0
    """blocks that have attention instead of the model's own mixer, spread evenly; 0 leaves the preset as it is"""
    vocab: Whole = None
    """tokens of a vocabulary that is learned from the text; without it, and without one in the recipe, bytes"""
    steps: Whole = None
    """optimizer steps"""
    batch_size: Whole = None
    """windows that one step reads"""
    length: Whole = None
    """tokens of a window"""
    accumulate: int = 1
    """parts in which the windows of a step are computed, to save memory"""
    lr: Number = None
    """rate of Muon, for the matrices of the blocks"""
    adamw_lr: Number = None
    """rate of AdamW, for everything else"""
    warmup: Whole = None
    """steps in which the rates rise"""
    clip: Number = None
    """bound on the norm of the gradient"""
    carry: bool = False
    """read documents in order and carry the state from segment to segment, where it has a fixed size"""
    bf16: bool = False
    """compute in bfloat16; the weights stay in float32"""
    recompute: bool = False
    """save memory: compute what is between the blocks twice"""
    compile: bool = False
    """compile the blocks, which needs a C++ compiler and takes a minute"""
    save_every: int = 100
    """steps between checkpoints, of which the last two are kept"""
    valid_every: int = 100
    """steps between measurements on the held-out text"""
    seed: Seed = 0
    device: DeviceName = "auto"
    json: JsonTarget = None


def run(options: Options) -> int:
    """Train to the end and say what came out."""
    from everlearn.cli.errors import UserError, command, resume_hint, same_command
    from everlearn.cli.output import Output
    from everlearn.cli.workspace import check_seed
    from everlearn.demo.corpus import user_text
    from everlearn.device import describe_device, device
    from everlearn.layout import HELD_OUT
    from everlearn.train import processes
    from everlearn.train import run as train

    check_seed(options.seed)
    if not options.data:
        raise UserError("no text was given; name at least one file or folder: everlearn train --data FILE ...")
    again = same_command("train", options)
    chosen, reason = device(options.device)
    with (
        processes(chosen) as group,
        resume_hint(lambda: f"the last checkpoint is kept in {options.out}; to go on: {again}"),
    ):
        out = Output(options.json if group.first else None)
        say: Callable[[str], None] = out.say if group.first else lambda line: None
        say(describe_device(chosen, reason) + (f"; {group.count} processes" if group.count > 1 else ""))
        text = user_text(options.data, smallest=2)
        for line in text.skipped:
            say(f"skipped: {line}")
        config = config_of(options)
        say(model_line(options, config))
        with reports(config.training.steps, group) as on_step:
            texts = {document.name: document.data for document in text.documents}
            summary = train(config, texts, options.out, processes=group, on_step=on_step, say=say)
        if group.first:
            out.finish({"model": options.model, "size": options.size, "out": str(options.out), **summary})
        say(
            f"{summary['bits_per_byte']:.3f} bits per byte of held-out text after {summary['steps']:,} steps, "
            f"{summary['bytes']:,} bytes read"
        )
        say(f"kept in {options.out}")
        say(f"next: {command('eval', options.out / HELD_OUT, base=options.out, ppl=True)}")
    return 0


def config_of(options: Options) -> RunConfig:
    """Return the recipe of a model and its size with what the options change."""
    from everlearn.recipes.pretrain import recipe

    wanted = {
        name: vars(options)[name] for name in ("steps", "batch_size", "length", "lr", "adamw_lr", "warmup", "clip")
    }
    training: dict[str, Any] = {name: value for name, value in wanted.items() if value is not None}
    shape = {"vocab_size": options.vocab, "attention_blocks": options.attention or None}
    return recipe(
        options.model,
        options.size,
        model={name: value for name, value in shape.items() if value is not None},
        training={**training, "seed": options.seed},
        accumulate=options.accumulate,
        carry=options.carry,
        bf16=options.bf16,
        recompute=options.recompute,
        compile=options.compile,
        save_every=options.save_every,
        valid_every=options.valid_every,
    )


def model_line(options: Options, config: RunConfig) -> str:
    """Say what is trained, and how."""
    from everlearn.models.sizes import count_parameters
    from everlearn.recipes.pretrain import stated

    layers, count = config.model.num_layers, config.model.attention_blocks
    hybrid = f", attention in {count} of {layers} blocks" if count else ""
    return (
        f"model: {options.model}{hybrid}, size {options.size}, {count_parameters(config.model):,} parameters\n"
        f"{stated(config, options.size)}"
    )


@contextmanager
def reports(steps: int, group: Processes) -> Iterator[Callable[[Progress], None] | None]:
    """Show progress on standard error, from the first process alone; the bar begins with the first step."""
    from everlearn.cli.progress import progress

    if not group.first:
        yield None
        return
    with progress("Training", total=steps) as advance:
        done = 0

        def show(now: Progress) -> None:
            nonlocal done
            left = f", {clock(now.seconds_left)} left" if now.seconds_left else ""
            note = f"{now.step.bits_per_byte:.2f} bits/byte, {now.tokens_per_second:,.0f} tokens/s{left}"
            advance(now.step.number - done, note)
            done = now.step.number

        yield show


def clock(seconds: float) -> str:
    """Write a time as people say it.

    Example:
        >>> [clock(seconds) for seconds in (8, 100, 7200, 200_000)]
        ['8 s', '2 min', '2.0 h', '2.3 days']
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    hours = seconds / 3600
    return f"{hours:.1f} h" if hours < 48 else f"{hours / 24:.1f} days"

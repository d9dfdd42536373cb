"""Let a pretrained model learn what it reads."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from everlearn.cli.options import DeviceName, JsonTarget
from everlearn.layout import MARKER

if TYPE_CHECKING:
    from everlearn.cli.output import Output
    from everlearn.learn import Calibration, Learner
    from everlearn.levels import Level


ETA = {"mlp": 0.9, "down": 0.9, "last_down": 8.1}


@dataclass(frozen=True)
class Options:
    """Stack levels on a Hugging Face model, so that it learns what it reads.

    OUT gets the description of the levels and later one memory for each user. The model stays where it is: OUT names
    it by its place and its hash. At first the converted model gives the same logits bit for bit, which is checked.
    """

    model: str
    """folder that save_pretrained wrote, or the name of a model on the hub"""
    out: Path
    """folder to make; give it to other verbs as --state"""
    weights: Literal["mlp", "down", "last_down"] = "mlp"
    """which matrices learn: all of the MLPs, their last projections, or that of the last layer (small memories)"""
    form: Literal["additive", "low_rank", "chain_zero", "chain_diff", "mean"] = "additive"
    """how a level stands beside the weights; additive costs least"""
    eta: float | None = None
    """step size of the fast level; without it what was measured on one small model: 0.9, and 8.1 for last_down"""
    chunk_size: int = 128
    """tokens that share one gradient; 32 learns more and costs more"""
    window: int | None = None
    """tokens that the model looks back; without it, the length that it was trained for"""
    calibrate: tuple[Path, ...] = ()
    """validation texts, never those to be measured: find the step size on them"""
    length: int = 2_048
    """tokens of each such text; give the length of the documents that will be read"""
    archive: bool = False
    """keep what each document taught apart, and read with what fits a text best: no document spoils another, and each
    can be forgotten"""
    slots: bool = False
    """keep the text that is read, too, and recall it: facts from one reading"""
    device: DeviceName = "auto"
    json: JsonTarget = None


def run(options: Options) -> int:
    """Convert the model, find the step size where texts were given, and write the folder."""
    from everlearn.cli.errors import UserError, command
    from everlearn.cli.output import Output
    from everlearn.demo.corpus import user_text
    from everlearn.device import describe_device, device

    out = Output(options.json)
    place = device(options.device)
    out.say(describe_device(*place))
    if options.out.exists() and not (options.out.is_dir() and not any(options.out.iterdir())):
        raise UserError(f"{options.out} is there already and not an empty folder; choose a new one for OUT")
    if options.chunk_size < 1:
        raise UserError(f"--chunk-size {options.chunk_size} is below 1; 128 and 32 were measured to work")
    texts = user_text(options.calibrate, smallest=2).documents if options.calibrate else []
    from everlearn.convert.hub import load_base, where_is

    if (Path(options.model) / MARKER).is_file():
        raise UserError(f"{options.model} was made by everlearn already; read with it: --state {options.model}")
    if not Path(where_is(options.model)).is_absolute():
        say = f"{options.model!r} is no folder here; it is taken from the cache of the hub, or downloaded"
        print(say, file=sys.stderr, flush=True)
    pretrained, tokenizer = load_base(options.model)
    eta = ETA[options.weights] if options.eta is None else options.eta
    learner = _stacked(pretrained.to(place[0]), tokenizer, _levels(options, eta), options)
    found = None
    if texts:
        found = _calibrate(learner, [text.data for text in texts], options.length, out)
        if found.scale not in (0.0, 1.0):
            base = _unstacked(learner)
            learner = _stacked(base, tokenizer, _levels(options, eta * found.scale), options)
    document = _write(learner, options, out)
    if found is not None:
        document["calibration"] = {
            "scale": found.scale,
            "length": found.length,
            "table": [vars(trial) for trial in found.table],
        }
    out.finish(document)
    out.say(f"wrote {options.out}; the model itself stays in {options.model}")
    out.say(f"next: {command('read', 'FILE', state=options.out)}")
    return 0


def _levels(options: Options, eta: float) -> tuple[Level, ...]:
    """Return a fast level that restarts at each document, and its running mean, which lasts."""
    from everlearn.levels import Level

    fast = Level("fast", options.chunk_size, eta=eta, anchor_decay=0.02, reset="document", finish="document")
    return fast, Level("slow", mean_of="fast", decay=0.97)


def _stacked(pretrained: Any, tokenizer: Any, levels: tuple[Level, ...], options: Options) -> Learner:
    """Stack the levels and put a learner around them."""
    import everlearn
    from everlearn.convert import FORMS, stack_levels
    from everlearn.learn import Archive
    from everlearn.memory import SlotMemory

    model = stack_levels(
        pretrained,
        tokenizer,
        weights=options.weights,
        form=FORMS[options.form],
        levels=levels,
        chunk_size=options.chunk_size,
        window=options.window,
    )
    return everlearn.Learner(
        model, archive=Archive if options.archive else None, slots=SlotMemory() if options.slots else None
    )


def _unstacked(learner: Learner) -> Any:
    """Return the pretrained model of a learner as it was."""
    from everlearn.convert import StackedModel

    assert isinstance(learner.model, StackedModel)
    return learner.model.unstack()


def _calibrate(learner: Learner, texts: list[bytes], length: int, out: Output) -> Calibration:
    """Search for the step size and show the table."""
    from everlearn.cli.progress import progress
    from everlearn.learn import calibrate_lr

    with progress(
        f"Finding the step size on {len(texts)} text{'s' * (len(texts) != 1)} of {length:,} tokens"
    ) as advance:
        found = calibrate_lr(
            learner.model,
            texts,
            length=length,
            on_trial=lambda trial: advance(1, f"eta x {trial.scale:.3g}: {trial.relative:.4f} of frozen"),
        )
    for line in found.lines():
        out.say(line)
    if not found.scale:
        out.say("no step size helped on these texts; the one given is kept, and reading may do harm")
    return found


def _write(learner: Learner, options: Options, out: Output) -> dict[str, Any]:
    """Write the folder; say what was made."""
    import everlearn
    from everlearn.compose import settings_of
    from everlearn.convert import StackedModel

    model = learner.model
    assert isinstance(model, StackedModel)
    everlearn.save(learner, options.out)
    parameters = sum(p.numel() for p in model.base.parameters())
    size = model.initial_state(1).nbytes()
    fast = model.config.levels[0]
    exact = model.config.form.exact(len(model.config.levels))
    out.say(
        f"{type(model.base).__name__}, {parameters:,} parameters; {len(model.matrices)} matrices learn "
        f"({options.weights}, {options.form}); eta {fast.eta:.3g}; {size / 1024:,.0f} KB of state for each user"
    )
    _say_what_is_kept(learner, out)
    out.say("logits on a probe: " + ("bit for bit those of the original" if exact else "the original's to rounding"))
    return {
        "model": options.model,
        "class": type(model.base).__name__,
        "parameters": parameters,
        "matrices": [matrix.name for matrix in model.matrices],
        "config": model.config.to_dict(),
        "state_bytes": size,
        **settings_of(learner),
        "logits": "bit-equal" if exact else "equal to rounding",
        "out": str(options.out),
    }


def _say_what_is_kept(learner: Learner, out: Output) -> None:
    """Say what an archive and slots will take for each user."""
    if learner.archive is not None:
        out.say("archive: what each document taught is kept apart, and every text is read with what fits it best")
    if (slots := learner.slots) is not None:
        keys = learner.fresh.memory["slots"]["keys"]
        each = keys.shape[-1] * keys.element_size() + 13
        out.say(
            f"slots: the {slots.capacity:,} most surprising tokens of each user's text are kept as they stand, "
            f"up to {slots.capacity * each / 1024:,.0f} KB"
        )

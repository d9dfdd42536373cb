"""Let a pretrained model learn what it reads."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from everlearn.cli.options import DeviceName, JsonTarget, Number, Seed, Whole
from everlearn.layout import MARKER, REPLACED

if TYPE_CHECKING:
    from everlearn.cli.output import Output
    from everlearn.demo.corpus import Document
    from everlearn.learn import Calibration, Learner
    from everlearn.levels import Level


ETA = {"mlp": 0.9, "down": 0.9, "last_down": 8.1}


@dataclass(frozen=True)
class Options:
    """Stack levels on a Hugging Face model, so that it learns what it reads.

    OUT gets the description of the levels and later one memory for each user. The model stays where it is: OUT names
    it by its place and its hash. At first the converted model gives the same logits bit for bit, which is checked.

    With --replace or --replace-mlp, memories first take the places of some attentions or MLPs in a copy of the model,
    one after the other, each learning from the model what stood there. OUT then holds the copy whole. This loses some
    quality, which is measured and shown after each; a run that was stopped goes on behind the last that was finished.
    """

    model: str
    """folder that save_pretrained wrote, or the name of a model on the hub"""
    out: Path
    """folder to make; give it to other verbs as --state"""
    weights: Literal["mlp", "down", "last_down"] = "mlp"
    """which matrices learn: all of the MLPs, their last projections, or that of the last layer (small memories)"""
    form: Literal["additive", "low_rank", "chain_zero", "chain_diff", "mean"] = "additive"
    """how a level stands beside the weights; additive costs least"""
    eta: Number = None
    """step size of the fast level; without it what was measured on one small model: 0.9, and 8.1 for last_down"""
    chunk_size: int = 128
    """tokens that share one gradient; 32 learns more and costs more"""
    window: Whole = None
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
    replace: tuple[int, ...] = ()
    """blocks, counted from 0, whose attention becomes a delta memory, which no longer grows with the text"""
    replace_mlp: tuple[int, ...] = ()
    """blocks whose MLP becomes two MLPs with half of its units each, of which one learns what is read"""
    data: tuple[Path, ...] = ()
    """texts from which what was put in learns; thousands of tokens, of the kind that will be read"""
    steps: int = 100
    """steps of each of the two phases of learning, for each place"""
    device: DeviceName = "auto"
    seed: Seed = 0
    json: JsonTarget = None


def run(options: Options) -> int:
    """Convert the model, find the step size where texts were given, and write the folder."""
    from everlearn.cli.errors import command, resume_hint, same_command
    from everlearn.cli.output import Output
    from everlearn.cli.replacing import finish
    from everlearn.cli.workspace import sole_writer
    from everlearn.demo.corpus import user_text
    from everlearn.device import describe_device, device

    out = Output(options.json)
    place = device(options.device)
    out.say(describe_device(*place))
    _check(options)
    texts, lessons = (
        user_text(paths, smallest=2).documents if paths else [] for paths in (options.calibrate, options.data)
    )
    from everlearn.convert import ReplacedModel, load_replaced
    from everlearn.models.hub import load_base, where_is

    if not Path(where_is(options.model)).is_absolute():
        say = f"{options.model!r} is no folder here; it is taken from the cache of the hub, or downloaded"
        print(say, file=sys.stderr, flush=True)
    pretrained: Any
    if (Path(options.model) / REPLACED).is_file():
        pretrained, tokenizer = load_replaced(options.model), None
    else:
        pretrained, tokenizer = load_base(options.model)
    pretrained.to(place[0])
    eta = ETA[options.weights] if options.eta is None else options.eta
    again = same_command("convert", options)
    history = None
    if options.replace or options.replace_mlp:
        with (
            sole_writer(options.out),
            resume_hint(lambda: f"what was replaced is kept in {options.out}; to go on: {again}"),
        ):
            pretrained, history = _replaced(pretrained, tokenizer, lessons, options, out)
    learner = _stacked(pretrained, tokenizer, _levels(options, eta), options)
    found = None
    if texts:
        found = _calibrate(learner, [text.data for text in texts], options.length, out)
        if found.scale not in (0.0, 1.0):
            base = _unstacked(learner, found)
            learner = _stacked(base, tokenizer, _levels(options, eta * found.scale), options)
    whole = isinstance(pretrained, ReplacedModel)
    document = _write(learner, options, out)
    if found is not None:
        document["calibration"] = {
            "scale": found.scale,
            "length": found.length,
            "table": [vars(trial) for trial in found.table],
        }
    if history is not None:
        document["replaced"] = history
        finish(options.out, history)
    out.finish(document)
    out.say(f"wrote {options.out}; the model itself {'is not needed again' if whole else f'stays in {options.model}'}")
    out.say(f"next: {command('read', 'FILE', state=options.out)}")
    return 0


def _check(options: Options) -> None:
    """Refuse what can be seen to be wrong before anything is loaded.

    Raises:
        UserError: OUT holds something, a number out of range, a model of ours, or options that do not go together.
    """
    from everlearn.cli.errors import UserError
    from everlearn.cli.replacing import contents, under_way
    from everlearn.cli.workspace import check_seed

    check_seed(options.seed)
    replacing = bool(options.replace or options.replace_mlp)
    interrupted = under_way(options.out)
    if interrupted and not replacing:
        raise UserError(
            f"{options.out} holds a run of convert --replace that was interrupted; repeat the command that it was "
            "begun with, or choose a new folder for OUT"
        )
    if not interrupted and (contents(options.out) or (options.out.exists() and not options.out.is_dir())):
        raise UserError(f"{options.out} is there already and not an empty folder; choose a new one for OUT")
    if options.chunk_size < 1:
        raise UserError(f"--chunk-size {options.chunk_size} is below 1; 128 and 32 were measured to work")
    if options.steps < 0:
        raise UserError(f"--steps {options.steps} is below 0; 100 was measured to work, 0 teaches nothing")
    if (Path(options.model) / MARKER).is_file():
        raise UserError(f"{options.model} was made by everlearn already; read with it: --state {options.model}")
    if replacing != bool(options.data):
        raise UserError(
            "--replace and --replace-mlp need texts to teach by, and --data is for them alone; give both, such as: "
            "--replace 0 2 --data FILE"
        )
    if replacing and (Path(options.model) / REPLACED).is_file():
        raise UserError(f"{options.model} holds replaced blocks already; begin again from the original model")


def _replaced(
    pretrained: Any, tokenizer: Any, lessons: list[Document], options: Options, out: Output
) -> tuple[Any, dict[str, Any]]:
    """Replace what was asked for; return the hybrid and how it went."""
    import math

    from everlearn.cli.errors import UserError
    from everlearn.cli.replacing import LENGTH, replace_gradually
    from everlearn.convert import Continuum
    from everlearn.convert.cache import sight_of
    from everlearn.levels import Level
    from everlearn.recipes.replacement import ReplacementRecipe

    count = pretrained.config.get_text_config().num_hidden_layers
    if wrong := [i for i in (*options.replace, *options.replace_mlp) if not 0 <= i < count]:
        raise UserError(
            f"block {wrong[0]} is not of {type(pretrained).__name__}, whose blocks are 0 to {count - 1}; name some of "
            "these"
        )
    if len(set(options.replace_mlp)) == count:
        raise UserError(
            f"--replace-mlp names all {count} blocks, and the pretrained MLPs that are left are what learns; leave one"
        )
    eta = options.eta if options.eta is not None and options.weights == "mlp" else ETA["mlp"]
    places = (("attention", options.replace), ("mlp", options.replace_mlp))
    recipe = ReplacementRecipe(
        order=tuple(f"block.{i}.{place}" for place, blocks in places for i in sorted(set(blocks), reverse=True)),
        mlp=Continuum(levels=(*_levels(options, eta), Level("still", math.inf))),
        local=options.steps,
        whole=options.steps,
        length=min(LENGTH, sight_of(pretrained, options.window).window),
        chunk_size=options.chunk_size,
        window=options.window,
        seed=options.seed,
    )
    # steps of training would vanish in 16 bits
    return replace_gradually(pretrained.float(), tokenizer, lessons, recipe, options.out, out)


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


def _unstacked(learner: Learner, found: Calibration) -> Any:
    """Return the model of a learner as it was; what learns in places of a hybrid gets the rates that were found."""
    from everlearn.convert import StackedModel

    assert isinstance(learner.model, StackedModel)
    hybrid, base = learner.model.hybrid, learner.model.unstack()
    if hybrid is None:
        return base
    hybrid.set_levels({name: found.levels[name] for name in hybrid.memories()})
    return hybrid


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
    whose = "original" if model.hybrid is None else "hybrid"
    same = f"bit for bit those of the {whose}" if exact else f"those of the {whose} to rounding"
    out.say(f"logits on a probe: {same}")
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

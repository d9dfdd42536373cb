"""Replacing parts of a model from the command line: one place after the other, kept on the disk after each."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from everlearn.cli.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from everlearn.cli.output import Output
    from everlearn.convert import ReplacedModel
    from everlearn.demo.corpus import Document
    from everlearn.recipes.replacement import ReplacementRecipe, Stage

UNDER_WAY, PROGRESS = "replacing", "progress.json"  # in the folder that will be the state
HISTORY = "replaced.json"  # what is left of them there
HELD_OUT = 0.05  # share of each text, its end, that is not learned from
WINDOWS = 24  # of it that are scored
LENGTH = 256  # tokens per window, where the model sees as many
WORDS = {"swap": "swapped", "local": "taught alone", "whole": "tuned"}


@dataclass
class Run:
    """How far the replacing has come, as the file beside it says.

    Args:
        what: what decides its results; a run with other words is another run.
        original: bits per byte of the model as it was.
        stages: what each phase of each place gave.
        done: places that are finished.
    """

    what: dict[str, Any]
    original: float = float("nan")
    stages: list[dict[str, Any]] = field(default_factory=list)
    done: int = 0


def replace_gradually(
    model: nn.Module,
    tokenizer: Any,
    documents: list[Document],
    recipe: ReplacementRecipe,
    folder: Path,
    out: Output,
) -> tuple[ReplacedModel, dict[str, Any]]:
    """Replace places one after the other and tell what each phase costs, on the ends of the texts.

    Args:
        model: the original; it teaches, and stays as it is.
        tokenizer: that of the model.
        documents: texts to learn from.
        recipe: which places, in which order, by what.
        folder: where a finished place is kept at once, under `UNDER_WAY`.
        out: where to say what happens.
    Returns:
        student: the hybrid.
        document: the scores, for JSON and for `HISTORY`.
    Raises:
        UserError: texts that are too short, or a folder where another run was begun.
    """
    from everlearn.cli.progress import progress
    from everlearn.convert import load_replaced
    from everlearn.convert.adapter import base_hash
    from everlearn.demo.corpus import fingerprint
    from everlearn.recipes.replacement import bits_per_byte, gradual

    ids, asked, size = _split(tokenizer, documents, recipe.length)
    device = next(model.parameters()).device
    ids, asked = ids.to(device), asked.to(device)
    own = folder / UNDER_WAY
    run = _begun(own, {"original": base_hash(model), "texts": fingerprint(documents), "recipe": recipe.to_dict()})
    student = None
    if run.done:
        student = load_replaced(own / str(run.done))
        student.base.to(device)
        out.say(f"{run.done} of {len(recipe.order)} places were replaced before the interrupt; going on behind them")
    else:
        run.original = bits_per_byte(model, asked, size)
        _note(own, run)
    out.say(f"the original: {run.original:.3f} bits per byte on {asked.numel():,} tokens from the ends of the texts")
    left = len(recipe.order) - run.done
    title = f"Replacing {left} place{'s' * (left != 1)}"
    with progress(title, total=max(1, left * (recipe.local + recipe.whole))) as advance:
        stages = gradual(
            model,
            ids,
            recipe,
            lambda s: bits_per_byte(s.base, asked, size),
            lambda count, phase, step, loss: advance(1, f"{recipe.order[count - 1]} {WORDS[phase]}, loss {loss:.3g}"),
            resume=student,
        )
        for stage in stages:
            run.stages.append(_row(stage))
            if stage.phase == "whole":
                student = stage.student
                _keep(own, run, student, stage.replaced)
                out.say(f"{stage.place}: {_line(run.stages[-len(WORDS) :])}")
    assert student is not None
    student.tokenizer = tokenizer
    return student, {"original_bits_per_byte": run.original, "stages": run.stages, **run.what}


def finish(folder: Path, document: dict[str, Any]) -> None:
    """Write down what each phase gave, and remove what only a resumed run would need."""
    from everlearn.cli.output import finite
    from everlearn.memory.files import atomic_write

    atomic_write(folder / HISTORY, json.dumps(finite(document), indent=2).encode(), private=False)
    shutil.rmtree(folder / UNDER_WAY)


def under_way(folder: Path) -> bool:
    """Tell whether a folder holds nothing but a run that was interrupted."""
    return contents(folder) == {UNDER_WAY}


def contents(folder: Path) -> set[str]:
    """Return the names in a folder, but for the lock that a failed run leaves; none where it is missing."""
    return {entry.name for entry in folder.iterdir()} - {".lock"} if folder.is_dir() else set()


def _split(tokenizer: Any, documents: Iterable[Document], length: int) -> tuple[Tensor, Tensor, int]:
    """Return what is learned from, [N], what is asked, [n, length], and the bytes that its targets stand for."""
    import torch

    from everlearn.models.tokenizer import count_bytes, encode

    learned, asked = [], []
    for document in documents:
        tokens = encode(tokenizer, document.data)
        cut = len(tokens) - max(length, int(HELD_OUT * len(tokens)))
        if cut > length:
            learned.append(tokens[:cut])
            asked.append(tokens[cut : cut + (len(tokens) - cut) // length * length].reshape(-1, length))
    if not learned:
        raise UserError(
            f"the texts in --data have {2 * length} tokens or fewer each; one of at least {2 * length + 1} is needed, "
            "and thousands to teach by; give a longer text"
        )
    windows = torch.cat(asked)[:: max(1, sum(map(len, asked)) // WINDOWS)][:WINDOWS]
    return torch.cat(learned), windows, int(count_bytes(tokenizer, windows[:, 1:].flatten()).sum())


def _begun(own: Path, what: dict[str, Any]) -> Run:
    """Return how far a run has come; refuse a folder where another one was begun."""
    if not (own / PROGRESS).is_file():
        return Run(what)
    try:
        run = Run(**json.loads((own / PROGRESS).read_text()))
    except (ValueError, TypeError):
        raise UserError(f"{own / PROGRESS} is not whole; remove {own} to begin anew") from None
    if not run.done:
        return Run(what)
    if run.what != json.loads(json.dumps(what)):
        other = next(key for key in what if run.what.get(key) != json.loads(json.dumps(what[key])))
        raise UserError(
            f"{own.parent} was begun with another {other}; repeat the command that it was begun with, or choose a new "
            "folder for OUT"
        )
    return run


def _keep(own: Path, run: Run, student: ReplacedModel, count: int) -> None:
    """Write a finished place: the hybrid first, then that it is done; then drop the one before."""
    student.save(own / str(count))
    run.done = count
    _note(own, run)
    shutil.rmtree(own / str(count - 1), ignore_errors=True)


def _note(own: Path, run: Run) -> None:
    """Write down how far a run has come."""
    from everlearn.memory.files import atomic_write

    own.mkdir(parents=True, exist_ok=True)
    atomic_write(own / PROGRESS, json.dumps(vars(run)).encode())


def _row(stage: Stage) -> dict[str, Any]:
    """Return what one phase gave, as JSON."""
    loss = None if stage.loss != stage.loss else stage.loss
    return {"place": stage.place, "phase": stage.phase, "bits_per_byte": stage.score, "loss": loss}


def _line(stages: list[dict[str, Any]]) -> str:
    """Return what the phases of one place gave, as text."""
    return ", ".join(f"{WORDS[stage['phase']]} {stage['bits_per_byte']:.3f}" for stage in stages) + " bits per byte"

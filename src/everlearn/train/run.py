"""A training run in a folder: logged, measured, saved, and after an interrupt gone on with bit for bit."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from everlearn.memory.files import atomic_write, sole_writer
from everlearn.models.alphabet import BYTES, Alphabet, Pieces
from everlearn.models.checkpoint import TOKENIZER, save_model
from everlearn.models.tokenizer import load_tokenizer, save_tokenizer, train_tokenizer
from everlearn.train import checkpoint
from everlearn.train.config import RunConfig
from everlearn.train.corpus import Corpus, Split, split, tokens
from everlearn.train.folder import check_folder, keep_held_out, manifest, open_folder
from everlearn.train.log import Log, board
from everlearn.train.processes import Processes
from everlearn.train.snapshot import capture, restore
from everlearn.train.trainer import Step, Trainer

SUMMARY, CHECKPOINTS = "summary.json", "checkpoints"


@dataclass(frozen=True)
class Progress:
    """How far a run has come.

    Args:
        step: what the last step showed.
        tokens_per_second: of this process since it began or went on.
        seconds_left: at that speed.
    """

    step: Step
    tokens_per_second: float
    seconds_left: float


def run(
    config: RunConfig,
    texts: Mapping[str, bytes],
    folder: Path,
    *,
    processes: Processes | None = None,
    on_step: Callable[[Progress], None] | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Train a model in a folder, or go on with the run that the folder holds.

    After it, the folder is a model that `models.load_model` reads, with its config, its log, its last two checkpoints,
    and the held-out text. Killed at any moment and called again, it ends in the same bits as if it had never stopped.

    Args:
        config: of the run.
        texts: name -> UTF-8 text; the order counts, the names do not.
        folder: made when it is missing; one run each.
        processes: who shares the work, see `train.processes`; None means this process alone.
        on_step: called after each step.
        say: called with lines for people: what the data and the model are, and where the run goes on.
    Returns:
        what `summary.json` holds: steps, tokens, bytes, seconds, parameters, bits_per_byte of the held-out text.
    Raises:
        ValueError: too little text; a folder that holds something else or another run, or that another process is
            writing; data that changed since the run began; a loss that is not finite, after which the last checkpoint
            stays.
    """
    processes = processes or Processes()
    # all that can be refused is refused before anything is written
    if processes.first:
        check_folder(folder, config, texts)
    parts = split(texts, config.valid_share)
    alphabet = _alphabet(config, parts, folder)
    corpus = Corpus(tokens(parts.train, alphabet), tokens(parts.valid, alphabet), alphabet)
    trainer = Trainer(config, corpus, processes)
    say(_data_line(texts, parts, corpus))
    with sole_writer(folder) if processes.first else nullcontext():
        if processes.first:
            open_folder(folder, config, texts)
            keep_held_out(folder, parts)
            if isinstance(alphabet, Pieces):
                save_tokenizer(alphabet.tokenizer, folder / TOKENIZER)
        processes.wait()
        counts = _go_on(trainer, folder, say)
        summary = _Run(trainer, folder, texts, counts, say).finish(on_step)
        processes.wait()
    return summary


def _go_on(trainer: Trainer, folder: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Load the last checkpoint where there is one; return what the run has counted so far."""
    found, complaints = checkpoint.load(folder / CHECKPOINTS)
    for line in complaints:
        say(f"passed over: {line}")
    if found is None:
        return {"tokens": 0, "bytes": 0, "seconds": 0.0}
    changed = restore(trainer, found)
    say(f"goes on after step {found.step} of {trainer.config.training.steps}")
    if changed:
        say(f"from here on equal to rounding, not to the bit ({'; '.join(changed)})")
    return dict(found.about["counts"])


class _Run:
    """The loop over the steps, and what it writes."""

    def __init__(
        self,
        trainer: Trainer,
        folder: Path,
        texts: Mapping[str, bytes],
        counts: dict[str, Any],
        say: Callable[[str], None],
    ) -> None:
        self.trainer, self.folder, self.texts, self.counts, self.say = trainer, folder, texts, counts, say
        self.config, self.first = trainer.config, trainer.processes.first

    def finish(self, on_step: Callable[[Progress], None] | None) -> dict[str, Any]:
        """Take the steps that are left; measure and describe the model."""
        steps, begun = self.config.training.steps, self.trainer.step_number
        if begun == steps and (self.folder / SUMMARY).is_file():
            return json.loads((self.folder / SUMMARY).read_text())
        log = self._log(begun) if self.first else None
        before, started, done_before = dict(self.counts), time.monotonic(), self.counts["tokens"]
        while self.trainer.step_number < steps:
            step = self._step()
            self.counts["tokens"] += step.tokens
            self.counts["bytes"] += step.bytes
            spent = time.monotonic() - started
            self.counts["seconds"] = round(before["seconds"] + spent, 3)
            speed = (self.counts["tokens"] - done_before) / max(spent, 1e-9)
            self._note(log, step, speed)
            if on_step is not None:
                left = (steps - step.number) * spent / (step.number - begun)
                on_step(Progress(step, speed, left))
        bits = self.trainer.validate()
        if log is not None:
            log.add(steps, valid_bits_per_byte=bits)
            log.close()
        return self._summary(bits)

    def _step(self) -> Step:
        """Take one step; where it is refused, say what is kept."""
        try:
            return self.trainer.step()
        except ValueError as error:
            kept = checkpoint.steps(self.folder / CHECKPOINTS)
            where = f"{self.folder / CHECKPOINTS / kept[-1]} stays" if kept else "no checkpoint was written yet"
            raise ValueError(f"{error}; {where}") from None

    def _note(self, log: Log | None, step: Step, speed: float) -> None:
        """Log, measure and save where that is due; what is measured stands in the log before the step is saved."""
        config, last = self.config, step.number == self.config.training.steps
        if log is not None and (step.number % config.log_every == 0 or last):
            numbers = {"bits_per_byte": step.bits_per_byte, "gradient_norm": step.norm, "lr": step.lr}
            log.add(step.number, **numbers, tokens_per_second=round(speed, 1), **self.counts)
        if step.number % config.valid_every == 0 and not last:
            bits = self.trainer.validate(config.valid_tokens)
            self.say(f"step {step.number}: {bits:.3f} bits per byte of held-out text")
            if log is not None:
                log.add(step.number, valid_bits_per_byte=bits)
        if step.number % config.save_every == 0 or last:
            self._save()

    def _save(self) -> None:
        """Keep a checkpoint, and the model so that it can be used at once."""
        captured = capture(self.trainer, self.counts)
        if self.first:
            checkpoint.save(self.folder / CHECKPOINTS, captured)
            about = {
                "steps": captured.step,
                "trained_bytes": self.counts["bytes"],
                "seed": self.config.training.seed,
                "data": manifest(self.texts),
            }
            save_model(self.trainer.decoder(captured.weights), self.folder, about)
        self.trainer.processes.wait()

    def _log(self, step: int) -> Log:
        """Open the log where the run goes on."""
        writer, missing = board(self.folder, step)
        if missing:
            self.say(missing)
        return Log(self.folder, step, writer)

    def _summary(self, bits: float) -> dict[str, Any]:
        """Write what the run came to."""
        summary = {
            "steps": self.trainer.step_number,
            **self.counts,
            "parameters": self.trainer.parameters(),
            "vocabulary": self.trainer.corpus.alphabet.size,
            "heldout_tokens": sum(map(len, self.trainer.corpus.valid)),
            "bits_per_byte": bits,
        }
        if self.first:
            atomic_write(self.folder / SUMMARY, json.dumps(summary, indent=1).encode(), private=False)
        return summary


def _alphabet(config: RunConfig, parts: Split, folder: Path) -> Alphabet:
    """Return bytes, or the vocabulary of the run, which is learned from the text to train on where there is none."""
    if config.model.vocab_size == BYTES.size:
        return BYTES
    if (folder / TOKENIZER).is_dir():
        return Pieces(load_tokenizer(folder / TOKENIZER))
    return Pieces(train_tokenizer([part.data.decode() for part in parts.train], config.model.vocab_size))


def _data_line(texts: Mapping[str, bytes], parts: Split, corpus: Corpus) -> str:
    """Say what is trained on and what is held out."""
    total, held = sum(map(len, texts.values())), sum(len(part.data) for part in parts.valid)
    kind = "bytes" if corpus.alphabet is BYTES else f"a vocabulary of {corpus.alphabet.size:,}"
    return (
        f"data: {len(texts)} file{'s' * (len(texts) != 1)}, {total:,} bytes, {held:,} of them "
        f"({100 * held / total:.1f} %) held out; {sum(map(len, corpus.train)):,} tokens to train on ({kind})"
    )

"""Everything that decides the result of a training run, as plain data."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from everlearn.models.config import DecoderConfig
from everlearn.train.loop import TrainConfig


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """A training run: the model, how it is trained, and how often it is measured and saved.

    Two runs with equal configs, data, number of processes and threads end in the same bits.

    Args:
        model: shape and levels; its vocab_size is the wanted size of the vocabulary, 256 for bytes.
        training: steps, windows per step, rates, clipping and seed.
        accumulate: backward passes per step, which share its windows; divides batch_size. It saves memory and changes
            results by rounding alone.
        carry: read documents in order and hand the state from segment to segment, detached, instead of random windows
            that each begin anew.
        bf16: compute in bfloat16 where that is safe (autocast), and orthogonalise there too; weights, what their
            optimizers keep, and all states stay float32.
        recompute: keep the inputs of the blocks alone and compute the rest again for the gradient.
        compile: compile the blocks with torch.compile, which needs a C++ compiler.
        valid_share: part of the blocks that is held out, in (0, 1).
        valid_tokens: tokens of the held-out text that each measurement reads at most, >= 1; the last reads all of it.
        valid_every: steps between measurements, >= 1.
        save_every: steps between checkpoints, >= 1.
        log_every: steps between lines of the log, >= 1.
    Raises:
        ValueError: a number out of its range.
    Example:
        >>> from everlearn.models import preset
        >>> RunConfig(model=preset("delta_net"), training=TrainConfig(steps=10)).save_every
        100
    """

    model: DecoderConfig
    training: TrainConfig
    accumulate: int = 1
    carry: bool = False
    bf16: bool = False
    recompute: bool = False
    compile: bool = False
    valid_share: float = 0.05
    valid_tokens: int = 65_536
    valid_every: int = 100
    save_every: int = 100
    log_every: int = 10

    def __post_init__(self) -> None:
        training = self.training
        for name in ("steps", "batch_size", "length", "accumulate", *_COUNTS):
            value = vars(self)[name] if name in vars(self) else vars(training)[name]
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} is {value!r}; it must be a whole number of at least 1; give one")
        for name in ("lr", "adamw_lr", "clip"):
            if not 0 < vars(training)[name] < math.inf:
                raise ValueError(f"{name} is {vars(training)[name]!r}; it must be a number above 0; give one")
        if training.warmup < 0:
            raise ValueError(f"warmup is {training.warmup}; it must be a number of steps of at least 0; give one")
        if not 0 < self.valid_share < 1:
            raise ValueError(f"valid_share is {self.valid_share}; it must lie between 0 and 1; 0.05 is the default")
        if training.batch_size % self.accumulate:
            raise ValueError(
                f"accumulate {self.accumulate} does not divide batch_size {training.batch_size}; choose a divisor of it"
            )

    @property
    def rows(self) -> int:
        """Return the windows of one backward pass."""
        return self.training.batch_size // self.accumulate

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data."""
        plain = {field.name: vars(self)[field.name] for field in dataclasses.fields(self)}
        return {**plain, "model": self.model.to_dict(), "training": dataclasses.asdict(self.training)}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> RunConfig:
        """Rebuild a config from `to_dict`.

        Raises:
            ValueError: a field that does not exist or is missing, or a value that does not fit.
        """
        training = _known(TrainConfig, data.get("training", {}))
        model = DecoderConfig.from_dict(data.get("model", {}))
        return cls(**{**_known(cls, data), "model": model, "training": TrainConfig(**training)})


_COUNTS = ("valid_tokens", "valid_every", "save_every", "log_every")


def differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """Name what differs between two configs as JSON data, such as "training.lr: 0.01, now 0.02".

    Example:
        >>> differences({"a": {"b": 1}, "c": 2}, {"a": {"b": 3}, "c": 2})
        ['a.b: 1, now 3']
    """
    found = []
    for name in dict.fromkeys([*old, *new]):
        before, after = old.get(name), new.get(name)
        if isinstance(before, dict) and isinstance(after, dict):
            found += differences(before, after, f"{prefix}{name}.")
        elif before != after:
            found.append(f"{prefix}{name}: {before}, now {after}")
    return found


def _known(cls: type[Any], data: Any) -> dict[str, Any]:
    """Return the fields of a config; refuse one that it lacks."""
    names = [field.name for field in dataclasses.fields(cls)]
    if not isinstance(data, dict) or (unknown := sorted(set(data) - set(names))):
        got = f"a field {unknown[0]!r}" if isinstance(data, dict) else f"a {type(data).__name__}"
        raise ValueError(f"the config of the run holds {got}; known fields: {', '.join(names)}; restore it from a copy")
    required = [f.name for f in dataclasses.fields(cls) if f.default is dataclasses.MISSING]
    if missing := [name for name in required if name not in data]:
        raise ValueError(f"the config of the run lacks {missing[0]!r}; it must name {', '.join(required)}; restore it")
    return dict(data)

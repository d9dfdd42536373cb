"""Training of a vision Transformer, step by step, with any optimizer: what a run is, and how it goes on bit for bit."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from everlearn.memory.state import Tensors
from everlearn.models.vit import ViT, ViTConfig
from everlearn.recipes.images import Images
from everlearn.recipes.optimizers import Rates, Schedule, build, set_rates, start
from everlearn.train.checkpoint import Checkpoint
from everlearn.train.order import seed_of


@dataclass(frozen=True, kw_only=True)
class ViTRun:
    """All that decides the result of a run, beside the images.

    Args:
        model: shape of the model.
        optimizer: a key of `recipes.optimizers.OPTIMIZERS`.
        rates: its step sizes.
        schedule: how many steps, and how the rates run over them.
        batch_size: images per step, >= 1.
        clip: bound on the norm of the whole gradient, or None.
        smoothing: share of the target that all classes divide among them, in [0, 1).
        seed: of the start, the order, crops and flips, from 0 to 2^32 - 1.
    Raises:
        ValueError: a number out of its range.
    """

    model: ViTConfig
    optimizer: str
    rates: Rates
    schedule: Schedule
    batch_size: int = 64
    clip: float | None = None
    smoothing: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size is {self.batch_size}; a step takes at least one image; try 64")
        if self.clip is not None and not 0 < self.clip < float("inf"):
            raise ValueError(f"clip is {self.clip}; it must be a number above 0, or None for no bound; try 1.0")
        if not 0 <= self.smoothing < 1:
            raise ValueError(f"smoothing is {self.smoothing}; it must lie in [0, 1); 0 is none")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed is {self.seed}; it must be a whole number from 0 to {2**32 - 1}; try 0")

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class Score:
    """How well a model tells test images apart.

    Args:
        loss: mean cross-entropy [nats].
        accuracy: share of images whose class is right.
    """

    loss: float
    accuracy: float


class ViTTrainer:
    """One vision Transformer in training.

    Args:
        run: see `ViTRun`.
        images: what it is trained on.
        device: where.
    Raises:
        ValueError: images that do not fit the model, or an optimizer that refuses the model.
    """

    def __init__(self, run: ViTRun, images: Images, device: torch.device | None = None) -> None:
        wanted = (run.model.channels, run.model.image_size, run.model.num_classes)
        found = (images.channels, images.image_size, len(images.classes))
        if wanted != found:
            raise ValueError(
                f"the model takes (channels, pixels, classes) {wanted}, the images have {found}; build it with theirs"
            )
        self.run, self.images, self.device = run, images, device or torch.device("cpu")
        torch.manual_seed(run.seed)
        self.model = ViT(run.model).to(self.device)
        self.optimizer = start(build(run.optimizer, self.model, run.rates))
        self.step_number = 0
        self._epoch, self._order = -1, torch.empty(0, dtype=torch.long)

    def step(self) -> float:
        """Take one step; return its loss before the step [nats].

        Raises:
            ValueError: the loss is not finite; the model is as it was before this step.
        """
        images, labels = self._batch()
        # through the module and not under no_grad: the inputs of its layers are what some optimizers ask for
        loss = F.cross_entropy(self.model(images), labels, label_smoothing=self.run.smoothing)
        if not bool(torch.isfinite(loss)):
            raise ValueError(
                f"the loss of step {self.step_number + 1} is {loss.item()}; training needs a finite one: lower lr "
                f"{self.run.rates.lr:g}, or lengthen the warm-up"
            )
        loss.backward()
        if self.run.clip is not None:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.run.clip)
        set_rates(self.optimizer, self.run.schedule.share(self.step_number))
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step_number += 1
        return loss.item()

    @torch.no_grad()
    def test(self) -> Score:
        """Measure the model on all test images; nothing of it changes."""
        loss = right = count = 0.0
        for images, labels in self.images.test_batches(256):
            logits, labels = self.model(images.to(self.device)), labels.to(self.device)
            loss += F.cross_entropy(logits, labels, reduction="sum").item()
            right += (logits.argmax(-1) == labels).sum().item()
            count += len(labels)
        return Score(loss / count, right / count)

    def capture(self, about: Mapping[str, Any]) -> Checkpoint:
        """Return all that the next steps depend on.

        Args:
            about: JSON data to keep beside it.
        """
        state = self.optimizer.state_dict()
        rest: Tensors = {}
        numbers: dict[str, Any] = {}
        for index, slots in state["state"].items():
            for slot, value in slots.items():
                (rest if isinstance(value, Tensor) else numbers)[f"optimizer/{index}/{slot}"] = value
        groups = [{key: value for key, value in group.items() if key != "params"} for group in state["param_groups"]]
        weights = {name: weight.detach().cpu().clone() for name, weight in self.model.named_parameters()}
        rest = {name: value.detach().cpu().clone() for name, value in rest.items()}
        kept = {**about, "groups": groups, "numbers": numbers}
        return Checkpoint(self.step_number, weights, rest, kept)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on where a checkpoint stands.

        Raises:
            ValueError: a checkpoint of another model or optimizer.
        """
        own = {name: tuple(weight.shape) for name, weight in self.model.named_parameters()}
        saved = {name: tuple(weight.shape) for name, weight in checkpoint.weights.items()}
        groups = self.optimizer.state_dict()["param_groups"]
        if own != saved or len(groups) != len(checkpoint.about.get("groups", ())):
            raise ValueError(
                f"the checkpoint of step {checkpoint.step} is of another model or optimizer; this run's own is needed: "
                "begin in another folder"
            )
        with torch.no_grad():
            for name, weight in self.model.named_parameters():
                weight.copy_(checkpoint.weights[name])
        state: dict[int, dict[str, Any]] = {}
        for name, value in {**checkpoint.rest, **checkpoint.about["numbers"]}.items():
            _, index, slot = name.split("/", 2)
            state.setdefault(int(index), {})[slot] = value
        # what JSON made lists of was tuples
        said = [
            {key: tuple(v) if key == "betas" else v for key, v in group.items()} for group in checkpoint.about["groups"]
        ]
        both = [{**now, **old} for now, old in zip(groups, said, strict=True)]
        self.optimizer.load_state_dict({"state": state, "param_groups": both})
        self.step_number = checkpoint.step

    def _batch(self) -> tuple[Tensor, Tensor]:
        """Return the images of the next step: every epoch has an order of its own, and each step crops of its own."""
        size, count = self.run.batch_size, self.images.train_count
        numbers = range(self.step_number * size, (self.step_number + 1) * size)
        chosen = torch.stack([self._image(number, count) for number in numbers])
        dice = torch.Generator().manual_seed(seed_of(self.run.seed + 1, self.step_number))
        images, labels = self.images.train_batch(chosen, dice)
        return images.to(self.device), labels.to(self.device)

    def _image(self, number: int, count: int) -> Tensor:
        """Return which image stands at a place of the endless sequence of epochs."""
        epoch, place = divmod(number, count)
        if epoch != self._epoch:
            dice = torch.Generator().manual_seed(seed_of(self.run.seed, epoch))
            self._epoch, self._order = epoch, torch.randperm(count, generator=dice)
        return self._order[place]

"""Levels that are copies of the pretrained MLP: in a chain after it, or their mean.  [NL eq. 73-74]"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from everlearn.convert.families import Family, Matrix, blocks_of
from everlearn.convert.forms import Form, Levels, Start, summed
from everlearn.convert.wrapped import Owner, Reading, active, current


@dataclass(frozen=True)
class Copies(Form):
    """Copies of an MLP: each is the pretrained one with deltas of its own, or reads as if it were."""

    mergeable: ClassVar[bool] = False

    def starts(self, matrix: Matrix) -> dict[str, Start]:
        """Return one zero matrix: the copy starts as the pretrained one."""
        return {matrix.name: (matrix.out_features, matrix.in_features)}

    def attach(
        self, model: nn.Module, family: Family | None, matrices: Sequence[Matrix], owner: Owner
    ) -> list[RemovableHandle]:
        """Hook the chosen blocks.

        Raises:
            ValueError: a matrix outside the MLPs, or blocks whose structure the form cannot follow.
        """
        if family is None or (outside := [m.name for m in matrices if not _in_mlp(m, family)]):
            what = outside[0] if family is not None else "a model without a family"
            raise ValueError(f"form {self} copies MLPs, and {what!r} is in none; choose weights='mlp' or form=additive")
        blocks = blocks_of(model, family)
        chosen = dict.fromkeys(m.block for m in matrices)
        for index in chosen:
            self.check(blocks[index], family, [m for m in matrices if m.block == index])
        return [self.hook(blocks[index], family, owner) for index in chosen]

    def check(self, block: nn.Module, family: Family, matrices: Sequence[Matrix]) -> None:
        """Refuse a block that the form cannot follow."""

    @abstractmethod
    def hook(self, block: nn.Module, family: Family, owner: Owner) -> RemovableHandle:
        """Change what a block, or its MLP, returns."""


@dataclass(frozen=True)
class Chain(Copies):
    """Copies one after the other, behind the block that holds the pretrained MLP.  [NL eq. 73]"""

    def check(self, block: nn.Module, family: Family, matrices: Sequence[Matrix]) -> None:
        """Refuse a block that normalises what its MLP returns, and one whose norm is not known."""
        if not family.norm or "post_feedforward_layernorm" in dict(block.named_children()):
            raise ValueError(
                f"form {self} reads each copy as MLP(norm(y)), and {type(block).__name__} norms its MLP otherwise "
                f"(its parts are {list(dict(block.named_children()))}); use form=additive or form=mean"
            )

    def hook(self, block: nn.Module, family: Family, owner: Owner) -> RemovableHandle:
        """Apply the copies to what the block returns."""
        mlp, norm = block.get_submodule(family.mlp), block.get_submodule(family.norm)
        return block.register_forward_hook(partial(self._follow, owner=owner, mlp=mlp, norm=norm))

    def _follow(
        self, _block: nn.Module, _args: Any, output: Any, *, owner: Owner, mlp: nn.Module, norm: nn.Module
    ) -> Any:
        """Return the block's output after every copy in turn; None leaves it as it is."""
        reading = current(owner)
        if reading is None or not reading.copies:
            return None
        y: Tensor = output[0] if isinstance(output, tuple) else output
        for copy in reading.copies:
            x = norm(y)
            with active(owner, copy):
                change = mlp(x)
            y = y + self.less(change, x, mlp, owner)
        return (y, *output[1:]) if isinstance(output, tuple) else y

    @abstractmethod
    def less(self, change: Tensor, x: Tensor, mlp: nn.Module, owner: Owner) -> Tensor:
        """Return what a copy adds to the residual stream, given what its MLP returns for x."""


@dataclass(frozen=True)
class ChainZero(Chain):
    """Chain copies whose last projection starts at zero.  [NL eq. 73]

        y_0 = block(h);  y_l = y_{l-1} + W_down,l (silu(W_gate,l x) * W_up,l x),  x = norm(y_{l-1}),  W_down,l = 0

    The matrices into the hidden layer start as the pretrained ones, and get no gradient before W_down,l has moved.
    """

    def check(self, block: nn.Module, family: Family, matrices: Sequence[Matrix]) -> None:
        """Refuse a choice without the last projection: its copies would stay zero for good."""
        super().check(block, family, matrices)
        if not any(m.last for m in matrices):
            raise ValueError(
                f"form {self} learns the last projection {family.down!r} of each copy from zero, and the chosen "
                f"weights are {[m.name for m in matrices]}; choose weights='mlp' or 'down'"
            )

    def reading(self, matrices: Sequence[Matrix], levels: Levels) -> Reading:
        """Return one copy for each level, whose last projection is its delta alone."""
        last = frozenset(m.name for m in matrices if m.last)
        return Reading(copies=tuple(Reading(_factors(matrices, level), last) for level in levels))

    def less(self, change: Tensor, x: Tensor, mlp: nn.Module, owner: Owner) -> Tensor:
        """Return the copy's output itself."""
        return change


@dataclass(frozen=True)
class ChainDiff(Chain):
    """Chain the differences between copies and the pretrained MLP.  [NL eq. 73]

    y_0 = block(h);  y_l = y_{l-1} + MLP_l(x) - MLP_0(x),  x = norm(y_{l-1}),  MLP_l = MLP_0 at first
    """

    def reading(self, matrices: Sequence[Matrix], levels: Levels) -> Reading:
        """Return one copy for each level."""
        return Reading(copies=tuple(Reading(_factors(matrices, level)) for level in levels))

    def less(self, change: Tensor, x: Tensor, mlp: nn.Module, owner: Owner) -> Tensor:
        """Return the copy's output minus the pretrained MLP's."""
        with active(owner, Reading()):
            return change - mlp(x)


@dataclass(frozen=True)
class Mean(Copies):
    """Take the mean of K copies: (1/K) sum_l MLP_l(x), all equal to the pretrained MLP at first.  [NL eq. 74]

    Equal bit for bit where K is a power of two; else to rounding, since 1/3 is no float.
    """

    def exact(self, count: int) -> bool:
        """Tell whether K is a power of two."""
        return count & (count - 1) == 0

    def reading(self, matrices: Sequence[Matrix], levels: Levels) -> Reading:
        """Return the first level, and the others as further copies."""
        first, *others = (Reading(_factors(matrices, level)) for level in levels)
        return Reading(first.factors, copies=tuple(others))

    def hook(self, block: nn.Module, family: Family, owner: Owner) -> RemovableHandle:
        """Average over the copies what the MLP returns."""
        return block.get_submodule(family.mlp).register_forward_hook(partial(self._average, owner=owner))

    def _average(self, mlp: nn.Module, args: tuple[Any, ...], output: Tensor, *, owner: Owner) -> Tensor | None:
        """Return the mean of the first copy's output, which is given, and the others'."""
        reading = current(owner)
        if reading is None or not reading.copies:
            return None
        outputs = [output]
        for copy in reading.copies:
            with active(owner, copy):
                outputs.append(mlp(*args))
        return summed(outputs) / len(outputs)


def _factors(matrices: Sequence[Matrix], level: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, ...]]:
    """Return one level's deltas as a reading holds them."""
    return {m.name: (level[m.name],) for m in matrices}


def _in_mlp(matrix: Matrix, family: Family) -> bool:
    """Tell whether a matrix lies in the MLP of its block."""
    return matrix.block >= 0 and matrix.name.startswith(f"{family.blocks}.{matrix.block}.{family.mlp}.")


chain_zero, chain_diff, mean = ChainZero(), ChainDiff(), Mean()

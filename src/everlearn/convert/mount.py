"""The chosen matrices of a pretrained model are wrapped in their places, and given back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from everlearn.convert.families import Family, Matrix
from everlearn.convert.forms import Form
from everlearn.convert.wrapped import Owner, Reading, StackedLinear, merged_weight, total


class Mount:
    """What was changed in a pretrained model, and how to undo it: wrapped matrices, hooks, frozen parameters.

    Args:
        base: the model, changed in place.
        matrices: what to wrap.
        form: hooks what its levels need besides.
        family: where the model keeps its MLPs, or None.
    Raises:
        ValueError: see `Form.attach`; nothing was changed.
    """

    def __init__(self, base: nn.Module, matrices: Sequence[Matrix], form: Form, family: Family | None) -> None:
        self.base, self.matrices, self.form, self.owner = base, tuple(matrices), form, Owner()
        self._hooks = form.attach(base, family, self.matrices, self.owner)
        self._trainable = [name for name, weight in base.named_parameters() if weight.requires_grad]
        base.requires_grad_(False)
        for matrix in self.matrices:
            base.set_submodule(matrix.name, StackedLinear(base.get_submodule(matrix.name), matrix.name, self.owner))

    def check(self) -> None:
        """Refuse a model whose wrapped matrices are gone: it would read as if it had learned nothing."""
        for matrix in self.matrices:
            module: nn.Module | None = self.base
            for part in matrix.name.split("."):
                module = module and module._modules.get(part)
            if not isinstance(module, StackedLinear) or module.owner is not self.owner:
                raise ValueError(
                    f"{matrix.name!r} is no longer the matrix that levels were stacked on (the model was unstacked, or "
                    "the module replaced); call stack_levels again"
                )

    def merged(self, reading: Reading) -> dict[str, Tensor]:
        """Return the weights of the matrices with what one row reads added, as their modules store them.

        Raises:
            ValueError: a form that is no sum of matrices, or a matrix that is quantised or shares its weight.
        """
        if not self.form.mergeable:
            raise ValueError(
                f"form {self.form} adds copies of an MLP, which no single MLP equals; "
                "keep the model stacked, or drop what was learned with unstack()"
            )
        weights = {}
        for name, factors in reading.factors.items():
            inner = self._wrapper(name).base
            weights[name] = merged_weight(inner, total(factors)[0], name)
            own = [n for n, w in self.base.named_parameters(remove_duplicate=False) if w is inner.weight]
            if len(own) > 1:
                raise ValueError(
                    f"matrix {name!r} shares its weight with {own[0]!r}, which a merge would change too; keep the model "
                    "stacked, or load the base with tie_word_embeddings=False"
                )
        return weights

    def remove(self, weights: Mapping[str, Tensor]) -> None:
        """Give every matrix its place back, with new weights where there are any."""
        for matrix in self.matrices:
            inner = self._wrapper(matrix.name).base
            if matrix.name in weights:
                inner.weight.data.copy_(weights[matrix.name])  # type: ignore[operator]
            self.base.set_submodule(matrix.name, inner)
        for hook in self._hooks:
            hook.remove()
        for name, weight in self.base.named_parameters():
            weight.requires_grad_(name in self._trainable)

    def _wrapper(self, name: str) -> StackedLinear:
        """Return the wrapper of a matrix."""
        wrapper = self.base.get_submodule(name)
        assert isinstance(wrapper, StackedLinear)
        return wrapper

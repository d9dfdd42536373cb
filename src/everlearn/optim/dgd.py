"""Delta gradient descent around any optimizer: a decay along what each layer reads.  [NL eq. 56-57]"""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor

from everlearn.optim.around import Around, called
from everlearn.optim.inputs import Inputs, Statistic
from everlearn.optim.places import Places
from everlearn.optim.readings import Reading
from everlearn.optim.statistics import Moment
from everlearn.optim.views import Matrices, shared
from everlearn.rules.dgd import decay_along


@final
class DGD(Around):
    """Let every layer go of what it says about its inputs, and step as another optimizer does.  [NL eq. 56-57]

        C = mean over the layer's inputs of x x^T / |x|^2
        W <- W - lr rho W C - (the step of the optimizer inside)

    Around SGD it is gradient descent on the loss plus (rho / 2) E |W x|^2 / |x|^2, a weight decay that acts only along
    the inputs that there are, and `everlearn.rules.dgd` with `implicit=False` on keys of unit length. rho 1 is the
    paper's; as a decay around AdamW rho 3 is the default here. With an L2 objective and SGD the old value is
    subtracted twice. It has not reduced forgetting, and around Muon it has not helped.

    Args:
        optimizer: any optimizer, such as torch.optim.AdamW; it may train parameters of other kinds too, which are
            stepped without this decay, as are layers that `capture` does not know.
        inputs: of `capture(model)`. It keeps one [in, in] for each layer, of an embedding one number for each token.
        rho: weight of the decay, >= 0; also "rho" of a group. In the unit of lr, lr * rho <= 1.
    Raises:
        ValueError: rho is negative, lr * rho is above 1 in a step, or a layer whose weight has a gradient has not
            been seen. No weight has changed then.
    Example:
        >>> from everlearn.optim import capture
        >>> layer = torch.nn.Linear(2, 1, bias=False)
        >>> optimizer = DGD(torch.optim.AdamW(layer.parameters(), lr=0.01), capture(layer))
        >>> layer(torch.ones(4, 2)).sum().backward()
        >>> optimizer.step()
    """

    def __init__(self, optimizer: torch.optim.Optimizer, inputs: Inputs, rho: float = 3.0) -> None:
        if not rho >= 0:
            raise ValueError(f"rho {rho} is not the weight of a decay; it must be >= 0; try 3.0, or 0 for none")
        super().__init__(optimizer)
        self.inputs, self.rho = inputs, rho
        self._places = Places(self)
        self._complete()
        inputs.collect(self._collect)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients, and with them the inputs that they belong to."""
        super().zero_grad(set_to_none)
        self._forget()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken, of this optimizer or of the one inside alone."""
        super().load_state_dict(state_dict)
        self._complete()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Train more parameters, with a "rho" of their own or that of the constructor."""
        super().add_param_group(param_group)
        self._complete()

    def _step(self) -> None:
        decays = self._decays()
        self.inner.step()
        for weight, decay in decays:
            weight.sub_(decay)
        # the inputs of a step are used up by it
        self._forget()

    def _collect(self, reading: Reading, x: Tensor) -> Statistic | None:
        """Keep the moment of an input whose weight decays."""
        group = self._places.group_of(reading.weight)
        return Moment.of(reading, x) if group is not None and group["rho"] else None

    def _decays(self) -> list[tuple[Tensor, Tensor]]:
        """Return every weight that is read through, and what it lets go of: before any weight has changed."""
        seen = [
            (group, weight, float(group["lr"]) * group["rho"])
            for group in self.param_groups
            for weight in group["params"]
            if weight.grad is not None and group["rho"] and self.inputs.readings(weight)
        ]
        for group, weight, share in seen:
            if not 0 <= share <= 1:
                lr = float(group["lr"])
                raise ValueError(
                    f"lr is {lr:g} and rho {group['rho']:g} for {called(group, weight)}, so the decay overshoots; "
                    f"lr * rho must lie in [0, 1]: set rho to {1 / lr if lr > 0 else 0:g} or less, or change lr"
                )
        return [(weight, self._decay(weight, share, called(group, weight))) for group, weight, share in seen]

    def _decay(self, weight: Tensor, share: float, name: str) -> Tensor:
        """Return what one weight lets go of."""
        moment = self.inputs.of(weight)
        if moment is None:
            raise ValueError(self.inputs.unseen("DGD", weight, name))
        # of a weight that processes share the rule sees the whole, and each keeps its part
        whole = weight.full_tensor() if shared(weight) else weight  # type: ignore[attr-defined]
        matrices = self.inputs.readings(weight)[0].matrices(whole)
        decay = decay_along(matrices, moment.to(matrices.dtype), share)
        return Matrices().back(decay, weight)

    def _complete(self) -> None:
        """Give rho to the groups that have none."""
        for group in self.param_groups:
            group.setdefault("rho", self.rho)

    def _forget(self) -> None:
        """Drop what the layers have read."""
        for weight in self._parameters():
            self.inputs.forget(weight)

"""What an optimizer refuses before the first weight changes: options out of range, weights and gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from everlearn.optim.views import finite


class Ready(NamedTuple):
    """One parameter that is about to be stepped."""

    name: str
    weight: Tensor
    grad: Tensor
    key: Tensor | None = None


def _at_least_0(value: Any) -> bool:
    return bool(value >= 0) and value != float("inf")


def _share(value: Any) -> bool:
    return bool(0 <= value < 1)


def _count(value: Any) -> bool:
    return isinstance(value, int) and value >= 1


NUMBER = (_at_least_0, "a finite number >= 0", 0.01)
SHARE = (_share, "in [0, 1)", 0.9)
COUNT = (_count, "a whole number >= 1", 10)

# option of a group -> whether a value is allowed, the range in words, and one that is
RANGES: dict[str, tuple[Callable[[Any], bool], str, float]] = {
    **dict.fromkeys(("lr", "weight_decay", "eps", "alpha", "gamma", "rho", "kappa", "eta_inner"), NUMBER),
    **dict.fromkeys(("beta", "beta2", "beta_slow"), SHARE),
    **dict.fromkeys(("ns_steps", "slow_period", "refresh_period", "samples", "rank"), COUNT),
}


def check_options(group: dict[str, Any]) -> None:
    """Refuse a group with an option out of its range; None stands for what the optimizer says.

    Example:
        >>> check_options({"lr": 0.1, "beta": 1.0})
        Traceback (most recent call last):
        ValueError: beta is 1.0; it must be in [0, 1); try 0.9
    """
    values = {name: group[name] for name in RANGES if group.get(name) is not None}
    for name, value in values.items():
        allowed, words, example = RANGES[name]
        if not allowed(value):
            raise ValueError(f"{name} is {value!r}; it must be {words}; try {example}")
    betas = group.get("betas")
    if betas is not None and (len(betas) != 2 or not all(map(_share, betas))):
        raise ValueError(f"betas are {betas!r}; both must be in [0, 1); try (0.9, 0.999)")


def check_weight(name: str, weight: Tensor, real: str | None = None) -> None:
    """Refuse a parameter in half precision; where `real` names an optimizer of matrices, a complex one as well."""
    if weight.dtype not in (torch.float32, torch.float64, torch.complex64, torch.complex128):
        raise ValueError(
            f"{name} is {weight.dtype}, in which small steps round to nothing; float32 or float64 is needed: "
            "keep the weights in float32 and compute under torch.autocast"
        )
    if weight.is_complex() and real:
        raise ValueError(
            f"{name} is {weight.dtype}, and {real} steps matrices of real numbers; put it into a group with "
            "elementwise=True"
        )


def check_gradients(ready: list[Ready]) -> None:
    """Refuse sparse gradients and those that are not finite, before anything changes."""
    for one in ready:
        if one.grad.layout != torch.strided:
            raise ValueError(
                f"the gradient of {one.name} is sparse; a dense one is needed: build its embedding with sparse=False, "
                "or give it to torch.optim.SparseAdam"
            )
    wrong = [one.name for one, good in zip(ready, finite([one.grad for one in ready]), strict=True) if not good]
    if wrong:
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        raise ValueError(
            f"the gradient of {wrong[0]}{more} has NaN or infinity in it; every number must be finite, and nothing "
            "was changed: lower lr, clip the gradient, or skip the step as torch.amp.GradScaler does"
        )

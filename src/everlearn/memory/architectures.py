"""Architectures: what answers when a memory is asked.  [NL eq. 6]"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor

from everlearn.memory.feature_maps import FeatureMap, identity
from everlearn.memory.state import Tensors


@runtime_checkable
class Architecture(Protocol):
    """A function of a query with weights that a rule can change; it holds sizes, never weights.

    `implicit` says whether a write divides its step size by 1 + eta |u|^2, where u is the input of the weight matrix:
    the step then overshoots for no input, however long.
    """

    @property
    def dim(self) -> int:
        """Return the length of a key and of a query."""
        ...

    @property
    def dim_v(self) -> int:
        """Return the length of a value."""
        ...

    @property
    def implicit(self) -> bool:
        """Tell whether the step size is divided by 1 + eta |u|^2."""
        ...

    def start(self) -> Tensors:
        """Return fresh weights, without a batch dimension; the last two dimensions are [out, in]."""
        ...

    def apply(self, weights: Tensors, inputs: Tensor) -> Tensor:
        """Answer: weights [B, out, in] each, inputs [B, T, dim] -> [B, T, dim_v]."""
        ...

    def inputs(self, weights: Tensors, keys: Tensor) -> Tensors:
        """Return what each weight matrix is multiplied with, [B, T, in]; nothing for one that is no matrix."""
        ...


@dataclass(frozen=True)
class Vector:
    """One number per coordinate: y = w * q.

    The smallest memory: it can scale coordinates, not mix them. Being diagonal, it has no matrix whose input could
    be the key of a keyed rule.

    Args:
        dim: length of keys and values.
    Raises:
        ValueError: a length below 1.
    """

    dim: int
    implicit: bool = False

    def __post_init__(self) -> None:
        check_sizes(dim=self.dim)

    @property
    def dim_v(self) -> int:
        """Return the length of a value."""
        return self.dim

    def start(self) -> Tensors:
        """Return {"w": zeros [1, dim]}."""
        return {"w": torch.zeros(1, self.dim)}

    def apply(self, weights: Tensors, inputs: Tensor) -> Tensor:
        """Answer w * q: [B, T, dim] -> [B, T, dim]."""
        return weights["w"] * inputs

    def inputs(self, weights: Tensors, keys: Tensor) -> Tensors:
        """Return the keys: what w is multiplied with, element by element."""
        return {"w": keys}


@dataclass(frozen=True)
class Matrix:
    """A linear map of the key's features: y = M phi(q).

    Args:
        dim: length of a key.
        value_dim: length of a value; None is dim.
        feature_map: phi; see `everlearn.memory.feature_maps`.
        implicit: divide the step size by 1 + eta |phi(k)|^2; with unit keys, no feature map and eta <= 1 there is no
            need, and the plain delta rule is exact.
    Raises:
        ValueError: a length below 1.
    """

    dim: int
    value_dim: int | None = None
    feature_map: FeatureMap = identity
    implicit: bool = False

    def __post_init__(self) -> None:
        check_sizes(dim=self.dim, value_dim=self.value_dim)

    @property
    def dim_v(self) -> int:
        """Return the length of a value."""
        return self.value_dim or self.dim

    def start(self) -> Tensors:
        """Return {"M": zeros [dim_v, size of phi]}."""
        return {"M": torch.zeros(self.dim_v, self.feature_map.size(self.dim))}

    def apply(self, weights: Tensors, inputs: Tensor) -> Tensor:
        """Answer M phi(q): [B, T, dim] -> [B, T, dim_v]."""
        return self.feature_map(inputs) @ weights["M"].mT

    def inputs(self, weights: Tensors, keys: Tensor) -> Tensors:
        """Return phi of the keys."""
        return {"M": self.feature_map(keys)}


@dataclass(frozen=True)
class ResidualMLP:
    """Two layers beside the identity: y = q + W1 silu(W2 q).

    Without the residual the memory collapses to zero. The key of W1 is its own input, silu(W2 k), whose length no
    norm bounds: hence the implicit step.

    Args:
        dim: length of keys and values.
        hidden_dim: length of the hidden layer.
        implicit: divide each layer's step size by 1 + eta |u|^2, u its own input.
    Raises:
        ValueError: a length below 1.
    """

    dim: int
    hidden_dim: int
    implicit: bool = True

    def __post_init__(self) -> None:
        check_sizes(dim=self.dim, hidden_dim=self.hidden_dim)

    @property
    def dim_v(self) -> int:
        """Return the length of a value."""
        return self.dim

    def start(self) -> Tensors:
        """Return W1 [dim, hidden_dim] and W2 [hidden_dim, dim], normal with variance 1 / inputs."""
        first = torch.randn(self.hidden_dim, self.dim) / math.sqrt(self.dim)
        return {"W1": torch.randn(self.dim, self.hidden_dim) / math.sqrt(self.hidden_dim), "W2": first}

    def apply(self, weights: Tensors, inputs: Tensor) -> Tensor:
        """Answer q + W1 silu(W2 q): [B, T, dim] -> [B, T, dim]."""
        return inputs + self.inputs(weights, inputs)["W1"] @ weights["W1"].mT

    def inputs(self, weights: Tensors, keys: Tensor) -> Tensors:
        """Return the keys for W2 and silu(W2 k) for W1."""
        return {"W1": F.silu(keys @ weights["W2"].mT), "W2": keys}


@dataclass(frozen=True)
class NonParametric:
    """Keep the pairs themselves and answer by kernel regression: softmax attention.  [NL eq. 62]

        y = argmin_y sum_i alpha^age_i exp(scale <k_i, q>) |v_i - y|^2 / 2

    The fit is exact, so no rule takes steps and there are no weights. It costs memory for each pair; `window` bounds
    that. Before its first pair it answers zero.

    Args:
        dim: length of a key.
        value_dim: length of a value; None is dim.
        window: pairs that are kept, the newest; None keeps all.
        scale: of the scores; None is 1 / sqrt(dim).
    Raises:
        ValueError: a length or a window below 1.
    """

    dim: int
    value_dim: int | None = None
    window: int | None = None
    scale: float | None = None

    def __post_init__(self) -> None:
        check_sizes(dim=self.dim, value_dim=self.value_dim)
        if self.window is not None and not (isinstance(self.window, int) and self.window >= 1):
            reason = "below 1, so nothing would be kept" if self.window < 1 else "no whole number of pairs"
            raise ValueError(f"window {self.window} is {reason}; give one >= 1 or None")

    @property
    def dim_v(self) -> int:
        """Return the length of a value."""
        return self.value_dim or self.dim

    def start(self, batch_size: int, like: Tensor) -> Tensors:
        """Return no pairs: zero of them, or the window full of empty places."""
        places = self.window or 0
        empty = like.new_zeros(batch_size, places)
        return {
            "keys": like.new_zeros(batch_size, places, self.dim),
            "values": like.new_zeros(batch_size, places, self.dim_v),
            "log_kept": empty,
            "valid": empty.bool(),
        }

    def read(self, pairs: Tensors, queries: Tensor) -> Tensor:
        """Answer with the minimiser: queries [B, T, dim] -> [B, T, dim_v]."""
        scale = 1 / math.sqrt(self.dim) if self.scale is None else self.scale
        valid = pairs["valid"].unsqueeze(1)
        scores = scale * (queries @ pairs["keys"].mT) + pairs["log_kept"].unsqueeze(1)
        shares = scores.masked_fill(~valid, torch.finfo(scores.dtype).min).softmax(-1)
        return (shares * valid) @ pairs["values"]

    def write(self, pairs: Tensors, key: Tensor, value: Tensor, alpha: Tensor, live: Tensor) -> Tensors:
        """Add one pair to each row that is live.

        Args:
            pairs: keys [B, N, dim], values [B, N, dim_v], log_kept [B, N], valid [B, N] bool.
            key: [B, dim].
            value: [B, dim_v].
            alpha: what the older pairs keep of their weight, [B].
            live: [B] bool; the others get an empty place, or, in a window, no change.
        """
        faded = pairs["log_kept"] + alpha.clamp_min(torch.finfo(alpha.dtype).tiny).log().unsqueeze(1)
        fresh = {"keys": key, "values": value, "log_kept": torch.zeros_like(alpha), "valid": live}
        grown = {}
        for name, old in {**pairs, "log_kept": faded}.items():
            added = torch.cat([old, fresh[name].unsqueeze(1)], 1)
            rows = live.reshape(-1, *[1] * (old.ndim - 1))
            if self.window is not None:
                grown[name] = torch.where(rows, added[:, 1:], pairs[name])
            elif name == "log_kept":
                grown[name] = torch.where(rows, added, torch.cat([pairs[name], fresh[name].unsqueeze(1)], 1))
            else:
                grown[name] = added
        return grown


def check_sizes(**sizes: int | None) -> None:
    """Refuse a length that is no whole number above zero; None stands for another one."""
    for name, size in sizes.items():
        if size is not None and not (isinstance(size, int) and size >= 1):
            raise ValueError(f"{name} is {size!r}; a length is a whole number >= 1: give one, such as 8")

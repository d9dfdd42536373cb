"""Which parameters of a model are hidden matrices, and which take AdamW."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

CONVOLUTIONS = (
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)
MATRICES = (nn.Linear, nn.MultiheadAttention, nn.RNNBase, nn.RNNCellBase, *CONVOLUTIONS)
TABLES = (nn.Embedding, nn.EmbeddingBag)
NORMS = (nn.LayerNorm, nn.RMSNorm)
THIN = 8  # a matrix with a side up to this (gates: one row a head) would be blown up by orthogonalisation
PLACES = ("*pos*", "*token*", "*embed*", "*init*", "*start*")  # raw tensors that are read as they are


def groups(
    model: nn.Module,
    *,
    adamw_lr: float | None = None,
    weight_decay: float | None = None,
    matrices: Iterable[str] = (),
    elementwise: Iterable[str] = (),
) -> list[dict[str, Any]]:
    """Sort the parameters of a model for an optimizer of matrices: hidden matrices, and the rest for AdamW.

    Hidden are the weights of linear, recurrent, attention and convolutional layers. AdamW takes embeddings and what is
    tied to them, the output head (the last linear layer outside every `nn.ModuleList`, and what a Hugging Face model
    names as its output embeddings), positions, norms, biases and all vectors, learned starts and other tensors with
    three dimensions or more, depthwise and grouped convolutions, and matrices with a side of at most 8, such as gates.
    Frozen parameters are left out, tied ones come once.

    Args:
        model: its parameters go into the groups with their names.
        adamw_lr: rate of AdamW; None takes the optimizer's own.
        weight_decay: of both groups; None takes the optimizer's own.
        matrices: names of parameters that are hidden matrices whatever they look like; `*` stands for anything.
        elementwise: names of parameters that take AdamW.
    Returns:
        up to two groups, to pass to an optimizer such as `M3`; the second has elementwise=True.
    Raises:
        ValueError: a matrix in a layer that is not known here, a layer that has no shape yet or whose gradient is
            sparse, a pattern that fits nothing, or no parameter to train.
    Example:
        >>> model = nn.Sequential(nn.Embedding(50, 16), nn.Linear(16, 32), nn.LayerNorm(32), nn.Linear(32, 50))
        >>> [sorted(name for name, _ in group["params"]) for group in groups(model)]
        [['1.weight'], ['0.weight', '1.bias', '2.bias', '2.weight', '3.bias', '3.weight']]
    """
    wanted, refused = tuple(matrices), tuple(elementwise)
    _check_patterns(model, (*wanted, *refused))
    apart = _tables_and_heads(model)
    hidden: list[tuple[str, Tensor]] = []
    rest: list[tuple[str, Tensor]] = []
    for name, layer, parameter in _owned(model):
        if _fits(name, refused):
            rest.append((name, parameter))
        elif _fits(name, wanted) or (id(parameter) not in apart and _is_hidden(name, layer, parameter)):
            hidden.append((name, parameter))
        else:
            rest.append((name, parameter))
    if not (hidden or rest):
        raise ValueError("the model has no parameter that asks for a gradient; unfreeze some with requires_grad_(True)")
    common = {} if weight_decay is None else {"weight_decay": weight_decay}
    own = {} if adamw_lr is None else {"lr": adamw_lr}
    both = [{"params": hidden, **common}, {"params": rest, "elementwise": True, **common, **own}]
    return [group for group in both if group["params"]]


def _owned(model: nn.Module) -> Iterator[tuple[str, nn.Module, Tensor]]:
    """Yield (name, the module that holds it, parameter) of all that is trained, tied ones once."""
    layers = dict(model.named_modules())
    for name, parameter in model.named_parameters():
        layer = layers[name.rpartition(".")[0]]
        if is_lazy(parameter):
            raise ValueError(
                f"parameter {name!r} has no shape yet; an optimizer needs one: pass one batch through the model first"
            )
        if isinstance(layer, TABLES) and layer.sparse:
            raise ValueError(
                f"parameter {name!r} will have a sparse gradient; a dense one is needed: build its embedding with "
                "sparse=False, or freeze it here and give it to torch.optim.SparseAdam"
            )
        if parameter.requires_grad:
            yield name, layer, parameter


def _is_hidden(name: str, layer: nn.Module, parameter: Tensor) -> bool:
    """Tell whether a parameter is a hidden matrix; refuse one that only its author can tell."""
    if parameter.ndim < 2 or parameter.is_complex():
        return False
    if isinstance(layer, CONVOLUTIONS) and layer.groups > 1:
        return False
    thin = min(parameter.shape[0], parameter[0].numel()) <= THIN
    if isinstance(layer, MATRICES) or _like_linear(layer, parameter):
        return not thin
    own = name.rpartition(".")[2]
    if isinstance(layer, (*TABLES, *NORMS)) or parameter.ndim > 2 or thin or _fits(own, PLACES):
        return False
    raise ValueError(
        f"parameter {name!r} {tuple(parameter.shape)} belongs to a {type(layer).__name__}, and only its author knows "
        f"whether it is a hidden matrix; say so with groups(model, matrices=[{name!r}]) or elementwise=[{name!r}]"
    )


def _like_linear(layer: nn.Module, parameter: Tensor) -> bool:
    """Tell whether a layer holds a matrix and a bias that fits it, as the Conv1D of Hugging Face does."""
    own = dict(layer.named_parameters(recurse=False))
    bias = own.get("bias")
    return parameter.ndim == 2 and len(own) == 2 and bias is not None and bias.ndim == 1


def _tables_and_heads(model: nn.Module) -> set[int]:
    """Return the ids of the parameters of embeddings and output heads, under whatever name they are tied."""
    found = {id(p) for layer in model.modules() if isinstance(layer, TABLES) for p in layer.parameters(recurse=False)}
    named = getattr(model, "get_output_embeddings", None)
    head = named() if callable(named) else None
    inside = [f"{name}." for name, layer in model.named_modules() if isinstance(layer, nn.ModuleList)]
    outside = [
        layer
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear) and not any(name.startswith(prefix) for prefix in inside)
    ]
    heads = [head] if isinstance(head, nn.Module) else outside[-1:]
    return found | {id(parameter) for layer in heads for parameter in layer.parameters()}


def _fits(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _check_patterns(model: nn.Module, patterns: tuple[str, ...]) -> None:
    """Refuse a pattern that no parameter of the model fits."""
    names = [name for name, _ in model.named_parameters()]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ValueError(
                f"{pattern!r} fits none of the {len(names)} parameters, such as {names[0] if names else '-'!r}; "
                "correct the name, or leave it out"
            )

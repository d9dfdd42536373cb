"""Find the MLP matrices of a pretrained decoder by its structure, whatever its class is called."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import nn
from transformers.pytorch_utils import Conv1D

Weights = str | Sequence[str]
Layers = str | Sequence[int]

# matrices into the hidden layer, and the one out of it; a block's MLP is whatever child has them
MLPS = (
    (("gate_proj", "up_proj"), "down_proj"),  # Llama, Qwen2, Qwen3, Mistral, Gemma, OLMo, StableLM
    (("gate_up_proj",), "down_proj"),  # Phi-3: both in one matrix
    (("c_fc",), "c_proj"),  # GPT-2
    (("dense_h_to_4h",), "dense_4h_to_h"),  # GPT-NeoX, Falcon
    (("fc1",), "fc2"),  # Phi
)
# the norm that the MLP reads, where a block has several; the first that it has
NORMS = ("ln_mlp", "ln_2", "pre_feedforward_layernorm", "post_attention_layernorm", "input_layernorm")
EXPERTS = ("experts", "block_sparse_moe", "router")


@dataclass(frozen=True)
class Family:
    """Where a decoder keeps its MLPs: a map that `find_family` draws, or the caller where it cannot.

    Args:
        blocks: path of the list of blocks, such as "model.layers".
        mlp: name of the MLP inside a block.
        into: names, inside the MLP, of the matrices that read the residual stream.
        down: name, inside the MLP, of the matrix that writes to it.
        norm: name, inside a block, of the norm whose output the MLP reads; the chained forms need it.
    """

    blocks: str
    mlp: str
    into: tuple[str, ...]
    down: str
    norm: str = ""


@dataclass(frozen=True)
class Matrix:
    """One chosen matrix.

    Args:
        name: path of its module, such as "model.layers.0.mlp.down_proj".
        block: index of its block; -1 outside the blocks.
        out_features: rows of W in y = W x.
        in_features: columns of W.
        last: it is the last projection of its block's MLP.
    """

    name: str
    block: int
    out_features: int
    in_features: int
    last: bool = False


def find_family(model: nn.Module, *, patterns: bool = True) -> Family:
    """Return where a decoder keeps its MLPs.

    Args:
        model: the decoder.
        patterns: the caller also takes patterns of names, `weights=`, which errors then offer.
    Raises:
        ValueError: a mixture of experts, or no list of blocks with an MLP of a known structure.
    """
    name = type(model).__name__
    for path, _ in model.named_modules():
        if path.rpartition(".")[2] in EXPERTS:
            other = ", or name the attention matrices: weights=['*.o_proj']" if patterns else ""
            raise ValueError(
                f"{name} is a mixture of experts ({path}); its tokens take different matrices, which is not followed "
                f"here; choose a dense model{other}"
            )
    for path, blocks in model.named_modules():
        if isinstance(blocks, nn.ModuleList) and len(blocks) and (family := _family_of(path, blocks[0])):
            return family
    lists = [path for path, module in model.named_modules() if isinstance(module, nn.ModuleList)]
    raise ValueError(
        f"no MLP was found in {name}, whose lists of blocks are {lists}; known are blocks with one of {_known()}; pass "
        "family=Family(blocks='model.layers', mlp='mlp', into=('gate_proj', 'up_proj'), down='down_proj', "
        "norm='post_attention_layernorm') with this model's names" + (", or weights=['*.name']" if patterns else "")
    )


def choose(
    model: nn.Module, family: Family | None, weights: Weights, layers: Layers, *, without: Iterable[str] = ()
) -> tuple[Matrix, ...]:
    """Return the matrices that a choice names, in the order in which the model holds them.

    Args:
        model: the decoder.
        family: None only where `weights` are patterns.
        weights: "mlp" (all matrices of the MLPs), "down" (those that write to the residual stream), "last_down" (the
            last of these), or patterns of module paths such as ["*.down_proj"], with the wildcards of a shell.
        layers: "all", or the indices of blocks; a negative one counts from the last.
        without: paths of modules that are not the model's own any more: what is in them is not chosen, and "all" passes
            over a block whose MLP is one of them.
    Raises:
        ValueError: another word, an index outside the model, an MLP that was replaced, or nothing that fits.
    """
    gone = tuple(f"{path}." for path in without)
    indices = _indices(model, family, layers)
    known = {name: module for name, module in model.named_modules() if is_matrix(module) and not name.startswith(gone)}
    if isinstance(weights, str):
        names = _named(family, weights, _left(indices, family, gone, layers))
    else:
        names = [n for n in known if any(fnmatch.fnmatchcase(n, p) for p in weights)]
        if layers != "all":
            names = [n for n in names if _block_of(n, family) in indices]
    if not names or (unknown := [name for name in names if name not in known]):
        what = f"{unknown[0]!r} is no matrix" if names else f"no matrix has a name like {weights!r}"
        raise ValueError(f"{what} of {type(model).__name__}; its matrices are {_examples(known)}; choose among them")
    return tuple(_matrix(name, known[name], family) for name in names)


def is_matrix(module: nn.Module) -> bool:
    """Tell whether a module computes W x + b: a Linear, quantised or not, or GPT-2's transposed Conv1D."""
    sized = (isinstance(getattr(module, size, None), int) for size in ("in_features", "out_features"))
    return isinstance(module, Conv1D) or all(sized)


def shape_of(module: nn.Module) -> tuple[int, int]:
    """Return (out, in) of a matrix module, however it stores its weight."""
    if isinstance(module, Conv1D):
        return module.nf, module.nx
    return int(module.out_features), int(module.in_features)  # type: ignore[arg-type]


def blocks_of(model: nn.Module, family: Family) -> nn.ModuleList:
    """Return the list of blocks.

    Raises:
        ValueError: the family names none.
    """
    try:
        blocks = model.get_submodule(family.blocks)
    except AttributeError:
        blocks = None
    if not isinstance(blocks, nn.ModuleList):
        raise ValueError(
            f"{family.blocks!r} is no list of blocks in {type(model).__name__}; give the path of one, such as "
            f"{[p for p, m in model.named_modules() if isinstance(m, nn.ModuleList)]}"
        )
    return blocks


def _family_of(path: str, block: nn.Module) -> Family | None:
    """Return the family of a model whose blocks look like this one."""
    children = dict(block.named_children())
    norm = next((name for name in NORMS if name in children), "")
    for name, child in children.items():
        for into, down in MLPS:
            if all(isinstance(getattr(child, part, None), nn.Module) for part in (*into, down)):
                return Family(path, name, into, down, norm)
    return None


def _matrix(name: str, module: nn.Module, family: Family | None) -> Matrix:
    """Describe one chosen module."""
    block = _block_of(name, family)
    last = family is not None and name == _path(family, block, family.down)
    return Matrix(name, block, *shape_of(module), last=last)


def _path(family: Family, block: int, part: str) -> str:
    """Return the path of a part of a block's MLP."""
    return ".".join(filter(None, (family.blocks, str(block), family.mlp, part)))


def _named(family: Family | None, word: str, indices: Sequence[int]) -> list[str]:
    """Return the module paths that one of the three words names."""
    assert family is not None
    if word not in ("mlp", "down", "last_down"):
        raise ValueError(
            f"weights {word!r} are unknown; choose 'mlp', 'down' or 'last_down', or give patterns such as ['*.o_proj']"
        )
    parts = (*family.into, family.down) if word == "mlp" else (family.down,)
    chosen = indices[-1:] if word == "last_down" else indices
    return [_path(family, i, part) for i in chosen for part in parts]


def _indices(model: nn.Module, family: Family | None, layers: Layers) -> list[int]:
    """Return the indices of the chosen blocks, in order."""
    if family is None:
        if layers != "all":
            raise ValueError(
                f"layers {layers!r} need a list of blocks, and none was found in {type(model).__name__}; "
                "pass family=Family(...), or name the layers in the patterns"
            )
        return []
    count = len(blocks_of(model, family))
    if isinstance(layers, str):
        if layers != "all":
            raise ValueError(f"layers {layers!r} are unknown; give 'all' or indices such as [0, {count - 1}]")
        return list(range(count))
    wrong = [i for i in layers if isinstance(i, bool) or not isinstance(i, int) or not -count <= i < count]
    if wrong or not layers:
        got = f"layer {wrong[0]!r} does not exist" if wrong else "no layer was given"
        raise ValueError(f"{got}; {type(model).__name__} has the layers 0 to {count - 1}; give some of them, or 'all'")
    return sorted({i % count for i in layers})


def _left(indices: list[int], family: Family | None, gone: tuple[str, ...], layers: Layers) -> list[int]:
    """Return the blocks whose MLP is the pretrained one; refuse another that was asked for by its index."""
    assert family is not None
    replaced = [i for i in indices if f"{_path(family, i, '')}." in gone]
    left = [i for i in indices if i not in replaced]
    if replaced and (layers != "all" or not left):
        raise ValueError(
            f"the MLP of layer {replaced[0]} was replaced and has no pretrained matrices to learn beside; of those "
            f"asked for, {left or 'none'} have theirs; give such layers, or name other matrices: weights=['*.o_proj']"
        )
    return left


def _block_of(name: str, family: Family | None) -> int:
    """Return the index of the block that a module path lies in, or -1."""
    if family is None or not name.startswith(f"{family.blocks}."):
        return -1
    return int(name.removeprefix(f"{family.blocks}.").partition(".")[0])


def _known() -> str:
    """Return the known structures as text."""
    return " or ".join("/".join((*into, down)) for into, down in MLPS)


def _examples(known: dict[str, nn.Module]) -> str:
    """Return a few names of matrices as text."""
    names = list(known)
    return ", ".join([*names[:4], *(["..."] if len(names) > 5 else []), *names[max(4, len(names) - 1) :]])

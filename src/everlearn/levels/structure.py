"""What the modules of other libraries are in the paper's terms, read off their structure and their names."""

from __future__ import annotations

import re

from torch import Tensor, nn

from everlearn.levels.component import FORWARDS, TOKENS, Component

QKV = (
    ("q_proj", "k_proj", "v_proj"),
    ("query", "key", "value"),
    ("q_lin", "k_lin", "v_lin"),
    ("to_q", "to_k", "to_v"),
    ("wq", "wk", "wv"),
    ("q", "k", "v"),
)
FUSED = ("c_attn", "qkv", "qkv_proj", "query_key_value", "Wqkv", "wqkv", "W_pack")
OUTPUT = ("o_proj", "c_proj", "out_proj", "dense", "proj", "out", "wo", "o", "out_lin")

OTHER = "other: "  # a kind that begins so was not recognised
ATTENTION = re.compile(r"attention|attn|multihead", re.I)
NOT_SOFTMAX = re.compile(r"linear|lightning|delta|retention|mamba", re.I)
CROSS = re.compile(r"cross|encoder_attn|encdec", re.I)
NORM = re.compile(r"norm", re.I)
EMBEDDING = re.compile(r"embed", re.I)
MLP = re.compile(r"mlp|moe|expert|ffn|feed_?forward", re.I)


def memories(module: nn.Module, path: str) -> list[Component]:
    """Return the memories that a module of another library has, by its structure; most modules have none.

    Softmax attention is a non-parametric memory: it keeps the keys and values of every token. A module is taken for
    that when it says attention in its name and has projections to queries, keys and values under one of the usual
    names. Where it is causal a stream can go on, and the keys and values are its state; where it is not (BERT, ViT)
    it holds the tokens of one forward pass. What a decoder keeps of its encoder changes once per forward pass and is
    carried to the next token. The bytes are those of keys and values in the precision of the weights.

    Args:
        module: looked at by itself; the modules within it are looked at by themselves.
        path: its name in the model, which tells attention to an encoder from attention to the own tokens.
    """
    if isinstance(module, nn.RNNBase):
        return [_recurrent(module)]
    if isinstance(module, nn.RNNCellBase):
        cells = 2 if isinstance(module, nn.LSTMCell) else 1
        return [_vector_memory(cells * module.hidden_size * module.weight_hh.element_size(), carried=True)]
    return [_attention(module, path)] if is_attention(module) else []


def key_value_width(module: nn.Module) -> int:
    """Return how many numbers of keys and values softmax attention makes for a token.

    Grouped heads show in the shapes: the projections to keys and values are narrower than the one to queries.
    """
    if isinstance(module, nn.MultiheadAttention):
        return 2 * module.embed_dim
    children = dict(module.named_children())
    names = projections(module)
    if len(names) > 1:
        return sum(_sizes(children[name])[1] for name in names[1:])
    total = _sizes(children[names[0]])[1]
    outputs = [children[name] for name in OUTPUT if name in children and _matrix(children[name]) is not None]
    return total - (_sizes(outputs[0])[0] if outputs else total // 3)


def projections(module: nn.Module) -> tuple[str, ...]:
    """Return the children that make queries, keys and values: three, or one that makes all, or none."""
    names = {name for name, child in module.named_children() if _matrix(child) is not None}
    fused = ((name,) for name in FUSED if name in names)
    return next((triple for triple in QKV if names.issuperset(triple)), next(fused, ()))


def is_attention(module: nn.Module) -> bool:
    """Tell whether a module is softmax attention itself, and not a wrapper around one."""
    if isinstance(module, nn.MultiheadAttention):
        return True
    named = ATTENTION.search(_class(module)) and not NOT_SOFTMAX.search(_class(module))
    return bool(named and projections(module))


def unread(module: nn.Module) -> bool:
    """Tell whether a module seems to keep a memory that is not described: attention of a form that is not known."""
    if is_attention(module):
        return False
    matrices = sum(_matrix(child) is not None for child in module.children())
    named = bool(ATTENTION.search(_class(module))) and matrices > 1
    return bool(projections(module)) or (named and not any(map(is_attention, module.modules())))


def weights_kind(chain: list[nn.Module], repeated: bool, has_blocks: bool) -> str:
    """Return what the parameters of a module are, such as "MLP", or "other: ClassName" where that is not known.

    Args:
        chain: the module that holds the parameters, then the modules around it, innermost first, without the model.
        repeated: it lies in a list of blocks.
        has_blocks: the model has such lists; a matrix outside them is then a head.
    """
    leaf = chain[0]
    if NORM.search(_class(leaf)):
        return "norm"
    # of an MLP within a block that is called after its attention, the MLP stands nearer
    nearest = next((module for module in chain if _mentions_attention(module) or MLP.search(_class(module))), None)
    if nearest is not None and _mentions_attention(nearest):
        return "projections"
    if isinstance(leaf, nn.Embedding) or any(EMBEDDING.search(_class(module)) for module in chain):
        return "embedding"
    if isinstance(leaf, nn.RNNBase | nn.RNNCellBase):
        return "recurrence"
    if any(MLP.search(_class(module)) for module in chain):
        return "MLP"
    mixers = [_class(module) for module in chain[:2] if _is_mixer(module)]
    if mixers:
        return f"{OTHER}{mixers[0]}"
    if _is_container(leaf):
        return "scale"  # bare vectors beside other layers
    if isinstance(leaf, nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.ConvTranspose1d | nn.ConvTranspose2d):
        return "convolution"
    if isinstance(leaf, nn.Linear) or _class(leaf) == "Conv1D":
        return "MLP" if repeated or not has_blocks else "head"
    return f"{OTHER}{_class(leaf)}"


def _mentions_attention(module: nn.Module) -> bool:
    return is_attention(module) or bool(ATTENTION.search(_class(module)))


def _is_mixer(module: nn.Module) -> bool:
    """Tell whether a module mixes tokens in a way that is not known here, such as a state-space layer does.

    It shows in bare matrices beside the projections, in bare vectors beside a convolution over time, or in queries,
    keys and values without attention.
    """
    own = list(module.parameters(recurse=False))
    over_time = any(isinstance(child, nn.Conv1d) for child in module.children())
    bare = any(parameter.ndim > 1 for parameter in own) or (bool(own) and over_time)
    return (bare and _is_container(module)) or (bool(projections(module)) and not is_attention(module))


def _is_container(module: nn.Module) -> bool:
    return next(module.children(), None) is not None


def _attention(module: nn.Module, path: str) -> Component:
    """Describe softmax attention."""
    names = projections(module)
    maker = module.get_submodule(names[-1]) if names else module
    causal = _is_causal(module)
    cross = bool(CROSS.search(path) or CROSS.search(_class(module)))
    window = _window(module)
    return Component(
        name="",
        kind="attention",
        update_period=1,
        unit=TOKENS if causal and not cross else FORWARDS,
        token_bytes=key_value_width(module) * next(maker.parameters()).element_size(),
        max_tokens=window,
        carried=causal,
        objective="kernel regression on its values",
        rule="keep every token" if window is None else f"keep the last {window:,} tokens",
        context_flow="tokens of the encoder" if cross else "tokens of the row",
        conditioned_on=names or ("",),
    )


def _is_causal(module: nn.Module) -> bool:
    """Tell whether attention sees earlier tokens only, from what it says of itself.

    Where a module of transformers says neither, having its place in a cache tells that it keeps keys and values.
    """
    said = [vars(module)[name] for name in ("is_causal", "is_decoder") if name in vars(module)]
    if said:
        return any(value is True for value in said)
    return "layer_idx" in vars(module) or "causal" in _class(module).lower()


def _window(module: nn.Module) -> int | None:
    """Return how many tokens attention looks back, where the module or its config says so."""
    if "sliding_window" in vars(module):
        found = vars(module)["sliding_window"]
    else:
        config = getattr(module, "config", None)
        used = getattr(config, "use_sliding_window", True)
        found = getattr(config, "sliding_window", None) if used else None
    return found if isinstance(found, int) and found > 0 else None


def _recurrent(module: nn.RNNBase) -> Component:
    """Describe the hidden state of torch's recurrent layers."""
    directions = 2 if module.bidirectional else 1
    size = module.proj_size or module.hidden_size
    if isinstance(module, nn.LSTM):
        size += module.hidden_size
    numbers = module.num_layers * directions * size
    return _vector_memory(numbers * next(module.parameters()).element_size(), carried=not module.bidirectional)


def _vector_memory(size: int, carried: bool) -> Component:
    return Component(
        name="",
        kind="vector memory",
        update_period=1,
        unit=TOKENS,
        state_bytes=size,
        carried=carried,
        rule="gates",
        context_flow="tokens of the row",
        conditioned_on=("",),
    )


def _sizes(module: nn.Module) -> tuple[int, int]:
    """Return (in, out) of a projection; the Conv1D of transformers stores its matrix transposed."""
    matrix = _matrix(module)
    assert matrix is not None
    rows, columns = matrix.shape
    return (rows, columns) if _class(module) == "Conv1D" else (columns, rows)


def _matrix(module: nn.Module) -> Tensor | None:
    """Return the matrix of a projection, or None where the module is none."""
    if isinstance(module, nn.Linear):  # packed weights have another shape than the map
        return module.weight.new_empty((module.out_features, module.in_features), device="meta")
    weight = getattr(module, "weight", None)
    return weight if isinstance(weight, Tensor) and weight.ndim == 2 else None


def _class(module: nn.Module) -> str:
    return type(module).__name__

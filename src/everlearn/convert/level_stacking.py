"""Stack levels on a pretrained model, so that it learns what it reads and is itself at first."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from everlearn.convert import adapter
from everlearn.convert.cache import sight_of
from everlearn.convert.checks import check_gradients, check_merged, check_output, check_same
from everlearn.convert.config import LEVELS, StackConfig
from everlearn.convert.copies import Copies
from everlearn.convert.deltas import StackedDeltas
from everlearn.convert.families import Family, Layers, Weights, choose, find_family
from everlearn.convert.forms import Form, additive
from everlearn.convert.in_place import MemoryCache, places
from everlearn.convert.replaced import ReplacedModel
from everlearn.convert.stacked import StackedModel
from everlearn.convert.wrapped import StackedLinear
from everlearn.levels import Level
from everlearn.memory.codec import check_fits
from everlearn.memory.state import ModelState

PROBE = 16  # tokens on which the converted model is compared with the original


def stack_levels(
    model: nn.Module,
    tokenizer: Any = None,
    *,
    weights: Weights = "mlp",
    layers: Layers = "all",
    form: Form = additive,
    levels: Sequence[Level] = LEVELS,
    chunk_size: int = 128,
    max_norm: float = 1.0,
    window: int | None = None,
    merged: bool | None = None,
    family: Family | None = None,
    probe: Tensor | None = None,
) -> StackedModel:
    """Let chosen matrices of a pretrained model learn, beside weights that stay as they are.  [NL eq. 74]

        y = W0 x + (D_1 + ... + D_K) x,    all D = 0 at first

    The model is converted in place: its matrices are wrapped, its parameters take no gradient, its logits are bit for
    bit what they were, which is checked on a probe before this returns; `StackedModel.unstack` gives it back. The
    deltas belong to a state, one set for each row, in float32 whatever the model's own type.

    A hybrid (`ReplacedModel`) keeps its memories where they stand, and the MLPs that are left learn beside them.

    What was measured, on one small model only: clipped plain steps beat momentum and Adam; "mlp" is best on text far
    from what the model knows, "last_down" has a state 12 times smaller and loses 0.01 to 0.02 bits per byte on prose;
    a good `eta` differs by 9 times between the two, so find it for each. Nothing here says what a model a thousand
    times larger gains; measure it again.

    Args:
        model: a causal language model of Hugging Face, or a hybrid; put into evaluation mode.
        tokenizer: that of the model; needed to read text, not to read token numbers.
        weights: "mlp", "down", "last_down", or patterns of module paths; see `families.choose`.
        layers: "all", or indices of blocks; of a hybrid, all whose MLP is the pretrained one.
        form: how levels stand beside the weights; see `forms`.
        levels: see `Level`; the rates are in units of the clipped gradient.
        chunk_size: tokens that share one gradient anchor; 128 was measured, 32 is better and dearer.
        max_norm: bound on the gradient of one row and matrix.
        window: tokens that a token sees, itself included; None takes the length that the model was trained for. Keys
            and values of no more are kept, so that a document of any length is read in constant memory.
        merged: read (W0 + D) x instead of W0 x + D x, which costs about half. None does so for one row where it is as
            exact and D = 0 changes no bit; True always, also for many rows, whose logits are then equal to rounding
            alone, and needs matrices that are not quantised; False never.
        family: where the model keeps its MLPs, for a structure that is not known.
        probe: [B, T] tokens to compare on; None takes 16 that are drawn once.
    Returns:
        the stacked model.
    Raises:
        ValueError: a mixture of experts, an unknown structure or choice, a model that is stacked already, the bare
            base of a hybrid, or one whose logits are not finite or would change; the model is left as it was.
    """
    _check_model(model)
    hybrid = model if isinstance(model, ReplacedModel) else None
    if hybrid is not None:
        model, family = hybrid.base, hybrid.family if family is None else family
        tokenizer = hybrid.tokenizer if tokenizer is None else tokenizer
        window = hybrid.config.window if window is None else window
    if family is None and (isinstance(weights, str) or layers != "all" or isinstance(form, Copies)):
        family = find_family(model)
    config = StackConfig(
        weights=weights if isinstance(weights, str) else tuple(weights),
        layers=layers if isinstance(layers, str) else tuple(layers),
        form=form,
        levels=tuple(levels),
        chunk_size=chunk_size,
        max_norm=max_norm,
        window=window,
        merged=merged,
        family=family,
    )
    matrices = choose(model, family, weights, layers, without=[] if hybrid is None else map(hybrid.path, places(model)))
    model.eval()
    sight = sight_of(model, window)
    check_gradients(model, matrices)
    if merged:
        check_merged(model, matrices)
    embedding = model.get_input_embeddings().weight  # type: ignore[operator]
    deltas = StackedDeltas(
        matrices,
        form,
        config.levels,
        chunk_size=chunk_size,
        max_norm=max_norm,
        dtype=torch.promote_types(embedding.dtype, torch.float32),
        device=embedding.device,
    )
    probe = _probe(embedding) if probe is None else probe
    with torch.no_grad():
        before = check_output(
            model, model(input_ids=probe, use_cache=True, **_carried(hybrid)), hybrid=hybrid is not None
        )
    stacked = StackedModel(model, tokenizer, config, matrices, deltas, sight, hybrid)
    try:
        _check_unchanged(stacked, before, probe)
    except BaseException:
        stacked.unstack()
        raise
    return stacked


def load_adapter(model: nn.Module, folder: Path | str, tokenizer: Any = None) -> tuple[StackedModel, ModelState | None]:
    """Stack levels on a pretrained model as `StackedModel.save_adapter` saved them.

    Args:
        model: the base that the adapter was made on, or the hybrid; converted in place.
        folder: what `save_adapter` wrote.
        tokenizer: that of the model.
    Returns:
        model: the stacked model.
        state: what was saved with it, or None.
    Raises:
        ValueError: no whole adapter, another base, or a layer that is not where it was; the model is left as it was.
    """
    meta, starts, state = adapter.load(Path(folder))
    adapter.check_base(model.base if isinstance(model, ReplacedModel) else model, meta, Path(folder))
    config = StackConfig.from_dict(meta["config"])
    stacked = stack_levels(model, tokenizer, **vars(config))
    try:
        stacked.deltas.set_starts(starts)
        if state is not None:
            state = state.map(lambda tensor: tensor.to(stacked.device))
            check_fits(state, stacked.initial_state(state.batch_size), str(folder))
    except ValueError:
        stacked.unstack()
        raise
    return stacked, state


def _check_model(model: Any) -> None:
    """Refuse what no levels can be stacked on."""
    if not isinstance(model, nn.Module):
        raise ValueError(
            f"got {model!r:.60} where a model is needed; load it first: "
            "transformers.AutoModelForCausalLM.from_pretrained(NAME), and the same for its tokenizer"
        )
    if any(isinstance(module, StackedLinear) for module in model.modules()):
        raise ValueError(f"{type(model).__name__} has levels already; call unstack() on the stacked model first")
    if not isinstance(model, ReplacedModel) and (standing := places(model)):
        raise ValueError(
            f"{type(model).__name__} holds memories in the place of {', '.join(standing)}, and only the hybrid knows "
            "which; give stack_levels the ReplacedModel itself"
        )


def _check_unchanged(stacked: StackedModel, before: Tensor, probe: Tensor) -> None:
    """Refuse levels that move the logits before they have learned anything."""
    with torch.no_grad(), stacked.using(stacked.initial_state(len(probe))):
        after = stacked.base(input_ids=probe, use_cache=True, **_carried(stacked.hybrid)).logits
    form = stacked.config.form
    wrong = check_same(before, after, exact=form.exact(len(stacked.deltas.read_levels)))
    if wrong:
        raise ValueError(
            f"the logits of {type(stacked.base).__name__} {wrong} with form {form}, and must not change; it was left "
            "as it was; use form=additive, which touches outputs only"
        )


def _carried(hybrid: ReplacedModel | None) -> dict[str, MemoryCache]:
    """Return what a call needs to carry the states of memories in places: nothing for a plain model."""
    return {} if hybrid is None else {"past_key_values": MemoryCache({}, None)}


def _probe(embedding: Tensor) -> Tensor:
    """Return tokens that depend on the size of the vocabulary alone, [1, PROBE]."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(len(embedding), (1, PROBE), generator=generator).to(embedding.device)

"""One decoder for every preset: x + mixer(norm(x)), then x + memory(norm(x)).  [NL eq. 94-97]"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from everlearn.layers.continuum import ContinuumMemory
from everlearn.layers.level_step import Update
from everlearn.layers.mlp import SwiGLU
from everlearn.levels import Component, Level
from everlearn.memory.state import LayerState, ModelState, with_layers
from everlearn.models.alphabet import BYTES, Alphabet, Pieces
from everlearn.models.config import DecoderConfig
from everlearn.models.presets import MEMORIES, MIXERS, Mixer
from everlearn.models.rows import Run, check_tokens, without_packing, without_padding


class Block(nn.Module):
    """Mix tokens, then look into the MLP or the Continuum Memory System, each beside the residual stream."""

    def __init__(self, config: DecoderConfig, mixer: str) -> None:
        super().__init__()
        self.mixer_norm = nn.RMSNorm(config.dim)
        self.mixer: Mixer = MIXERS[mixer](config)
        self.mlp_norm = nn.RMSNorm(config.dim)
        self.mlp = MEMORIES[config.cms](config) if config.levels else SwiGLU(config.dim, config.hidden_dim)

    def forward(
        self, x: Tensor, mixer: LayerState, memory: LayerState, mask: Tensor | None
    ) -> tuple[Tensor, Tensor, LayerState]:
        """Map x, [B, T, dim]; return it, what the MLP was given, and the mixer's new state. The memory is only read."""
        y, mixer = self.mixer(self.mixer_norm(x), mixer, mask)
        x = x + y
        h = self.mlp_norm(x)
        return x + (self.mlp(h, memory)[0] if isinstance(self.mlp, ContinuumMemory) else self.mlp(h)), h, mixer


class Decoder(nn.Module):
    """A causal language model whose state is a value.  [NL eq. 94-97]

    Args:
        config: see `DecoderConfig`; `models.preset` makes common ones.
    Example:
        >>> model = Decoder(DecoderConfig(dim=8, num_layers=1, num_heads=1, hidden_dim=8))
        >>> logits, state = model(torch.tensor([[1, 2, 3]]))
        >>> more, state = model(torch.tensor([[4]]), state)
        >>> logits.shape, state.tokens_seen.tolist()
        (torch.Size([1, 3, 256]), [4])
    """

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        if config.mixer not in MIXERS:
            raise ValueError(f"mixer {config.mixer!r} is unknown; choose one of {', '.join(MIXERS)}")
        if config.cms not in MEMORIES:
            raise ValueError(f"cms {config.cms!r} is unknown; choose one of {', '.join(MEMORIES)}")
        self.config = config
        self.alphabet: Alphabet = BYTES
        self.embedding = nn.Embedding(config.vocab_size, config.dim)
        self.blocks = nn.ModuleList(Block(config, mixer) for mixer in config.mixers())
        self.norm = nn.RMSNorm(config.dim)
        nn.init.normal_(self.embedding.weight, std=config.dim**-0.5)

    @property
    def chunk_size(self) -> int:
        """Return how many tokens share one gradient anchor."""
        return self.config.chunk_size

    @property
    def device(self) -> torch.device:
        """Return where the parameters are."""
        return self.embedding.weight.device

    @property
    def start_ids(self) -> tuple[int, ...]:
        """Return the tokens that open a text; none where it is read as bytes."""
        return self.alphabet.start_ids

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Return the tokens that end a text; none where it is read as bytes."""
        return self.alphabet.stop_ids

    def encode(self, text: str | bytes) -> Tensor:
        """Return the tokens of a text, [T] int64: its bytes in UTF-8, or what `with_tokenizer` was given makes of it.

        Raises:
            ValueError: not a text, or a vocabulary that cannot hold every byte.
        """
        if self.config.vocab_size < self.alphabet.size:
            raise ValueError(
                f"the model's vocab_size is {self.config.vocab_size}, but a text is read as bytes; build it with 256"
            )
        return self.alphabet.encode(text)

    def decode(self, ids: Tensor) -> str:
        """Return the text of tokens, [T]; bytes that are not UTF-8 become the replacement character."""
        return self.alphabet.decode(ids)

    def count_bytes(self, ids: Tensor) -> Tensor:
        """Return how many bytes each token stands for, in the shape of `ids`."""
        return self.alphabet.count_bytes(ids)

    def memories(self) -> dict[str, ContinuumMemory]:
        """Return the memories that learn from the task's gradient, by the name of their layer."""
        return {f"blocks.{i}.mlp": b.mlp for i, b in enumerate(self._blocks()) if isinstance(b.mlp, ContinuumMemory)}

    def initial_state(self, batch_size: int) -> ModelState:
        """Return what `batch_size` fresh streams start from: the learned starts of all memories."""
        zeros = torch.zeros(batch_size, dtype=torch.long, device=self.embedding.weight.device)
        layers = {name: cms.initial_state(batch_size) for name, cms in self.memories().items()}
        layers |= {f"blocks.{i}.mixer": b.mixer.initial_state(batch_size) for i, b in enumerate(self._blocks())}
        return with_layers(ModelState({}, {}, zeros, zeros), layers)

    def forward(
        self,
        ids: Tensor,
        state: ModelState | None = None,
        mask: Tensor | None = None,
        document_ids: Tensor | None = None,
    ) -> tuple[Tensor, ModelState]:
        """Read tokens; nothing is learned but what the mixers keep in the state.

        A full pass, any split of it and token by token give the same results.

        Args:
            ids: [B, T].
            state: what earlier tokens left; None starts fresh streams from the learned parameters.
            mask: [B, T] bool, True for real tokens; padding may stand left, right or inside and changes nothing.
            document_ids: [B, T] for packed rows: the memory starts fresh where the number changes. Packed rows start
                fresh themselves, so `state` must be None.
        Returns:
            logits: [B, T, vocab_size] for the token after each; undefined at padding.
            state: to pass to the next call (of packed rows, that of each row's last document).
        Raises:
            ValueError: `document_ids` together with a state; tokens that the vocabulary lacks; shapes or types that
                do not fit; a state of another model or with another number of rows.
        """
        x, state = self.features(ids, state, mask, document_ids)
        return F.linear(x, self.embedding.weight), state

    def features(
        self,
        ids: Tensor,
        state: ModelState | None = None,
        mask: Tensor | None = None,
        document_ids: Tensor | None = None,
        *,
        every: bool = False,
        call: Callable[..., Any] | None = None,
    ) -> tuple[Tensor, ModelState]:
        """Read tokens as `forward` does, up to the head, which multiplies by the embedding.

        Args:
            ids, state, mask, document_ids: see `forward`.
            every: also return the embeddings and what each block but the last gave.
            call: how a block is called, `call(block, *inputs)`, such as torch's checkpoint; None calls it.
        Returns:
            x: what the head takes, [B, T, dim]; with `every` [B, T, num_layers + 1, dim], of which it takes the last.
            state: see `forward`.
        Raises:
            ValueError: see `forward`.
        """
        if document_ids is not None:
            check_tokens(ids, mask, state)
            run = partial(self.features, every=every, call=call)
            return without_packing(run, ids, state, mask, document_ids)

        def read(ids: Tensor, state: ModelState, mask: Tensor | None) -> tuple[Tensor, ModelState]:
            outputs: list[Tensor] = []
            x, _, state = self._run(ids, state, mask, outputs if every else None, call)
            return torch.stack([*outputs, self.norm(x)], 2) if every else self.norm(x), state

        return self._aligned(read, ids, state, mask)

    def hidden(
        self, ids: Tensor, state: ModelState | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor, ModelState]:
        """Read tokens as `forward` does, and show what the last block's MLP was given: the keys of a slot memory.

        Returns:
            hidden: [B, T, dim]; undefined at padding.
            logits: see `forward`; the same bits.
            state: see `forward`.
        """
        both, state = self._aligned(self._read_both, ids, state, mask)
        x, hidden = both.unbind(2)
        return hidden, F.linear(self.norm(x), self.embedding.weight), state

    def tick(
        self, state: ModelState, event: str, rows: Tensor | None = None
    ) -> tuple[ModelState, dict[str, dict[str, Update]]]:
        """Declare an event such as "document" or "session": levels that wait for it step or restart.

        Args:
            state: what the streams have taught.
            event: a word that some level or memory names; any other changes nothing.
            rows: [B] bool, the rows that it concerns; None means all.
        Returns:
            state: the new state.
            updates: layer name -> level name -> what it did.
        Raises:
            ValueError: rows that are not [B] bool.
        """
        if rows is not None and (rows.dtype != torch.bool or rows.shape != state.tokens_seen.shape):
            raise ValueError(
                f"rows are {rows.dtype} of shape {tuple(rows.shape)}; give bool of shape ({state.batch_size},), "
                "True where the event happened"
            )
        layers: dict[str, LayerState] = {}
        updates: dict[str, dict[str, Update]] = {}
        for name, cms in self.memories().items():
            if name in state.memory:
                layers[name], done = cms.tick(state.layer(name), event, rows)
                updates |= {name: done} if done else {}
        for i, block in enumerate(self._blocks()):
            name = f"blocks.{i}.mixer"
            if name in state.memory or name in state.context:
                layers[name] = block.mixer.tick(state.layer(name), event, rows)
        return with_layers(state, layers), updates

    def with_levels(self, levels: Sequence[Level]) -> Decoder:
        """Return this model with other periods and step sizes; the parameters are shared, not copied.

        Args:
            levels: as many as the model has, with the same names and means in the same order.
        """
        if [(lv.name, lv.mean_of) for lv in levels] != [(lv.name, lv.mean_of) for lv in self.config.levels]:
            raise ValueError(
                f"levels {[level.name for level in levels]} do not fit this model, whose levels are "
                f"{[level.name for level in self.config.levels]}; keep the names, their order and their means"
            )
        with torch.device("meta"):
            other = Decoder(dataclasses.replace(self.config, levels=tuple(levels)))
        other.load_state_dict(self.state_dict(keep_vars=True), assign=True)
        other.alphabet = self.alphabet
        return other

    def with_tokenizer(self, tokenizer: Any) -> Decoder:
        """Return this model reading text through a tokenizer of Hugging Face; the parameters are shared, not copied.

        Raises:
            ValueError: the tokenizer has more tokens than the model.
        """
        alphabet = Pieces(tokenizer)
        if alphabet.size > self.config.vocab_size:
            raise ValueError(
                f"the tokenizer has {alphabet.size} tokens, the model {self.config.vocab_size}; give the tokenizer "
                "that the model was trained with"
            )
        other = copy.copy(self)
        other.alphabet = alphabet
        return other

    def fingerprint(self) -> str:
        """Return a hash of the shapes, the parameters and what else decides results; levels' rates are left out."""
        return fingerprint(self.config, self.state_dict())

    def check_state(self, state: ModelState) -> None:
        """Refuse a state that another model has written; a layer that carries nothing yet is fresh.

        Raises:
            ValueError: a layer that this model lacks, one of another shape, or a part of the layers alone.
        """
        for layer, expected in self._memory_shapes.items():
            own = state.memory.get(layer)
            if own is None and layer not in state.context:
                continue
            found = {} if own is None else {name: tensor.shape[1:] for name, tensor in own.items()}
            for name, shape in expected.items():
                if found.get(name) != shape:
                    got = tuple(found[name]) if name in found else "nothing"
                    raise ValueError(
                        f"the state is another model's: {layer}/{name} is {got} per row, this model has "
                        f"{tuple(shape)}; read with the model that wrote it, or pass state=None"
                    )
        mixers = [f"blocks.{i}.mixer" for i in range(self.config.num_layers)]
        contexts = {name for name in state.context if name.startswith("blocks.")}
        if unknown := sorted(set(state.memory) - set(self._memory_shapes)) or sorted(contexts - set(mixers)):
            raise ValueError(
                f"the state is another model's: it holds a layer {unknown[0]!r} that this model lacks; "
                "read with the model that wrote it, or pass state=None"
            )
        # all mixers are read together and all levels begin together, so a part of them is a model with fewer blocks
        kept = [name for name, own in self._memory_shapes.items() if own]
        for layers, held in (
            ([name for name in mixers if name in kept], state.memory),
            ([name for name in kept if name not in mixers], state.memory),
            (mixers, contexts),
        ):
            missing = [name for name in layers if name not in held]
            if missing and len(missing) < len(layers):
                raise ValueError(
                    f"the state is another model's: it holds nothing of {missing[0]!r}, but of other layers of its "
                    "kind; read with the model that wrote it, or pass state=None"
                )

    @cached_property
    def _memory_shapes(self) -> dict[str, dict[str, torch.Size]]:
        """Return the shape of every memory of a row; asked when a state comes, since parameters may come late too."""
        with torch.no_grad():
            start = self.initial_state(0).memory
        return {layer: {name: tensor.shape[1:] for name, tensor in own.items()} for layer, own in start.items()}

    def _blocks(self) -> list[Block]:
        """Return the blocks with their type."""
        return [block for block in self.blocks if isinstance(block, Block)]

    def _aligned(
        self, run: Run, ids: Tensor, state: ModelState | None, mask: Tensor | None
    ) -> tuple[Tensor, ModelState]:
        """Check what is to be read, and call `run` on rows without padding at their left."""
        check_tokens(ids, mask, state)
        zeros = torch.zeros(len(ids), dtype=torch.long, device=ids.device)
        state = state or ModelState({}, {}, zeros, zeros)
        self.check_state(state)
        return run(ids, state, None) if mask is None else without_padding(run, ids, state, mask)

    def _read_both(self, ids: Tensor, state: ModelState, mask: Tensor | None) -> tuple[Tensor, ModelState]:
        """Run the blocks; return their output and the input of the last one's MLP, [B, T, 2, dim]."""
        x, h, state = self._run(ids, state, mask)
        return torch.stack([x, h], 2), state

    def _run(
        self,
        ids: Tensor,
        state: ModelState,
        mask: Tensor | None,
        inputs: list[Tensor] | None = None,
        call: Callable[..., Any] | None = None,
    ) -> tuple[Tensor, Tensor, ModelState]:
        """Run the blocks; return their output and the input of the last one's MLP, [B, T, dim] each.

        What goes into each block is added to `inputs`.
        """
        try:
            x = self.embedding(ids)
        except IndexError:
            raise ValueError(
                f"ids reach from {int(ids.min())} to {int(ids.max())}, the vocabulary from 0 to "
                f"{self.config.vocab_size - 1}; encode with the tokenizer of this model"
            ) from None
        h, layers = x, {}
        for i, block in enumerate(self._blocks()):
            name = f"blocks.{i}.mixer"
            if inputs is not None:
                inputs.append(x)
            given = (x, state.layer(name), state.layer(f"blocks.{i}.mlp"), mask)
            x, h, layers[name] = block(*given) if call is None else call(block, *given)
        count = torch.full_like(state.tokens_seen, ids.shape[1]) if mask is None else mask.sum(1)
        state = dataclasses.replace(
            with_layers(state, layers),
            tokens_seen=state.tokens_seen + count,
            segment_len=state.segment_len + count,
        )
        return x, h, state

    def components(self) -> list[Component]:
        """Return the embedding, which is also the head; the blocks and their layers answer for themselves."""
        return [Component(name="", kind="embedding", owns=("embedding",))]


def fingerprint(config: DecoderConfig, tensors: Mapping[str, Tensor]) -> str:
    """Return the fingerprint of the model that a config and its tensors would make; see `Decoder.fingerprint`."""
    digest = hashlib.sha256(repr({**config.to_dict(), "levels": None}).encode())
    digest.update(repr([level.name for level in config.levels]).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()

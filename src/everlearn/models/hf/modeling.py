"""A decoder as a Hugging Face model: forward, generation, saving; the mathematics is `models.Decoder`'s."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.utils import can_return_tuple

from everlearn.memory.codec import from_tensors, load_tensors, save_tensors, to_tensors
from everlearn.memory.state import ModelState, all_finite
from everlearn.models.decoder import Decoder
from everlearn.models.hf.cache import MemoryCache, caught_up
from everlearn.models.hf.config import HopeConfig
from everlearn.models.hf.inputs import check_ids, check_labels, continued, documents_of, mask_of, repeats_of

ALIGNED = 64  # bytes; where torch puts what it allocates on a CPU


class HopePreTrainedModel(PreTrainedModel):
    """What both models share: how they are built, saved and loaded. Abstract."""

    config_class = HopeConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["Block"]  # noqa: RUF012

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, name: Any, *args: Any, output_loading_info: bool = False, **options: Any
    ) -> Any:
        """Load as every Hugging Face model loads, and only a whole and sound checkpoint.

        Args:
            name: a folder that `save_pretrained` wrote, or a name on the hub.
            args: passed on.
            output_loading_info: also return what was found missing, unexpected or of another shape (nothing).
            options: passed on, such as `dtype`. Weights are read from safetensors alone.
        Raises:
            ValueError: tensors that are missing, left over, of another shape or not finite.
            OSError: no such folder or name, or no safetensors there.
        """
        options = {**options, "use_safetensors": True, "ignore_mismatched_sizes": True}  # reported below
        loaded: Any = super().from_pretrained(name, *args, output_loading_info=True, **options)
        model, info = loaded
        for fault in ("missing_keys", "unexpected_keys", "mismatched_keys"):
            if found := sorted(map(str, info[fault])):
                raise ValueError(
                    f"{name} is not a whole {cls.__name__}: {len(found)} {fault.replace('_', ' ')}, such as "
                    f"{found[0]}; give a checkpoint of this config, or copy the folder again"
                )
        for tensor_name, tensor in model.state_dict().items():
            if not tensor.is_meta and not all_finite([tensor]):
                raise ValueError(f"{name} holds NaN or infinity in {tensor_name!r}; give an earlier checkpoint")
        for parameter in model.parameters():
            # at an odd address, where a file is mapped, matrix products may round in another way than before saving
            if parameter.device.type == "cpu" and parameter.data_ptr() % ALIGNED:
                parameter.data = parameter.data.clone()
        return (model, info) if output_loading_info else model

    def _init_weights(self, module: nn.Module) -> None:
        """Leave every layer as it was built: each knows its own start."""


class HopeModel(HopePreTrainedModel):
    """A decoder without its head.

    Args:
        config: see `HopeConfig`.
    """

    def __init__(self, config: HopeConfig) -> None:
        super().__init__(config)
        self.decoder = Decoder(config.decoder_config())
        self.gradient_checkpointing = False
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        """Return the table of tokens."""
        return self.decoder.embedding

    def set_input_embeddings(self, value: nn.Embedding) -> None:  # type: ignore[override]
        """Put another table of tokens in its place, as `resize_token_embeddings` does."""
        self.decoder.embedding = value
        self.decoder.config = replace(self.decoder.config, vocab_size=value.num_embeddings)

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: MemoryCache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        seq_idx: Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """Read tokens; nothing is learned but what the mixers keep in the cache, and no parameter changes.

        Args:
            input_ids: [B, T], T >= 1.
            attention_mask: [B, T], or [B, read + T] as `generate` gives it; 1 for real tokens. Padding may stand left,
                right or inside and changes nothing.
            position_ids: [B, T]; only tells packed documents apart, which begin where it is 0 again. The model counts
                positions by itself.
            past_key_values: what earlier tokens left; it takes up these.
            inputs_embeds: refused; a memory that learns needs token numbers.
            use_cache: return a cache when none was given; None asks the config.
            output_hidden_states: return the embeddings and what every block gave, the last one normed.
            seq_idx: [B, T], the number of its document for each token, as data collators give it.
            kwargs: what trainers pass on, ignored.
        Raises:
            ValueError: tokens that the vocabulary lacks, no token, a mask or positions that do not fit, packed rows
                with a past, or a cache of another model or number of rows.
        """
        if inputs_embeds is not None or input_ids is None:
            raise ValueError(
                f"{'no input_ids were' if inputs_embeds is None else 'inputs_embeds were'} given, but the memories of "
                "this model read token numbers; give input_ids alone"
            )
        if kwargs.get("output_attentions"):
            raise ValueError("output_attentions is True, but memories have no attention to show; leave it out")
        check_ids(input_ids, self.decoder.config.vocab_size)
        cache = continued(past_key_values, self.decoder, input_ids)
        mask = mask_of(attention_mask, input_ids)
        documents = documents_of(position_ids, seq_idx, input_ids, mask, kwargs)
        if documents is not None and cache is not None and cache.state is not None:
            raise ValueError(
                "packed rows start fresh, but past_key_values has read something; leave it out, or give one document"
            )
        every = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        call = self._gradient_checkpointing_func if self.gradient_checkpointing and self.training else None
        x, state = self.decoder.features(
            input_ids, None if cache is None else cache.state, mask, documents, every=bool(every), call=call
        )
        hidden = tuple(x.unbind(2)) if every else None
        if cache is None and (self.config.use_cache if use_cache is None else use_cache):
            cache = MemoryCache(self.decoder)
        if cache is not None:
            cache.advance(state, input_ids)
        last = hidden[-1] if hidden else x
        return BaseModelOutputWithPast(last_hidden_state=last, past_key_values=cache, hidden_states=hidden)


class HopeForCausalLM(HopePreTrainedModel, GenerationMixin):
    """A decoder with its head: every preset of everlearn, for `generate`, Trainer and whatever takes such a model.

    Its memories learn from a stream through `Learner(model)`, never inside forward or `generate`.

    Args:
        config: see `HopeConfig`.
    Example:
        >>> model = HopeForCausalLM(HopeConfig(dim=8, num_layers=1, num_heads=1, hidden_dim=8)).eval()
        >>> model.generate(torch.tensor([[1, 2, 3]]), max_new_tokens=2, do_sample=False).shape
        torch.Size([1, 5])
    """

    _tied_weights_keys = {"lm_head.weight": "model.decoder.embedding.weight"}  # noqa: RUF012
    _is_stateful = True  # assisted generation would have to unread

    def __init__(self, config: HopeConfig) -> None:
        super().__init__(config)
        self.model = HopeModel(config)
        self.lm_head = nn.Linear(config.dim, config.vocab_size, bias=False)
        self.post_init()

    @classmethod
    def from_decoder(cls, decoder: Decoder, **options: Any) -> HopeForCausalLM:
        """Return the Hugging Face form of a decoder; the parameters are shared, not copied.

        Args:
            decoder: such as `models.load_model` or training returns.
            options: of `HopeConfig`, such as eos_token_id.
        """
        with torch.device("meta"):
            model = cls(HopeConfig.of(decoder.config, dtype=decoder.embedding.weight.dtype, **options))
        model.model.decoder = decoder
        model.tie_weights()
        return model.train(decoder.training)

    @property
    def decoder(self) -> Decoder:
        """Return the decoder itself, with the same parameters."""
        return self.model.decoder

    def get_output_embeddings(self) -> nn.Linear:
        """Return the head."""
        return self.lm_head

    def set_output_embeddings(self, value: nn.Linear) -> None:
        """Put another head in its place, as `resize_token_embeddings` does."""
        self.lm_head = value

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: MemoryCache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Read tokens, and score labels if there are any; see `HopeModel.forward` for the other arguments.

        Args:
            labels: [B, T], `input_ids` themselves; each is scored against the logits one place before it. -100 is left
                out.
            logits_to_keep: how many of the last places get logits, 0 for all, or a tensor of places.
        Raises:
            ValueError: see `HopeModel.forward`; labels of another shape or without a target, or for logits that are not
                kept.
        """
        if labels is not None and input_ids is not None:
            check_labels(labels, input_ids, logits_to_keep)
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            output_hidden_states=output_hidden_states,
            return_dict=True,
            **kwargs,
        )
        places = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(outputs.last_hidden_state[:, places])
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=logits.shape[-1], **kwargs)
        return CausalLMOutputWithPast(
            loss=loss, logits=logits, past_key_values=outputs.past_key_values, hidden_states=outputs.hidden_states
        )

    def generate(  # type: ignore[override]
        self, inputs: Tensor | None = None, generation_config: Any = None, **options: Any
    ) -> Any:
        """Continue prompts as every Hugging Face model does; nothing is learned and no parameter changes.

        A cache that is given as `past_key_values` reads the prompt and what is generated, all but the last new token.
        With several beams or sequences for each prompt it stays as it was, and a copy reads.

        Args:
            inputs: prompts, [B, T], T >= 1, padded on the left; they go on after what the cache has read since it was
                made or since `new_segment`.
            generation_config, options: see `transformers.GenerationMixin.generate`.
        Raises:
            ValueError: see `forward`; a prompt that does not go on after what the cache has read; assisted generation;
                a cache of Hugging Face's own.
        """
        ids = options.get("input_ids") if inputs is None else inputs
        mask = options.get("attention_mask")
        if ids is not None:
            check_ids(ids, self.decoder.config.vocab_size)
            cache = continued(options.get("past_key_values"), self.decoder, ids)
            if cache is not None and (mask is None or mask.shape[1] == ids.shape[1]):
                cache.check_prompt(ids)
            repeats = repeats_of(generation_config or self.generation_config, options)
            if cache is not None and repeats > 1:
                options["past_key_values"] = cache.repeated(repeats)
        base: Any = super()
        return base.generate(inputs, generation_config, **options)

    def _prepare_cache_for_generation(  # type: ignore[override]
        self, generation_config: Any, model_kwargs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> None:
        """Give `generate` a cache of ours where the user gave none."""
        if generation_config.cache_implementation is not None:
            raise ValueError(
                f"cache_implementation is {generation_config.cache_implementation!r}, but a memory has one form; leave "
                "it out"
            )
        if model_kwargs.get("past_key_values") is None and generation_config.use_cache is not False:
            model_kwargs["past_key_values"] = self.new_cache()

    def new_cache(self, state: ModelState | None = None) -> MemoryCache:
        """Return a cache for `generate` and `forward`.

        Args:
            state: what streams have been taught, such as `Learner.state(user)`; tokens that wait there in an unfinished
                chunk are read first. None starts fresh.
        Raises:
            ValueError: a state of another model.
        """
        return MemoryCache(self.decoder, None if state is None else caught_up(self.decoder, state))

    def save_memory(self, path: Path | str, cache: MemoryCache) -> None:
        """Write what a cache holds as one file, apart from the model, which its fingerprint names.

        Stores of everlearn read the same format. While a segment is open its context is saved too; after
        `cache.new_segment()` the memory alone is.

        Raises:
            ValueError: an empty cache, or one of another model; NaN or infinity in it.
        """
        if cache.state is None:
            raise ValueError("the cache is empty, so there is no memory to save; read something with it first")
        cache.check(self.decoder, cache.batch_size)
        meta = {"user": "cache", "model": self.decoder.fingerprint(), "notes": {}}
        save_tensors(Path(path), to_tensors(cache.state), meta)

    def load_memory(self, path: Path | str) -> MemoryCache:
        """Read a file of `save_memory`, or a user's memory from a store, into a new cache.

        Raises:
            ValueError: a file that is not whole, was changed, or belongs to another model.
        """
        tensors, meta = load_tensors(Path(path))
        if meta.get("model") != self.decoder.fingerprint():
            raise ValueError(f"{path} is the memory of another model; load it with the model that wrote it")
        state = from_tensors(tensors).map(lambda tensor: tensor.to(self.device))
        return self.new_cache(state)

    def reader(self, tokenizer: Any = None) -> Decoder:
        """Return what `Learner` reads with: the decoder, by bytes or through a tokenizer; the parameters are shared.

        Raises:
            ValueError: no tokenizer for a vocabulary that is not that of bytes, or one with more tokens than the model.
        """
        if tokenizer is not None:
            return self.decoder.with_tokenizer(tokenizer)
        if self.decoder.config.vocab_size != 256:
            raise ValueError(
                f"the model has {self.decoder.config.vocab_size} tokens, which are no bytes; give its tokenizer: "
                "Learner(model.reader(tokenizer))"
            )
        return self.decoder

"""Our decoders as Hugging Face models, known to its Auto classes once this is imported."""

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from everlearn.models.hf.cache import MemoryCache
from everlearn.models.hf.config import HopeConfig
from everlearn.models.hf.modeling import HopeForCausalLM, HopeModel

AutoConfig.register(HopeConfig.model_type, HopeConfig)
AutoModel.register(HopeConfig, HopeModel)
AutoModelForCausalLM.register(HopeConfig, HopeForCausalLM)

__all__ = ["HopeConfig", "HopeForCausalLM", "HopeModel", "MemoryCache"]

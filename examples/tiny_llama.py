"""Write a tiny Llama and its tokenizer into a folder, so that the examples about your own model run offline.

    python examples/tiny_llama.py FOLDER

Trains for a few seconds on this Python's own `json` package. It knows next to nothing; any causal language model of
Hugging Face takes its place in the examples.
"""

import json
import sys
from pathlib import Path

import torch
import transformers
from tokenizers import ByteLevelBPETokenizer


def tiny_llama(folder):
    """Train both on the package, save them as `save_pretrained` does, and return the folder."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    transformers.logging.disable_progress_bar()
    text = "".join(path.read_text() for path in sorted(Path(json.__file__).parent.glob("*.py")))
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator([text], vocab_size=512, special_tokens=["<|end|>"], show_progress=False)
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=bpe._tokenizer, eos_token="<|end|>")
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer), max_position_embeddings=256, bos_token_id=None, eos_token_id=0, **sizes
    )
    model = transformers.LlamaForCausalLM(config)
    ids = torch.tensor(tokenizer(text)["input_ids"])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(80):
        starts = torch.randint(len(ids) - 128, (8,))
        batch = torch.stack([ids[start : start + 128] for start in starts])
        optimizer.zero_grad()
        model(input_ids=batch, labels=batch).loss.backward()
        optimizer.step()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


if __name__ == "__main__":
    print(f"wrote {tiny_llama(sys.argv[1])}")

"""What a slot memory needs of a stacked model: the input of the last MLP, beside the same logits."""

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from everlearn.convert import stack_levels
from everlearn.learn import read
from everlearn.learn.archive import Archive
from everlearn.learn.route import BASE
from everlearn.learn.slots import look_up, memorize
from everlearn.levels import Level
from everlearn.memory.slots import SlotMemory


def llama():
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=50, num_key_value_heads=2, max_position_embeddings=64, **sizes))


def gpt2():
    return GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=16, n_layer=2, n_head=2, n_positions=64))


@pytest.fixture(params=[llama, gpt2])
def model(request):
    torch.manual_seed(0)
    return stack_levels(request.param().double().eval(), levels=[Level("fast", 8, eta=0.5)], chunk_size=8)


def last_mlp(model):
    blocks = model.base.model.layers if "llama" in type(model.base).__name__.lower() else model.base.transformer.h
    return blocks[-1].mlp


def test_hidden_is_what_the_last_mlp_was_given_and_the_logits_are_the_same(model):
    ids, seen = torch.randint(50, (1, 20)), []
    last_mlp(model).register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        hidden, logits, _ = model.hidden(ids)
        assert torch.equal(hidden, seen[-1]) and torch.equal(logits, model(ids)[0])
        mask = torch.arange(20)[None] >= torch.tensor([[0], [6]])
        padded, _, _ = model.hidden(ids.expand(2, -1), None, mask)
        torch.testing.assert_close(padded[1:, 6:], model.hidden(ids[:, 6:])[0], atol=1e-10, rtol=0)


def test_slots_and_archive_work_on_a_stacked_model(model):
    ids, memory = torch.randint(50, (1, 40)), SlotMemory(gate=0.99)
    state = model.initial_state(1)
    empty = memory.initial_state(1, 16)
    with torch.no_grad():
        assert torch.equal(look_up(model, memory, empty, ids, state)[0], model(ids, state)[0])
    _, slots, _ = memorize(model, memory, empty, ids, state, document=0)
    again, _, _ = memorize(model, memory, slots, ids, state, document=1)
    assert float(again[:, 1:].max()) < 1.5
    learned = read(model, ids, state, chunk_size=8, end="flush")[1]
    archive = Archive(model)
    archive.keep("it", learned)
    route = archive.route(ids[0], truth="it")
    assert route.wrong is False and route.losses["it"] < route.losses[BASE]
    whole = Archive(model, rank=99, bits=None)
    whole.keep("it", learned)
    for name, weight in whole.state("it").memory["stack"].items():
        if not name.endswith((".grad", ".tokens")):
            torch.testing.assert_close(weight, learned.memory["stack"][name], atol=1e-10, rtol=0)

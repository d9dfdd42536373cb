"""A memory learns what the attention gave that it replaces, and a hybrid what the original predicts."""

from __future__ import annotations

import copy

import pytest
import torch

from everlearn.convert import (
    Continuum,
    Delta,
    distil,
    kl,
    next_token,
    replace_attention,
    replace_blocks,
    stack_levels,
)
from everlearn.convert.distil import local_loss, record
from everlearn.levels import Level
from tests.convert.families_fixture import tiny, tokens


def pair(layers=(0, 1)):
    """Return an original, a hybrid of it, and batches without end."""
    torch.manual_seed(4)
    teacher = tiny()
    return teacher, replace_attention(teacher, layers=layers), (tokens(4, 24, seed) for seed in range(10, 1000))


def changed(model, before):
    return {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}


def snapshot(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_what_is_recorded_is_what_each_attention_read_and_gave():
    teacher, student, _ = pair()
    ids = tokens()
    logits, seen = record(teacher, ids, {"block.1.attention": student.path("block.1.attention")})
    output = teacher(ids, output_hidden_states=True)
    block, x = teacher.model.layers[1], output.hidden_states[1]
    inputs, outputs = seen["block.1.attention"]
    torch.testing.assert_close(inputs, block.input_layernorm(x), atol=1e-12, rtol=0)
    # the rest of the block, from what was recorded, gives what leaves the model
    x = x + outputs
    x = x + block.mlp(block.post_attention_layernorm(x))
    torch.testing.assert_close(teacher.lm_head(teacher.model.norm(x)), output.logits, atol=1e-12, rtol=0)
    assert torch.equal(logits, output.logits)
    assert not inputs.requires_grad and not outputs.requires_grad


def test_the_local_loss_is_one_for_an_answer_of_zero_and_zero_for_the_right_one():
    _, student, _ = pair()
    mixer = student.places()["block.0.attention"]
    inputs = torch.randn(2, 5, 16, dtype=torch.float64)
    with torch.no_grad():
        given = mixer(inputs)[0]
        assert float(local_loss(mixer, inputs, given)) == 0
        assert float(local_loss(mixer, inputs, 2 * given)) == pytest.approx(1 / 4, abs=1e-12)
        torch.nn.init.zeros_(mixer.memory.out.weight)
        assert float(local_loss(mixer, inputs, given)) == 1


def test_learning_locally_lowers_the_error_on_text_that_was_not_learned_from():
    teacher, student, batches = pair()
    untouched, original = snapshot(student.base), snapshot(teacher)
    paths = {name: student.path(name) for name in student.places()}
    _, unseen = record(teacher, tokens(4, 24, seed=5), paths)

    def errors():
        with torch.no_grad():
            return [float(local_loss(mixer, *unseen[name])) for name, mixer in student.places().items()]

    first = errors()
    steps = list(distil(student, teacher, batches, local=40, whole=0))
    assert all(now < 0.6 * then for now, then in zip(errors(), first, strict=True))
    assert [s.step for s in steps] == list(range(1, 41)) and {s.phase for s in steps} == {"local"}
    assert steps[0].loss == pytest.approx(sum(steps[0].places.values()) / 2)
    assert all(".self_attn.memory." in name for name in changed(student.base, untouched))
    assert not changed(teacher, original)


def test_a_local_step_is_adamw_on_the_error_of_one_memory():
    teacher, student, _ = pair()
    ids = tokens(4, 24)
    twin = copy.deepcopy(student).places()["block.1.attention"]
    _, seen = record(teacher, ids, {"block.1.attention": student.path("block.1.attention")})
    optimizer = torch.optim.AdamW(twin.parameters(), lr=2e-3, weight_decay=0.0)
    loss = local_loss(twin, *seen["block.1.attention"])
    loss.backward()
    torch.nn.utils.clip_grad_norm_(twin.parameters(), 1.0)
    optimizer.step()
    other = snapshot(student.places()["block.0.attention"])
    (step,) = distil(student, teacher, [ids], local=1, whole=0, local_lr=2e-3, places=["block.1.attention"])
    assert step.loss == loss.item() and step.places == {"block.1.attention": loss.item()}
    assert not changed(student.places()["block.1.attention"], dict(twin.named_parameters()))
    assert not changed(student.places()["block.0.attention"], other)


def test_the_rate_falls_along_a_line_to_a_tenth_in_each_phase():
    teacher, student, _ = pair([0])
    ids, twin = tokens(4, 24), copy.deepcopy(student)
    optimizer = torch.optim.AdamW(twin.base.parameters(), weight_decay=0.0)
    for lr in (1e-3, 0.55e-3, 1e-4):
        optimizer.param_groups[0]["lr"] = lr
        optimizer.zero_grad()
        kl(twin.base(ids).logits, teacher(ids).logits, ids).backward()
        torch.nn.utils.clip_grad_norm_(twin.base.parameters(), 1.0)
        optimizer.step()
    list(distil(student, teacher, [ids] * 3, local=0, whole=3, lr=1e-3))
    for found, expected in zip(student.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-9, rtol=0)


@pytest.mark.parametrize("objective", [kl, next_token])
def test_tuning_the_whole_lowers_the_objective(objective):
    teacher, student, _ = pair([0])
    ids, before, original = tokens(4, 24), snapshot(student.base), snapshot(teacher)
    steps = list(distil(student, teacher, [ids] * 30, local=0, whole=30, lr=3e-3, objective=objective))
    assert steps[-1].loss < 0.7 * steps[0].loss
    assert {s.phase for s in steps} == {"whole"} and not steps[0].places
    assert changed(student.base, before) == set(before)
    assert not changed(teacher, original)


def test_kl_is_that_of_torch():
    p, q = torch.randn(2, 3, 7, dtype=torch.float64), torch.randn(2, 3, 7, dtype=torch.float64)
    first, second = torch.distributions.Categorical(logits=p), torch.distributions.Categorical(logits=q)
    expected = torch.distributions.kl_divergence(first, second).mean()
    torch.testing.assert_close(kl(q, p, tokens(2, 3)), expected)
    assert float(kl(p, p, tokens(2, 3))) == 0
    # two words, one token: (1/2) ln((1/2) / (1/4)) + (1/2) ln((1/2) / (3/4))
    even, uneven = torch.zeros(1, 1, 2), torch.tensor([[[1.0, 3.0]]]).log()
    assert float(kl(uneven, even, tokens(1, 1))) == pytest.approx(0.5 * torch.tensor(4 / 3).log().item(), abs=1e-6)


def test_the_text_itself_is_the_loss_of_the_library():
    teacher, ids = tiny(), tokens()
    expected = teacher(ids, labels=ids).loss.double()
    torch.testing.assert_close(next_token(teacher(ids).logits, torch.empty(0), ids), expected, atol=1e-6, rtol=0)


def test_stopping_anywhere_leaves_a_whole_student_and_nothing_on_the_teacher():
    teacher, student, batches = pair()
    for done in distil(student, teacher, batches, local=5, whole=5):
        if (done.phase, done.step) == ("whole", 2):
            break
    assert bool(torch.isfinite(student(tokens())[0]).all())
    assert not student.base.training
    assert not any(module._forward_hooks for module in teacher.modules())


def test_a_hybrid_without_memories_has_nothing_to_learn_from_its_original():
    teacher, student, batches = pair([])
    (step,) = distil(student, teacher, batches, local=3, whole=1)
    assert step.phase == "whole" and step.loss == pytest.approx(0, abs=1e-12)


def test_what_an_mlp_read_and_gave_is_recorded_and_learned():
    teacher = tiny()
    student = replace_blocks(teacher, mlp={0: Continuum(hidden_dim=8), 1: Delta()})
    ids, original = tokens(), snapshot(teacher)
    _, seen = record(teacher, ids, {name: student.path(name) for name in student.places()})
    block, x = teacher.model.layers[0], teacher(ids, output_hidden_states=True).hidden_states
    inputs, outputs = seen["block.0.mlp"]
    torch.testing.assert_close(block.mlp(inputs), outputs, atol=1e-12, rtol=0)
    middle = x[1] - outputs  # the stream between the two parts of the block
    torch.testing.assert_close(block.post_attention_layernorm(middle), inputs, atol=1e-12, rtol=0)
    batches = (tokens(4, 24, seed) for seed in range(10, 100))
    steps = list(distil(student, teacher, batches, local=40, whole=0))
    for name in student.places():
        assert steps[-1].places[name] < 0.6 * steps[0].places[name]
    assert not changed(teacher, original)


def test_a_memory_that_is_right_already_is_left_alone():
    """Adam divides by the size of its gradient: from zero error its steps would be as large as from any other."""
    teacher = tiny()
    student = replace_blocks(teacher, mlp={0: Continuum(), 1: Continuum(hidden_dim=8)})
    before = snapshot(student.base)
    steps = list(distil(student, teacher, (tokens(4, 24, seed) for seed in range(10, 20)), local=5, whole=0))
    assert steps[0].places["block.0.mlp"] < 1e-20 < 1e-3 < steps[0].places["block.1.mlp"]
    assert {name.split(".")[2] for name in changed(student.base, before)} == {"1"}
    exact = replace_blocks(teacher, mlp={0: Continuum()})
    before = snapshot(exact.base)
    list(distil(exact, teacher, [tokens()], local=1, whole=0))
    assert not changed(exact.base, before)


def test_another_teacher_is_refused():
    _, student, batches = pair()
    other = tiny()
    torch.nn.init.zeros_(other.model.norm.weight)
    with pytest.raises(ValueError, match=r"was made of another model: its SHA-256 is .* give the original, with"):
        list(distil(student, other, batches, local=1, whole=0))
    with pytest.raises(ValueError, match="take no gradient, as when levels are stacked on it; teach it first"):
        stack_levels(student, levels=[Level("fast", 8)], chunk_size=8)
        list(distil(student, tiny(), batches, local=1, whole=0))


def test_what_cannot_be_learned_is_refused():
    teacher, student, _ = pair([1])
    with pytest.raises(
        ValueError, match=r"'block.0.attention' holds no memory; the replaced places are \['block.1.attention'\]"
    ):
        list(distil(student, teacher, [], local=1, whole=1, places=["block.0.attention"]))
    with pytest.raises(ValueError, match="the batches ended before step 2 of 3 of the phase 'local'; give one for"):
        list(distil(student, teacher, [tokens()], local=3, whole=0))
    before = snapshot(student.base)
    with pytest.raises(ValueError, match=r"step 1 has a loss of nan .* nothing was changed by it; lower the rate"):
        list(distil(student, teacher, [tokens()], local=0, whole=1, objective=lambda s, _t, _i: s.sum() * torch.nan))
    assert not changed(student.base, before)

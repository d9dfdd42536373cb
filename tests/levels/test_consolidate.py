"""The one door: what streams have learned enters a copy, and only past a guard."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
import torch

from everlearn.learn import read
from everlearn.levels import Level, Verdict, consolidate
from everlearn.memory.state import ModelState
from everlearn.models import Decoder
from everlearn.models.presets import MEMORIES
from everlearn.models.text import encode
from everlearn.store import FolderStore
from tests.tiny import CHUNK, TEXT, byte_model, fingerprint

LEVELS = (Level("fast", CHUNK, 0.5), Level("slow", 2 * CHUNK, 0.5))
IDS = torch.stack([encode(TEXT)[:35], encode(TEXT)[7:42]])
every_kind = pytest.mark.parametrize("word", MEMORIES)


def accepting(old: Decoder, new: Decoder) -> Verdict:
    return Verdict(True, "the test says so", {"one": 1.0})


def refusing(old: Decoder, new: Decoder) -> Verdict:
    return Verdict(False, "the test says so", {})


def learned(word: str = "sequential", levels=LEVELS) -> tuple[Decoder, ModelState]:
    """Return a model and what two rows have learned; their documents have ended, so the mixers are empty."""
    model = byte_model(cms=word, levels=levels)
    _, state = read(model, IDS, model.initial_state(2).detach(), chunk_size=CHUNK, end="drop")
    return model, model.tick(state, "document")[0]


def named(word: str) -> list[str]:
    """Return the levels to take over: of nested levels the one that is read."""
    return ["fast"] if word == "nested" else ["fast", "slow"]


@every_kind
def test_a_fresh_stream_of_the_new_model_is_the_learned_row(word):
    """One row: the start is its weights bit for bit, and a text costs what it cost that row."""
    model, state = learned(word)
    new, event = consolidate(model, state, named(word), accepting, rows=[1])
    start = new.initial_state(1)
    for layer, memory in new.memories().items():
        for name, weight in memory.weights(start.layer(layer)).items():
            assert torch.equal(weight[0], state.memory[layer][name][1])
    row = state.rows([1])
    scores = [read(m, IDS[:1], s, chunk_size=CHUNK, learn=False)[0].nll[:, 1:] for m, s in ((model, row), (new, start))]
    torch.testing.assert_close(scores[0], scores[1], atol=1e-12, rtol=1e-12)  # a product with shared weights
    plain, _ = read(model, IDS[:1], model.initial_state(1), chunk_size=CHUNK, learn=False)
    assert not torch.allclose(plain.nll[:, 1:], scores[1])
    assert event.rows == (1,)


@every_kind
def test_several_rows_give_their_mean_and_other_levels_stay(word):
    """By hand, for the slow level alone."""
    model, state = learned(word)
    new, event = consolidate(model, state, ["slow"], accepting)
    before, after = ({n: p.detach() for n, p in m.named_parameters()} for m in (model, new))
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert changed == {f"blocks.{i}.mlp.mlps.slow.{p}.weight" for i in range(2) for p in ("gate", "up", "down")}
    for layer in model.memories():
        for part in ("gate", "up", "down"):
            rows, old = state.memory[layer][f"slow.{part}"], before[f"{layer}.mlps.slow.{part}.weight"]
            mean = (rows[0] + rows[1]) / 2
            torch.testing.assert_close(after[f"{layer}.mlps.slow.{part}.weight"], mean, atol=1e-15, rtol=1e-14)
            name = f"{layer}/slow.{part}"
            assert event.change[name] == pytest.approx(float((mean - old).norm() / old.norm()))
            furthest = max(float((row - old).norm() / old.norm()) for row in rows)
            assert event.largest_row[name] == pytest.approx(furthest)
            assert event.largest_row[name] > event.change[name] > 0
    assert event.rows == (0, 1)


@pytest.mark.parametrize("guard", [accepting, refusing])
def test_the_given_model_and_state_are_untouched_bit_for_bit(guard):
    model, state = learned()
    prints, parameters = (model.fingerprint(), fingerprint(state)), dict(model.named_parameters())
    consolidate(model, state, ["fast", "slow"], guard)
    assert (model.fingerprint(), fingerprint(state)) == prints
    assert all(parameters[name] is parameter for name, parameter in model.named_parameters())


def test_a_guard_decides_and_sees_both_models():
    """Refused: the very model that was given comes back. Accepted: the candidate that the guard saw."""
    model, state = learned()
    seen = []

    def guard(old: Decoder, new: Decoder) -> Verdict:
        seen.append((old, new))
        return Verdict(len(seen) == 2, "second time", {})

    kept, refused = consolidate(model, state, ["slow"], guard)
    assert kept is model
    new, accepted = consolidate(model, state, ["slow"], guard)
    assert seen[1] == (model, new)
    assert not refused.verdict.accepted and accepted.verdict.accepted
    assert refused.before == accepted.before == model.fingerprint()
    assert refused.after == accepted.after == new.fingerprint() != model.fingerprint()


@pytest.mark.parametrize("which", ["given", "new"])
def test_a_guard_that_writes_into_a_model_is_refused(which):
    """One parameter set to zero: users would get a model that no guard has judged."""
    model, state = learned()

    def guard(old: Decoder, new: Decoder) -> Verdict:
        with torch.no_grad():
            next((old if which == "given" else new).parameters()).zero_()
        return Verdict(True, "the test says so", {})

    with pytest.raises(ValueError, match=f"the guard changed the {which} model.*nothing was consolidated") as error:
        consolidate(model, state, ["slow"], guard)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("answer", [True, None, "yes"])
def test_a_guard_answers_with_a_verdict(answer):
    model, state = learned()
    with pytest.raises(ValueError, match=f"the guard returned {answer!r}; a Verdict is needed"):
        consolidate(model, state, ["slow"], lambda old, new: answer)


def test_json_holds_the_event():
    model, state = learned()
    _, event = consolidate(model, state, ["slow"], accepting, rows=[0])
    data = json.loads(json.dumps(dataclasses.asdict(event), allow_nan=False))
    assert data["levels"] == ["slow"] and data["rows"] == [0]
    assert data["verdict"] == {"accepted": True, "reason": "the test says so", "numbers": {"one": 1.0}}
    assert data["change"] == event.change and data["largest_row"] == event.largest_row
    assert {data["before"], data["after"]} == {event.before, event.after}
    with pytest.raises(dataclasses.FrozenInstanceError):
        event.before = ""
    with pytest.raises(ValueError, match="'loss' is nan; numbers must be finite"):
        Verdict(False, "broken", {"loss": math.nan})


def test_a_start_of_zero_moves_by_its_absolute_change():
    """As levels have that were stacked on trained weights: a change cannot be relative to a norm of zero."""
    model = byte_model(levels=LEVELS)
    with torch.no_grad():
        for memory in model.memories().values():
            memory.mlps["slow"].down.weight.zero_()
    _, state = read(model, IDS, model.initial_state(2).detach(), chunk_size=CHUNK)
    _, event = consolidate(model, state, ["slow"], accepting, rows=[0])
    expected = float(state.memory["blocks.0.mlp"]["slow.down"][0].norm())
    assert event.change["blocks.0.mlp/slow.down"] == pytest.approx(expected)
    assert math.isfinite(expected) and expected > 0


def test_other_users_memories_stay_with_the_old_model(tmp_path):
    """A store goes by the fingerprint: the new model refuses them in one line, the old one reads them as ever."""
    model, state = learned()
    FolderStore(tmp_path, model.fingerprint(), model.initial_state(1)).save("bob", state.rows([1]), {})
    new, _ = consolidate(model, state, ["slow"], accepting, rows=[0])
    with pytest.raises(ValueError, match="the memory of another model; read with the model that wrote it"):
        FolderStore(tmp_path, new.fingerprint(), new.initial_state(1)).load("bob")
    found = FolderStore(tmp_path, model.fingerprint(), model.initial_state(1)).load("bob")
    assert found is not None
    assert fingerprint(found[0]) == fingerprint(state.rows([1]))


def test_what_does_not_fit_is_refused_before_any_guard_is_asked():
    def never(old: Decoder, new: Decoder) -> Verdict:
        raise AssertionError

    model, state = learned()
    frozen = byte_model(levels=[*LEVELS, Level("base", math.inf)])
    nested, nested_state = learned("nested")
    broken = state.map(lambda t: t * math.nan if t.is_floating_point() else t)
    empty = dataclasses.replace(state, memory={})
    foreign = dataclasses.replace(state, memory=state.memory | {"blocks.9.mlp": state.memory["blocks.0.mlp"]})
    cases = [
        (model, state, ["mid"], None, r"level 'mid' is none of those that learn here.*\['fast', 'slow'\]"),
        (frozen, frozen.initial_state(1), ["base"], None, "level 'base' is none of those that learn"),
        (model, state, [], None, "no level was named"),
        (byte_model(levels=()), state, ["fast"], None, "another model's"),
        (model, state, ["fast", "fast"], None, "share one learned start"),
        (nested, nested_state, ["fast", "slow"], None, "share one learned start; name one"),
        (model, state, ["slow"], [2], r"rows \[2\] are not all in the state, which has 2"),
        (model, state, ["slow"], [-1], r"rows \[-1\] are not all"),
        (model, state, ["slow"], [], "no row was named"),
        # torch would take these for a mask and for an index by steps
        (model, state, ["slow"], [True, False], r"rows \[True, False\] are not whole numbers"),
        (model, state, ["slow"], torch.tensor([False, True]), r"rows \[False, True\] are not whole numbers"),
        (model, state, ["slow"], [0.0], r"rows \[0\.0\] are not whole numbers"),
        (model, state, "slow", None, r"levels is the word 'slow'.*give a list: \['slow'\]"),
        (model, broken, ["slow"], None, "holds NaN or infinity; nothing was consolidated"),
        (model, empty, ["slow"], None, "slow.gate is nothing"),
        (model, foreign, ["slow"], None, "it holds a layer 'blocks.9.mlp' that this model lacks"),
        (model, byte_model(hidden_dim=12).initial_state(1), ["slow"], None, "the state is another model's"),
    ]
    for given, taught, levels, rows, message in cases:
        before = given.fingerprint()
        with pytest.raises(ValueError, match=message) as error:
            consolidate(given, taught, levels, never, rows)
        assert "\n" not in str(error.value)
        assert given.fingerprint() == before


def test_rows_may_be_a_tensor_and_json_still_holds_the_event():
    model, state = learned()
    new, event = consolidate(model, state, ["slow"], accepting, rows=torch.tensor([1, 0]))
    assert json.loads(json.dumps(dataclasses.asdict(event)))["rows"] == [1, 0]
    assert new.fingerprint() == consolidate(model, state, ["slow"], accepting, rows=[1, 0])[0].fingerprint()


@pytest.mark.parametrize("accepted", ["no", None, 1, torch.tensor(False)])
def test_a_verdict_is_yes_or_no(accepted):
    """The word "no" would count as true, and the candidate would reach the users."""
    with pytest.raises(ValueError, match="True or False is needed"):
        Verdict(accepted, "the test says so", {})


def test_a_model_without_memories_has_nothing_to_consolidate():
    model = byte_model(levels=())
    with pytest.raises(ValueError, match="the model has no memory that learns"):
        consolidate(model, model.initial_state(1), ["fast"], accepting)

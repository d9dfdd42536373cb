"""Our models taken apart: every number worked out by hand from the config, or read off the tensors of a real state."""

from __future__ import annotations

import functools
import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn

import everlearn
from everlearn.layers import CMS, Attention, DeltaMemory, SelfModifyingRule, SelfModifyingTitans, SwiGLU
from everlearn.levels import Component, Level, NestedSystem, describe
from everlearn.memory.state import LayerState, ModelState
from everlearn.models import Decoder, preset
from everlearn.rules import momentum

DATA = Path(__file__).parent / "data"
DIM, HIDDEN, LAYERS, HEADS, VOCAB = 16, 24, 3, 2, 11
SIZES = {"dim": DIM, "hidden_dim": HIDDEN, "num_layers": LAYERS, "num_heads": HEADS, "vocab_size": VOCAB}
LEVELS = [Level("fast", 64), Level("mid", 256), Level("slow", 1024)]

# of one block, by hand; two norms of size DIM
NORMS = 2 * DIM
MLP = 3 * DIM * HIDDEN
ATTENTION = 3 * DIM * DIM + DIM * DIM
# q, k, v; convolution of width 4 on each of their channels; gates of two numbers per head with bias; norm per head; out
DELTA = 3 * DIM * DIM + 4 * 3 * DIM + 2 * HEADS * (DIM + 1) + DIM // HEADS + DIM * DIM
OUTSIDE = VOCAB * DIM + DIM  # the embedding, which is also the head, and the last norm


def make(name: str, levels=(), **changes) -> Decoder:
    return Decoder(preset(name, levels=levels, **{**SIZES, "chunk_size": 64, **changes}))


def titles(system: NestedSystem) -> list[str]:
    return [level.title for level in system.levels]


def one(system: NestedSystem, name: str) -> Component:
    (found,) = [component for component in system.components if component.name == name]
    return found


def kinds(system: NestedSystem) -> dict[str, int]:
    """Return how many parameters each kind of component has."""
    counts: dict[str, int] = {}
    for component in system.components:
        counts[component.kind] = counts.get(component.kind, 0) + component.parameters
    return counts


def carried_bytes(state: ModelState) -> int:
    parts = [*state.memory.values(), *state.context.values()]
    return sum(t.numel() * t.element_size() for tensors in parts for t in tensors.values())


def test_a_transformer_has_two_levels_and_three_under_adam():
    """[NL def. 2-4]: attention changes with every token; under AdamW two memories of gradients come between."""
    model = make("transformer++")
    frozen = describe(model, context=100)
    assert titles(frozen) == ["every token", "never"]
    assert frozen.depth == 2
    count = OUTSIDE + LAYERS * (ATTENTION + MLP + NORMS)
    assert frozen.parameters == count == sum(p.numel() for p in model.parameters())
    assert frozen.parameter_bytes == 4 * count
    # k and v in float32, and an int64 for the position, in each block
    assert one(frozen, "blocks.0-2.mixer").token_bytes == LAYERS * (2 * DIM * 4 + 8)
    assert frozen.state_bytes == 100 * LAYERS * (2 * DIM * 4 + 8)
    assert kinds(frozen) == {
        "attention": 0,
        "embedding": VOCAB * DIM,
        "projections": LAYERS * ATTENTION,
        "MLP": LAYERS * MLP,
        "norm": LAYERS * NORMS + DIM,
    }
    trained = describe(model, torch.optim.AdamW(model.parameters()))
    assert titles(trained) == ["every token", "every optimizer step", "every optimizer step"]
    assert [c.name for c in trained.levels[1].components] == ["AdamW.exp_avg", "AdamW.exp_avg_sq"]
    assert [c.state_bytes for c in trained.levels[1].components] == [4 * count, 4 * count]
    assert trained.optimizer_bytes == 8 * count
    assert trained.levels[2].parameters == count
    assert {c.rule for c in trained.levels[2].components} == {"AdamW"}


def test_the_delta_memory_is_a_matrix_per_head_and_the_tail_of_a_convolution():
    model = make("delta_net")
    system = describe(model)
    assert titles(system) == ["every token", "never"]
    assert system.parameters == OUTSIDE + LAYERS * (DELTA + MLP + NORMS)
    matrix, tail = system.levels[0].components
    assert (matrix.name, matrix.kind) == ("blocks.0-2.mixer", "matrix memory")
    assert matrix.state_bytes == LAYERS * HEADS * (DIM // HEADS) ** 2 * 4
    assert tail.state_bytes == LAYERS * 3 * 3 * DIM * 4
    assert matrix.token_bytes == tail.token_bytes == 0
    assert matrix.conditioned_on == ("blocks.0-2.mixer.*",)
    assert titles(describe(model, torch.optim.SGD(model.parameters(), lr=0.1))) == [
        "every token",
        "every optimizer step",
    ]


def test_self_modifying_memories_stand_at_the_pace_of_what_is_read_of_them():
    """[NL def. 2, eq. 90]: the main memory is read after every write, the others as their last chunk left them."""
    system = describe(make("hope", mixer_chunk_size=8))
    assert titles(system) == ["every token", "every 8 tokens", "never"]
    main, tail = system.levels[0].components
    matrix = 2 * HEADS * (DIM // HEADS) ** 2 * 4  # the weights by now and those at the boundary
    assert (main.name, main.kind) == ("blocks.0-2.mixer.main", "matrix memory")
    assert main.state_bytes == LAYERS * (matrix + 8)  # and the place in the chunk, in int64
    assert main.start_from == ("blocks.0-2.mixer.init.main",)
    assert tail.name == "blocks.0-2.mixer.conv"
    others = {memory.name: memory.state_bytes for memory in system.levels[1].components}
    assert others == {f"blocks.0-2.mixer.{name}": LAYERS * matrix for name in ("k", "v", "eta", "alpha")}
    starts = [c for c in system.components if c.kind == "learned start"]
    assert [c.parameters for c in starts] == 5 * [LAYERS * HEADS * (DIM // HEADS) ** 2]
    read_late = SelfModifyingTitans(8, 2, rule=SelfModifyingRule(chunk_size=4, others_chunk_size=8, read_boundary=True))
    assert titles(describe(read_late)) == ["every token", "every 4 tokens", "every 8 tokens", "never"]


@pytest.mark.parametrize(("name", "mixer"), [("delta_net", DELTA), ("transformer++", ATTENTION)])
def test_every_level_of_a_memory_system_is_a_level_of_its_own(name, mixer):
    """[NL eq. 70-71]; with attention this is what the paper calls Hope-Attention [NL eq. 94-97]."""
    model = make(name, LEVELS)
    system = describe(model)
    assert titles(system) == ["every token", "every 64 tokens", "every 256 tokens", "every 1,024 tokens", "never"]
    assert system.parameters == OUTSIDE + LAYERS * (mixer + 3 * MLP + NORMS)
    for level, word in zip(system.levels[1:4], ("fast", "mid", "slow"), strict=True):
        (memory,) = level.components
        assert memory.name == f"blocks.0-2.mlp.{word}"
        # weights and summed gradients per row, and one clock in int64
        assert memory.state_bytes == LAYERS * (2 * MLP * 4 + 8)
        assert memory.start_from == (f"blocks.0-2.mlp.mlps.{word}.*",)
        assert memory.rule == "gd, eta 0.3"
        assert one(system, memory.start_from[0]).parameters == LAYERS * MLP
    trained = describe(model, torch.optim.AdamW(model.parameters()))
    assert trained.depth == 6
    assert trained.optimizer_bytes == 8 * system.parameters


@pytest.mark.parametrize("levels", [(), LEVELS], ids=["mlp", "cms"])
@pytest.mark.parametrize("name", ["transformer++", "delta_net", "hope"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_bytes_of_a_row_are_those_of_a_real_state(name, levels, dtype):
    model = make(name, levels).to(dtype)
    _, state = model(torch.randint(VOCAB, (1, 9)), model.initial_state(1))
    assert describe(model, context=9).state_bytes == carried_bytes(state)
    with torch.device("meta"):
        empty = make(name, levels).to(dtype)
    assert describe(empty, context=9).to_dict() == describe(model, context=9).to_dict()


@pytest.mark.parametrize(("tokens", "kept"), [(3, 3), (5, 5), (40, 5)])
def test_a_window_bounds_what_attention_keeps(tokens, kept):
    layer = Attention(DIM, HEADS, window=5)
    system = describe(layer, context=tokens)
    assert system.state_bytes == kept * (2 * DIM * 4 + 8)
    assert system.components[0].rule == "keep the last 5 tokens"
    _, state = layer(torch.randn(1, tokens, DIM))
    assert system.state_bytes == sum(t.numel() * t.element_size() for t in state.context.values())


def test_what_a_rule_keeps_is_counted_before_it_is_there():
    """Momentum adds a tensor like the weights and its mass, as a real write shows.  [NL eq. 10-13]"""
    cms = CMS(DIM, HIDDEN, [Level("fast", 64)], rule=functools.partial(momentum, beta=0.8))
    state = cms.track(cms.initial_state(1))
    grads = [torch.ones_like(weight) for weight in cms.weights(state).values()]
    state, _ = cms.write(cms.accumulate(state, grads, torch.tensor([64])))
    (memory,) = describe(cms).levels[0].components
    assert memory.state_bytes == sum(t.numel() * t.element_size() for t in state.memory.values())
    assert memory.rule == "momentum(beta=0.8), eta 0.3"


def test_events_come_after_tokens_and_before_optimizer_steps():
    """[NL def. 2]; a level that never changes has no weights of its own per row."""
    levels = [Level("b", "session"), Level("c", math.inf), Level("a", 128), Level("d", "document"), Level("e", 64)]
    model = make("delta_net", levels)
    system = describe(model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))
    assert titles(system) == [
        "every token",
        "every 64 tokens",
        "every 128 tokens",
        "every session",
        "every document",
        "every optimizer step",
        "every optimizer step",
    ]
    assert [level.number for level in system.levels] == [1, 2, 3, 4, 5, 6, 7]
    assert all(c.level == level.number for level in system.levels for c in level.components)
    assert one(system, "blocks.0-2.mlp.mlps.c.*").kind == "MLP"
    assert "blocks.0-2.mlp.c" not in {c.name for c in system.components}


def test_levels_of_one_period_are_one_level():
    system = describe(make("delta_net", [Level("a", 64), Level("b", 64)]))
    assert titles(system) == ["every token", "every 64 tokens", "never"]
    assert len(system.levels[1].components) == 2


def test_frozen_parameters_never_change_and_have_no_memory_of_gradients():
    model = make("transformer++")
    model.embedding.requires_grad_(False)
    model.blocks[1].mlp.requires_grad_(False)
    system = describe(model, torch.optim.AdamW(model.parameters()))
    assert titles(system)[-1] == "never"
    still = {c.name: (c.parameters, c.rule) for c in system.levels[-1].components}
    assert still == {"embedding": (VOCAB * DIM, "frozen"), "blocks.1.mlp.*": (MLP, "frozen")}
    assert one(system, "blocks.0,2.mlp.*").parameters == 2 * MLP
    assert system.optimizer_bytes == 8 * (system.parameters - VOCAB * DIM - MLP)
    exp_avg = one(system, "AdamW.exp_avg")
    assert "embedding" not in exp_avg.gradient_of and "blocks.0,2.mlp.*" in exp_avg.gradient_of
    partly = describe(model, torch.optim.AdamW(model.blocks.parameters()))
    assert one(partly, "norm").unit == "never"  # it would learn, but no optimizer has it


def test_knowledge_flows_as_the_layers_say():
    model = make("delta_net", [Level("fast", 64)])
    system = describe(model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))
    flows = {(flow.kind, flow.source, flow.target) for flow in system.flows()}
    assert ("start", "blocks.0-2.mlp.mlps.fast.*", "blocks.0-2.mlp.fast") in flows
    assert ("conditioning", "blocks.0-2.mixer.*", "blocks.0-2.mixer") in flows
    names = {component.name for component in system.components}
    weights = {component.name for component in system.components if component.parameters}
    assert {(s, t) for kind, s, t in flows if kind == "gradient"} == {(w, "SGD.momentum_buffer") for w in weights}
    assert {(s, t) for kind, s, t in flows if kind == "step"} == {("SGD.momentum_buffer", w) for w in weights}
    assert all(source in names and target in names for _, source, target in flows)


class Own(nn.Module):
    """A module of a user that describes itself, around a layer of ours."""

    def __init__(self) -> None:
        super().__init__()
        self.memory = DeltaMemory(8, 2)
        self.mlp = SwiGLU(8, 4)
        self.scale = nn.Parameter(torch.ones(3))

    def components(self) -> list[Component]:
        return [Component(name="scale", kind="scale", owns=("scale", "mlp"))]


def test_the_outermost_layer_that_owns_a_parameter_counts_it():
    system = describe(nn.ModuleList([Own(), Own()]))
    assert kinds(system)["scale"] == 2 * (3 + 3 * 8 * 4)
    assert "MLP" not in kinds(system)
    assert system.parameters == sum(p.numel() for p in nn.ModuleList([Own(), Own()]).parameters())
    assert system.levels[0].components[0].state_bytes == 2 * 2 * 4 * 4 * 4


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"update_period": 0}, "update_period 0 of component 'm' is not above zero; give the tokens between"),
        ({"update_period": math.nan}, "update_period nan of component 'm' is not above zero"),
        ({"owns": "start"}, r"owns of component 'm' is the word 'start'.*give a tuple: \('start',\)"),
        ({"state_bytes": -4}, "state_bytes of component 'm' is -4; a count is 0 or more"),
    ],
)
def test_a_component_that_cannot_be_is_refused(said, message):
    with pytest.raises(ValueError, match=message):
        Component(name="m", kind="matrix memory", unit="tokens", **said)


class Astray(nn.Module):
    """Says names that nothing in it bears."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))

    def components(self) -> list[Component]:
        memory = {"kind": "matrix memory", "update_period": 1, "unit": "tokens", "state_bytes": 4}
        return [
            Component(name="lost", kind="scale", owns=("nope",)),
            Component(name="m", start_from=("scale", "gone"), gradient_of=("away",), **memory),
        ]


def test_a_name_that_matches_nothing_is_noted_and_the_drawing_goes_on():
    system = describe(nn.ModuleList([Astray(), Astray()]))
    assert system.parameters == 6
    assert system.notes[1:] == (  # before it, that the layer is not known
        "owns of component 'lost' of Astray names 'nope', which is not there; it is left out",
        "start_from of component 'm' of Astray names 'gone', which is not there; it is left out",
        "gradient_of of component 'm' of Astray names 'away', which is not there; it is left out",
    )
    assert [flow.kind for flow in system.flows()] == ["start"]
    assert system.svg().endswith("</svg>\n")


def test_packed_weights_are_noted():
    class Linear(nn.Module):
        """Keeps its weights as torch's quantised layers do."""

        def __init__(self) -> None:
            super().__init__()
            self._packed_params = object()

    system = describe(nn.Sequential(Linear(), Linear()))
    assert system.parameters == 0
    assert system.notes == ("Linear keeps its weights packed, outside its parameters; they are not counted",)


def test_an_attribute_named_components_is_no_description():
    class Parts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.components = nn.ModuleList([nn.Linear(2, 3)])

    assert describe(Parts()).parameters == 9


def test_the_json_document_is_stable():
    """Compared with a file whose every number was worked out by hand, as in the tests above."""
    model = make("delta_net", [Level("fast", 64)], num_layers=2)
    optimizer = torch.optim.AdamW(model.parameters())
    data = json.loads(json.dumps(describe(model, optimizer).to_dict(), allow_nan=False))
    assert data == json.loads((DATA / "delta_net_adamw.json").read_text(encoding="utf-8"))


def test_the_table_shows_every_component_in_order():
    model = make("delta_net", LEVELS)
    system = describe(model, torch.optim.AdamW(model.parameters()))
    text = system.table()
    first = text.split("\n\n")[1].splitlines()[2:]
    shown = [next(c.name for c in system.components if f" {c.name} " in x and f" {c.kind} " in x) for x in first]
    assert shown == [component.name for component in system.components]
    assert [line[:5].strip() for line in first if line[0] != " "] == [str(n) for n in range(1, system.depth + 1)]
    assert f"Decoder under AdamW: 6 nested levels; {system.parameters:,} parameters" in text
    assert max(map(len, text.splitlines())) < 180
    assert all(line == line.rstrip() for line in text.splitlines())


def test_a_context_below_zero_is_refused_and_an_empty_model_is_nothing():
    with pytest.raises(ValueError, match="context -1 is below 0; give the tokens"):
        describe(nn.Linear(1, 1), context=-1)
    empty = describe(nn.ReLU())
    assert (empty.depth, empty.parameters, empty.state_bytes) == (0, 0, 0)
    assert empty.table() and empty.svg()


def test_it_is_exported_and_changes_nothing():
    assert everlearn.describe is describe
    layer, x = DeltaMemory(8, 2), torch.randn(1, 3, 8)
    before = layer(x)[0]
    describe(layer, torch.optim.AdamW(layer.parameters()))
    assert torch.equal(layer(x, LayerState())[0], before)

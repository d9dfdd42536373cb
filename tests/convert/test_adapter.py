"""The adapter folder: apart from its base, bound to it by a hash, refused where it does not belong."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
import transformers as hf
from torch import nn

from everlearn.convert import LowRank, adapter, additive, chain_diff, load_adapter, mean, stack_levels
from everlearn.convert.adapter import CONFIG, WEIGHTS, base_hash
from everlearn.convert.wrapped import StackedLinear
from everlearn.learn.stream import read
from everlearn.levels import Level
from tests.convert.families_fixture import FAMILIES, tiny, tokens
from tests.tiny import fingerprint

C = 8
LEVELS = (Level("fast", C, 0.5, reset="document"), Level("slow", mean_of="fast", decay=0.9))


def stacked(model=None, **options):
    return stack_levels(model or tiny(), **{"levels": LEVELS, "chunk_size": C, **options})


def taught(model, rows=1):
    return read(model, tokens(rows, 30, 5), model.initial_state(rows), chunk_size=C, end="flush")[1]


class TestTheFolder:
    @pytest.mark.parametrize("form", [additive, LowRank(3), chain_diff])
    def test_goes_on_where_it_was_saved_bit_for_bit(self, form, tmp_path):
        model, ids = stacked(form=form, layers=[1]), tokens()
        _, state = read(model, ids[:, :13], model.initial_state(2), chunk_size=C)
        model.save_adapter(tmp_path, state)
        loaded, kept = load_adapter(tiny(), tmp_path)
        assert fingerprint(kept) == fingerprint(state)
        ends = [read(m, ids[:, 13:], s, chunk_size=C)[1] for m, s in ((model, state), (loaded, kept))]
        assert fingerprint(ends[0]) == fingerprint(ends[1])

    def test_without_a_state_starts_fresh(self, tmp_path):
        model = stacked(form=LowRank(2), weights=["*.o_proj"])
        model.deltas.start1.add_(1)  # as if another release had drawn other numbers
        model.save_adapter(tmp_path)
        loaded, state = load_adapter(tiny(), tmp_path)
        assert state is None
        assert torch.equal(loaded.deltas.start1, model.deltas.start1)

    @pytest.mark.parametrize("form", [additive, LowRank(3)])
    def test_keeps_a_learned_start(self, form, tmp_path):
        plain, model, ids = tiny(), stacked(form=form, levels=LEVELS[:1]), tokens()
        before = model.fingerprint()
        state = read(model, tokens(1, 30, 5), model.initial_state(1), chunk_size=C, end="flush")[1]
        learned = {part: state.memory["stack"][f"fast.{part}"][0] for part in model.deltas.learned_start("fast")}
        model.set_starts(learned)
        assert model.fingerprint() != before
        expected = plain
        for matrix in model.matrices:
            name = matrix.name
            delta = learned[name] if form is additive else learned[f"{name}.b"] @ learned[f"{name}.a"]
            expected.get_submodule(name).weight.data += delta
        model.save_adapter(tmp_path)
        loaded, _ = load_adapter(tiny(), tmp_path)
        assert loaded.fingerprint() == model.fingerprint()
        for own in (model, loaded):
            # fresh streams start there, whether they say so or not
            for start in (None, own.initial_state(2)):
                torch.testing.assert_close(own(ids, start)[0], expected(ids).logits, atol=1e-10, rtol=0)
        assert torch.equal(loaded.unstack()(ids).logits, tiny()(ids).logits)

    @pytest.mark.parametrize(
        ("starts", "fault"),
        [
            ({"model.layers.7.mlp.up_proj": torch.zeros(24, 16)}, "none of"),
            ({"model.layers.1.mlp.up_proj": torch.zeros(16, 24)}, r"it is \(24, 16\) here"),
        ],
    )
    def test_a_start_that_does_not_fit_is_refused(self, starts, fault):
        model = stacked()
        good = {"model.layers.0.mlp.up_proj": torch.ones(24, 16)}
        with pytest.raises(ValueError, match=fault):
            model.set_starts(good | starts)
        assert not model.deltas.moved
        model.set_starts(good)
        assert model.deltas.moved

    def test_holds_nothing_of_the_base(self, tmp_path):
        model = stacked(weights="last_down")
        model.save_adapter(tmp_path, taught(model))
        held = 2 + 1  # deltas of two levels and the gradient of one
        matrix = 16 * 24 * 8  # float64
        size = (tmp_path / WEIGHTS).stat().st_size
        cache = 4096  # the header, and clocks
        assert held * matrix < size < held * matrix + cache
        assert sorted(path.name for path in tmp_path.iterdir()) == [CONFIG, WEIGHTS]

    def test_is_the_same_bytes_for_the_same_knowledge(self, tmp_path):
        for name in "ab":
            model = stacked()
            model.save_adapter(tmp_path / name, taught(model))
        for file in (CONFIG, WEIGHTS):
            assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


class TestWhatIsRefused:
    @pytest.fixture
    def folder(self, tmp_path):
        model = stacked()
        model.save_adapter(tmp_path, taught(model))
        return tmp_path

    def refused(self, folder, message, model=None):
        model = model or tiny()
        before = base_hash(model)
        with pytest.raises(ValueError, match=message):
            load_adapter(model, folder)
        assert base_hash(model) == before

    def test_another_base(self, folder):
        other = tiny()
        other.model.embed_tokens.weight.data[5, 5] += 1e-9
        self.refused(folder, "made on another base: its SHA-256 is", other)

    def test_starts_that_do_not_fit(self, folder, monkeypatch):
        """The levels stand by then, and have to go."""
        meta, _, state = adapter.load(folder)
        monkeypatch.setattr(adapter, "load", lambda _: (meta, {"fast.gone": torch.zeros(2, 2)}, state))
        model = tiny()
        self.refused(folder, "start 'fast.gone' of shape", model)
        assert not any(isinstance(module, StackedLinear) for module in model.modules())

    def test_the_same_numbers_under_another_config(self, folder):
        self.refused(folder, "another base", tiny(rms_norm_eps=1e-3))

    def test_a_layer_that_is_gone(self, folder):
        self.refused(folder, r"'model.layers.1.mlp.gate_proj'.* is missing .*moved, renamed", tiny(num_hidden_layers=1))

    def test_a_layer_of_another_size(self, folder):
        self.refused(folder, r"of shape \[24, 16\], which is \[32, 16\]", tiny(intermediate_size=32))

    def test_a_folder_without_an_adapter(self, tmp_path):
        self.refused(tmp_path, "holds no adapter")

    def test_files_of_two_adapters(self, folder, tmp_path):
        model = stacked(weights="down")
        model.save_adapter(tmp_path / "other")
        (folder / CONFIG).write_bytes((tmp_path / "other" / CONFIG).read_bytes())
        self.refused(folder, "not of one adapter")

    @pytest.mark.parametrize("text", ["{", "[]", '{"format": "1"}'])
    def test_a_damaged_config(self, folder, text):
        (folder / CONFIG).write_text(text)
        self.refused(folder, "not of one adapter")

    def test_a_changed_file(self, folder):
        data = bytearray((folder / WEIGHTS).read_bytes())
        data[-5] ^= 1
        (folder / WEIGHTS).write_bytes(data)
        self.refused(folder, "hash does not match")

    def test_a_newer_format(self, folder):
        shown = json.loads((folder / CONFIG).read_text())
        (folder / CONFIG).write_text(json.dumps({**shown, "format": 99}))
        self.refused(folder, "has format 99")

    def test_a_state_of_another_model(self, tmp_path):
        model = stacked()
        with pytest.raises(ValueError, match="does not fit this model"):
            model.save_adapter(tmp_path / "new", dataclasses.replace(model.initial_state(1), memory={}))


def test_the_hash_of_a_base_is_the_same_while_levels_stand_on_it():
    model = tiny()
    before = base_hash(model)
    assert base_hash(stacked(model).base) == before


def test_a_stacked_base_saves_an_ordinary_checkpoint(tmp_path):
    model, ids = stacked(tiny(dtype=torch.float32)), tokens()
    model.base.save_pretrained(tmp_path)
    loaded = hf.LlamaForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(loaded(ids).logits, model.base(ids).logits)
    assert base_hash(loaded) == base_hash(model.base)
    model.base.load_state_dict(loaded.state_dict())


def test_the_fingerprint_leaves_rates_out_and_nothing_else():
    plain = stacked().fingerprint()
    faster = (Level("fast", 2 * C, 0.1, reset="document"), LEVELS[1])
    assert stacked(levels=faster).fingerprint() == plain
    assert stacked(weights="down").fingerprint() != plain
    assert stacked(window=32).fingerprint() != plain
    assert stacked(tiny(rms_norm_eps=1e-3)).fingerprint() != plain


class TestUnstack:
    @pytest.mark.parametrize("family", FAMILIES)
    def test_merges_what_one_stream_has_learned(self, family):
        model, ids = stacked(tiny(family), levels=[Level("fast", C, 0.5)]), tokens(1)
        state = taught(model)
        with torch.no_grad():
            expected = model(ids, state)[0]
            base = model.unstack(state)
        torch.testing.assert_close(base(ids).logits, expected, atol=1e-10, rtol=0)
        assert list(base.state_dict()) == list(tiny(family).state_dict())

    def test_merges_low_rank_products(self):
        model, ids = stacked(form=LowRank(2)), tokens(1)
        state = taught(model)
        expected = model(ids, state)[0]
        torch.testing.assert_close(model.unstack(state)(ids).logits, expected, atol=1e-10, rtol=0)

    def test_rounds_once_into_bfloat16(self):
        model = stacked(tiny(dtype=torch.bfloat16), levels=[Level("fast", C, 0.5)])
        state = taught(model)
        name = model.matrices[0].name
        delta = state.memory["stack"][f"fast.{name}"][0]
        assert delta.dtype == torch.float32
        before = model.base.get_submodule(name).base.weight.clone()
        after = model.unstack(state).get_submodule(name).weight
        assert torch.equal(after, (before.float() + delta).to(torch.bfloat16))

    def test_ends_the_stacked_model(self):
        model = stacked()
        base = model.unstack()
        with pytest.raises(ValueError, match="no longer the matrix that levels were stacked on"):
            model(tokens())
        with pytest.raises(ValueError, match="no longer"):
            model.unstack()
        stacked(base)

    def test_refuses_a_matrix_that_was_replaced(self):
        model = stacked()
        model.base.model.layers[0].mlp.up_proj = nn.Linear(16, 24, bias=False).double()
        with pytest.raises(ValueError, match=r"'model.layers.0.mlp.up_proj' is no longer"):
            model(tokens())

    def test_refuses_several_rows_and_copies(self):
        model = stacked()
        with pytest.raises(ValueError, match="has 2 rows, and weights can take one"):
            model.unstack(taught(model, rows=2))
        model = stacked(form=mean, levels=[Level("a", C), Level("b", C)])
        with pytest.raises(ValueError, match="no single MLP equals"):
            model.unstack(taught(model))
        assert model(tokens())[0].isfinite().all()

    def test_refuses_a_weight_that_another_module_shares(self):
        model = stacked(tiny(tie_word_embeddings=True), weights=["lm_head"])
        state = taught(model)
        with pytest.raises(ValueError, match=r"'lm_head' shares its weight with 'model.embed_tokens.weight'"):
            model.unstack(state)
        stacked(model.unstack())

    def test_gives_parameters_their_gradients_back(self):
        plain = tiny()
        plain.model.embed_tokens.weight.requires_grad_(False)
        model = stacked(plain)
        assert not any(weight.requires_grad for weight in model.base.parameters())
        frozen = [name for name, weight in model.unstack().named_parameters() if not weight.requires_grad]
        assert frozen == ["model.embed_tokens.weight"]

"""Bases in bfloat16 or quantised, long documents, other attention: what levels ask of the model below them."""

from __future__ import annotations

import warnings

import pytest
import torch
import torch.nn.functional as F
import transformers as hf
from torch import nn

from everlearn.convert import load_adapter, stack_levels
from everlearn.convert.cache import Sight
from everlearn.learn.stream import read
from everlearn.levels import Level
from tests.convert.families_fixture import FAMILIES, tiny, tokens
from tests.tiny import assert_close

C = 8
LEVELS = [Level("fast", C, 0.5)]


def stacked(model, **options):
    return stack_levels(model, **{"levels": LEVELS, "chunk_size": C, **options})


def taught(model, rows=2):
    return read(model, tokens(rows, 30, 5), model.initial_state(rows), chunk_size=C, end="flush")[1]


class Int8Linear(nn.Module):
    """A matrix of int8 with a scale for each row, as quantised checkpoints hold it: it has no `weight`."""

    def __init__(self, linear):
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        scale = linear.weight.detach().abs().amax(1, keepdim=True) / 127
        self.register_buffer("numbers", (linear.weight.detach() / scale).round().to(torch.int8))
        self.register_buffer("scale", scale)

    def forward(self, x):
        return F.linear(x, self.numbers.to(x.dtype) * self.scale)


def quantised(kind, family="llama"):
    model = tiny(family, torch.float32)
    if kind == "stand-in":
        for layer in model.model.layers:
            for part in ("gate_proj", "up_proj", "down_proj"):
                setattr(layer.mlp, part, Int8Linear(layer.mlp.get_submodule(part)))
        return model
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        names = {f"model.layers.{i}.mlp.{part}" for i in range(2) for part in ("gate_proj", "up_proj", "down_proj")}
        return torch.ao.quantization.quantize_dynamic(model, names, torch.qint8)


class TestQuantised:
    @pytest.mark.parametrize(("kind", "weights"), [("stand-in", "mlp"), ("torch", "last_down")])
    def test_a_base_learns_beside_its_integers(self, kind, weights, tmp_path):
        expected = quantised(kind)(tokens()).logits
        model = stacked(quantised(kind), weights=weights, levels=[Level("fast", C, 2.0)])
        assert torch.equal(model(tokens())[0], expected)
        document = tokens(1, C, seed=4).repeat(2, 7)
        report, state = read(model, document, model.initial_state(2), chunk_size=C, end="flush")
        assert report.nll[:, -C:].mean() < 0.8 * report.nll[:, 1:C].mean()
        model.save_adapter(tmp_path, state)
        loaded, kept = load_adapter(quantised(kind), tmp_path)
        assert torch.equal(loaded(document, kept)[0], model(document, state)[0])

    @pytest.mark.parametrize("kind", ["stand-in", "torch"])
    def test_nothing_is_merged_into_integers(self, kind):
        model = stacked(quantised(kind), weights="last_down")
        state = taught(model, rows=1)
        with pytest.raises(ValueError, match=r"'model.layers.1.mlp.down_proj' is a \w+: nothing can be merged"):
            model.unstack(state)
        assert model(tokens(1), state)[0].isfinite().all()
        with pytest.raises(ValueError, match="merged=True needs plain matrices"):
            stacked(quantised(kind), weights="last_down", merged=True)

    def test_a_matrix_that_lets_no_gradient_through_is_refused_behind_others(self):
        with pytest.raises(ValueError, match="lets no gradient through"):
            stacked(quantised("torch"), weights="mlp")

    def test_a_linear_that_holds_integers_as_its_weight_is_not_merged(self):
        model = tiny(dtype=torch.float32)
        down = model.model.layers[1].mlp.down_proj
        model = stacked(model, weights="last_down")
        state = taught(model, rows=1)
        down.weight = nn.Parameter(down.weight.to(torch.int8), requires_grad=False)
        with pytest.raises(ValueError, match=r"is a Linear of torch.int8"):
            model.unstack(state)


class TestBfloat16:
    def test_deltas_are_float32_and_cast_once(self):
        model, plain = stacked(tiny(dtype=torch.bfloat16)), tiny(dtype=torch.bfloat16)
        state = taught(model)
        assert {t.dtype for t in state.memory["stack"].values()} == {torch.float32, torch.int64}
        name, x = "model.layers.0.mlp.up_proj", torch.randn(2, 5, 16).bfloat16()
        wrapper, delta = model.base.get_submodule(name), state.memory["stack"][f"fast.{name}"]
        with model.using(state):
            found = wrapper(x)
        expected = plain.get_submodule(name)(x) + (x.float() @ delta.mT).bfloat16()
        assert torch.equal(found, expected)

    def test_a_stacked_model_that_is_cast_keeps_its_deltas_in_float32(self):
        model = stacked(tiny(dtype=torch.float32)).bfloat16()
        assert taught(model).memory["stack"][f"fast.{model.matrices[0].name}"].dtype == torch.float32


class TestMerged:
    @pytest.mark.parametrize("family", [name for name in FAMILIES if name != "falcon"])
    def test_one_row_reads_the_same_to_rounding(self, family):
        model, ids = stacked(tiny(family)), tokens(1)
        fast = stacked(tiny(family), merged=True)
        whole, state = read(model, ids, model.initial_state(1), chunk_size=C)
        found, other = read(fast, ids, fast.initial_state(1), chunk_size=C)
        torch.testing.assert_close(found.nll, whole.nll, atol=1e-10, rtol=0, equal_nan=True)
        assert_close(other, state)
        assert fast.fingerprint() == model.fingerprint()

    @pytest.mark.parametrize("family", ["llama", "gpt2"])
    def test_several_rows_are_read_so_where_it_is_asked_for(self, family):
        model, fast = stacked(tiny(family)), stacked(tiny(family), merged=True)
        state = taught(model)
        torch.testing.assert_close(fast(tokens(), state)[0], model(tokens(), state)[0], atol=1e-10, rtol=0)
        ends = [read(m, tokens(), state, chunk_size=C, end="flush")[1] for m in (model, fast)]
        assert_close(*ends)

    @pytest.mark.parametrize("family", ["llama", "gpt2"])
    def test_one_row_is_so_by_itself_and_learns_the_same_in_chunks_of_any_size(self, family):
        """(W0 + D) x and W0 x + D x, and the gradient of D in both; a chunk of 8 is too short to be merged."""
        ids = tokens(1, 60)
        for size in (8, 20):
            levels, ends = [Level("fast", size, 0.5)], []
            for merged in (None, False):
                model = stacked(tiny(family), levels=levels, chunk_size=size, merged=merged)
                ends.append(read(model, ids, model.initial_state(1), chunk_size=size, end="flush"))
            torch.testing.assert_close(ends[0][0].nll, ends[1][0].nll, atol=1e-10, rtol=0, equal_nan=True)
            assert_close(ends[0][1], ends[1][1])
            assert float(ends[0][1].memory["stack"][f"fast.{model.matrices[0].name}"].abs().max()) > 1e-3

    @pytest.mark.parametrize(
        ("rows", "length", "merged", "expected"),
        [(1, 16, None, True), (1, 15, None, False), (2, 40, None, False), (2, 16, True, True), (1, 40, False, False)],
    )
    def test_when_a_product_is_merged(self, rows, length, merged, expected):
        plain, model = tiny(), stacked(tiny(), merged=merged)
        state, name = taught(model, rows), "model.layers.0.mlp.gate_proj"
        x = torch.randn(rows, length, 16, dtype=torch.float64)
        weight, delta = plain.get_submodule(name).weight, state.memory["stack"][f"fast.{name}"]
        with model.using(state):
            found = model.base.get_submodule(name)(x)
        together = F.linear(x, weight + delta[0]) if rows == 1 else x @ (weight + delta).mT
        apart = F.linear(x, weight) + x @ delta.mT
        assert (torch.equal(found, together), torch.equal(found, apart)) == (expected, not expected)

    def test_deltas_finer_than_the_base_are_not_rounded_away_by_themselves(self):
        model, x = stacked(tiny(dtype=torch.bfloat16)), torch.randn(1, 20, 16).bfloat16()
        name, state = "model.layers.0.mlp.up_proj", taught(model, 1)
        wrapper, delta = model.base.get_submodule(name), state.memory["stack"][f"fast.{name}"]
        with model.using(state):
            assert torch.equal(wrapper(x), wrapper.base(x) + (x.float() @ delta.mT).bfloat16())
        model = stacked(tiny(dtype=torch.float32))
        state = taught(model, 1)
        wrapper, delta = model.base.get_submodule(name), state.memory["stack"][f"fast.{name}"]
        with model.using(state), torch.autocast("cpu", torch.bfloat16):
            apart = wrapper.base(x) + (x.float() @ delta.mT).bfloat16()
            assert torch.equal(wrapper(x.float()), apart)

    @pytest.mark.parametrize("how", ["forward hook", "pre-hook", "forward of its own"])
    def test_what_a_call_does_beside_the_product_is_not_passed_over(self, how):
        plain, ids = tiny(), tokens(1, 40)
        linear, calls = plain.model.layers[0].mlp.down_proj, []
        inner = linear.forward
        if how == "forward hook":
            linear.register_forward_hook(lambda _module, _inputs, y: calls.append(1) or 1.5 * y)
        elif how == "pre-hook":
            linear.register_forward_pre_hook(lambda _module, inputs: calls.append(1) or (1.5 * inputs[0],))
        else:  # as accelerate puts one in place where weights are offloaded
            linear.forward = lambda x: calls.append(1) or inner(1.5 * x)
        expected = plain(ids).logits
        model = stacked(plain)
        assert torch.equal(model(ids, model.initial_state(1))[0], expected) and calls
        model.unstack()
        with pytest.raises(ValueError, match="merged=True needs plain matrices without hooks"):
            stacked(plain, merged=True)

    def test_a_linear_with_a_kernel_of_its_own_is_refused(self):
        with pytest.raises(ValueError, match="is a FalconLinear"):
            stacked(tiny("falcon"), merged=True)


class TestSight:
    """What a token sees; the oracle is one pass over the tokens that it should see, and no others."""

    @staticmethod
    def nll(model, ids):
        report, state = read(model, ids, model.initial_state(1), chunk_size=C, learn=False)
        return report.nll[0], state

    def test_a_window_of_two_layers_reaches_twice_its_length(self):
        """What lies out of sight of a whole stack of windows changes nothing; what lies within does."""
        model, ids = stacked(tiny(), window=5), tokens(1, 30)
        last = model(ids)[0][0, -1]
        reach = 2 * (5 - 1) + 1
        for place, changes in ((30 - reach - 1, False), (30 - reach, True)):
            other = ids.clone()
            other[0, place] = (other[0, place] + 1) % 61
            assert (not torch.allclose(model(other)[0][0, -1], last, atol=1e-12, rtol=0)) == changes

    def test_a_window_as_long_as_the_text_is_the_whole_attention(self):
        ids = tokens(1, 30)
        assert torch.equal(stacked(tiny(), window=30)(ids)[0], tiny()(ids).logits)

    def test_the_model_s_own_sliding_window_is_kept(self):
        model, ids = stacked(tiny("mistral")), tokens(1, 40)
        pieces, state = [], model.initial_state(1)
        for piece in ids.split(7, 1):
            logits, state = model(piece, state)
            pieces.append(logits)
        torch.testing.assert_close(torch.cat(pieces, 1), tiny("mistral")(ids).logits, atol=1e-10, rtol=0)
        assert state.context["cache"]["slots"].shape[1] == 11  # the next token sees itself and eleven more

    def test_sliding_and_full_layers_each_keep_their_window(self):
        changes = {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1}
        model, ids = stacked(tiny("qwen2", **changes)), tokens(1, 40)
        assert model.sight.layer_types == ("full_attention", "sliding_attention")
        pieces, state = [], model.initial_state(1)
        for piece in ids.split(7, 1):
            logits, state = model(piece, state)
            pieces.append(logits)
        torch.testing.assert_close(torch.cat(pieces, 1), tiny("qwen2", **changes)(ids).logits, atol=1e-10, rtol=0)

    def test_learned_positions_start_again_after_the_last(self):
        """GPT-2 has 64 positions: token 70 is the seventh of a second block, which begins with nothing in sight."""
        model, ids = stacked(tiny("gpt2")), tokens(1, 150)
        state, pieces = model.initial_state(1), []
        for piece in ids.split(37, 1):
            logits, state = model(piece, state)
            assert state.context["cache"]["slots"].shape[1] <= 64
            pieces.append(logits)
        expected = [tiny("gpt2")(block).logits for block in ids.split(64, 1)]
        torch.testing.assert_close(torch.cat(pieces, 1), torch.cat(expected, 1), atol=1e-10, rtol=0)
        torch.testing.assert_close(model(ids)[0], torch.cat(expected, 1), atol=1e-10, rtol=0)

    def test_nothing_is_kept_of_a_block_that_is_full(self):
        _, state = stacked(tiny("gpt2"))(tokens(1, 64))
        assert state.context["cache"]["slots"].tolist() == [[0]]

    def test_rows_of_different_lengths_pass_their_last_position_apart(self):
        model, ids = stacked(tiny("gpt2")), tokens(2, 90)
        mask = torch.arange(90) < torch.tensor([[90], [60]])
        _, state = model(ids, None, mask)
        logits, _ = model(tokens(2, 8, 1), state)
        for row, length in enumerate((90, 60)):
            alone, _ = model(tokens(2, 8, 1)[[row]], model(ids[[row], :length])[1])
            torch.testing.assert_close(logits[[row]], alone, atol=1e-10, rtol=0)

    @pytest.mark.parametrize("family", ["llama", "gpt2"])
    def test_eager_attention_reads_the_same(self, family):
        ids, mask = tokens(2, 30), torch.rand(2, 30) < 0.8
        model = stacked(tiny(family))
        eager = stacked(tiny(family, attn_implementation="eager"))
        assert (model.sight.boolean, eager.sight.boolean) == (True, False)
        for start in (None, model(ids)[1]):
            expected = model(ids, start, mask)[0]
            # eager attention takes its softmax in float32
            torch.testing.assert_close(eager(ids, start, mask)[0], expected, atol=1e-4, rtol=0)

    def test_numbers_in_the_mask_are_what_truth_values_become(self):
        sight = Sight(window=5)
        queries, keys = torch.tensor([[4, 5, 6], [3, 3, 3]]), torch.tensor([[2, 3, 4, 5, 6], [0, 2, 3, 0, 0]])
        added = sight.masks(queries, keys, torch.float32)
        seen = sight.masks(queries, keys, torch.bfloat16)
        assert (added.dtype, seen.dtype) == (torch.float32, torch.bool)
        q, k, v = torch.randn(2, 2, 3, 8), *torch.randn(2, 2, 2, 5, 8)
        attended = [F.scaled_dot_product_attention(q, k, v, attn_mask=mask) for mask in (added, seen)]
        assert torch.equal(*attended)
        assert seen[0, 0].tolist() == [
            [True, True, True, False, False],
            [True, True, True, True, False],
            [True] * 5,
        ]
        with torch.autocast("cpu", torch.bfloat16):
            assert sight.masks(queries, keys, torch.float32).dtype == torch.bool

    def test_a_long_document_takes_no_more_memory_than_a_short_one(self):
        model = stacked(tiny(dtype=torch.float32), window=16)
        state, sizes = model.initial_state(1), set()
        for n in range(5):
            _, state = read(model, tokens(1, 80, seed=n), state, chunk_size=C)
            sizes.add(state.nbytes())
        assert len(sizes) == 1
        assert state.tokens_seen.item() == 5 * 80 - C
        assert state.is_finite()

    @pytest.mark.slow
    def test_a_million_tokens_take_constant_memory(self):
        model = stack_levels(
            tiny(dtype=torch.float32, num_hidden_layers=1), levels=[Level("fast", 512, 0.5)], chunk_size=512, window=64
        )
        state, sizes, piece = model.initial_state(1), set(), 512 * 16
        for n in range(10**6 // piece + 1):
            _, state = read(model, tokens(1, piece, seed=n), state, chunk_size=512)
            sizes.add(state.nbytes())
        assert state.tokens_seen.item() >= 10**6 - 512
        assert len(sizes) == 1
        assert state.is_finite()


class TestWhatIsRefused:
    @pytest.mark.parametrize("window", [0, 65])
    def test_a_window_outside_what_the_model_knows(self, window):
        with pytest.raises(ValueError, match=f"window {window} is not within 1 to 64"):
            stacked(tiny(), window=window)

    def test_distances_that_count_padding(self):
        with pytest.raises(ValueError, match="ALiBi"):
            stacked(tiny("falcon", alibi=True))

    def test_an_attention_without_a_mask_per_row(self):
        model = tiny()
        model.config._attn_implementation = "flash_attention_2"
        with pytest.raises(ValueError, match="load it with attn_implementation='sdpa'"):
            stacked(model)

    def test_logits_that_are_not_finite(self):
        model = tiny()
        model.model.norm.weight.data[0] = torch.nan
        with pytest.raises(ValueError, match="not finite before anything was changed"):
            stacked(model)

    def test_a_matrix_that_is_not_the_same_twice(self):
        class Noisy(nn.Linear):
            def forward(self, x):
                return super().forward(x) + torch.rand(())

        model = tiny()
        model.model.layers[0].self_attn.o_proj = Noisy(16, 16).double()
        with pytest.raises(ValueError, match=r"would change by up to .*; it was left as it was"):
            stacked(model)
        assert list(model.state_dict())[:3] == list(tiny().state_dict())[:3]
        assert all(weight.requires_grad for weight in model.parameters())

    def test_a_module_that_no_longer_tells_rows_apart(self):
        class Flat(nn.Module):
            def __init__(self, mlp):
                super().__init__()
                self.fc1, self.fc2 = mlp.up_proj, mlp.down_proj

            def forward(self, x):
                return self.fc2(self.fc1(x.flatten(0, 1)).relu()).reshape(x.shape)

        model = tiny()
        for layer in model.model.layers:
            layer.mlp = Flat(layer.mlp)
        assert torch.equal(stacked(model).unstack()(tokens(1)).logits, model(tokens(1)).logits)  # one row can be read
        with pytest.raises(ValueError, match="no longer tells rows apart"):
            stacked(model, probe=tokens(2))
        assert not any(".base." in name for name, _ in model.named_parameters())

    @pytest.mark.parametrize("ids", [[[61]], [[-1]]])
    def test_tokens_that_the_vocabulary_lacks(self, ids):
        with pytest.raises(ValueError, match="the vocabulary from 0 to 60"):
            stacked(tiny())(torch.tensor(ids))

    def test_an_attention_that_keeps_no_keys(self):
        sizes = {"vocab_size": 61, "hidden_size": 16, "num_hidden_layers": 1, "state_size": 4, "intermediate_size": 24}
        with pytest.raises(ValueError, match="MambaForCausalLM keeps no keys and values"):
            stacked(hf.MambaForCausalLM(hf.MambaConfig(**sizes)).float(), weights=["*.out_proj"], window=16)


def test_an_empty_piece_changes_nothing():
    model = stacked(tiny())
    _, state = model(tokens())
    logits, after = model(tokens()[:, :0], state)
    assert logits.shape == (2, 0, 61)
    assert_close(after, state)

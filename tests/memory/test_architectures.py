"""Architectures: what they answer, by hand.  [NL eq. 6, 62]"""

import math

import pytest
import torch

from everlearn.memory import Matrix, NonParametric, Polynomial, ResidualMLP, Vector


def test_a_vector_scales_coordinates():
    weights = {"w": torch.tensor([[[2.0, -1.0]], [[0.5, 3.0]]])}
    queries = torch.tensor([[[1.0, 1.0], [3.0, 5.0]]]).expand(2, 2, 2)
    assert Vector(2).apply(weights, queries).tolist() == [[[2, -1], [6, -5]], [[0.5, 3], [1.5, 15]]]
    assert Vector(2).start()["w"].tolist() == [[0, 0]]


def test_a_matrix_maps_features():
    weights = {"M": torch.tensor([[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]])}
    assert Matrix(2, 3).apply(weights, torch.tensor([[[1.0, -1.0]]])).tolist() == [[[-1, -1, -1]]]
    assert Matrix(2, 3).start()["M"].shape == (3, 2)
    assert Matrix(2, 3, Polynomial(2)).start()["M"].shape == (3, 6)


def test_an_mlp_answers_the_query_and_what_its_two_layers_add():
    weights = {"W1": torch.tensor([[[2.0], [0.0]]]), "W2": torch.tensor([[[1.0, 1.0]]])}
    silu = 3 / (1 + math.exp(-3))
    answer = ResidualMLP(2, 1).apply(weights, torch.tensor([[[1.0, 2.0]]]))
    torch.testing.assert_close(answer, torch.tensor([[[1 + 2 * silu, 2.0]]]))
    inputs = ResidualMLP(2, 1).inputs(weights, torch.tensor([[[1.0, 2.0]]]))
    torch.testing.assert_close(inputs["W1"], torch.tensor([[[silu]]]))
    assert inputs["W2"].tolist() == [[[1, 2]]]


def test_the_start_of_an_mlp_has_variance_one_over_inputs():
    torch.manual_seed(0)
    start = ResidualMLP(100, 400).start()
    # 40,000 samples each: the relative error of a variance is sqrt(2 / 40,000), below 1 %; 4 of those
    assert start["W1"].var().item() == pytest.approx(1 / 400, rel=0.03)
    assert start["W2"].var().item() == pytest.approx(1 / 100, rel=0.03)


def test_two_kept_pairs_by_hand():
    """Scores 0 and log 3 share the answer 1 to 3; a pair that has faded by 1/3 evens them."""
    memory = NonParametric(1, scale=1.0)
    pairs = memory.start(1, torch.zeros(()))
    one, live = torch.ones(1), torch.ones(1, dtype=torch.bool)
    first = memory.write(pairs, torch.tensor([[math.log(3)]]), torch.tensor([[8.0]]), one, live)
    second = memory.write(first, torch.zeros(1, 1), torch.zeros(1, 1), one, live)
    query = torch.ones(1, 1, 1)
    assert memory.read(second, query).item() == pytest.approx(6)
    faded = memory.write(first, torch.zeros(1, 1), torch.zeros(1, 1), one / 3, live)
    assert memory.read(faded, query).item() == pytest.approx(4)
    gone = memory.write(first, torch.zeros(1, 1), torch.ones(1, 1), one * 0, live)
    assert memory.read(gone, query).item() == pytest.approx(1)


def test_a_window_below_one_is_refused():
    with pytest.raises(ValueError, match="window 0 is below 1"):
        NonParametric(4, window=0)
    with pytest.raises(ValueError, match=r"window 2\.5 is no whole number of pairs; give one >= 1 or None"):
        NonParametric(4, window=2.5)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: Vector(0), "dim is 0"),
        (lambda: Matrix(-1), "dim is -1"),
        (lambda: Matrix(4, 0), "value_dim is 0"),
        (lambda: ResidualMLP(4, 2.5), "hidden_dim is 2.5"),
        (lambda: NonParametric(4, 0), "value_dim is 0"),
    ],
)
def test_a_length_below_one_is_refused_by_name(make, name):
    """A value_dim of 0 stood for dim once, as None does."""
    with pytest.raises(ValueError, match=f"{name}; a length is a whole number >= 1"):
        make()

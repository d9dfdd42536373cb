"""Exact least squares against direct inverses and ridge regression, in float64."""

import pytest
import torch

from everlearn.rules.least_squares import add_records, least_squares, remove_records, start_precision

D, N, T = 7, 3, 40


def data(seed=0):
    generator = torch.Generator().manual_seed(seed)
    keys = torch.randn(T, D, dtype=torch.float64, generator=generator)
    values = torch.randn(T, N, dtype=torch.float64, generator=generator)
    weights = torch.rand(T, dtype=torch.float64, generator=generator) + 0.1
    return keys, values, weights


def direct(keys, weights, ridge):
    return torch.linalg.inv(ridge * torch.eye(D, dtype=torch.float64) + (keys * weights[:, None]).mT @ keys)


def test_one_record_in_one_dimension_by_hand():
    # P = 1/2, w = 3, k = 2: P' = 1 / (2 + 3 * 4) = 1/14
    start = start_precision(1, ridge=2.0)
    got = add_records(start, torch.tensor([2.0]), 3.0)
    torch.testing.assert_close(got, torch.tensor([[1 / 14]], dtype=torch.float64))


def test_rank_one_updates_equal_the_direct_inverse():
    keys, _, weights = data()
    precision = start_precision(D, ridge=0.5)
    for key, weight in zip(keys, weights, strict=True):
        precision = add_records(precision, key, weight)
    torch.testing.assert_close(precision, direct(keys, weights, 0.5), atol=1e-12, rtol=1e-10)


def test_block_equals_rank_one():
    keys, _, weights = data(1)
    one = start_precision(D, ridge=0.5)
    for key, weight in zip(keys, weights, strict=True):
        one = add_records(one, key, weight)
    block = add_records(start_precision(D, ridge=0.5), keys, weights)
    torch.testing.assert_close(one, block, atol=1e-12, rtol=1e-10)


@pytest.mark.parametrize("size", [1, 5, T])
def test_removal_undoes_adding(size):
    keys, _, weights = data(2)
    before = add_records(start_precision(D, ridge=0.5), keys[size:], weights[size:])
    after = add_records(before, keys[:size], weights[:size])
    back = remove_records(after, keys[:size].flip(0), weights[:size].flip(0))
    torch.testing.assert_close(back, before, atol=1e-11, rtol=1e-9)


def test_removal_of_what_was_never_added_is_refused():
    keys, _, _ = data(3)
    precision = add_records(start_precision(D, ridge=0.5), keys[:3])
    with pytest.raises(ValueError, match="nothing like them was added"):
        remove_records(precision, 10 * keys[10])


def test_the_rule_is_ridge_regression_in_any_order_and_block_size():
    keys, values, weights = data(4)
    ridge = 0.3
    expected = (values * weights[:, None]).mT @ keys @ direct(keys, weights, ridge)
    for order, size in ((torch.arange(T), 1), (torch.arange(T).flip(0), 8), (torch.arange(T), T)):
        W, slots = torch.zeros(N, D, dtype=torch.float64), {}
        for part in order.split(size):
            k, v, w = keys[part], values[part], weights[part]
            grad = ((W @ k.mT).mT - v).mul(w[:, None]).mT @ k
            W, slots = least_squares(W, grad, k, slots, weight=w, ridge=ridge)
        torch.testing.assert_close(W, expected, atol=1e-11, rtol=1e-9)


def test_optimizer_home_equals_memory_home():
    # the optimizer sees autograd's gradient of a layer's loss, the memory sees keys and values
    keys, values, _ = data(5)
    weights, slots = torch.zeros(N, D, dtype=torch.float64), {}
    layer, layer_slots = torch.nn.Linear(D, N, bias=False, dtype=torch.float64), {}
    torch.nn.init.zeros_(layer.weight)
    for k, v in zip(keys.split(4), values.split(4), strict=True):
        weights, slots = least_squares(weights, (weights @ k.mT - v.mT) @ k, k, slots)
        (grad,) = torch.autograd.grad((layer(k) - v).square().sum() / 2, [layer.weight])
        with torch.no_grad():
            stepped, layer_slots = least_squares(layer.weight, grad, k, layer_slots)
            layer.weight.copy_(stepped)
    torch.testing.assert_close(layer.weight.detach(), weights, atol=1e-12, rtol=1e-10)


def test_rows_of_a_batch_are_separate_and_arguments_are_untouched():
    keys, _, _ = data(6)
    start = start_precision(D, 1.0).expand(2, D, D).clone()
    kept = start.clone()
    got = add_records(start, torch.stack([keys[:4], keys[4:8]]))
    torch.testing.assert_close(got[1], add_records(start_precision(D, 1.0), keys[4:8]), atol=1e-14, rtol=1e-12)
    assert torch.equal(start, kept)


def test_weight_zero_changes_nothing():
    keys, _, _ = data(7)
    start = add_records(start_precision(D, 1.0), keys)
    assert torch.equal(add_records(start, keys[:3], 0.0), start)


def test_ridge_must_be_positive():
    with pytest.raises(ValueError, match="above zero"):
        start_precision(3, ridge=0.0)


def test_a_rule_without_a_key_is_refused():
    with pytest.raises(ValueError, match="no key"):
        least_squares(torch.zeros(1, 2), torch.zeros(1, 2), None, {})

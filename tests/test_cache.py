"""The cache of packed weights: what it keeps, what makes it forget, and its bounds."""

from __future__ import annotations

import gc
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as torch_f
from torch import Tensor, nn
from weights import FORMS, Counter, Form, agree, each_form, operands

from fastconv import functional
from fastconv.functional import cache

pytestmark = pytest.mark.usefixtures("fresh_cache")


# ---- hits and invalidation -------------------------------------------------------------------------------------------


@each_form
def test_a_weight_is_packed_once(form: Form) -> None:
    x, w = operands(form)
    count = Counter()
    for _ in range(3):
        agree(form, x, w)
    assert (count.misses, count.hits, count.entries) == (1, 2, 1)
    assert count.bytes >= w.numel() * w.element_size() or count.bytes == 0  # 0: these kernels want nothing packed


def change_in_place(w: Tensor) -> None:
    w.mul_(-2)


def change_one_element(w: Tensor) -> None:
    w.view(-1)[-1] = 100.0


def change_by_copy(w: Tensor) -> None:
    w.copy_(torch.randn_like(w))


def change_by_set_data(w: Tensor) -> None:
    w.data = torch.randn_like(w)  # other memory: this is seen


CHANGES = (change_in_place, change_one_element, change_by_copy, change_by_set_data)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@each_form
def test_a_changed_weight_is_packed_anew(form: Form, change: Callable[[Tensor], None]) -> None:
    x, w = operands(form)
    agree(form, x, w)
    with torch.no_grad():
        change(w)
    agree(form, x, w)


def test_an_optimizer_step_is_seen() -> None:
    layer = nn.Conv2d(32, 48, 3, padding=1)
    x = torch.randn(1, 32, 9, 9)
    for kind in (torch.optim.SGD, torch.optim.Adam):
        optimizer = kind(layer.parameters(), lr=0.1)
        for _ in range(2):
            with torch.no_grad():
                y = functional.conv2d(x, layer.weight, layer.bias, padding=1)
                torch.testing.assert_close(y, layer(x), rtol=1e-4, atol=1e-4)
            functional.conv2d(x, layer.weight, layer.bias, padding=1).square().mean().backward()
            optimizer.step()


@pytest.mark.parametrize("assign", [False, True])
def test_load_state_dict_is_seen(assign: bool) -> None:
    layer, other = nn.Conv2d(32, 48, 3), nn.Conv2d(32, 48, 3)
    x = torch.randn(1, 32, 9, 9)
    for _ in range(2):
        with torch.no_grad():
            torch.testing.assert_close(functional.conv2d(x, layer.weight, layer.bias), layer(x), rtol=1e-4, atol=1e-4)
        layer.load_state_dict(other.state_dict(), assign=assign)


def test_a_view_of_the_weight_changes_it() -> None:
    form = FORMS["conv2d"]
    x, w = operands(form)
    agree(form, x, w)
    w[3].zero_()
    agree(form, x, w)
    w.view(-1).add_(1)
    agree(form, x, w)


def test_the_limit_that_is_documented() -> None:
    """An edit through `.data` or NumPy has no version: the old weight answers until clear(). The text says so."""
    x, w = torch.randn(1, 32, 9, 9), torch.randn(48, 32, 3, 3)
    before = functional.conv2d(x, w)
    w.data.zero_()
    assert torch.equal(functional.conv2d(x, w), before) or not functional.conv2d(x, w).any()
    cache.clear()
    assert not functional.conv2d(x, w).any()
    w.numpy()[:] = 1
    cache.clear()
    torch.testing.assert_close(functional.conv2d(x, w), torch_f.conv2d(x, w), rtol=1e-4, atol=1e-4)
    for text in (cache.__doc__, cache.clear.__doc__):
        assert ".data" in (text or "")


# ---- lifetime and bounds ---------------------------------------------------------------------------------------------


@each_form
def test_an_entry_dies_with_its_weight(form: Form) -> None:
    x, w = operands(form)
    count = Counter()
    agree(form, x, w)
    assert count.entries == 1
    del w
    gc.collect()
    assert (count.entries, count.bytes) == (0, 0)


def test_a_new_weight_at_the_old_address_is_not_the_old_weight() -> None:
    """CPython and torch's allocator reuse both ids and memory at once."""
    x = torch.randn(1, 32, 9, 9)
    for _ in range(50):
        w = torch.randn(48, 32, 3, 3)
        torch.testing.assert_close(functional.conv2d(x, w), torch_f.conv2d(x, w), rtol=1e-4, atol=1e-4)
        del w


def test_the_cache_is_bounded() -> None:
    x = torch.randn(1, 32, 9, 9)
    weights = [torch.randn(48, 32, 3, 3) for _ in range(12)]
    functional.conv2d(x, weights[0])
    each = cache.stats()["bytes"]
    assert each > 0
    count = Counter()
    cache.set_capacity(4 * each)
    for _ in range(2):
        for w in weights:
            torch.testing.assert_close(functional.conv2d(x, w), torch_f.conv2d(x, w), rtol=1e-4, atol=1e-4)
            assert cache.stats()["bytes"] <= 4 * each
    assert cache.stats()["entries"] == 4 and count.evictions > 0
    count = Counter()
    for w in weights[-4:]:  # the most recent stayed
        functional.conv2d(x, w)
    assert (count.hits, count.misses) == (4, 0)
    functional.conv2d(x, weights[-4])  # used again: no longer the oldest
    functional.conv2d(x, weights[0])
    count = Counter()
    functional.conv2d(x, weights[-4])
    assert count.hits == 1


def test_a_capacity_of_nothing_switches_it_off() -> None:
    form = FORMS["conv2d"]
    x, w = operands(form)
    cache.set_capacity(0)
    for _ in range(2):
        agree(form, x, w)
    assert cache.stats()["entries"] == cache.stats()["bytes"] == 0
    with pytest.raises(ValueError, match="at least 0"):
        cache.set_capacity(-1)


def test_a_training_loop_leaves_nothing_behind() -> None:
    """While autograd records nothing is cached: a weight changes after every step."""
    layer = nn.Conv2d(32, 48, 3)
    x = torch.randn(1, 32, 9, 9)
    count = Counter()
    for _ in range(3):
        functional.conv2d(x, layer.weight, layer.bias).sum().backward()
    assert count.entries <= 1

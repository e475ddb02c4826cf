"""The cache of packed weights: what it keeps, what makes it forget, and that it never answers for another weight."""

from __future__ import annotations

import copy
import gc
import pickle
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as torch_f
from torch import Tensor, nn

import fastconv
from fastconv import functional
from fastconv.functional import cache

pytestmark = pytest.mark.usefixtures("fresh_cache")


@pytest.fixture
def fresh_cache() -> Iterator[None]:
    capacity = cache.stats()["capacity"]
    cache.clear()
    yield
    cache.set_capacity(capacity)
    cache.clear()


class Counter:
    """What the cache did since this was made."""

    def __init__(self) -> None:
        self.before = cache.stats()

    def __getattr__(self, name: str) -> int:
        return cache.stats()[name] - self.before[name]


# Weights large enough that the kernels want them packed, a call of ours on them, and torch's.
Form = tuple[tuple[int, ...], tuple[int, ...], Callable[[Tensor, Tensor], Tensor], Callable[[Tensor, Tensor], Tensor]]
FORMS: dict[str, Form] = {
    "conv2d": (
        (1, 32, 9, 9),
        (48, 32, 3, 3),
        lambda x, w: functional.conv2d(x, w, padding=1),
        lambda x, w: torch_f.conv2d(x, w, padding=1),
    ),
    "pointwise": ((1, 32, 9, 9), (48, 32, 1, 1), functional.conv2d, torch_f.conv2d),
    "upsample_conv2d": (
        (1, 32, 5, 5),
        (48, 32, 3, 3),
        lambda x, w: functional.upsample_conv2d(x, w, padding=1),
        lambda x, w: torch_f.conv2d(torch_f.interpolate(x, scale_factor=2), w, padding=1),
    ),
    "conv_transpose2d": (
        (1, 32, 5, 5),
        (32, 48, 3, 3),
        lambda x, w: functional.conv_transpose2d(x, w, stride=2),
        lambda x, w: torch_f.conv_transpose2d(x, w, stride=2),
    ),
    "linear": ((32, 64), (48, 64), functional.linear, torch_f.linear),
    "gemm": ((32, 64), (64, 48), functional.gemm, torch.mm),
}
each_form = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)


def operands(form: Form) -> tuple[Tensor, Tensor]:
    return torch.randn(form[0]), torch.randn(form[1])


def agree(form: Form, x: Tensor, w: Tensor) -> None:
    with torch.no_grad():
        torch.testing.assert_close(form[2](x, w), form[3](x, w), rtol=1e-4, atol=1e-4)


# ---- hits and invalidation ---------------------------------------------------------------------------------------


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


# ---- one weight, several readings --------------------------------------------------------------------------------


def test_groups_and_geometry_have_their_own_entries() -> None:
    x, w = torch.randn(1, 32, 9, 9), torch.randn(32, 16, 3, 3)
    for _ in range(2):
        with torch.no_grad():
            for padding, stride in ((0, 1), (1, 2)):
                ours = functional.upsample_conv2d(x, w, None, 2, stride, padding, groups=2)
                theirs = torch_f.conv2d(torch_f.interpolate(x, scale_factor=2), w, None, stride, padding, groups=2)
                torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
            for groups in (2, 1):
                image = x[:, : 16 * groups]
                theirs = torch_f.conv2d(image, w, groups=groups)
                torch.testing.assert_close(functional.conv2d(image, w, groups=groups), theirs, rtol=1e-4, atol=1e-4)


def test_a_square_matrix_both_ways() -> None:
    a, b = torch.randn(32, 64), torch.randn(64, 64)
    for _ in range(2):
        torch.testing.assert_close(functional.gemm(a, b), a @ b, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(functional.gemm(a, b, transpose_b=True), a @ b.T, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(functional.linear(a, b), a @ b.T, rtol=1e-4, atol=1e-4)


def test_other_layouts_and_dtypes_of_a_weight_are_other_weights() -> None:
    x, w = torch.randn(1, 32, 9, 9), torch.randn(48, 32, 3, 3)
    last = w.contiguous(memory_format=torch.channels_last)
    for weight in (w, last, w.flip(0), w.transpose(2, 3), w[::2], w.expand_as(w)):
        for _ in range(2):
            torch.testing.assert_close(functional.conv2d(x, weight), torch_f.conv2d(x, weight), rtol=1e-4, atol=1e-4)
    for dtype in (torch.float64, torch.bfloat16, torch.float32):
        y = functional.conv2d(x.to(dtype), w.to(dtype))
        torch.testing.assert_close(y.float(), torch_f.conv2d(x, w), rtol=0.05, atol=1.0)


# ---- lifetime and bounds -----------------------------------------------------------------------------------------


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


# ---- special tensors ---------------------------------------------------------------------------------------------


def test_inference_tensors_have_no_version_and_are_never_stale() -> None:
    x = torch.randn(1, 32, 9, 9)
    with torch.inference_mode():
        w = torch.randn(48, 32, 3, 3)
        for _ in range(3):
            torch.testing.assert_close(functional.conv2d(x, w), torch_f.conv2d(x, w), rtol=1e-4, atol=1e-4)
            w.add_(1)
    assert cache.stats()["entries"] == 0


def test_a_normal_weight_in_inference_mode_is_cached_and_watched() -> None:
    x, w = torch.randn(1, 32, 9, 9), torch.randn(48, 32, 3, 3)
    for _ in range(3):
        with torch.inference_mode():
            torch.testing.assert_close(functional.conv2d(x, w), torch_f.conv2d(x, w), rtol=1e-4, atol=1e-4)
        w.add_(1)
    # A value that inference mode made serves autograd later.
    y = functional.conv2d(x.requires_grad_(), w)
    y.sum().backward()
    torch.testing.assert_close(functional.conv2d(x.detach(), w), torch_f.conv2d(x.detach(), w), rtol=1e-4, atol=1e-4)


def test_subclasses_of_tensor_are_not_kept() -> None:
    class Mine(Tensor):
        pass

    x, w = torch.randn(1, 32, 9, 9), torch.randn(48, 32, 3, 3).as_subclass(Mine)
    for _ in range(2):
        y = functional.conv2d(x, w).as_subclass(Tensor)
        torch.testing.assert_close(y, torch_f.conv2d(x, w.as_subclass(Tensor)), rtol=1e-4, atol=1e-4)
    assert cache.stats()["entries"] == 0


def test_copies_and_pickles_of_a_weight_are_new_weights() -> None:
    form = FORMS["conv2d"]
    x, w = operands(form)
    agree(form, x, w)
    for twin in (copy.deepcopy(w), pickle.loads(pickle.dumps(w)), w.clone()):
        twin.mul_(3)
        agree(form, x, twin)
        agree(form, x, w)


def test_shared_memory_weights() -> None:
    form = FORMS["conv2d"]
    x, w = operands(form)
    w.share_memory_()
    agree(form, x, w)
    w.add_(1)
    agree(form, x, w)


# ---- BatchNorm folds ---------------------------------------------------------------------------------------------


def test_folded_statistics_follow_their_tensors() -> None:
    x, w = torch.randn(1, 3, 9, 9), torch.randn(8, 3, 3, 3)
    mean, var, gamma, beta = torch.randn(8), torch.rand(8) + 0.5, torch.randn(8), torch.randn(8)

    def check() -> None:
        ours = functional.conv2d_bn_act(x, w, None, mean, var, gamma, beta)
        theirs = torch_f.relu(torch_f.batch_norm(torch_f.conv2d(x, w), mean, var, gamma, beta))
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)

    for changed in (mean, var, gamma, beta):
        check()
        check()
        changed.mul_(1.5)
    check()


def test_eps_is_part_of_the_fold() -> None:
    x, w, mean, var = torch.randn(1, 3, 9, 9), torch.randn(8, 3, 3, 3), torch.randn(8), torch.rand(8) * 1e-3
    for eps in (1e-5, 1e-3, 1e-5):
        ours = functional.conv2d_bn_act(x, w, None, mean, var, None, None, eps, act="identity")
        theirs = torch_f.batch_norm(torch_f.conv2d(x, w), mean, var, eps=eps)
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-3)


# ---- instruction sets and threads --------------------------------------------------------------------------------


@pytest.mark.usefixtures("keep_isa")
@each_form
def test_another_instruction_set_packs_anew(form: Form) -> None:
    x, w = operands(form)
    for name in (*fastconv.introspection.available_isas(), fastconv.introspection.isa()):
        fastconv.introspection.select_isa(name)
        agree(form, x, w)
        agree(form, x, w)


def test_threads_in_parallel_get_right_answers() -> None:
    """More weights than fit, changing ones among them, from several threads at once."""
    x = torch.randn(1, 16, 6, 6)
    shared = [torch.randn(32, 16, 3, 3) for _ in range(6)]
    functional.conv2d(x, shared[0])
    cache.set_capacity(3 * max(cache.stats()["bytes"], 1))
    truth = [torch_f.conv2d(x, w) for w in shared]
    wrong: list[Any] = []

    def work(seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        own = torch.randn(32, 16, 3, 3, generator=generator)
        try:
            with torch.no_grad():
                for step in range(40):
                    which = (seed + step) % len(shared)
                    torch.testing.assert_close(functional.conv2d(x, shared[which]), truth[which], rtol=1e-4, atol=1e-4)
                    own.add_(0.1)
                    torch.testing.assert_close(functional.conv2d(x, own), torch_f.conv2d(x, own), rtol=1e-4, atol=1e-4)
                    if step % 16 == seed:
                        cache.clear()
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong, wrong[0]
    assert 0 <= cache.stats()["bytes"] <= cache.stats()["capacity"]

"""The cache of packed weights never answers for another weight: readings, special tensors, folds, ISAs, threads."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
import torch.nn.functional as torch_f
from threads import at_once
from torch import Tensor
from weights import FORMS, Form, agree, each_form, operands

import fastconv
from fastconv import functional
from fastconv.functional import cache

pytestmark = pytest.mark.usefixtures("fresh_cache")


# ---- one weight, several readings ------------------------------------------------------------------------------------


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


# ---- special tensors -------------------------------------------------------------------------------------------------


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


@each_form
def test_a_storage_that_was_replaced_twice_does_not_come_back(form: Form) -> None:
    """`.half()` and `.float()` replace a weight's storage and leave its version; a freed address may be used again."""
    x, w = operands(form)
    for _ in range(8):
        agree(form, x, w)
        for _ in range(2):
            w.data = w.data.roll(1, 0)


@each_form
def test_a_weight_inside_vmap(form: Form) -> None:
    x, w = operands(form)
    weights = torch.stack((w, w + 1))
    got = torch.vmap(lambda one: form[2](x, one))(weights)
    for y, one in zip(got, weights, strict=True):
        torch.testing.assert_close(y, form[2](x, one))


# ---- BatchNorm folds -------------------------------------------------------------------------------------------------


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
    torch_f.batch_norm(torch_f.conv2d(x, w), mean, var, training=True)  # writes them without a new version
    check()


def test_eps_is_part_of_the_fold() -> None:
    x, w, mean, var = torch.randn(1, 3, 9, 9), torch.randn(8, 3, 3, 3), torch.randn(8), torch.rand(8) * 1e-3
    for eps in (1e-5, 1e-3, 1e-5):
        ours = functional.conv2d_bn_act(x, w, None, mean, var, None, None, eps, act="identity")
        theirs = torch_f.batch_norm(torch_f.conv2d(x, w), mean, var, eps=eps)
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-3)


# ---- instruction sets and threads ------------------------------------------------------------------------------------


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

    def work(seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        own = torch.randn(32, 16, 3, 3, generator=generator)
        with torch.no_grad():
            for step in range(40):
                which = (seed + step) % len(shared)
                torch.testing.assert_close(functional.conv2d(x, shared[which]), truth[which], rtol=1e-4, atol=1e-4)
                own.add_(0.1)
                torch.testing.assert_close(functional.conv2d(x, own), torch_f.conv2d(x, own), rtol=1e-4, atol=1e-4)
                if step % 16 == seed:
                    cache.clear()

    at_once(work, 4)
    assert 0 <= cache.stats()["bytes"] <= cache.stats()["capacity"]

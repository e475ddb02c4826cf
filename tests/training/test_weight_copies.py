"""Copies, pickles, hooks, modes and edits that leave no version: what holds on to weights beside their values."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from holders import HOLDERS, C, K, Net, Pair, fused, net
from networks import randomise
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune

import fastconv
import fastconv.nn as fnn
from fastconv.convert.converted import ConvertedModule
from fastconv.functional import cache, edits

pytestmark = pytest.mark.usefixtures("fresh_cache")
each_holder = pytest.mark.parametrize("holder", HOLDERS)


def through_file(module: Any) -> Any:
    buffer = io.BytesIO()
    torch.save(module, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


COPIES: dict[str, Callable[[Any], Any]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda module: pickle.loads(pickle.dumps(module)),
    "torch_save": through_file,
}


def weights_of(held: Any) -> Any:
    """The network behind a holder: a converted module keeps it as its source."""
    return getattr(held, "source", held)


@each_holder
@pytest.mark.parametrize("how", COPIES)
def test_copies_go_their_own_way(holder: str, how: str) -> None:
    pair = Pair(holder)
    x = torch.randn(2, C, 5, 5)
    before = pair.check(x)
    twin = COPIES[how](pair.call)
    assert len(pickle.dumps(twin)) < 1.2 * len(pickle.dumps(pair.theirs)) + 4000  # no pack or fold goes along
    with torch.no_grad():
        weights_of(twin).block.conv.weight.mul_(-1)
        weights_of(twin).fc.weight.mul_(2)
        changed = twin(x)
        pair.check(x)  # the original is as it was
        assert not torch.allclose(changed, before, atol=1e-2)
        pair.theirs.load_state_dict(weights_of(twin).state_dict())
        torch.testing.assert_close(changed, pair.theirs(x), atol=1e-3, rtol=1e-3)
        pair.ours.load_state_dict(pair.theirs.state_dict())
    pair.check(x)


@each_holder
def test_a_state_dict_through_a_file(holder: str) -> None:
    """weights_only, as checkpoints are loaded; into a network of plain torch and back."""
    pair, x = Pair(holder), torch.randn(2, C, 5, 5)
    pair.check(x)
    with torch.no_grad():
        pair.ours.block.conv.weight.mul_(2)
    buffer = io.BytesIO()
    torch.save(pair.ours.state_dict(), buffer)
    buffer.seek(0)
    pair.theirs.load_state_dict(torch.load(buffer, weights_only=True))
    pair.check(x)


@each_holder
def test_modes_and_gradients(holder: str) -> None:
    """eval -> train -> eval with and without autograd, frozen and not, in inference mode: the same outputs."""
    pair, x = Pair(holder), torch.randn(2, C, 5, 5)
    for frozen in (True, False):
        for model in pair.both:
            model.requires_grad_(not frozen)
        for training in (False, True, False):
            for model in pair.both:
                model.train(training and not isinstance(pair.call, ConvertedModule))
            for mode in (torch.no_grad, torch.enable_grad, torch.inference_mode):
                with mode():
                    torch.testing.assert_close(pair.call(x), pair.theirs(x), atol=1e-3, rtol=1e-3)


# ---- hooks ---------------------------------------------------------------------------------------------------------


def doubled(module: nn.Module, args: Any, y: Tensor) -> Tensor:
    return y * 2


PARTS = (
    "block.conv",
    "block.bn",
    "block.act",
    "up.conv",
    "up.bn",
    "up.act",
    "down",
    "depthwise",
    "prelu",
    "fc",
    "block",
    "up",
    "",
)


@each_holder
@pytest.mark.parametrize("path", PARTS, ids=lambda path: path or "all")
def test_a_hook_registered_later(holder: str, path: str) -> None:
    pair, x = Pair(holder), torch.randn(2, C, 5, 5)
    before = pair.check(x)
    handles = [model.get_submodule(path).register_forward_hook(doubled) for model in pair.both]
    assert not torch.equal(before, pair.check(x))
    for handle in handles:
        handle.remove()
    assert torch.equal(before, pair.check(x))
    for model in pair.both:
        model.get_submodule(path).register_forward_pre_hook(lambda module, args: (args[0] + 1,))
    pair.check(x)


@pytest.mark.parametrize("holder", ["replace", "fused"])
def test_backward_hooks(holder: str) -> None:
    pair, x = Pair(holder), torch.randn(2, C, 5, 5)
    seen: list[list[tuple[int, ...]]] = [[], []]
    for model, calls in zip(pair.both, seen, strict=True):
        for path in ("block.conv", "block.bn", "fc"):

            def hook(module: Any, dx: Any, dy: Any, calls: Any = calls) -> Any:
                calls.append(tuple(dy[0].shape))
                return tuple(None if g is None else g * 3 for g in dx)

            model.get_submodule(path).register_full_backward_hook(hook)
            model.get_submodule(path).register_full_backward_pre_hook(lambda module, dy: (dy[0] + 1,))
    for model in pair.both:
        model(x.clone().requires_grad_()).sum().backward()
    assert seen[0] == seen[1] and len(seen[0]) == 3
    for mine, theirs in zip(pair.ours.parameters(), pair.theirs.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, atol=1e-2, rtol=1e-3)


# ---- what a conversion was made from -------------------------------------------------------------------------------


class Halved(nn.Module):
    def forward(self, w: Tensor) -> Tensor:
        return w / 2


@each_holder
def test_parametrizations_and_pruning_on_top_of_each_other(holder: str) -> None:
    pair, x = Pair(holder), torch.randn(2, C, 5, 5)

    def each(change: Callable[[Net], Any]) -> None:
        before = pair.check(x)
        for model in pair.both:
            change(model)
        assert not torch.equal(before, pair.check(x))

    each(lambda model: parametrize.register_parametrization(model.up.conv, "weight", Halved()))
    each(lambda model: model.up.conv.parametrizations.weight.append(Halved()))
    each(lambda model: parametrize.remove_parametrizations(model.up.conv, "weight", leave_parametrized=False) and None)
    each(lambda model: prune.ln_structured(model.up.conv, "weight", 0.3, n=1, dim=0))
    each(lambda model: prune.ln_structured(model.up.conv, "weight", 0.5, n=2, dim=0))
    each(lambda model: model.up.conv.weight_mask.fill_(1))


def test_children_added_later() -> None:
    model = randomise(nn.Sequential(nn.Conv2d(C, K, 3), nn.ReLU()))
    converted, x = fastconv.convert(model), torch.randn(1, C, 5, 5)
    model.append(nn.Conv2d(K, 4, 1))
    with torch.no_grad():
        assert converted(x).shape == (1, 4, 3, 3)
        torch.testing.assert_close(converted(x), model(x), atol=1e-5, rtol=1e-5)
        model[1] = nn.Sigmoid()
        torch.testing.assert_close(converted(x), model(x), atol=1e-5, rtol=1e-5)
        del model[2]
        torch.testing.assert_close(converted(x), model(x), atol=1e-5, rtol=1e-5)


class Doubling(nn.BatchNorm2d):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


@pytest.mark.parametrize("change", ["uncounted", "forward_of_its_own"])
def test_norms_that_cannot_be_folded(change: str) -> None:
    """Without its counter nothing tells that torch has written the statistics; a subclass may do anything."""
    conv, act, x = nn.Conv2d(C, K, 3), nn.ReLU(), torch.randn(2, C, 5, 5)
    bn = Doubling(K) if change == "forward_of_its_own" else nn.BatchNorm2d(K)
    if change == "uncounted":
        bn.num_batches_tracked = None
    plain = randomise(nn.Sequential(conv, bn, act))
    block = fnn.ConvBNAct2d.from_torch(conv, bn, act)
    converted = fastconv.convert(plain)
    for _ in range(2):
        with torch.no_grad():
            torch.testing.assert_close(block(x), plain(x), atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(converted(x), plain(x), atol=1e-4, rtol=1e-4)
            plain.train()(x * 3 + 1)
            plain.eval()


# ---- edits that leave no version -----------------------------------------------------------------------------------


def test_a_view_notices_a_fused_step() -> None:
    """Somebody may have kept a view of the parameter: the step wrote its memory as well."""
    model = fastconv.replace(nn.Conv2d(C, K, 3))
    view, x = model.weight.detach(), torch.randn(1, C, 5, 5)
    optimizer = torch.optim.SGD(model.parameters(), 1.0, fused=True)
    for _ in range(2):
        y = fastconv.functional.conv2d(x, view)
        torch.testing.assert_close(y, nn.functional.conv2d(x, view), atol=1e-4, rtol=1e-4)
        model.weight.grad = torch.ones_like(model.weight)
        before = model.weight._version
        optimizer.step()
        assert model.weight._version == before  # the reason for all this


def test_other_steps_keep_the_packs() -> None:
    frozen, moving = nn.Conv2d(C, K, 3), nn.Conv2d(C, K, 3)
    fastconv.replace(frozen), fastconv.replace(moving)
    x = torch.randn(1, C, 5, 5)
    with torch.no_grad():
        frozen(x)
    hits, step = cache.stats()["hits"], edits.steps
    moving.weight.grad = torch.ones_like(moving.weight)
    torch.optim.SGD(moving.parameters(), 1.0, fused=True).step()
    with torch.no_grad():
        frozen(x)
    assert edits.steps == step + 1 and cache.stats()["hits"] == hits + 1


def test_exchanging_tensors_by_hand_needs_an_empty_cache() -> None:
    """torch refuses, and says so, while the cache refers to the weight; nothing is wrong before or after."""
    model, x = fastconv.replace(nn.Conv2d(C, K, 3)), torch.randn(1, C, 5, 5)
    other = nn.Parameter(torch.randn(K, C, 3, 3))
    with torch.no_grad():
        model(x)
    with pytest.raises(RuntimeError, match="weakref"):
        torch.utils.swap_tensors(model.weight, other)
    assert "swap_tensors" in (cache.clear.__doc__ or "")
    cache.clear()
    torch.utils.swap_tensors(model.weight, other)
    with torch.no_grad():
        expected = nn.functional.conv2d(x, model.weight, model.bias)
        torch.testing.assert_close(model(x), expected, atol=1e-4, rtol=1e-4)


@each_holder
def test_an_edit_that_is_announced(holder: str) -> None:
    """Through `.data` nothing records it; torch's way to say so reaches every fold and pack."""
    pair, x = Pair(holder), torch.randn(2, C, 5, 5)
    before = pair.check(x)
    for model in pair.both:
        for parameter in model.parameters():
            parameter.data.mul_(1.5)
            torch.autograd.graph.increment_version(parameter)
    assert not torch.equal(before, pair.check(x))


def test_torchs_own_fold_of_our_layers() -> None:
    plain = randomise(nn.Sequential(nn.Conv2d(C, K, 3), nn.BatchNorm2d(K)))
    ours, x = fastconv.replace(copy.deepcopy(plain)), torch.randn(2, C, 5, 5)
    with torch.no_grad():
        ours(x)
        folded = nn.utils.fusion.fuse_conv_bn_eval(ours[0], ours[1])  # type: ignore[index]
        assert type(folded) is fnn.Conv2d
        torch.testing.assert_close(folded(x), plain(x), atol=1e-4, rtol=1e-4)


def test_edits_through_data_are_the_documented_limit() -> None:
    """They leave no trace: a fold may be that of before. Any edit that is recorded, or a copy, brings the new one."""
    block = fused(net()).block
    x = torch.randn(1, C, 5, 5)
    with torch.no_grad():
        block(x)
        block.conv.weight.data.mul_(2)
        expected = block.act(block.bn(block.conv(x)))
        cache.clear()
        twin = copy.deepcopy(block)
        torch.testing.assert_close(twin(x), twin.act(twin.bn(twin.conv(x))), atol=1e-4, rtol=1e-4)
        block.bn.bias.add_(0)
        torch.testing.assert_close(block(x), block.act(block.bn(block.conv(x))), atol=1e-4, rtol=1e-4)
    assert expected.shape == (1, K, 5, 5)
    for text in (fnn.ConvBNAct2d.__doc__, fastconv.convert.__doc__):
        assert ".data" in (text or "")

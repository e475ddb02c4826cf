"""fastconv.convert leaves out filters and channels that are zero: same values, fewer of them computed."""

from __future__ import annotations

import copy
import io
from typing import Any

import pruned_networks as pruned
import pytest
import torch
from converting import assert_like, served
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import InvertedResidual, randomise
from torch import Tensor, nn
from torch.nn.utils import prune

import fastconv
from fastconv.convert import convert

LAYERS = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


def zero(module: nn.Module, filters: Any = (), channels: Any = ()) -> None:
    """Zeroes filters and input channels, which ConvTranspose2d holds the other way round."""
    swap = isinstance(module, nn.ConvTranspose2d)
    with torch.no_grad():
        for dim, which in ((int(swap), filters), (int(not swap), channels)):
            module.weight.index_fill_(dim, torch.tensor(which, dtype=torch.long), 0)


def random_zeros(model: nn.Module, seed: int, share: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, LAYERS):
            swap = isinstance(module, nn.ConvTranspose2d)
            for dim in (0, 1):
                part = share if dim == int(swap) else share / 2
                which = torch.rand(module.weight.shape[dim], generator=generator) < part
                with torch.no_grad():
                    module.weight.index_fill_(dim, which.nonzero().flatten(), 0)
        elif isinstance(module, nn.BatchNorm2d):
            # Half of the shifts are negative enough for a ReLU to make zero of the filter, and some scales are zero.
            with torch.no_grad():
                module.weight.mul_(torch.rand(module.weight.shape, generator=generator) > share / 4)


def kept(converted: nn.Module) -> dict[str, tuple[int, int]]:
    """By the layer's name how many filters and channels are computed."""
    found = {}
    for spec in served(converted):
        if hasattr(spec, "weight"):
            r = spec.kept
            weight = spec.weight.read()
            found[spec.labels[0]] = (len(r.filters), len(r.channels)) if r else (weight.shape[0], weight.shape[1])
    return found


@pytest.mark.parametrize("name", pruned.NETWORKS)
@given(seed=st.integers(0, 10_000), share=st.sampled_from([0.2, 0.5, 0.8, 1.0]))
@settings(max_examples=6)
def test_any_zeros_give_the_same(name: str, seed: int, share: float) -> None:
    torch.manual_seed(seed)
    model = randomise(pruned.NETWORKS[name](), seed)
    random_zeros(model, seed, share)
    x = torch.randn(2, 3, 8, 8)
    assert_like(model, convert(model), x if seed % 2 else x.contiguous(memory_format=torch.channels_last))


def test_constant_channels_go_into_the_bias_where_no_padding_is() -> None:
    model = randomise(pruned.chain(padding=0, act=nn.Sigmoid))  # sigmoid(shift) is never zero
    zero(model[0], filters=[1, 3, 4])
    converted = convert(model)
    assert_like(model, converted, torch.randn(2, 3, 9, 9))
    assert kept(converted) == {"0": (5, 3), "3": (5, 5)}


def test_one_constant_channel_carries_the_others_where_padding_is() -> None:
    model = randomise(pruned.chain(padding=1, act=nn.Sigmoid))
    zero(model[0], filters=[1, 3, 4])
    converted = convert(model)
    assert_like(model, converted, torch.randn(2, 3, 9, 9))
    assert kept(converted) == {"0": (6, 3), "3": (5, 6)}


def test_constant_zero_needs_no_carrier() -> None:
    model = randomise(pruned.chain(padding=1))
    zero(model[0], filters=[1, 3, 4])
    with torch.no_grad():
        model[1].weight.fill_(1)
        model[1].bias.fill_(-3)  # the ReLU makes zeros of the three
        model[0].bias.zero_()
    converted = convert(model)
    assert_like(model, converted, torch.randn(2, 3, 9, 9))
    assert kept(converted) == {"0": (5, 3), "3": (5, 5)}


def test_channels_that_nobody_reads() -> None:
    model = randomise(pruned.chain())
    zero(model[3], channels=[0, 7])
    converted = convert(model)
    assert_like(model, converted, torch.randn(2, 3, 9, 9))
    assert kept(converted) == {"0": (6, 3), "3": (5, 6)}


def test_depthwise_follows_its_neighbours() -> None:
    model = randomise(InvertedResidual())
    zero(model.block[3], filters=range(0, 32, 2))  # depthwise: then what it makes is constant, and its input unread
    converted = convert(model)
    assert_like(model, converted, torch.randn(2, 3, 16, 16))
    assert kept(converted) == {"stem": (8, 3), "block.0": (16, 8), "block.3": (16, 16), "block.6": (8, 16)}
    assert served(converted)[2].groups == 16


def test_a_summand_keeps_the_other() -> None:
    model = randomise(pruned.NETWORKS["residual"]())
    zero(model[2].conv2, filters=[0, 1])  # what is added to them is not zero
    zero(model[2].conv1, filters=[2, 3])
    with torch.no_grad():
        model[2].bn1.bias.fill_(-9)
    converted = convert(model)
    assert_like(model, converted, torch.randn(2, 3, 9, 9))
    counts = kept(converted)
    assert (counts["2.conv1"], counts["2.conv2"]) == ((4, 6), (6, 4))


def test_groups_are_dropped_whole() -> None:
    model = randomise(pruned.grouped(4))
    zero(model[2], filters=[0, 1, 2, 3, 4, 9])  # all of the first group, one filter of the second and of the third
    converted = convert(model)
    assert_like(model, converted, torch.randn(2, 3, 9, 9))
    assert kept(converted) == {"0": (6, 3), "2": (12, 6), "3": (4, 12)}
    assert served(converted)[1].groups == 3


def test_linear_columns_follow_the_channels() -> None:
    model = randomise(pruned.classifier())
    zero(model[3], filters=[0, 5])
    zero(model[7], filters=[1, 2, 3])
    converted = convert(model)
    assert_like(model, converted, torch.randn(2, 3, 8, 8))
    assert kept(converted) == {"0": (8, 3), "3": (4, 8), "7": (7, 4), "9": (4, 7)}


def test_norms_before_convolutions() -> None:
    model = randomise(pruned.NormsFirst())
    zero(model.b, filters=[0, 2])
    zero(model.c, channels=[6, 7])  # of the other part of the concatenation, which a sum keeps
    with torch.no_grad():
        model.b.bias.zero_()
        model.norms[2].weight[4] = 0
    converted = convert(model)
    assert_like(model, converted, torch.randn(2, 3, 9, 9))
    # One of the three constant channels that the padded convolution reads carries the other two.
    assert kept(converted) == {"stem": (6, 3), "a": (6, 6), "b": (4, 6), "norms.2": (10, 10), "c": (4, 10)}


def test_views_may_ask_for_the_channels_that_are_left() -> None:
    model = randomise(pruned.SqueezeView())
    zero(model.a, filters=[1, 3])
    with torch.no_grad():
        model.bn.bias.fill_(-9)
        model.bn.weight.fill_(1)
        model.a.bias.zero_()
    converted = convert(model)
    assert_like(model, converted, torch.randn(2, 3, 9, 9))
    assert kept(converted) == {"a": (6, 3), "fc.0": (4, 6), "fc.2": (6, 4), "b": (4, 6)}


def test_outputs_keep_their_channels() -> None:
    model = randomise(pruned.Outputs())
    zero(model.a, filters=[0])
    zero(model.b, filters=[1])
    zero(model.c, filters=[2])
    converted = convert(model)
    assert_like(model, converted, torch.randn(2, 3, 9, 9))
    assert kept(converted) == {"a": (6, 3), "b": (5, 6), "c": (4, 5)}


def test_everything_zero() -> None:
    model = randomise(pruned.classifier())
    for layer in (0, 3, 7, 9):
        zero(model[layer], filters=range(model[layer].weight.shape[0]))
    assert_like(model, convert(model), torch.randn(2, 3, 8, 8))


def test_explain_counts_what_is_left_out() -> None:
    model = randomise(pruned.chain(padding=0))
    zero(model[0], filters=[1, 3, 4])
    converted = convert(model, torch.randn(1, 3, 8, 8))
    explanation = fastconv.explain(converted)
    assert [row.dropped for row in explanation.rows] == [(3, 0), (0, 3)]
    assert "conv 3x3 +bn +relu, 5/8 filters, 3/3 channels" in str(explanation)
    assert "3 filters, 3 input channels" in str(explanation)
    assert all(row.dropped == (0, 0) for row in fastconv.explain(convert(pruned.chain().eval())).rows)


def _masked() -> tuple[nn.Module, dict[str, Tensor]]:
    """A network with active masks, and its weights from before them."""
    model = randomise(pruned.classifier())
    before = copy.deepcopy(model.state_dict())
    for layer in (0, 3):
        prune.ln_structured(model[layer], "weight", 0.5, n=2, dim=0)
    with torch.no_grad():
        model(
            torch.zeros(1, 3, 8, 8)
        )  # torch copies a pruned layer only where its weight was computed without gradients
    return model, before


def test_masks_of_torch_prune_active_and_removed() -> None:
    model, before = _masked()
    converted = convert(model)
    x = torch.randn(2, 3, 8, 8)
    assert_like(model, converted, x)
    narrow = kept(converted)
    assert narrow["0"][0] < 8 and narrow["3"][0] < 6
    with torch.no_grad():
        masked = converted(x)
    for layer in (0, 3):
        prune.remove(model[layer], "weight")
    assert_like(model, converted, x)
    assert kept(converted) == narrow
    torch.testing.assert_close(converted(x), masked)
    model.load_state_dict(before)
    assert_like(model, converted, x)
    assert kept(converted) == {"0": (8, 3), "3": (6, 8), "7": (10, 24), "9": (4, 10)}


def test_constants_follow_the_weights_they_come_from() -> None:
    model = randomise(pruned.chain(padding=0, act=nn.Sigmoid))
    zero(model[0], filters=[1, 3, 4])
    converted = convert(model)
    x = torch.randn(2, 3, 9, 9)
    assert_like(model, converted, x)
    with torch.no_grad():
        model[1].bias.add_(1)  # of a layer whose filters are gone
    assert_like(model, converted, x)
    with torch.no_grad():
        model[0].weight[3] = 0.1  # and one of them is back
    assert_like(model, converted, x)
    assert kept(converted) == {"0": (6, 3), "3": (5, 6)}
    zero(model[0], filters=[0])
    assert_like(model, converted, x)
    assert kept(converted) == {"0": (5, 3), "3": (5, 5)}


def test_copies_and_pickles() -> None:
    model, _ = _masked()
    converted = convert(model)
    x = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        y = converted(x)
        buffer = io.BytesIO()
        torch.save(converted, buffer)
        buffer.seek(0)
        for twin in (copy.deepcopy(converted), torch.load(buffer, weights_only=False)):
            torch.testing.assert_close(twin(x), y)
            assert kept(twin) == kept(converted)


def test_not_a_number_and_the_way_out() -> None:
    model = randomise(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)))
    zero(model[1], channels=[2])
    with torch.no_grad():
        model[0].bias[2] = torch.nan  # times a weight of zero
        x = torch.randn(1, 3, 4, 4)
        assert model(x).isnan().all()
        assert convert(model)(x).isfinite().all()  # as the docstring says
        whole = convert(model, drop_zero_channels=False)
        assert whole(x).isnan().all()
    assert kept(whole) == {"0": (4, 3), "1": (2, 4)}


def test_an_image_without_a_batch_is_served_whole() -> None:
    model = randomise(nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.Flatten(1)))
    zero(model[0], filters=[1, 2])
    converted = convert(model)
    assert_like(model, converted, torch.randn(2, 3, 8, 8))
    assert kept(converted)["2"] == (4, 4)
    assert_like(model, converted, torch.randn(3, 8, 8))
    assert kept(converted)["2"] == (4, 6)


def test_gradients_and_narrow_types() -> None:
    model = randomise(pruned.classifier())
    zero(model[0], filters=[1, 2, 5])
    zero(model[3], filters=[0, 4], channels=[3])
    converted = convert(model)
    x = torch.randn(2, 3, 8, 8)
    ours, theirs = (x.clone().requires_grad_() for _ in range(2))
    converted(ours).square().sum().backward()
    model(theirs).square().sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)
    with torch.no_grad():
        exact = copy.deepcopy(model).double()(x.double())
        error = (copy.deepcopy(model).bfloat16()(x.bfloat16()).double() - exact).abs().max()
        assert (convert(model, dtype=torch.bfloat16)(x).double() - exact).abs().max() <= 2 * error

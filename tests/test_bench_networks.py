"""The networks of the benchmark suites: sizes as published, weights that matter, the same outputs after `convert`."""

import pytest
import torch
from torch.utils import _pytree as pytree

import fastconv
from fastconv.bench.network_runner import count_work
from fastconv.bench.networks import NETWORKS, find_network
from fastconv.bench.networks.efficientnet_lite import untrained_efficientnet_lite0
from fastconv.bench.networks.ssd import SSD300
from fastconv.bench.networks.unet import UNet


def image(size: int, batch: int = 1) -> torch.Tensor:
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("make", "parameters"),
    [
        (untrained_efficientnet_lite0, 4_652_008),  # the model cards of timm (tf_efficientnet_lite0) and torchvision
        (NETWORKS["mobilenet"].make, 4_231_976),
        (NETWORKS["mobilenet_v2"].make, 3_504_872),
        (NETWORKS["resnet18"].make, 11_689_512),
        (NETWORKS["resnet50"].make, 25_557_032),
        (NETWORKS["densenet121"].make, 7_978_856),
        (NETWORKS["darknet53"].make, 41_609_928),  # 41.6 M
        (NETWORKS["vgg16_bn"].make, 138_365_992),
        (NETWORKS["ssd300_vgg"].make, 26_285_486),  # 21 classes: 26.3 M
        (lambda: SSD300(classes=91), 35_641_826),
        (lambda: UNet((64, 128, 256, 512, 1024)), 34_527_041),  # five resolutions: 34.53 M
    ],
)
def test_parameters_are_as_published(make, parameters):
    with torch.device("meta"):
        assert sum(parameter.numel() for parameter in make().parameters()) == parameters


@pytest.mark.parametrize(
    ("name", "gmacs"),
    [("resnet18", 1.81), ("resnet50", 4.09), ("mobilenet", 0.57), ("mobilenet_v2", 0.30), ("densenet121", 2.83)],
)
def test_work_of_networks_is_the_published(name, gmacs):
    flops, traffic = count_work(find_network(name).build(), image(224))
    assert flops / 2e9 == pytest.approx(gmacs, abs=0.02)
    assert traffic > 0


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_networks_are_reproducible_and_convert(name):
    network = find_network(name)
    x = image(network.small_size)
    first, second = network.build(), network.build()
    converted = fastconv.convert(first, (x,))
    assert not first.training
    with torch.inference_mode():
        outputs = pytree.tree_leaves(first(x))
        for y, same, ours in zip(outputs, pytree.tree_leaves(second(x)), pytree.tree_leaves(converted(x)), strict=True):
            assert y.isfinite().all() and torch.equal(y, same)
            torch.testing.assert_close(ours, y, rtol=0, atol=2e-5 * float(y.abs().max()))


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_first_layer_matters_to_the_outputs(name):
    """A network whose weights die out would hide a wrong layer behind the biases of the last ones."""
    network = find_network(name)
    model, x = network.build(), image(network.small_size)
    with torch.inference_mode():
        before = pytree.tree_leaves(model(x))
        first = next(module for module in model.modules() if isinstance(module, torch.nn.Conv2d))
        first.weight.mul_(1.05)
        after = pytree.tree_leaves(model(x))
    for y, changed in zip(before, after, strict=True):
        assert float((changed - y).abs().max()) > 1e-3 * float(y.abs().max())


def test_ssd_has_the_papers_boxes():
    with torch.device("meta"):
        offsets, scores = SSD300()(torch.empty(2, 3, 300, 300))
    assert offsets.shape == (2, 8732, 4) and scores.shape == (2, 8732, 21)


def test_unet_keeps_the_resolution():
    with torch.device("meta"):
        assert UNet((8, 16, 32), classes=5)(torch.empty(1, 3, 64, 32)).shape == (1, 5, 64, 32)


def test_unknown_network_lists_the_known():
    with pytest.raises(ValueError, match="expected one of efficientnet_lite0, mobilenet"):
        find_network("vgg")

"""Networks of the benchmark suites: plain torch modules, written here so that no model zoo has to be installed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from fastconv.bench.networks.darknet import darknet53
from fastconv.bench.networks.densenet import densenet121
from fastconv.bench.networks.efficientnet_lite import efficientnet_lite0
from fastconv.bench.networks.mobilenet import mobilenet, mobilenet_v2
from fastconv.bench.networks.randomise import keep_variances, randomize_batch_norms
from fastconv.bench.networks.resnet import resnet18, resnet50
from fastconv.bench.networks.ssd import ssd300_vgg
from fastconv.bench.networks.unet import unet
from fastconv.bench.networks.vgg import vgg16_bn


@dataclass(frozen=True)
class Network:
    """A network by name; `build` returns it in eval mode with reproducible weights.

    `small_size` is an image size that it also takes, for tests.
    """

    name: str
    title: str
    make: Callable[[], nn.Module]
    image_size: int = 224
    small_size: int = 64

    def build(self) -> nn.Module:
        """The module, seeded, in eval mode; weights that ship with a package are kept as they are."""
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = self.make()
            if not getattr(model, "has_trained_weights", False):
                keep_variances(model)
                randomize_batch_norms(model)
        return model.eval().requires_grad_(False)


NETWORKS = {
    network.name: network
    for network in (
        Network("efficientnet_lite0", "EfficientNet-Lite0", efficientnet_lite0),
        Network("mobilenet", "MobileNet", mobilenet),
        Network("mobilenet_v2", "MobileNetV2", mobilenet_v2),
        Network("resnet18", "ResNet-18", resnet18),
        Network("resnet50", "ResNet-50", resnet50),
        Network("densenet121", "DenseNet-121", densenet121),
        Network("darknet53", "Darknet-53", darknet53),
        Network("vgg16_bn", "VGG-16-BN", vgg16_bn),
        Network("ssd300_vgg", "SSD300-VGG", ssd300_vgg, image_size=300, small_size=272),
        Network("unet", "U-Net", unet, image_size=256),
    )
}


def find_network(name: str) -> Network:
    """The network of that name, or a ValueError that lists them."""
    if name not in NETWORKS:
        raise ValueError(f"network: expected one of {', '.join(NETWORKS)}, but got {name!r}")
    return NETWORKS[name]

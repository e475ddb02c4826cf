"""Networks of MONAI (Apache-2.0) and efficientnet-lite-pytorch (Apache-2.0)."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fastconv.bench.zoo.network import Size, ZooNetwork


def _build(module: str, name: str, **arguments: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        model: nn.Module = getattr(importlib.import_module(module), name)(**arguments)
        return model

    return make


def _monai(module: str, name: str, **arguments: Any) -> Callable[[], nn.Module]:
    return _build(f"monai.networks.nets.{module}", name, spatial_dims=2, **arguments)


def _image_and_time(batch: int, size: Size, generator: torch.Generator) -> tuple[Tensor, ...]:
    return (torch.randn(batch, 3, *size, generator=generator), torch.randint(1000, (batch,), generator=generator))


def _efficientnet_lite() -> nn.Module:
    network: Any = importlib.import_module("efficientnet_lite_pytorch")
    model: nn.Module = network.EfficientNet.from_name("efficientnet-lite0", image_size=None)
    return model


NETWORKS = (
    ZooNetwork("attention_unet", "monai", "U-Net whose skips are gated",
               _monai("attentionunet", "AttentionUnet", in_channels=3, out_channels=4, channels=(8, 16, 32),
                      strides=(2, 2)), (256, 256), (64, 64)),
    ZooNetwork("segresnet", "monai", "residual U-Net, group norm, upsampling of its own",
               _monai("segresnet", "SegResNet", in_channels=3, out_channels=4, init_filters=8), (256, 256), (64, 64)),
    ZooNetwork("diffusion_unet", "monai", "two inputs: image and time step; SiLU, group norm, attention",
               _monai("diffusion_model_unet", "DiffusionModelUNet", in_channels=3, out_channels=3,
                      channels=(16, 32), attention_levels=(False, True), num_res_blocks=1, num_head_channels=16,
                      norm_num_groups=8), (128, 128), (32, 32), inputs=_image_and_time),
    ZooNetwork("efficientnet_lite0", "efficientnet_lite_pytorch", "Conv2d subclass: TensorFlow's padding, ReLU6",
               _efficientnet_lite, (224, 224), (64, 64)),
)  # fmt: skip

"""Networks of pytorchcv (O. Semery, MIT): some hundred families, written with plain torch.

Its `model_provider` imports torchvision for a few of them; the families' own modules do not.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from torch import nn

from fastconv.bench.zoo.network import Size, ZooNetwork


def _build(family: str, name: str, **arguments: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        model: nn.Module = getattr(importlib.import_module(f"pytorchcv.models.{family}"), name)(**arguments)
        return model

    return make


def _classifier(name: str, family: str, traits: str) -> ZooNetwork:
    """Most end in a pooling window of 7x7: 224 pixels and no other size."""
    return ZooNetwork(name, "pytorchcv", traits, _build(family, name), fixed=True)


def _cifar(name: str, family: str, traits: str) -> ZooNetwork:
    return ZooNetwork(name, "pytorchcv", traits, _build(family, name), (32, 32), (32, 32), fixed=True)


def _dense(
    name: str, family: str, traits: str, *, small: Size = (64, 64), size: Size = (256, 256), **arguments: Any
) -> ZooNetwork:
    """Predicts for each pixel, box or key point."""
    return ZooNetwork(name, "pytorchcv", traits, _build(family, name, **arguments), size, small)


def _of_one_size(name: str, family: str, traits: str, size: Size) -> ZooNetwork:
    """Keeps the size that its upsampling goes to."""
    return ZooNetwork(name, "pytorchcv", traits, _build(family, name, in_size=size), size, size, fixed=True)


NETWORKS = (
    # Classifiers
    _classifier("resnet10", "resnet", "residual, ReLU in place"),
    _classifier("preresnet10", "preresnet", "pre-activation: BatchNorm and ReLU before the convolution"),
    _classifier("seresnet10", "seresnet", "residual, squeeze-excite"),
    _classifier("cbam_resnet18", "cbamresnet", "attention over channels and over pixels, torch.max along channels"),
    _classifier("diaresnet10", "diaresnet", "one LSTM cell called by every unit"),
    _classifier("sharesnet18", "sharesnet", "convolutions shared between units under different BatchNorms"),
    _classifier("regnety002", "regnet", "grouped, squeeze-excite"),
    _classifier("octresnet10_ad2", "octresnet", "two resolutions in every layer, nearest upsampling, pooling"),
    _classifier("diracnet18v2", "diracnetv2", "no skips, scaled convolutions, no BatchNorm"),
    _classifier("darknet_tiny", "darknet", "leaky ReLU, max pooling"),
    _classifier("bninception", "bninception", "inception: branches, torch.cat, average pooling"),
    _classifier("hardnet39ds", "hardnet", "harmonic dense connections, many torch.cat"),
    _classifier("squeezenet_v1_0", "squeezenet", "fire modules, torch.cat, no BatchNorm, ceil_mode"),
    _classifier("sqnxt23_w1", "squeezenext", "1x3 and 3x1 convolutions"),
    _classifier("mobilenetv2_wd4", "mobilenetv2", "inverted residual, ReLU6"),
    _classifier("mobilenetv3_small_w7d20", "mobilenetv3", "squeeze-excite, hard-swish written as x * relu6(x + 3) / 6"),
    _classifier("mnasnet_small", "mnasnet", "inverted residual, squeeze-excite, 5x5 depthwise"),
    _classifier("mixnet_s", "mixnet", "depthwise filters of several sizes in one layer: split and torch.cat"),
    _classifier("ghostnet", "ghostnet", "half of every layer made by cheap depthwise filters, torch.cat"),
    _classifier("shufflenet_g3_wd4", "shufflenet", "grouped 1x1, channel shuffle by view and transpose"),
    _classifier("shufflenetv2_wd2", "shufflenetv2", "channel split and shuffle"),
    _classifier("menet108_8x1_g3", "menet", "channel shuffle, merging and evolution"),
    _classifier("igcv3_wd4", "igcv3", "grouped inverted residual, channel shuffle"),
    _classifier("dicenet_wd5", "dicenet", "filters along height and width by permuting dimensions"),
    _classifier("resneta10", "resneta", "average pooling in the shortcuts"),
    _cifar("densenet40_k12_cifar10", "densenet_cifar", "dense, pre-activation"),
    _cifar("nin_cifar10", "nin_cifar", "network in network, biases, dropout"),
    _cifar(
        "resdropresnet20_cifar10", "resdropresnet_cifar", "stochastic depth: branches on random numbers in training"
    ),
    _cifar("xdensenet40_2_k24_bc_cifar10", "xdensenet_cifar", "masked filters: weights computed in the forward"),
    _cifar("fractalnet_cifar10", "fractalnet_cifar", "columns of different depth joined by stack and mean, drop-path"),
    # Dense prediction
    _dense("unet_cityscapes", "unet", "U-Net: bilinear upsampling, torch.cat of skips"),
    _dense("linknet_cityscapes", "linknet", "transposed convolutions, skips added"),
    _dense(
        "enet_cityscapes", "enet", "max unpooling by indices, PReLU, asymmetric and dilated filters", small=(64, 96)
    ),
    _dense("segnet_cityscapes", "segnet", "encoder and decoder joined by max-pooling indices"),
    _dense("erfnet_cityscapes", "erfnet", "dilated 3x1 and 1x3 factors, torch.cat of pooling and convolution"),
    _dense("cgnet_cityscapes", "cgnet", "local and dilated context side by side, PReLU after torch.cat"),
    _of_one_size("sinet_cityscapes", "sinet", "channel shuffle, softmax and max in the decoder", (128, 128)),
    _dense("ctxnet_cityscapes", "contextnet", "two resolutions of the input, upsampling by factors of the size"),
    _of_one_size("deeplabv3_resnetd50b_voc", "deeplabv3", "dilated, atrous pyramid, auxiliary head", (64, 64)),
    _classifier("hrnet_w18_small_v1", "hrnet", "four resolutions at once, nearest upsampling, sums"),
    _dense("lffd20x5s320v2_widerface", "lffd", "single-shot face detector: heads on five scales", small=(128, 128)),
    _dense("centernet_resnet18_voc", "centernet", "transposed convolutions, several heads", return_heatmap=True),
    _dense("lwopenpose2d_mobilenet_cmupan_coco", "lwopenpose_cmupan", "refinement stages, ELU, outputs sliced"),
    _dense("simplepose_resnet18_coco", "simplepose_coco", "transposed convolutions, key points by argmax and gather"),
)

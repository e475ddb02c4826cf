"""Networks of transformers (Hugging Face, Apache-2.0): the authors' modules, built small from their configurations.

Nothing is downloaded: weights are random. Heads have fifty classes, since the error of two numbers is a matter of luck.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from torch import nn

from fastconv.bench.zoo.network import Size, ZooNetwork


def _build(config: str, model: str, **arguments: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        library: Any = importlib.import_module("transformers")
        built: nn.Module = getattr(library, model)(getattr(library, config)(**arguments))
        return built

    return make


def _backbone(**arguments: Any) -> Any:
    """A small ResNet's configuration, for the detectors that take one."""
    library: Any = importlib.import_module("transformers")
    widths = {"embedding_size": 16, "hidden_sizes": [16, 32, 32, 64], "depths": [1, 1, 1, 1]}
    return library.ResNetConfig(**widths, layer_type="basic", **arguments)


def _rt_detr() -> nn.Module:
    library: Any = importlib.import_module("transformers")
    backbone = library.RTDetrResNetConfig(
        embedding_size=16,
        hidden_sizes=[16, 32, 32, 64],
        depths=[1, 1, 1, 1],
        out_features=["stage2", "stage3", "stage4"],
    )
    config = library.RTDetrConfig(
        backbone_config=backbone, encoder_in_channels=[32, 32, 64], encoder_hidden_dim=32, d_model=32,
        encoder_ffn_dim=32, decoder_ffn_dim=32, num_queries=20, decoder_layers=1, decoder_in_channels=[32, 32, 32],
        encoder_attention_heads=2, decoder_attention_heads=2, num_denoising=0, num_labels=50,
    )  # fmt: skip
    model: nn.Module = library.RTDetrForObjectDetection(config)
    return model


def _detr() -> nn.Module:
    library: Any = importlib.import_module("transformers")
    config = library.DetrConfig(
        backbone_config=_backbone(out_features=["stage1", "stage2", "stage3", "stage4"]), use_timm_backbone=False,
        backbone_kwargs=None, d_model=64, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=32, decoder_ffn_dim=32,
        num_queries=10, num_labels=50,
    )  # fmt: skip
    model: nn.Module = library.DetrForSegmentation(config)
    return model


def _upernet() -> nn.Module:
    library: Any = importlib.import_module("transformers")
    backbone = library.ConvNextConfig(
        hidden_sizes=[16, 16, 32, 32], depths=[1, 1, 1, 1], out_features=["stage1", "stage2", "stage3", "stage4"]
    )
    config = library.UperNetConfig(
        backbone_config=backbone, hidden_size=32, auxiliary_in_channels=32, auxiliary_channels=16, pool_scales=[1, 2],
        num_labels=50,
    )  # fmt: skip
    model: nn.Module = library.UperNetForSemanticSegmentation(config)
    return model


def _of(name: str, config: str, model: str, traits: str, size: Size = (224, 224), small: Size = (64, 64), *,
        fixed: bool = False, **arguments: Any) -> ZooNetwork:  # fmt: skip
    make = _build(config, model, num_labels=50, **arguments)
    return ZooNetwork(name, "transformers", traits, make, size, small, fixed)


_FOUR: dict[str, Any] = {"hidden_sizes": [16, 32, 32, 64], "depths": [1, 1, 1, 1]}
NETWORKS = (
    _of("bit", "BitConfig", "BitForImageClassification", "Conv2d subclass with standardised weights and padding "
        "computed from the image, group norm, pre-activation", embedding_size=16, hidden_sizes=[32, 64], depths=[1, 2],
        num_groups=4, global_padding="SAME"),
    _of("mobilenet_v1", "MobileNetV1Config", "MobileNetV1ForImageClassification", "asymmetric padding computed from "
        "the image, depthwise", depth_multiplier=0.25),
    _of("mobilenet_v2_deeplab", "MobileNetV2Config", "MobileNetV2ForSemanticSegmentation", "asymmetric padding, "
        "inverted residual, dilated, DeepLabV3+ head", depth_multiplier=0.25),
    _of("efficientnet", "EfficientNetConfig", "EfficientNetForImageClassification", "asymmetric ZeroPad2d, "
        "squeeze-excite, SiLU", width_coefficient=0.25, depth_coefficient=0.5, hidden_dim=320),
    _of("resnet_basic", "ResNetConfig", "ResNetModel", "named outputs, hidden states collected by hooks",
        embedding_size=16, hidden_sizes=[16, 32], depths=[1, 1], layer_type="basic", output_hidden_states=True),
    _of("convnext", "ConvNextConfig", "ConvNextForImageClassification", "7x7 depthwise, channels-last LayerNorm and "
        "linear layers", **_FOUR),
    _of("convnextv2", "ConvNextV2Config", "ConvNextV2ForImageClassification", "global response norm", **_FOUR),
    _of("poolformer", "PoolFormerConfig", "PoolFormerForImageClassification", "average pooling without the padding in "
        "its count, group norm, scaled branches", **_FOUR),
    _of("levit", "LevitConfig", "LevitForImageClassificationWithTeacher", "convolutional stem, attention, two heads, "
        "BatchNorm1d", (64, 64), fixed=True, image_size=64, hidden_sizes=[32, 48, 64], num_attention_heads=[2, 2, 2],
        depths=[1, 1, 1], key_dim=[8, 8, 8]),
    _of("mobilevit", "MobileViTConfig", "MobileViTForSemanticSegmentation", "inverted residual, attention over "
        "unfolded patches, dilated pyramid", hidden_sizes=[24, 32, 40], neck_hidden_sizes=[8, 16, 24, 32, 40, 48, 64]),
    _of("mobilevitv2", "MobileViTV2Config", "MobileViTV2ForImageClassification", "unfold and fold, separable attention",
        width_multiplier=0.25),
    _of("segformer", "SegformerConfig", "SegformerForSemanticSegmentation", "attention over strided convolutions, "
        "all-linear decoder, hooks registered by the forward", depths=[1, 1, 1, 1], hidden_sizes=[16, 16, 32, 32],
        num_attention_heads=[1, 1, 2, 2], decoder_hidden_size=32),
    _of("swiftformer", "SwiftFormerConfig", "SwiftFormerForImageClassification", "additive attention, BatchNorm "
        "without a convolution before it", depths=[1, 1, 1, 1], embed_dims=[16, 16, 32, 32]),
    _of("focalnet", "FocalNetConfig", "FocalNetForImageClassification", "gated depthwise context of several sizes",
        (64, 64), fixed=True, image_size=64, embed_dim=16, depths=[1, 1, 1, 1]),
    _of("hgnet_v2", "HGNetV2Config", "HGNetV2ForImageClassification", "learnable affine after every activation, "
        "asymmetric padding, torch.cat"),
    _of("textnet", "TextNetConfig", "TextNetForImageClassification", "parallel 3x3, 3x1, 1x3 and identity summed, each "
        "with its BatchNorm"),
    ZooNetwork("upernet", "transformers", "feature pyramid: multi-scale upsampling, pyramid pooling", _upernet,
               (224, 224), (64, 64)),
    ZooNetwork("rt_detr", "transformers", "frozen BatchNorm of its own, feature pyramid, deformable attention, top-k",
               _rt_detr, (224, 224), (64, 64)),
    ZooNetwork("detr", "transformers", "transformer on a residual network, mask head of group norms", _detr,
               (224, 224), (64, 64)),
    _of("superpoint", "SuperPointConfig", "SuperPointForKeypointDetection", "control flow on data: as many key points "
        "as there are", encoder_hidden_sizes=[16, 16, 32, 32], decoder_hidden_size=32, keypoint_decoder_dim=65,
        descriptor_decoder_dim=32),
    _of("pp_lcnet", "PPLCNetConfig", "PPLCNetForImageClassification", "depthwise with hard-swish, squeeze-excite"),
    _of("swin2sr", "Swin2SRConfig", "Swin2SRForImageSuperResolution", "windows of attention, reflected border, pixel "
        "shuffle", (32, 32), (32, 32), image_size=32, embed_dim=24, depths=[1, 1], num_heads=[2, 2], window_size=4),
)  # fmt: skip

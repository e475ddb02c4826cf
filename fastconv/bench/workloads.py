"""The layers and operations that the benchmark suites measure."""

from __future__ import annotations

from dataclasses import replace

from fastconv.bench.operations import Workload
from fastconv.bench.problem import GemmProblem, WindowProblem


def _conv(
    channels: int, filters: int, size: int, kernel: int, stride: int = 1, groups: int = 1, batch: int = 1
) -> WindowProblem:
    """A convolution with 'same'-like padding on a square image."""
    return WindowProblem(
        batch=batch,
        in_channels=channels,
        height=size,
        width=size,
        out_channels=filters,
        kernel=(kernel, kernel),
        stride=(stride, stride),
        padding=(kernel // 2, kernel // 2),
        groups=groups,
    )


def resnet50_layers(batch: int = 1) -> list[Workload]:
    """The twelve convolutions of ResNet-50's repeated blocks: reduce, 3x3 and expand at each of four resolutions."""
    layers = []
    for stage, (size, width) in enumerate(((56, 64), (28, 128), (14, 256), (7, 512)), start=2):
        for part, problem in (
            ("reduce 1x1", _conv(4 * width, width, size, 1, batch=batch)),
            ("3x3", _conv(width, width, size, 3, batch=batch)),
            ("expand 1x1", _conv(width, 4 * width, size, 1, batch=batch)),
        ):
            layers.append(Workload("conv2d", problem, act="relu", group="ResNet-50", name=f"conv{stage} {part}"))
    return layers


def resnet50_transitions(batch: int = 1) -> list[Workload]:
    """ResNet-50's other shapes: the stem, and where the resolution halves."""
    layers = [
        ("stem 7x7/2", _conv(3, 64, 224, 7, 2, batch=batch)),
        ("conv2 enter 1x1", _conv(64, 64, 56, 1, batch=batch)),
    ]
    for stage, (size, width) in enumerate(((56, 128), (28, 256), (14, 512)), start=3):
        layers.append((f"conv{stage} enter 1x1", _conv(2 * width, width, size, 1, batch=batch)))
        layers.append((f"conv{stage} 3x3/2", _conv(width, width, size, 3, 2, batch=batch)))
        layers.append((f"conv{stage} shortcut 1x1/2", _conv(2 * width, 4 * width, size, 1, 2, batch=batch)))
    return [
        Workload("conv2d", problem, act="relu", group="ResNet-50 transitions", name=name) for name, problem in layers
    ]


def resnext50_layers(batch: int = 1) -> list[Workload]:
    """The grouped 3x3 convolutions of ResNeXt-50 32x4d (Xie et al. 2016, arXiv 1611.05431)."""
    shapes = ((128, 56, 1), (256, 56, 2), (256, 28, 1), (512, 28, 2), (512, 14, 1), (1024, 14, 2), (1024, 7, 1))
    return [
        Workload(
            "conv2d",
            _conv(channels, channels, size, 3, stride, 32, batch),
            act="relu",
            group="ResNeXt-50",
            name=f"3x3{'/2' if stride == 2 else ''} {channels}ch {size}px, 32 groups",
        )
        for channels, size, stride in shapes
    ]


# (channels in, channels out, input size, stride) of MobileNet's distinct depthwise-separable blocks
_MOBILENET_BLOCKS = (
    (32, 64, 112, 1),
    (64, 128, 112, 2),
    (128, 128, 56, 1),
    (128, 256, 56, 2),
    (256, 256, 28, 1),
    (256, 512, 28, 2),
    (512, 512, 14, 1),
    (512, 1024, 14, 2),
    (1024, 1024, 7, 1),
)


def mobilenet_layers(batch: int = 1) -> list[Workload]:
    """MobileNet's distinct layers."""
    group = "MobileNet"
    layers = [Workload("conv2d", _conv(3, 32, 224, 3, 2, batch=batch), act="relu", group=group, name="stem 3x3/2")]
    for channels, filters, size, stride in _MOBILENET_BLOCKS:
        depthwise = _conv(channels, channels, size, 3, stride, channels, batch)
        pointwise = _conv(channels, filters, size // stride, 1, batch=batch)
        suffix = f"/{stride}" if stride > 1 else ""
        for name, problem in (
            (f"dw 3x3{suffix} {channels}", depthwise),
            (f"pw {channels}-{filters}", pointwise),
        ):
            layers.append(Workload("conv2d", problem, act="relu", group=group, name=name))
    return layers


def depthwise_layers(batch: int = 1) -> list[Workload]:
    """Depthwise layers beside MobileNet's: MobileNetV2's and EfficientNet-Lite's widths, 5x5 and dilated ones."""
    three = ((96, 112, 3, 2), (144, 56, 3, 1), (192, 28, 3, 1), (384, 14, 3, 1), (960, 7, 3, 1))
    five = ((144, 56, 5, 2), (240, 28, 5, 1), (672, 14, 5, 1), (1152, 7, 5, 1))
    return [
        Workload(
            "conv2d",
            _conv(channels, channels, size, kernel, stride, channels, batch),
            act="relu6",
            group=f"depthwise {kernel}x{kernel}",
            name=f"{channels}ch {size}px" + (f" /{stride}" if stride > 1 else ""),
        )
        for channels, size, kernel, stride in (*three, *five)
    ]


def pooling(batch: int = 1) -> list[Workload]:
    """Max and average pooling as networks use them."""
    shapes = (
        ("max_pool2d", 64, 112, 3, 2, 1),
        ("max_pool2d", 64, 224, 2, 2, 0),
        ("max_pool2d", 256, 28, 3, 2, 1),
        ("max_pool2d", 512, 14, 3, 1, 1),
        ("avg_pool2d", 128, 56, 2, 2, 0),
        ("avg_pool2d", 1280, 7, 7, 1, 0),
    )
    return [
        Workload(
            op,
            WindowProblem(
                batch, channels, size, size, channels, (kernel, kernel), (stride, stride), (pad, pad), pooling=True
            ),
            group="pooling",
            name=f"{op.split('_')[0]} {kernel}x{kernel}/{stride} {channels}ch {size}px",
        )
        for op, channels, size, kernel, stride, pad in shapes
    ]


def upsample_convolutions(batch: int = 1) -> list[Workload]:
    """Decoder layers: nearest upsampling by two, then a 3x3 convolution."""
    shapes = ((512, 256, 14), (256, 128, 28), (128, 64, 56), (64, 32, 112), (32, 16, 112))
    return [
        Workload(
            "upsample_conv2d",
            WindowProblem(batch, channels, size, size, filters, (3, 3), padding=(1, 1), upsample=(2, 2)),
            act="relu",
            group="upsample + conv",
            name=f"{channels}-{filters} {size}px to {2 * size}px",
        )
        for channels, filters, size in shapes
    ]


def matrix_products() -> list[Workload]:
    """Matrix products: square, a fully connected layer at batch 1, an attention-like batch, thin ones."""
    problems = (
        ("square 512", GemmProblem(512, 512, 512)),
        ("square 1024", GemmProblem(1024, 1024, 1024)),
        ("classifier, batch 1", GemmProblem(1, 1280, 1000)),
        ("classifier, batch 8", GemmProblem(8, 2048, 1000)),
        ("tall 3136", GemmProblem(3136, 64, 256)),
        ("batched 12", GemmProblem(197, 64, 197, batch=12)),
    )
    return [Workload("gemm", problem, group="gemm", name=name) for name, problem in problems]


def transposed_convolutions(batch: int = 1) -> list[Workload]:
    """Learned upsampling: the 4x4/2 and 2x2/2 layers of decoders."""
    shapes = ((256, 128, 14, 4, 1), (128, 64, 28, 4, 1), (256, 128, 28, 2, 0))
    return [
        Workload(
            "conv_transpose2d",
            WindowProblem(batch, channels, size, size, filters, (kernel, kernel), (2, 2), (pad, pad), transposed=True),
            group="transposed conv",
            name=f"{channels}-{filters} {kernel}x{kernel}/2 {size}px",
        )
        for channels, filters, size, kernel, pad in shapes
    ]


def gradients(batch: int = 8) -> list[Workload]:
    """The two passes of training, on a 3x3, a 1x1 and a depthwise layer."""
    shapes = (
        ("3x3 64ch 56px", _conv(64, 64, 56, 3, batch=batch)),
        ("1x1 256-64 56px", _conv(256, 64, 56, 1, batch=batch)),
        ("dw 3x3 128ch 56px", _conv(128, 128, 56, 3, groups=128, batch=batch)),
    )
    passes = (("conv2d_input_grad", "input gradient"), ("conv2d_weight_grad", "weight gradient"))
    return [Workload(op, problem, group=group, name=name) for op, group in passes for name, problem in shapes]


def layer_suite(quick: bool = False) -> list[Workload]:
    """`--suite layers`: conv + bias + ReLU, batch 1."""
    if quick:
        return [*resnet50_layers()[1::6], *mobilenet_layers()[7:9], *resnext50_layers()[-1:]]
    return [*resnet50_layers(), *resnet50_transitions(), *resnext50_layers(), *mobilenet_layers()]


def operation_suite(quick: bool = False) -> list[Workload]:
    """`--suite ops`: what surrounds the convolutions of the layer suite."""
    groups = (depthwise_layers(), pooling(), upsample_convolutions(), transposed_convolutions(), matrix_products())
    chosen = [workload for group in groups for workload in (group[-1:] if quick else group)]
    return chosen if quick else [*chosen, *gradients()]


def gpu_suite(quick: bool = False) -> list[Workload]:
    """`--suite gpu`: bfloat16 at batch 32, and matrix products that fill a large GPU."""
    batch = 2 if quick else 32
    groups = (
        resnet50_layers(batch), resnet50_transitions(batch), mobilenet_layers(batch)[1::2], depthwise_layers(batch),
        pooling(batch), upsample_convolutions(batch), transposed_convolutions(batch), gradients(batch),
    )  # fmt: skip
    squares = (512,) if quick else (1024, 4096, 8192)
    products = [Workload("gemm", GemmProblem(n, n, n), group="gemm", name=f"square {n}") for n in squares]
    chosen = [workload for group in groups for workload in (group[-1:] if quick else group)] + products
    return [replace(workload, dtype="bfloat16") for workload in chosen]

"""Random weights and statistics for networks without trained ones: identity statistics would hide a wrong fold."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    """Random biases, slopes and BatchNorm statistics, far from the identity; sets evaluation mode.

    For shallow networks: nothing keeps the values of a deep one from growing or dying out. `calibrate` does.
    """
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            if module.running_mean is not None and module.running_var is not None:
                _uniform(module.running_mean, -0.5, 0.5, generator)
                _uniform(module.running_var, 0.3, 2.0, generator)
            if module.weight is not None:
                _uniform(module.weight, -1.5, 1.5, generator)
                _uniform(module.bias, -0.5, 0.5, generator)
        elif isinstance(module, nn.PReLU):
            _uniform(module.weight, -0.5, 0.9, generator)
        elif isinstance(bias := getattr(module, "bias", None), Tensor):
            _uniform(bias, -0.3, 0.3, generator)
    return model.eval()


def randomize_batch_norms(model: nn.Module) -> None:
    """Gives every BatchNorm statistics and weights that a fold has to get right, near enough to 1 to stay stable."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.8, 1.2)
            nn.init.uniform_(module.bias, -0.1, 0.1)
            if module.running_mean is not None and module.running_var is not None:
                module.running_mean.uniform_(-0.1, 0.1)
                module.running_var.uniform_(0.8, 1.2)


def keep_variances(model: nn.Module) -> None:
    """Weights of convolutions and linear layers that keep the variance of what passes through a ReLU: torch's own
    third of it would let the biases of the last layers decide a deep network's outputs, whatever the first compute."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")


def calibrate(model: nn.Module, args: tuple[Any, ...], seed: int = 0) -> nn.Module:
    """Random weights under which every layer of a deep network matters; sets evaluation mode.

    Weights of convolutions and linear layers keep the variance of what passes through them. Parameters that were all
    equal (biases of 0, scales of 1 or 1e-6, behind which a whole branch could be wrong unseen) become random. Each
    BatchNorm gets the statistics that it meets in one run on `args`, up to half a deviation off in the mean and a
    factor of two in the variance, and scales of either sign: no two channels are alike and nothing grows with depth.
    A deviation counts as no less than half the channels' root mean square, or a network whose last images are a pixel
    wide would magnify rounding errors from layer to layer.
    """
    generator = torch.Generator().manual_seed(seed)
    model.eval()
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is None or not parameter.is_floating_point() or not parameter.numel():
                continue
            if name == "weight" and isinstance(module, nn.Linear | nn.modules.conv._ConvNd):
                _keep_variance(module, parameter, generator)
            elif bool((parameter == parameter.flatten()[0]).all()):
                _spread(parameter, generator)
    with _statistics_taken_from_inputs(model, generator), torch.no_grad():
        model(*args)
    return model


def _uniform(tensor: Tensor, low: float, high: float, generator: torch.Generator) -> None:
    with torch.no_grad():
        tensor.copy_(torch.rand(tensor.shape, generator=generator) * (high - low) + low)


def _spread(parameter: Tensor, generator: torch.Generator) -> None:
    value = float(parameter.detach().flatten()[0])
    if value == 0:
        _uniform(parameter, -0.3, 0.3, generator)
    else:
        scale = value if abs(value) > 1e-2 else 1.0  # ConvNeXt starts its residual branches at 1e-6
        _uniform(parameter, 0.5 * scale, 1.5 * scale, generator)


def _keep_variance(module: Any, weight: Tensor, generator: torch.Generator) -> None:
    transposed = isinstance(module, nn.modules.conv._ConvTransposeNd)
    inputs = weight[:, 0].numel() / module.groups if transposed else weight[0].numel()
    with torch.no_grad():
        weight.copy_(torch.randn(weight.shape, generator=generator) * (1.5 / max(inputs, 1)) ** 0.5)


@contextmanager
def _statistics_taken_from_inputs(model: nn.Module, generator: torch.Generator) -> Iterator[None]:
    """While it lasts, a module with running statistics sets them from what it is called with. Frozen ones count too:
    libraries write such classes of their own, so they are known by their buffers."""

    def take(module: Any, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0].double()
        others = [dim for dim in range(x.dim()) if dim != 1]
        least = 0.5 * float(x.square().mean().sqrt()) + 1e-3
        mean, deviation = x.mean(others), x.std(others, correction=0).clamp(min=least)

        def between(low: float, high: float) -> Tensor:
            return torch.rand(mean.shape, generator=generator, dtype=torch.float64) * (high - low) + low

        module.running_mean.copy_(mean + deviation * between(-0.5, 0.5))
        module.running_var.copy_(deviation.square() * between(1.0, 2.0))
        if module.weight is not None:
            sign = torch.where(between(0, 1) < 0.25, -1.0, 1.0)
            module.weight.data.copy_(sign * between(0.5, 1.5))
            module.bias.data.copy_(between(-0.5, 0.5))

    norms = [m for m in model.modules() if isinstance(getattr(m, "running_mean", None), Tensor)]
    handles = [norm.register_forward_pre_hook(take) for norm in norms]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()

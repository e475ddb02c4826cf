"""BatchNorm by the statistics of the batches of several processes, on CPUs too."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.lazy import LazyModuleMixin

from fastconv.functional import dispatch
from fastconv.functional.norm import image_of, move_statistics
from fastconv.nn.norm import count_batch, normalise


class SyncBatchNorm(_BatchNorm):
    """BatchNorm whose mean and variance are those of all processes' batches together, of any sizes.

    Equivalent to ``torch.nn.SyncBatchNorm``, for processes that train on CPUs, over gloo: torch's own layer and
    DistributedDataParallel refuse CPU tensors there, so it cannot be a subclass, and `fastconv.replace` leaves torch's
    as it is. Every process has to take part in every forward and backward pass. Gradients can be taken once, not twice.

    Args:
        num_features, eps, momentum, affine, track_running_stats: as torch.nn.BatchNorm2d.
        process_group: the processes to share with; None for all.
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        process_group: Any = None,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device=device, dtype=dtype)
        self.process_group = process_group

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"expected at least 2D input (got {input.dim()}D input)")

    def forward(self, input: Tensor) -> Tensor:
        group = self.process_group
        together = self.training and dist.is_available() and dist.is_initialized() and dist.get_world_size(group) > 1
        if not together:
            return normalise(self, input, "identity", None)
        self._check_input_dim(input)
        y, mean, var, total = _Together.apply(image_of(input), self.weight, self.bias, self.eps, group)
        momentum = count_batch(self)  # behind what can fail: a batch that is refused is not counted
        if self.track_running_stats:
            move_statistics(self.running_mean, self.running_var, mean, var, int(total), momentum)
        return y.view(input.shape)

    @classmethod
    def convert_sync_batchnorm(cls, module: nn.Module, process_group: Any = None) -> nn.Module:
        """Makes every BatchNorm in `module` one of these, in place, and returns `module`.

        Parameters, buffers and hooks stay the same objects. A subclass with a forward of its own is left alone.
        """
        for child in module.modules():
            if isinstance(child, _BatchNorm) and _is_stock(child):
                child.__class__ = cls
                child.process_group = process_group
        return module


def _is_stock(norm: _BatchNorm) -> bool:
    forward: Any = type(norm).forward
    known = forward in (_BatchNorm.forward, nn.SyncBatchNorm.forward) or forward.__module__.startswith("fastconv.nn.")
    return known and not isinstance(norm, LazyModuleMixin) and "forward" not in vars(norm)


class _Together(torch.autograd.Function):
    """(y, mean, var, count), the last three over all processes.

    With s1 = sum dy and s2 = sum dy * normal over all processes, normal = (x - mean) / sqrt(var + eps):
    dx = weight / sqrt(var + eps) * (dy - (s1 + normal * s2) / count); the weight's and bias's gradients stay those of
    this process's batch, as torch leaves them: DistributedDataParallel averages them.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, group: Any) -> Any:
        backend = dispatch.forced_backend(x)
        run = dispatch.operators_of(backend)
        channels = x.shape[1]
        exact = torch.promote_types(x.dtype, torch.float32)
        if x.numel():
            mean, var = dispatch.call(run.batch_norm_stats, x, backend)
        else:
            mean = var = x.new_zeros(channels, dtype=exact)
        own = torch.cat([mean, var, x.new_full((1,), x.numel() // channels, dtype=exact)])
        every = own.new_empty(dist.get_world_size(group), len(own))
        dist.all_gather(list(every.unbind()), own, group)
        means, variances, counts = every[:, :channels], every[:, channels:-1], every[:, -1:]
        total = counts.sum()
        if int(total) == 1:  # known to every process, so that all of them stop here
            raise ValueError(f"Expected more than 1 value per channel when training, got input size {x.shape}")
        mean = (means * counts).sum(0) / total
        # Deviations from the common mean, not a mean of squares: a large mean costs no digits.
        var = ((variances + (means - mean).square()) * counts).sum(0) / total
        rest = (None, "identity", 0.0, None, backend)
        y = dispatch.call(run.batch_norm_act, x, mean, var, weight, bias, False, eps, *rest)
        ctx.eps, ctx.group, ctx.rest = eps, group, rest
        ctx.save_for_backward(x, weight, bias, mean, var, total)
        ctx.mark_non_differentiable(mean, var, total)
        return y, mean, var, total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, *_: Any) -> Any:
        x, weight, bias, mean, var, total = ctx.saved_tensors
        run = dispatch.operators_of(ctx.rest[-1])
        shared = (x, mean, var, weight, bias, False, ctx.eps)
        dx, dweight, dbias, _ = dispatch.call(run.batch_norm_act_backward, dy, *shared, *ctx.rest)
        sums = torch.stack([dweight, dbias])
        dist.all_reduce(sums, group=ctx.group)
        factor = -(var + ctx.eps).rsqrt() / total
        if weight is not None:
            factor = factor * weight
        # dx + factor * (normal * s2 + s1), which is a BatchNorm with a residual.
        s2, s1 = sums * factor
        dx = dispatch.call(run.batch_norm_act, x, mean, var, s2, s1, False, ctx.eps, dx, *ctx.rest[1:])
        return (
            dx,
            None if weight is None else dweight.to(weight.dtype),
            None if bias is None else dbias.to(bias.dtype),
            None,
            None,
        )

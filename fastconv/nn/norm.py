"""A BatchNorm module's forward pass through our kernels: its statistics and counter kept as torch keeps them."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from fastconv.functional.norm import normalised
from fastconv.nn.weights import forward_is_stock, has_hooks


def normalises_plainly(bn: nn.Module) -> bool:
    """Whether `bn` does nothing but BatchNorm2d's forward: no statistics shared between processes (SyncBatchNorm), no
    hooks, pruning's included, no forward of its own."""
    stock = isinstance(bn, nn.BatchNorm2d) and forward_is_stock(bn, nn.BatchNorm2d)
    return stock and not has_hooks(bn) and not bn._forward_pre_hooks


def normalise(
    bn: Any,
    x: Tensor,
    act: str,
    act_param: float | Tensor | None,
    statistics: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """act(bn(x)), where `normalises_plainly(bn)`; `statistics` of x where they are known already."""
    bn._check_input_dim(x)
    momentum = count_batch(bn)
    # Without running statistics those of the batch serve in evaluation too.
    by_batch = bn.training or (bn.running_mean is None and bn.running_var is None)
    tracked = not bn.training or bn.track_running_stats
    return normalised(
        statistics,
        x,
        bn.running_mean if tracked else None,
        bn.running_var if tracked else None,
        bn.weight,
        bn.bias,
        by_batch,
        momentum,
        bn.eps,
        None,
        act,
        act_param,
    )


def count_batch(bn: Any) -> float:
    """Counts a batch in training; the share that its statistics get in the running ones."""
    if bn.training and bn.track_running_stats and bn.num_batches_tracked is not None:
        bn.num_batches_tracked.add_(1)
        if bn.momentum is None:  # the mean over all batches so far
            return 1.0 / float(bn.num_batches_tracked)
    return 0.0 if bn.momentum is None else float(bn.momentum)

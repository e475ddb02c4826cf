"""Edits of tensors that torch's version counters miss: the steps of its fused optimizers.

`torch.optim.Adam(..., fused=True)` and its like write the parameters without a new `_version`. A hook that torch calls
after every optimizer's step notes here which memory such a step wrote.
"""

from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook

steps = 0  # how many of these steps there were
_last: dict[int, int] = {}  # address of a storage -> the last step that wrote it


def _note(optimizer: Optimizer, *_: Any) -> None:
    global steps
    groups = [group for group in optimizer.param_groups if group.get("fused")]
    if groups:
        steps += 1
        for group in groups:
            # Of the storage: whoever keeps a view of the parameter has to notice as well.
            _last.update((p.untyped_storage().data_ptr(), steps) for p in group["params"])


def written_since(step: int, tensor: Tensor) -> bool:
    """Whether a step after `step` wrote to the tensor's memory; also true where the memory was another's then."""
    return _last.get(tensor.untyped_storage().data_ptr(), 0) > step


register_optimizer_step_post_hook(_note)

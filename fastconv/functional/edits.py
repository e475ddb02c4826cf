"""Edits of tensors that torch's version counters miss: the steps of its fused optimizers.

`torch.optim.Adam(..., fused=True)` and its like write the parameters without a new `_version`. A hook that torch calls
after every optimizer's step notes here which memory such a step wrote.
"""

from typing import Any

from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook

MOST = 1 << 14  # addresses kept; a model with more parameters is counted as written whole at each of its steps

steps = 0  # how many of these steps there were
_last: dict[int, int] = {}  # address of a storage -> the last step that wrote it
_everything = 0  # the last step that counts as one that wrote every tensor


def _note(optimizer: Optimizer, *_: Any) -> None:
    global steps, _everything
    groups = [group for group in optimizer.param_groups if group.get("fused")]
    if not groups:
        return
    steps += 1
    parameters = [p for group in groups for p in group["params"]]
    plain = [p for p in parameters if type(p) is Parameter or type(p) is Tensor]
    # Of the storage: whoever keeps a view of the parameter has to notice as well.
    _last.update((p.untyped_storage().data_ptr(), steps) for p in plain)
    # A DTensor or another wrapper has no storage of its own, and what it wraps may be anywhere. Addresses outlive
    # their tensors, so that they have to go some time.
    if len(plain) < len(parameters) or len(_last) > MOST:
        _everything = steps
        _last.clear()


def written_since(step: int, tensor: Tensor) -> bool:
    """Whether a step after `step` wrote to the tensor's memory; also true where the memory was another's then."""
    return _everything > step or _last.get(tensor.untyped_storage().data_ptr(), 0) > step


register_optimizer_step_post_hook(_note)

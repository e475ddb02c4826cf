"""What happens to an accumulator before it is stored, as the kernels take it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Epilogue:
    """y = act(scale[k] * (acc + bias[k]) + shift[k] + residual), and PReLU's slopes in `alpha`.

    bias, scale and shift are contiguous; residual, and alpha where it has four dimensions, have y's shape and any
    strides.
    """

    bias: Tensor | None = None
    scale: Tensor | None = None
    shift: Tensor | None = None
    residual: Tensor | None = None
    act: str = "identity"
    param: float = 0.0
    alpha: Tensor | None = None

    @classmethod
    def of(
        cls, y: Tensor, bias: Any, scale: Any, shift: Any, residual: Any, act: str, param: float, alpha: Any
    ) -> Epilogue:
        """From an operator's arguments. A full alpha is spread over the batch without a copy."""
        if act != "prelu":
            alpha = None
        elif alpha.numel() == 1:
            alpha = alpha.reshape(1)
        elif alpha.dim() > 1:
            alpha = alpha.expand(y.shape)
        bias, scale, shift = (None if v is None else v.contiguous() for v in (bias, scale, shift))
        return cls(bias, scale, shift, residual, act, param, alpha)

    def of_pixels(self, rows: slice, columns: slice) -> Epilogue:
        """The epilogue of some rows and columns of the output."""
        residual, alpha = self.residual, self.alpha
        if residual is not None:
            residual = residual[:, :, rows, columns]
        if alpha is not None and alpha.dim() == 4:
            alpha = alpha[:, :, rows, columns]
        return replace(self, residual=residual, alpha=alpha)

    def unsqueezed(self) -> Epilogue:
        """The epilogue of a matrix, for a batch of one."""
        residual, alpha = self.residual, self.alpha
        if alpha is not None and alpha.dim() == 2:
            alpha = alpha.unsqueeze(0)
        return replace(self, residual=None if residual is None else residual.unsqueeze(0), alpha=alpha)

    def strides(self, y: Tensor) -> tuple[int, ...]:
        """Of the residual and of alpha, each over y's axes; zeros for what is not there."""
        nothing = (0,) * y.dim()
        residual = nothing if self.residual is None else self.residual.stride()
        if self.alpha is None:
            return (*residual, *nothing)
        if self.alpha.dim() == y.dim():
            return (*residual, *self.alpha.stride())
        channel = 0 if self.alpha.numel() == 1 else self.alpha.stride(0)
        axis = 1 if y.dim() == 4 else y.dim() - 1  # a matrix has its channels in the columns
        return (*residual, *(channel if i == axis else 0 for i in range(y.dim())))

    def constants(self) -> dict[str, Any]:
        """What a kernel is specialised for. The number is a constant so that it keeps its digits: as an argument it
        would be a float32."""
        form = "none" if self.alpha is None else "channel" if self.alpha.dim() == 1 else "full"
        return {"ACT": self.act, "PARAM": float(self.param), "ALPHA": form}


PLAIN = Epilogue()

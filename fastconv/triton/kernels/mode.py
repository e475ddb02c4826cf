"""The few places where a GPU and Triton's interpreter differ.

`kernel` and `device` decorate launched kernels and functions called by them; `bound`, `widen`, `narrow`, `dot`,
`sum_over` and `max_over` are the operations that the interpreter has in another form: it truncates float32 to bfloat16,
multiplies bfloat16 by its bits, and cannot call the part of triton.language that is itself written in Triton.
"""

import triton
import triton.language as tl

INTERPRETED = __name__.startswith("fastconv.triton.interpreted")

if INTERPRETED:
    from triton.runtime.interpreter import InterpretedFunction

    kernel = InterpretedFunction

    def device(function):
        """Called as plain Python: the interpreter's own wrapper would patch the language again at every call."""
        return function

    def bound(n):
        """A loop's bound: Triton 3.6 cannot make a number of its own scalars where NumPy is of 2.4 or later."""
        return int(n.handle.data.item()) if isinstance(n, tl.tensor) else n

    def widen(x, ACC):
        if x.dtype != tl.bfloat16:
            return x.to(ACC)
        bits = x.to(tl.uint16, bitcast=True).to(tl.uint32) << 16
        return bits.to(tl.float32, bitcast=True).to(ACC)

    def narrow(x, dtype):
        if dtype != tl.bfloat16:
            return x.to(dtype)
        bits = x.to(tl.float32).to(tl.uint32, bitcast=True)
        # To nearest, ties to even; a NaN keeps its upper half, made quiet so that it stays one.
        nearest = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        kept = tl.where(x != x, (bits >> 16) | 0x40, nearest)
        return kept.to(tl.uint16).to(tl.bfloat16, bitcast=True)

    def dot(a, b, acc, PRECISION):
        if a.dtype == tl.bfloat16:
            a, b = widen(a, tl.float32), widen(b, tl.float32)
        return tl.dot(a, b, acc, input_precision="ieee", out_dtype=acc.dtype)

    def sum_over(x, axis):
        """In a tree, as a GPU adds: NumPy would add thousands of terms one after the other."""
        sizes = [int(extent) for extent in x.shape]
        while sizes[axis] > 1:
            sizes[axis] //= 2
            halves = tl.reshape(x, [*sizes[:axis], 2, *sizes[axis:]])
            x = tl.reduce(halves, axis, tl.standard._sum_combine)
        return tl.reduce(x, axis, tl.standard._sum_combine)

    def max_over(x, axis):
        return tl.reduce(x, axis, tl.standard._elementwise_max)

else:
    kernel = triton.jit
    device = triton.jit

    @triton.jit
    def bound(n):
        return n

    @triton.jit
    def widen(x, ACC: tl.constexpr):
        return x.to(ACC)

    @triton.jit
    def narrow(x, dtype: tl.constexpr):
        return x.to(dtype)

    @triton.jit
    def dot(a, b, acc, PRECISION: tl.constexpr):
        if PRECISION == "fma":
            # float64: no matrix instruction is asked for; the products are summed as they stand.
            acc += tl.sum(a[:, :, None] * b[None, :, :], 1)
        else:
            acc = tl.dot(a, b, acc, input_precision=PRECISION)
        return acc

    @triton.jit
    def sum_over(x, axis: tl.constexpr):
        return tl.sum(x, axis)

    @triton.jit
    def max_over(x, axis: tl.constexpr):
        return tl.max(x, axis)

"""Problem strings: the one-line notation in which `fastconv bench` takes and prints the shapes of a call.

Convolutions and poolings are written as oneDNN's benchdnn writes them: `mb8ic64ih56oc64oh56kh3ph1`, keys in any order,
each followed by its number. What is left out is inferred: widths from heights, `oh` from the rest or `ph` from `oh`, 1
for the others. As in benchdnn `dh` counts the skipped pixels (0 is a dense filter). `uh`, `uw` are this package's own:
the nearest-upsampling factor in front of a convolution. Matrix products are `mMkKnN`, batched ones `bBmMkKnN`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_PAIR = re.compile(r"([a-z]+)(\d+)")
_CONV_KEYS = ("g", "mb", "ic", "ih", "iw", "oc", "oh", "ow", "kh", "kw", "sh", "sw", "ph", "pw", "dh", "dw", "uh", "uw")
_GEMM_KEYS = ("b", "m", "k", "n")
_OP_FIELDS = {"conv_transpose2d": "transposed", "max_pool2d": "pooling", "avg_pool2d": "pooling"}


def _pairs(text: str, keys: tuple[str, ...], required: tuple[str, ...]) -> dict[str, int]:
    """Splits `text` into key -> number, or raises a ValueError that says what was expected."""
    values: dict[str, int] = {}
    position = 0
    for match in _PAIR.finditer(text):
        key, number = match.groups()
        if match.start() != position or key not in keys:
            break
        if key in values:
            raise ValueError(f"problem: expected each key once, but got {key!r} twice in {text!r}")
        values[key] = int(number)
        position = match.end()
    if position != len(text) or not text:
        raise ValueError(f"problem: expected keys of {', '.join(keys)}, each with a number, but got {text!r}")
    missing = [key for key in required if key not in values]
    if missing:
        raise ValueError(f"problem: expected {', '.join(missing)} to be given, but got {text!r}")
    return values


@dataclass(frozen=True)
class WindowProblem:
    """A convolution (plain, transposed or behind an upsampling) or a pooling: a window that slides over an image.

    `height` and `width` are the input's; `dilation` is torch's (1 is dense). A pooling has in == out channels.
    """

    batch: int
    in_channels: int
    height: int
    width: int
    out_channels: int
    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    upsample: tuple[int, int] = (1, 1)
    transposed: bool = False
    pooling: bool = False

    @classmethod
    def parse(cls, text: str, op: str = "conv2d") -> WindowProblem:
        """Reads benchdnn's notation for `op`."""
        kind = _OP_FIELDS.get(op)
        pooling = kind == "pooling"
        v = _pairs(text, _CONV_KEYS, ("ic", "ih", "kh") if pooling else ("ic", "ih", "oc", "kh"))
        if pooling:
            v.setdefault("oc", v["ic"])
        if op == "upsample_conv2d":
            v.setdefault("uh", 2)
        for key, default in (("sh", 1), ("dh", 0), ("uh", 1)):
            v.setdefault(key, default)
        for height, width in (("ih", "iw"), ("kh", "kw"), ("sh", "sw"), ("dh", "dw"), ("uh", "uw")):
            v.setdefault(width, v[height])
        if "ph" in v:
            v.setdefault("pw", v["ph"])
        if "oh" in v:
            v.setdefault("ow", v["oh"] if v["iw"] == v["ih"] else 0)
        for key in ("sh", "sw", "kh", "kw", "uh", "uw", "g"):
            if v.get(key, 1) < 1:
                raise ValueError(f"problem: expected {key} to be at least 1, but got {v[key]} in {text!r}")
        transposed = kind == "transposed"
        padding = tuple(_padding(v, axis, transposed) for axis in "hw")
        problem = cls(
            batch=v.get("mb", 1),
            in_channels=v["ic"],
            height=v["ih"],
            width=v["iw"],
            out_channels=v["oc"],
            kernel=(v["kh"], v["kw"]),
            stride=(v["sh"], v["sw"]),
            padding=(padding[0], padding[1]),
            dilation=(v["dh"] + 1, v["dw"] + 1),
            groups=v.get("g", 1),
            upsample=(v["uh"], v["uw"]),
            transposed=transposed,
            pooling=pooling,
        )
        problem._check(v, text)
        return problem

    def _check(self, given: dict[str, int], text: str) -> None:
        if self.in_channels % self.groups or self.out_channels % self.groups:
            raise ValueError(f"problem: expected ic and oc to be multiples of g, but got {text!r}")
        for key, size in zip(("oh", "ow"), self.out_size, strict=True):
            if size < 1:
                raise ValueError(f"problem: expected the filter to fit into the padded image, but got {text!r}")
            if given.get(key, 0) not in (0, size):
                hint = "asymmetric padding is not part of this notation"
                raise ValueError(f"problem: expected {key} to be {size}, but got {given[key]} in {text!r} ({hint})")

    def kernel_fields(self) -> dict[str, int]:
        """The problem in the kernels' names. A transposed convolution is told as the one whose input gradient it is."""
        image, filters = (self.height, self.width), self.out_channels
        if self.transposed:
            image, filters = self.out_size, self.in_channels
        return {
            "N": self.batch,
            "C": self.out_channels if self.transposed else self.in_channels,
            "H": image[0],
            "W": image[1],
            "K": filters,
            "R": self.kernel[0],
            "S": self.kernel[1],
            "stride_h": self.stride[0],
            "stride_w": self.stride[1],
            "pad_top": self.padding[0],
            "pad_bottom": self.padding[0],
            "pad_left": self.padding[1],
            "pad_right": self.padding[1],
            "dilation_h": self.dilation[0],
            "dilation_w": self.dilation[1],
            "groups": self.groups,
            "scale_h": self.upsample[0],
            "scale_w": self.upsample[1],
        }

    @property
    def out_size(self) -> tuple[int, int]:
        """(P, Q), the output's height and width."""
        sizes = []
        for axis, extent in enumerate((self.height * self.upsample[0], self.width * self.upsample[1])):
            window = (self.kernel[axis] - 1) * self.dilation[axis] + 1
            if self.transposed:
                sizes.append((extent - 1) * self.stride[axis] - 2 * self.padding[axis] + window)
            else:
                sizes.append((extent + 2 * self.padding[axis] - window) // self.stride[axis] + 1)
        return sizes[0], sizes[1]

    @property
    def x_shape(self) -> tuple[int, int, int, int]:
        """(N, C, H, W)."""
        return self.batch, self.in_channels, self.height, self.width

    @property
    def w_shape(self) -> tuple[int, int, int, int]:
        """(K, C/groups, R, S), or (C, K/groups, R, S) of a transposed convolution."""
        if self.transposed:
            return self.in_channels, self.out_channels // self.groups, *self.kernel
        return self.out_channels, self.in_channels // self.groups, *self.kernel

    def flops(self) -> int:
        """Twice the multiply-adds of the definition (a faster algorithm does not earn more); comparisons of a pooling
        count one each."""
        out_height, out_width = self.out_size
        window = self.kernel[0] * self.kernel[1]
        if self.pooling:
            return self.batch * self.out_channels * out_height * out_width * window
        pixels = self.height * self.width if self.transposed else out_height * out_width
        macs = self.batch * pixels * self.out_channels * (self.in_channels // self.groups) * window
        return 2 * macs

    def bytes(self, itemsize: int) -> int:
        """The least memory traffic: every input, weight and output element once."""
        out_height, out_width = self.out_size
        weights = 0 if self.pooling else self.w_shape[0] * self.w_shape[1] * self.w_shape[2] * self.w_shape[3]
        inputs = self.batch * self.in_channels * self.height * self.width
        return itemsize * (inputs + weights + self.batch * self.out_channels * out_height * out_width)

    def __str__(self) -> str:
        out_height, _ = self.out_size
        parts = [f"g{self.groups}" if self.groups > 1 else "", f"mb{self.batch}ic{self.in_channels}"]
        parts.append(_axes("i", self.height, self.width) + f"oc{self.out_channels}")
        parts.append(_axes("o", out_height, self.out_size[1]) + _axes("k", *self.kernel))
        parts.append(_axes("s", *self.stride) if self.stride != (1, 1) else "")
        parts.append(_axes("p", *self.padding))
        parts.append(_axes("d", *(d - 1 for d in self.dilation)) if self.dilation != (1, 1) else "")
        parts.append(_axes("u", *self.upsample) if self.upsample != (1, 1) else "")
        return "".join(parts)


def _axes(letter: str, height: int, width: int) -> str:
    return f"{letter}h{height}" + ("" if height == width else f"{letter}w{width}")


def _padding(v: dict[str, int], axis: str, transposed: bool) -> int:
    """Padding as given, or what makes the given output size come out, or none."""
    if f"p{axis}" in v:
        return v[f"p{axis}"]
    out = v.get(f"o{axis}", 0)
    if not out:
        return 0
    window = (v[f"k{axis}"] - 1) * (v[f"d{axis}"] + 1) + 1
    extent = v[f"i{axis}"] * v[f"u{axis}"]
    if transposed:
        out, extent = extent, out
    # ceil: with a stride the last window may stop short of the border
    return max(0, ((out - 1) * v[f"s{axis}"] + window - extent + 1) // 2)


@dataclass(frozen=True)
class GemmProblem:
    """(B) x (M, K) x (K, N)."""

    m: int
    k: int
    n: int
    batch: int = 0

    @classmethod
    def parse(cls, text: str) -> GemmProblem:
        """Reads `mMkKnN` or `bBmMkKnN`."""
        v = _pairs(text, _GEMM_KEYS, ("m", "k", "n"))
        return cls(v["m"], v["k"], v["n"], v.get("b", 0))

    def kernel_fields(self) -> dict[str, int]:
        """The problem in the kernels' names."""
        return {"M": self.m, "K": self.k, "N": self.n, "batch": max(self.batch, 1)}

    @property
    def a_shape(self) -> tuple[int, ...]:
        """(M, K) or (B, M, K)."""
        return (self.batch, self.m, self.k) if self.batch else (self.m, self.k)

    @property
    def b_shape(self) -> tuple[int, ...]:
        """(K, N) or (B, K, N)."""
        return (self.batch, self.k, self.n) if self.batch else (self.k, self.n)

    def flops(self) -> int:
        """Twice the multiply-adds."""
        return 2 * max(self.batch, 1) * self.m * self.k * self.n

    def bytes(self, itemsize: int) -> int:
        """The least memory traffic."""
        return itemsize * max(self.batch, 1) * (self.m * self.k + self.k * self.n + self.m * self.n)

    def __str__(self) -> str:
        return (f"b{self.batch}" if self.batch else "") + f"m{self.m}k{self.k}n{self.n}"


Problem = WindowProblem | GemmProblem


def parse_problem(op: str, text: str) -> Problem:
    """The problem that `text` describes for operation `op`."""
    return GemmProblem.parse(text) if op == "gemm" else WindowProblem.parse(text, op)

"""Calls every operator with arguments drawn at random, most of them wrong, and prints where namespaces disagree about
whether one is to be refused. Run as a program, so that a crash ends only it: the last line on stderr is the call.

    python raw_operators.py SEED CALLS
"""

from __future__ import annotations

import random
import sys
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from fastconv import backends, ops

INTS = (0, 1, 2, 3, 5, -1, -(2**62), 2**31, 2**62)
SHAPES: tuple[tuple[int, ...], ...] = (
    (), (0,), (1,), (3,), (4,), (3, 5), (4, 3), (2, 3, 5), (1, 3, 5, 5), (2, 4, 6, 5), (4, 3, 3, 3), (3, 4, 1, 1),
    (4, 1, 3, 3), (0, 3, 5, 5), (1, 0, 5, 5), (1, 3, 0, 5), (2, 3, 1, 1), (1, 12, 16), (1, 2, 3, 4, 5),
)  # fmt: skip
DTYPES = (torch.float32,) * 12 + (torch.float64, torch.float16, torch.int64, torch.bool)


def tensor(draw: random.Random, shapes: Any = SHAPES) -> torch.Tensor:
    t = torch.randn(draw.choice(shapes)).to(draw.choice(DTYPES))
    form = draw.randrange(8)
    if form == 0:
        return t.expand(2, *t.shape)
    if form == 1:
        return t.transpose(-1, -2) if t.dim() > 1 else t
    if form == 2 and t.dim():
        return t[..., ::2]
    if form == 3 and t.dim() == 4:
        return t.contiguous(memory_format=torch.channels_last)
    return t


def argument(draw: random.Random, name: str, kind: str, seen: list[torch.Tensor]) -> Any:
    if kind.startswith("Optional") and draw.random() < 0.7:
        return None
    if "Tensor" in kind:
        # Often of a shape that fits something else.
        shapes = [tuple(t.shape) for t in seen] * 3 + list(SHAPES)
        seen.append(tensor(draw, shapes))
        return seen[-1]
    if "List" in kind:
        length = {"padding": 4}.get(name, 4 if name.endswith("size") and draw.random() < 0.7 else 2)
        if draw.random() < 0.05:
            length = draw.randrange(6)
        if length == 4 and name.endswith("size") and seen and draw.random() < 0.5:
            return list(draw.choice(seen).shape)
        return [draw.choice(INTS[:5] if draw.random() < 0.95 else INTS) for _ in range(length)]
    if kind in ("int", "SymInt"):
        return draw.choice((1, 1, 1, *INTS))
    if kind == "float":
        return draw.choice((0.0, 0.5, float("nan")))
    if kind == "bool":
        return draw.random() < 0.5
    return draw.choice(("identity", "relu", "prelu", "elu", "mish")) if name.endswith("act") else ""


def outcome(operator: Any, arguments: list[Any]) -> tuple[str, str]:
    try:
        result = operator(*arguments)
    except Exception as error:
        return "refused", f"{type(error).__name__}: {error}"
    results = result if isinstance(result, tuple) else (result,)
    return "served", str([tuple(y.shape) for y in results if isinstance(y, torch.Tensor)])


def drawn(draw: random.Random, kinds: list[tuple[str, str]]) -> dict[str, Any]:
    seen: list[torch.Tensor] = []
    values = {name: argument(draw, name, kind, seen) for name, kind in kinds if name != "packed"}
    if values.get("act", "prelu") != "prelu":
        values["alpha"] = None  # nobody looks at it
    return {name: values.get(name) for name, _ in kinds}


def described(values: Any) -> str:
    return ", ".join(
        f"{tuple(v.shape)}/{v.stride()} {v.dtype}" if isinstance(v, torch.Tensor) else repr(v) for v in values
    )


def main(seed: int, calls: int) -> None:
    draw = random.Random(seed)
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    namespaces = {"cuda_emulated": ops.native, "reference": ops.reference, "triton_interpreted": ops.triton}
    here = {"": ops.native, **{b: ns for b, ns in namespaces.items() if not backends.why_unavailable(b)}}
    served = 0
    for name in ops.native:
        schema = getattr(ops.native, name)._schema
        kinds = [(a.name, str(a.type)) for a in schema.arguments]
        for _ in range(calls):
            arguments = drawn(draw, kinds)
            got: dict[str, tuple[str, str]] = {}
            for backend, namespace in here.items():
                if name not in namespace or (backend == "cuda_emulated" and name == "conv_max_pool"):
                    continue  # the CPU's alone: fastconv.functional calls its parts on other backends
                given = {**arguments, "backend": backend} if "backend" in arguments else arguments
                if name == "activation_":
                    given = {**given, "x": given["x"].clone()}
                print(namespace.namespace, backend, name, described(given.values()), file=sys.stderr, flush=True)
                got[backend or "cpu"] = outcome(getattr(namespace, name), list(given.values()))
            if name in ops.reference:
                with FakeTensorMode() as mode:
                    fakes = [mode.from_tensor(v) if isinstance(v, torch.Tensor) else v for v in arguments.values()]
                    got["fake"] = outcome(getattr(ops.native, name), fakes)
            served += got["cpu"][0] == "served"
            if len({what if what == "refused" else what + how for what, how in got.values()}) > 1:
                print(name, described(arguments.values()))
                for where, (what, how) in got.items():
                    print(f"    {where}: {what} {how[:300]}")
    print(f"{served} served")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))

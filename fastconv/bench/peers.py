"""Other inference engines beside torch eager, each used only where it is installed.

All get the same number of threads and their fastest setting for one request at a time.
"""

from __future__ import annotations

import copy
import importlib.util
import logging
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

Output = torch.Tensor | tuple[torch.Tensor, ...]
Call = Callable[[], Output]


@dataclass(frozen=True)
class Peer:
    """What a peer needs beside torch, the element types it computes in, and whether it has threads of its own."""

    packages: tuple[str, ...] = ()
    dtypes: tuple[str, ...] = ("float32", "bfloat16")
    own_threads: bool = False


PEERS = {
    "torch": Peer(),
    "inductor": Peer(),
    "onnxruntime": Peer(("onnx", "onnxruntime", "onnxscript"), ("float32",), own_threads=True),
    "openvino": Peer(("onnx", "onnxscript", "openvino"), own_threads=True),
}
# What a network is deployed with on a CPU: our times are held against the better of these.
ENGINES = ("onnxruntime", "openvino")


def missing_packages(peer: str) -> list[str]:
    """Which packages `peer` lacks here."""
    return [package for package in PEERS[peer].packages if importlib.util.find_spec(package) is None]


def own_threads(names: Iterable[str]) -> bool:
    """Whether any of the peers brings threads of its own, so that contenders cannot take turns call by call."""
    return any(PEERS[name].own_threads for name in names)


def prepare(name: str, model: torch.nn.Module, x: torch.Tensor, dtype: str, onnx_file: Path) -> Call:
    """A call of `model` on `x` by a peer with as many threads as torch has; `onnx_file` is written where one needs it.

    A peer that cannot run the model does not stop the others: its call raises NotImplementedError with the reason.
    """
    if dtype not in PEERS[name].dtypes:
        return _refusal(f"{name} computes no {dtype} on CPUs")
    try:
        if name in ENGINES and not onnx_file.exists():
            export_onnx(model, x, onnx_file)
        load = {"inductor": _inductor, "onnxruntime": _onnxruntime, "openvino": _openvino}[name]
        call = load(model, x, dtype, onnx_file)
        call()
        return call
    except Exception as error:  # whatever the exporter, a compiler or an engine raises
        return _refusal(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")


def _refusal(reason: str) -> Call:
    def call() -> Output:
        raise NotImplementedError(reason)

    return call


def export_onnx(model: torch.nn.Module, x: torch.Tensor, path: Path) -> None:
    """The model in ONNX for inputs shaped like `x`."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with torch.inference_mode(False), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecations
        program = torch.onnx.export(model, (x,), dynamo=True, verbose=False)
    if program is None:
        raise RuntimeError("torch.onnx.export returned nothing")
    program.save(path)


def _inductor(model: torch.nn.Module, x: torch.Tensor, dtype: str, _: Path) -> Call:
    """torch.compile with frozen weights, its fastest setting for inference, on channels_last images."""
    import torch._inductor.config as inductor

    kind = getattr(torch, dtype)
    image = x.to(kind).contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x.to(kind)
    compiled = torch.compile(copy.deepcopy(model).to(kind), dynamic=False)
    with torch.inference_mode(), inductor.patch(freezing=True):
        compiled(image)  # compiles, with the setting in force

    def call() -> Output:
        with torch.inference_mode():  # the mode it was compiled in
            result: Output = compiled(image)
        return result

    return call


def _onnxruntime(model: torch.nn.Module, x: torch.Tensor, _: str, onnx_file: Path) -> Call:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(onnx_file, options, providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: x.numpy()}
    return lambda: _tensors(session.run(None, feed))


def _openvino(model: torch.nn.Module, x: torch.Tensor, dtype: str, onnx_file: Path) -> Call:
    import openvino

    core = openvino.Core()
    compiled = core.compile_model(core.read_model(onnx_file), "CPU", openvino_settings(dtype, torch.get_num_threads()))
    request, image = compiled.create_infer_request(), x.numpy()
    count = len(compiled.outputs)

    def call() -> Output:
        request.infer([image], share_inputs=True)
        return _tensors([request.get_output_tensor(index).data for index in range(count)])

    return call


def openvino_settings(dtype: str, threads: int) -> dict[str, Any]:
    """The precision is said because OpenVINO computes float32 models in bfloat16 where the CPU has AMX."""
    precision = {"float32": "f32", "bfloat16": "bf16"}[dtype]
    return {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}


def _tensors(arrays: list[Any]) -> Output:
    outputs = tuple(torch.from_numpy(array) for array in arrays)
    return outputs[0] if len(outputs) == 1 else outputs

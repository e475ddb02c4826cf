"""Other inference engines that can run a whole network beside torch eager, each used only where it is installed."""

from __future__ import annotations

import importlib.util
import logging
import warnings
from collections.abc import Callable, Iterable, Iterator

import torch

# name -> the packages it needs beside torch
PEERS: dict[str, tuple[str, ...]] = {"torch": (), "compile": (), "onnxruntime": ("onnx", "onnxruntime", "onnxscript")}


def missing_packages(peer: str) -> list[str]:
    """Which packages `peer` lacks here."""
    return [package for package in PEERS[peer] if importlib.util.find_spec(package) is None]


def network_calls(
    names: Iterable[str], model: torch.nn.Module, x: torch.Tensor
) -> Iterator[tuple[str, Callable[[], torch.Tensor]]]:
    """(row name, call) of every peer asked for besides eager torch."""
    for name in names:
        if name == "compile":
            yield "torch.compile", _compiled(model, x)
        elif name == "onnxruntime":
            yield "onnxruntime", _onnxruntime(model, x)


def _compiled(model: torch.nn.Module, x: torch.Tensor) -> Callable[[], torch.Tensor]:
    """torch.compile with frozen weights, its fastest setting for inference."""
    import torch._inductor.config as inductor

    compiled = torch.compile(model, dynamic=False)
    with inductor.patch(freezing=True):
        compiled(x)  # compiles, with the setting in force
    return lambda: compiled(x)


def _onnxruntime(model: torch.nn.Module, x: torch.Tensor) -> Callable[[], torch.Tensor]:
    import onnxruntime

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with torch.inference_mode(False), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecations
        program = torch.onnx.export(model, (x,), dynamo=True, verbose=False)
    if program is None:
        raise RuntimeError("torch.onnx.export returned nothing")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(
        program.model_proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    feed = {session.get_inputs()[0].name: x.numpy()}
    return lambda: torch.from_numpy(session.run(None, feed)[0])

"""The named suites of `fastconv bench --suite`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from fastconv import machine
from fastconv.bench import filters, gpu, workloads
from fastconv.bench.network_runner import measure_network
from fastconv.bench.networks import NETWORKS
from fastconv.bench.operations import Workload
from fastconv.bench.results import Run
from fastconv.bench.runner import Settings, measure
from fastconv.bench.scaling import measure_scaling
from fastconv.bench.training import measure_training

SUITES = {
    "layers": "ResNet-50's, ResNeXt-50's grouped and MobileNet's convolutions with bias and ReLU, batch 1",
    "ops": "depthwise layers, pooling, upsample + conv, transposed conv, matrix products, gradients",
    "networks": "whole networks, torch eager against fastconv.convert, batch 1 and 8; on a GPU three, 1 and 128",
    "filters": "large filters: 16x16 on two images of 1024x1024, 31x31 depthwise; scipy and numpy's FFT beside torch",
    "scaling": "whole networks on one thread and on all of them, batch 1",
    "training": "ResNet-18 and MobileNetV2, batch 8, torch's layers against fastconv.replace, forward and backward",
    "zoo": "networks that others wrote through convert and replace, torch eager beside them (needs fastconv[zoo])",
    "gpu": "layers, depthwise, pooling, upsample + conv and matrix products in bfloat16, batch 32",
}

OnStep = Callable[[int, int, str], None]


def run_workloads(suite: str, workloads_: list[Workload], settings: Settings, on_step: OnStep) -> Run:
    """Measures workloads one after the other; `on_step(index, total, label)` is told before each."""
    with machine.torch_threads(settings.threads) as threads:
        run = Run(suite, settings.to_dict(), _ceilings(settings, threads))
        for index, workload in enumerate(workloads_):
            on_step(index, len(workloads_), f"{workload.group} {workload.name or workload.problem}".strip())
            run.rows += measure(workload, settings)
    return run


def run_networks(names: list[str], batches: list[int], settings: Settings, on_step: OnStep) -> Run:
    """Measures whole networks; those in another type than float32 are a suite of their own to the files."""
    suite = "networks" if settings.dtype == "float32" else f"networks-{settings.dtype}"
    pairs = [(NETWORKS[name], batch) for name in names for batch in batches]
    with machine.torch_threads(settings.threads) as threads:
        run = Run(suite, settings.to_dict(), _ceilings(settings, threads))
        for index, (network, batch) in enumerate(pairs):
            on_step(index, len(pairs), f"{network.title}, batch {batch}")
            # Processes of their own once for each network: memory is about weights, and activations grow as they must.
            alone = settings.processes and batch == batches[0]
            rows, residences = measure_network(network, batch, replace(settings, processes=alone))
            run.rows += rows
            run.residences += residences
    return run


def run_filters(quick: bool, settings: Settings, on_step: OnStep) -> Run:
    """Measures convolutions with large filters, beside libraries that are made for them."""
    problems = filters.problems(quick)
    with machine.torch_threads(settings.threads) as threads:
        run = Run("filters", settings.to_dict(), _ceilings(settings, threads))
        for index, workload in enumerate(problems):
            on_step(index, len(problems), workload.name)
            run.rows += filters.measure_filter(workload, settings)
    return run


def run_scaling(names: list[str], batch: int, settings: Settings, on_step: OnStep) -> Run:
    """Measures whole networks on one thread and on all."""
    with machine.torch_threads(settings.threads) as threads:
        run = Run("scaling", settings.to_dict(), _ceilings(settings, threads))
        for index, name in enumerate(names):
            on_step(index, len(names), f"{NETWORKS[name].title}, 1 to {threads} threads")
            run.rows += measure_scaling(NETWORKS[name], batch, settings)
    return run


def run_training(names: list[str], batch: int, settings: Settings, on_step: OnStep) -> Run:
    """Measures the training of whole networks."""
    with machine.torch_threads(settings.threads) as threads:
        run = Run("training", settings.to_dict(), _ceilings(settings, threads))
        for index, name in enumerate(names):
            on_step(index, len(names), f"{NETWORKS[name].title}, batch {batch}")
            run.rows += measure_training(NETWORKS[name], batch, settings)
    return run


def run_suite(name: str, settings: Settings, quick: bool, on_step: OnStep) -> Run:
    """Measures a suite by name; `quick` takes a few of its problems."""
    if name == "networks":
        on_gpu = settings.device == "cuda"
        names = ["resnet50", "mobilenet_v2", "efficientnet_lite0"] if on_gpu else list(NETWORKS)
        batches = [1, 128] if on_gpu else [1, 8]
        return run_networks(["mobilenet_v2"] if quick else names, [1] if quick else batches, settings, on_step)
    if name == "scaling":
        return run_scaling(
            ["mobilenet_v2"] if quick else ["resnet50", "mobilenet_v2", "vgg16_bn"], 1, settings, on_step
        )
    if name == "training":
        names = ["mobilenet_v2"] if quick else ["resnet18", "mobilenet_v2"]
        return run_training(names, 1 if quick else 8, settings, on_step)
    if name == "filters":
        return run_filters(quick, settings, on_step)
    chosen = {
        "layers": workloads.layer_suite,
        "ops": workloads.operation_suite,
        "gpu": workloads.gpu_suite,
    }[name](quick)
    if name == "gpu" or settings.dtype == "float32":
        return run_workloads(name, chosen, settings, on_step)
    chosen = [replace(workload, dtype=settings.dtype) for workload in chosen]
    return run_workloads(f"{name}-{settings.dtype}", chosen, settings, on_step)


def _ceilings(settings: Settings, threads: int) -> dict[str, object]:
    return gpu.ceilings() if settings.device == "cuda" else dict(machine.ceilings(threads))

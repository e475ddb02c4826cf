"""`fastconv demo`: trained networks on real photos, in torch and converted, and a report to look at."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from fastconv import html, machine
from fastconv.bench.runner import forced_backend
from fastconv.bench.timing import Effort
from fastconv.cli.common import add_measuring_arguments, choose_backend, make_folder, write_text
from fastconv.cli.console import FAILED, OK, USAGE, CommandError, Console
from fastconv.demo import report
from fastconv.demo.classify import ClassifyResult, classify
from fastconv.demo.faces import FacesResult, find_faces
from fastconv.demo.networks import DEMO_EXTRA, MissingPackage
from fastconv.demo.photos import PHOTO_NAMES, ImageError, Photo, load_image, shipped_photo

# Backends that run GPU kernels, or the reference, thread by thread on the CPU: one photo, and no times.
_EXECUTED = ("cuda_emulated", "triton_interpreted", "reference")


def add_parser(commands: Any) -> None:
    """Adds the command to the parser."""
    parser = commands.add_parser(
        "demo",
        help="trained networks on real photos, torch beside fastconv, as an HTML report",
        description="Classifies photos with EfficientNet-Lite0 and finds faces with MTCNN's P-Net, with their trained "
        "weights, in torch and converted: same answers, distance from float64, speed of both, the kernel behind every "
        f"layer. Writes one self-contained HTML report. Weights and photos come with {DEMO_EXTRA}.",
    )
    parser.add_argument("--image", metavar="PATH", help="use your own picture instead of the photos that ship")
    parser.add_argument(
        "--output", default="fastconv-demo", metavar="DIR", help="folder of the report (default: %(default)s)"
    )
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        default="float32",
        help="what the classifier is converted to (default: %(default)s); in bfloat16 the likeliest class has to be "
        "torch's, not all five",
    )
    add_measuring_arguments(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Runs the demonstration; 1 where torch and fastconv disagree."""
    # The user's own file first: a wrong path should not cost a wait.
    try:
        own = load_image(arguments.image) if arguments.image else None
    except ImageError as error:
        raise CommandError(str(error), USAGE) from error
    except MissingPackage as error:
        raise CommandError(str(error)) from error
    lacking = html.missing_packages()
    if lacking:
        raise CommandError(f"{', '.join(lacking)} not installed: {DEMO_EXTRA}")
    backend = choose_backend(arguments.backend)
    folder = make_folder(arguments.output)
    effort = Effort.quick() if arguments.quick else Effort(seconds=1.5, min_rounds=15)
    with machine.torch_threads(arguments.threads), forced_backend(backend):
        return _run(arguments, own, backend, folder, effort)


def _run(arguments: argparse.Namespace, own: Photo | None, backend: str, folder: Path, effort: Effort) -> int:
    console = Console()
    device = "cuda" if backend in ("cuda", "triton") else "cpu"
    executed = backend in _EXECUTED
    names = ("coffee",) if executed else ("chelsea", "coffee") if arguments.quick else PHOTO_NAMES
    batches = () if executed else (1,) if arguments.quick else (1, 8)
    try:
        photos = [own] if own else [shipped_photo(name) for name in names]
        classified = classify(photos, effort, batches, device, getattr(torch, arguments.dtype))
    except MissingPackage as error:
        raise CommandError(str(error)) from error
    _print_classification(console, classified)
    faces, faces_missing = None, ""
    if executed:
        faces_missing = f"face detection and all timing: {backend} executes kernels for their results, not for speed"
    else:
        try:
            faces = find_faces(own or shipped_photo("astronaut"), effort, device)
            _print_faces(console, faces)
        except MissingPackage as error:
            # This one package cannot be part of the extra (its wheel pins an old torch), so its absence is no failure.
            faces_missing = f"face detection: {error}"
    if faces_missing:
        console.line(f"left out: {faces_missing}")
    command = "fastconv demo" + (" --quick" if arguments.quick else "")
    command += f" --dtype {arguments.dtype}" if arguments.dtype != "float32" else ""
    command += f" --backend {backend}" if backend != "cpu" else ""
    path = folder / "report.html"
    write_text(path, report.build_report(classified, faces, faces_missing, backend, command))
    console.line(f"report: {path}")
    agrees = classified.agrees and (faces is None or faces.agrees)
    if not agrees:
        console.line("torch and fastconv disagree: see the report")
    return OK if agrees else FAILED


def _print_classification(console: Console, result: ClassifyResult) -> None:
    rows = []
    for photo in result.photos:
        guesses = ", ".join(f"{guess.label} {100 * guess.probability:.0f} %" for guess in photo.our_guesses[:3])
        same = "same" if photo.agrees else "DIFFERENT"
        rows.append((photo.photo.name, guesses, same, f"{photo.our_error:.1e}", f"{photo.torch_error:.1e}"))
    headers = (
        "photo",
        "fastconv's likeliest classes",
        f"top {result.photos[0].compared} as torch",
        "off float64",
        "torch off",
    )
    console.table(headers, rows, left=3, title="EfficientNet-Lite0, ImageNet weights")
    for batch, timings in result.timings.items():
        _print_timings(console, f"EfficientNet-Lite0, batch {batch}", timings)
    kernels = report.kernel_rows(result.explanation)
    columns = ("operation", "kernel", "problem", "layers")
    console.table(columns, [tuple(str(row[column]) for column in columns) for row in kernels], left=len(columns))


def _print_faces(console: Console, result: FacesResult) -> None:
    ours = result.our_faces
    same = f"as torch, within {result.box_difference:.1e} pixels" if result.agrees else "DIFFERENT from torch"
    console.line(
        f"MTCNN on {result.photo.name}: {len(ours.proposals)} P-Net proposals over {result.levels} image sizes, "
        f"{len(ours.faces)} confirmed by R-Net, {same}"
    )
    for x0, y0, x1, y1, score in ours.faces:
        console.line(f"  face at x {x0:.0f}..{x1:.0f}, y {y0:.0f}..{y1:.0f}, score {score:.4f}")
    if result.levels:
        _print_timings(console, "P-Net over the image pyramid", result.timings)


def _print_timings(console: Console, title: str, timings: Any) -> None:
    rows = [
        (row["name"], f"{row['median']:.3f}", f"{row['q20']:.3f}", f"{row['q80']:.3f}", f"{row['speedup']:.2f}")
        for row in report.timing_rows(timings)
    ]
    console.table(("program", "median ms", "20 %", "80 %", "x torch's best"), rows, title=title)

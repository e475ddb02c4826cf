"""`fastconv profile`: where a network's time goes, layer by layer."""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path
from typing import Any

import torch

from fastconv import machine
from fastconv.bench.networks import NETWORKS, find_network
from fastconv.cli.common import make_folder, positive, write_text
from fastconv.cli.console import OK, USAGE, CommandError, Console


def add_parser(commands: Any) -> None:
    """Adds the command to the parser."""
    parser = commands.add_parser(
        "profile",
        help="per-layer shapes, work, bounds and times of a network",
        description="Profiles a network layer by layer: output shape, parameters, multiply-adds, bytes, roofline bound "
        "and measured time.",
    )
    parser.add_argument(
        "model", metavar="MODEL", help=f"one of {', '.join(NETWORKS)}, or module:callable that returns an nn.Module"
    )
    parser.add_argument("--batch", type=positive, default=1, metavar="N", help="batch size (default: 1)")
    parser.add_argument("--size", type=positive, metavar="PIXELS", help="image size (default: the network's, or 224)")
    parser.add_argument("--channels", type=positive, default=3, metavar="C", help="image channels (default: 3)")
    parser.add_argument("--convert", action="store_true", help="profile the network after fastconv.convert")
    parser.add_argument("--threads", type=positive, metavar="N", help="torch threads")
    parser.add_argument("--json", metavar="PATH", help="also write the table as JSON")
    parser.set_defaults(run=run)


def load_model(name: str) -> tuple[torch.nn.Module, int]:
    """(network in eval mode, image size) of a benchmark network or of `module:callable`."""
    if ":" not in name:
        network = find_network(name)
        return network.build(), network.image_size
    module_name, _, attribute = name.partition(":")
    # As `python -m` does: a module beside the caller is found.
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        found: Any = importlib.import_module(module_name)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError) as error:
        raise CommandError(f"cannot load {name!r}: {error}", USAGE) from error
    model = found if isinstance(found, torch.nn.Module) else found()
    if not isinstance(model, torch.nn.Module):
        raise CommandError(f"{name!r} gave a {type(model).__name__}, expected a torch.nn.Module", USAGE)
    return model.eval(), 224


def run(arguments: argparse.Namespace) -> int:
    """Prints the profile."""
    import fastconv

    model, size = load_model(arguments.model)
    size = arguments.size or size
    x = torch.randn(arguments.batch, arguments.channels, size, size, generator=torch.Generator().manual_seed(0))
    with machine.torch_threads(arguments.threads):
        if arguments.convert:
            model = fastconv.convert(model, (x,))
        profile = fastconv.profile(model, (x,))
    Console().line(str(profile))
    if arguments.json:
        path = Path(arguments.json)
        make_folder(path.parent)
        write_text(path, profile.to_json())
    return OK

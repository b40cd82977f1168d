"""`alexkern export`: a weights file as what other tools load."""

from __future__ import annotations

import argparse
from pathlib import Path

from alexkern.commands import CommandError, add_number, network
from alexkern.console import first_line
from alexkern.export import SUFFIXES, ExportError, export
from alexkern.models import MODELS

HELP = "write a network for torchvision, ONNX or torch.export"
DESCRIPTION = "Write a network of which you have the weights as a file that other tools load without alexkern."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The weights, the form, and the file."""
    parser.add_argument("weights", metavar="WEIGHTS", help="a .safetensors or .pth file, or IMAGENET1K_V1")
    parser.add_argument("--to", required=True, choices=list(SUFFIXES), help="what it is for")
    parser.add_argument("--out", type=Path, metavar="F", help="default: WEIGHTS with another ending, here")
    parser.add_argument("--model", choices=list(MODELS), help="default: what the weights file says, else alexnet")
    add_number(parser, "--size", None, "pixels; default: what the weights file says; else")


def run(args: argparse.Namespace) -> int:
    """Write it."""
    path = args.out or Path(Path(args.weights).stem + SUFFIXES[args.to])
    try:
        export(network(args.weights, args.model), args.to, path, args.size)
    except (ExportError, ValueError) as error:
        raise CommandError(first_line(error)) from None
    print(f"{path} written")
    return 0

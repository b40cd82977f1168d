"""The figures of a document, recomputed: a comment below a paragraph says in Python how each comes about.

    The convolution's output has 49.6 MB.
    <!-- counted
    conv1 = layer("conv1")
    f"{2 * conv1.GEMM_M * conv1.K / 1e6:.1f} MB"
    -->

Statements run, one session a document. An expression is a string that stands above the comment, behind the heading or
the comment before, word for word; or something that is true.
"""

from __future__ import annotations

import ast
import math
import re
from pathlib import Path

import torch

from alexkern.bench.layers import LAYERS
from alexkern.cost.chips import CHIPS
from alexkern.cost.model import cdiv, waves
from alexkern.geometry import Geometry

ROOT = Path(__file__).resolve().parents[2]
COMMENT = re.compile(r"<!-- counted\n(.*?)\n-->", re.DOTALL)
BATCH = 128


def layer(name: str, batch: int = BATCH, model: str = "alexnet") -> Geometry:
    """One of a network's convolutions."""
    (found,) = (each for each in LAYERS[model].convolutions if each.name == name)
    return found.geometry(batch)


def constant(path: str, name: str) -> int:
    """That a source in C++ defines, there alone."""
    (found,) = re.findall(rf"\b{name} = (\d+)\b", (ROOT / path).read_text(encoding="utf-8"))
    return int(found)


def wrong(text: str) -> list[str]:
    """What the comments of a document say that it does not."""
    known = {
        "CHIPS": CHIPS, "LAYERS": LAYERS, "H200": CHIPS["H200"], "cdiv": cdiv, "constant": constant, "layer": layer,
        "math": math, "torch": torch, "waves": waves,
    }  # fmt: skip
    found, start = [], 0
    for comment in COMMENT.finditer(text):
        above = " ".join(re.split(r"^#+ ", text[start : comment.start()], flags=re.MULTILINE)[-1].split())
        for statement in ast.parse(comment[1]).body:
            if not isinstance(statement, ast.Expr):
                exec(ast.unparse(statement), known)
            elif not (said := eval(ast.unparse(statement), known)):
                found.append(f"{ast.unparse(statement)} is {said!r}")
            elif isinstance(said, str) and not re.search(rf"(?<![\w.,]){re.escape(said)}(?!\w|[.,]\d)", above):
                found.append(f"it should say {said!r}, which is {ast.unparse(statement)}")
        start = comment.end()
    return found

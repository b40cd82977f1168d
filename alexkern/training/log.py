"""The log of a run: log.csv, a row an epoch."""

from __future__ import annotations

import csv
import math
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path


@dataclass(frozen=True)
class Row:
    """Losses are means of the cross entropy, shares are of 1; of validation, nan where there was none.

    waiting: the share of the training's time in which there was no batch to train on.
    """

    epoch: int
    step: int
    images: int
    learning_rate: float
    train_loss: float
    train_top1: float
    val_loss: float
    val_top1: float
    val_top5: float
    seconds: float
    images_per_second: float
    damaged: int
    waiting: float = math.nan  # which older logs have not


COLUMNS = tuple(field.name for field in fields(Row))


def begin(path: Path, first_epoch: int = 1) -> None:
    """Start a log; a resumed run first drops the rows of epochs that it will do again."""
    rows = [row for row in read(path) if row.epoch < first_epoch]
    partial = path.with_name(f"{path.name}.partial")
    with open(partial, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)
    os.replace(partial, path)


def add(path: Path, row: Row) -> None:
    with open(path, "a", newline="", encoding="utf-8") as file:
        csv.DictWriter(file, COLUMNS).writerow(asdict(row))


def read(path: Path) -> list[Row]:
    """The rows of a log; none where there is no file. A last row that was cut short is left out."""
    if not path.is_file():
        return []
    rows = []
    with open(path, newline="", encoding="utf-8", errors="replace") as file:
        for values in csv.DictReader(file):
            try:
                row = {
                    f.name: int(values[f.name]) if f.type == "int" else float(values.get(f.name, "nan"))
                    for f in fields(Row)
                }
                rows.append(Row(**row))  # type: ignore[arg-type]
            except (KeyError, TypeError, ValueError):
                continue
    return rows

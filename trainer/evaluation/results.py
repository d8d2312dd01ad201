"""The runs that have been computed: one CSV row each, their loss curves beside it.

A cell is the runs of one optimizer at one learning rate on one task; its curves are one NumPy file. Cells are
written whole, so a computation that was interrupted goes on with the next one.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from trainer import files

CSV_FILE = "runs.csv"


def short_digest(config: Mapping[str, Any]) -> str:
    """What tells weights from others of the same name, from their `config.json`."""
    return config["digest"].removeprefix("sha256:")[:12]


class Cell(NamedTuple):
    """What the runs of a cell have in common."""

    task: str
    optimizer: str
    """A baseline's name, or the name or folder of weights."""
    weights: str
    """Of learned optimizers, `short_digest`, so that other weights under an old name are another cell; else
    empty."""
    learning_rate: float
    """alpha, for a learned optimizer."""
    steps: int


class Row(NamedTuple):
    """One run."""

    task: str
    optimizer: str
    weights: str
    learning_rate: float
    steps: int
    seed: int
    final_loss: float
    """The mean loss of the final parameters over all the batches met."""
    seconds: float
    """What the run took, compilation included where it was the first."""
    curves: str
    """The NumPy file, [runs, steps] float32, that holds the loss of each step's batch."""
    curve: int
    """The run's row in that file."""

    @property
    def cell(self) -> Cell:
        return Cell(self.task, self.optimizer, self.weights, self.learning_rate, self.steps)


class Results:
    """A folder of runs."""

    def __init__(self, folder: str) -> None:
        """
        Raises:
            ValueError: the folder's CSV is not one of ours.
        """
        self._folder = folder
        self._path = os.path.join(folder, CSV_FILE)
        self.rows: list[Row] = []
        if tf.io.gfile.exists(self._path):
            self.rows = _parse(self._path, files.read(self._path).decode())

    def of(self, cell: Cell) -> list[Row]:
        """The runs of that cell that are there, by seed."""
        return sorted((row for row in self.rows if row.cell == cell), key=lambda row: row.seed)

    def curves(self, rows: Sequence[Row]) -> np.ndarray:
        """The loss curves of runs of equal length, [runs, steps]."""
        loaded = {name: self._load(name) for name in {row.curves for row in rows}}
        return np.stack([loaded[row.curves][row.curve] for row in rows])

    def _load(self, name: str) -> np.ndarray:
        content = files.read(os.path.join(self._folder, name))
        return np.load(io.BytesIO(content), allow_pickle=False)

    def add(
        self,
        cell: Cell,
        seeds: Sequence[int],
        final_losses: Sequence[float],
        seconds: Sequence[float],
        curves: np.ndarray,
    ) -> None:
        """Writes runs of one cell: the curves [runs, steps] first, then their rows."""
        by = "-".join(filter(None, (cell.optimizer.strip("/").replace("/", "_"), cell.weights)))
        name = f"{cell.task}--{by}--{cell.learning_rate:.6g}--{cell.steps}--{seeds[0]}.npy"
        content = io.BytesIO()
        np.save(content, curves.astype(np.float32), allow_pickle=False)
        files.write_atomically(os.path.join(self._folder, "curves", name), content.getvalue())
        runs = zip(seeds, final_losses, seconds, strict=True)
        self.rows += [Row(*cell, *run, f"curves/{name}", k) for k, run in enumerate(runs)]
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(Row._fields)
        writer.writerows(self.rows)
        files.write_atomically(self._path, text.getvalue().encode())


def _parse(path: str, text: str) -> list[Row]:
    header, *lines = list(csv.reader(io.StringIO(text))) or [[]]
    try:
        if tuple(header) != Row._fields:
            raise ValueError(f"its columns are {header}")
        kinds = (str, str, str, float, int, int, float, float, str, int)
        return [Row(*(kind(cell) for kind, cell in zip(kinds, line, strict=True))) for line in lines]
    except ValueError as error:
        raise ValueError(
            f"{path} is not a file of runs with the columns {', '.join(Row._fields)}: {error}. "
            "Name another --out folder, or remove the file."
        ) from error

"""The runs that have been computed: one CSV row each, their loss curves beside it.

A cell is the runs of one optimizer at one learning rate on one task; its curves are one NumPy file. Cells are
written whole, so a computation that was interrupted goes on with the next one.
"""

from __future__ import annotations

import csv
import io
import os
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from trainer import files

CSV_FILE = "runs.csv"


class Row(NamedTuple):
    """One run."""

    task: str
    optimizer: str
    learning_rate: float
    """alpha, for a learned optimizer."""
    steps: int
    seed: int
    final_loss: float
    """The mean loss of the final parameters over all the batches met."""
    curves: str
    """The NumPy file, [runs, steps] float32, that holds the loss of each step's batch."""
    curve: int
    """The run's row in that file."""


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

    def cell(self, task: str, optimizer: str, learning_rate: float, steps: int) -> list[Row]:
        """The runs of that cell that are there, by seed."""
        key = (task, optimizer, learning_rate, steps)
        return sorted((row for row in self.rows if row[:4] == key), key=lambda row: row.seed)

    def add(
        self,
        task: str,
        optimizer: str,
        learning_rate: float,
        steps: int,
        seeds: list[int],
        final_losses: list[float],
        curves: np.ndarray,
    ) -> None:
        """Writes runs of one cell: the curves [runs, steps] first, then their rows."""
        by = optimizer.strip("/").replace("/", "_")
        name = f"{task}--{by}--{learning_rate:.6g}--{steps}--{seeds[0]}.npy"
        content = io.BytesIO()
        np.save(content, curves.astype(np.float32), allow_pickle=False)
        files.write_atomically(os.path.join(self._folder, "curves", name), content.getvalue())
        self.rows += [
            Row(task, optimizer, learning_rate, steps, seed, loss, f"curves/{name}", k)
            for k, (seed, loss) in enumerate(zip(seeds, final_losses, strict=True))
        ]
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
        kinds = (str, str, float, int, int, float, str, int)
        return [Row(*(kind(cell) for kind, cell in zip(kinds, line, strict=True))) for line in lines]
    except ValueError as error:
        raise ValueError(
            f"{path} is not a file of runs with the columns {', '.join(Row._fields)}: {error}. "
            "Name another --out folder, or remove the file."
        ) from error

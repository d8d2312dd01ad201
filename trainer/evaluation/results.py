"""The runs that have been computed: a folder for each task, with a CSV row for each run and the loss curves.

A cell is the runs of one optimizer at one learning rate on one task; its curves are one NumPy file. Cells are
written whole, so a computation that was interrupted goes on with the next one.

    FOLDER/TASK/runs.csv
    FOLDER/TASK/curves/OPTIMIZER--RATE--STEPS--FIRST_SEED.npy

A file of curves is an array [runs, points] whose fields are the curves' columns, float32. Where curves have
the loss of every step and no other column, the array holds that alone, as float16: three digits of it.
"""

from __future__ import annotations

import csv
import fcntl
import io
import os
import threading
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from numpy.lib.recfunctions import unstructured_to_structured

from trainer import files
from trainer.evaluation.runner import Curve

CSV_FILE = "runs.csv"
CURVES = "curves"
LOCK_FILE = ".lock"

TUNING_SEED = 500_000
"""First of the seeds used for tuning, far from those of any reported run."""

VARIED_HYPERPARAMETERS = ("settling", "beta_3", "annealing")
"""Hyperparameters that weights are shipped with several values of."""


def short_digest(config: Mapping[str, Any]) -> str:
    """A name that tells weights from others of the same name, and from the same network otherwise used.

    Args:
        config: `config.json` of a weight folder.
    """
    digest = config["digest"].removeprefix("sha256:")[:12]
    hyperparameters = config["hyperparameters"]
    varied = (name for name in VARIED_HYPERPARAMETERS if name in hyperparameters)
    return "-".join([digest, *(f"{hyperparameters[name]:.10g}" for name in varied)])


class Cell(NamedTuple):
    """What the runs of a cell have in common."""

    task: str
    optimizer: str
    """A competitor's name: a baseline's, or the name or folder of weights."""
    weights: str
    """`short_digest` of a learned optimizer, so that other weights under an old name are another cell; empty
    for a traditional one."""
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
    """The mean loss of the final parameters over all the batches met; of Keras models the training loss."""
    seconds: float
    """Seconds that the run took, compilation included where it was the first."""
    curves: str
    """The NumPy file that holds the curves; none for tuning."""
    curve: int
    """The run's row in that file."""

    @property
    def cell(self) -> Cell:
        return Cell(self.task, self.optimizer, self.weights, self.learning_rate, self.steps)


class Results:
    """A folder of runs. Threads may share an object; of several processes, one at a time may add."""

    def __init__(self, folder: str, adding: bool = False) -> None:
        """
        Args:
            folder: of the runs.
            adding: keep other processes from adding runs to the folder while this object lives.

        Raises:
            ValueError: a CSV in the folder is not one of ours.
            OSError: another process is adding runs, or the folder cannot be written.
        """
        self._folder = folder
        self._lock = _locked(folder) if adding and "://" not in folder else None
        self._adding = threading.Lock()
        self.rows: list[Row] = []
        if tf.io.gfile.isdir(folder):
            for task in sorted(name.rstrip("/") for name in tf.io.gfile.listdir(folder)):
                path = os.path.join(folder, task, CSV_FILE)
                if tf.io.gfile.exists(path):
                    self.rows += _parse(path, files.read(path).decode())

    def of(self, cell: Cell) -> list[Row]:
        """The runs of that cell that are there, by seed, tuning included."""
        return sorted((row for row in self.rows if row.cell == cell), key=lambda row: row.seed)

    def curves(self, rows: Sequence[Row]) -> Curve:
        """The curves of runs of one length, each column [runs, points], float32."""
        loaded = {file: self._load(*file) for file in {(row.task, row.curves) for row in rows}}
        columns = loaded[rows[0].task, rows[0].curves]
        return {
            name: np.stack([loaded[row.task, row.curves][name][row.curve] for row in rows])
            for name in columns
        }

    def _load(self, task: str, name: str) -> Curve:
        return _decoded(files.read(os.path.join(self._folder, task, CURVES, name)))

    def add(
        self,
        cell: Cell,
        seeds: Sequence[int],
        final_losses: Sequence[float],
        seconds: Sequence[float],
        curves: Sequence[Curve] | None = None,
    ) -> None:
        """Writes runs of one cell: the curves, if they are to be kept, then the rows.

        Raises:
            OSError: writing failed.
        """
        name = ""
        with self._adding:
            if curves is not None:
                by = "-".join(
                    filter(
                        None, (cell.optimizer.strip("/").replace("/", "_").replace(":", "-"), cell.weights)
                    )
                )
                name = f"{by}--{cell.learning_rate:.6g}--{cell.steps}--{seeds[0]}.npy"
                path = os.path.join(self._folder, cell.task, CURVES, name)
                files.write_atomically(path, _encoded(curves))
            runs = zip(seeds, final_losses, seconds, strict=True)
            self.rows += [Row(*cell, *run, name, k) for k, run in enumerate(runs)]
            text = io.StringIO()
            writer = csv.writer(text, lineterminator="\n")
            writer.writerow(Row._fields)
            writer.writerows(row for row in self.rows if row.task == cell.task)
            files.write_atomically(os.path.join(self._folder, cell.task, CSV_FILE), text.getvalue().encode())


def _encoded(curves: Sequence[Curve]) -> bytes:
    """A file of the curves of runs."""
    columns = {name: np.stack([curve[name] for curve in curves]) for name in curves[0]}
    content = io.BytesIO()
    if columns.keys() == {"step", "loss"} and (columns["step"] == np.arange(columns["step"].shape[1])).all():
        with np.errstate(over="ignore"):  # A loss beyond float16's range is kept as infinite.
            np.save(content, columns["loss"].astype(np.float16), allow_pickle=False)
    else:
        fields = np.dtype([(name, np.float32) for name in columns])
        values = np.stack([*columns.values()], axis=-1)
        np.save(content, unstructured_to_structured(values, fields), allow_pickle=False)
    return content.getvalue()


def _decoded(content: bytes) -> Curve:
    """The curves of a file, each column [runs, points], float32."""
    array = np.load(io.BytesIO(content), allow_pickle=False)
    if array.dtype.names is None:
        loss = array.astype(np.float32)
        return {"step": np.broadcast_to(np.arange(loss.shape[1], dtype=np.float32), loss.shape), "loss": loss}
    return {name: array[name] for name in array.dtype.names}


def _locked(folder: str) -> io.IOBase:
    """An open file whose lock ends with it, or with the process."""
    try:
        os.makedirs(folder, exist_ok=True)
        file = open(os.path.join(folder, LOCK_FILE), "w")  # noqa: SIM115, it stays open
    except OSError as error:
        raise OSError(f"Cannot write to {folder}: {error.strerror}") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise OSError(
            f"Another process is adding runs to {folder}. Wait for it, or name another folder."
        ) from error
    return file


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

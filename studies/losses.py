"""What the studies share: runs of a task, their mean final losses, and rows of a Markdown table."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from rnnprop_tf import RNNprop
from trainer.evaluation.fit_runner import FitRunner
from trainer.evaluation.runner import Runner
from trainer.evaluation.unrolled_runner import KerasRunner
from trainer.keras_models.catalog import VALIDATION
from trainer.problems import catalog

SMALL = [*catalog.SMALL_TASKS, *VALIDATION]
"""Tasks outside the paper's 22, and the Keras models that weights are chosen by."""
SEEDS_FROM = 400_000
"""Seed of the first run on those tasks: no evaluation begins there."""


def runner_of(name: str, make_optimizer: Callable[[Any], RNNprop]) -> Runner:
    """Runs a task of the catalog or a Keras model by that name with an optimizer.

    Args:
        name: the task.
        make_optimizer: makes the optimizer from a callable that gives the learning rate.
    """
    if name in VALIDATION:
        return FitRunner(VALIDATION[name], make_optimizer)
    return KerasRunner(catalog.task(name).build(None), make_optimizer)


def final_losses(runner: Runner, steps: int, seeds: Iterable[int], learning_rate: float) -> np.ndarray:
    """Final loss of a run of so many steps from each seed, [seeds]."""
    return np.array([runner.run(steps, seed, learning_rate).final_loss for seed in seeds])


def print_ratios(rows: Iterable[Iterable[float]]) -> None:
    """A last row: geometric means, over the rows, of the ratios of their losses to the first of each."""
    logarithms = np.log([list(row) for row in rows])
    ratios = np.exp(np.mean(logarithms - logarithms[:, :1], axis=0))
    print_row("geometric mean of the ratios", *(f"{ratio:.3f}" for ratio in ratios))


def print_head(*headers: str) -> None:
    """The head of a table whose rows `print_row` prints."""
    print_row(*headers)
    print("|---" * len(headers) + "|")


def print_row(first: str, *cells: str) -> None:
    """A row, shown at once: a study takes long."""
    print(f"| {' | '.join((first, *cells))} |", flush=True)

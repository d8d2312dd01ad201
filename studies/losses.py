"""What the studies share: runs of a task, their mean final losses, and rows of a Markdown table."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from rnnprop_tf import RNNprop
from trainer.evaluation.curves import KerasRunner, Runner
from trainer.evaluation.fits import FitRunner
from trainer.problems import catalog
from trainer.problems.workloads import VALIDATION

SMALL = [*catalog.SMALL_TASKS, *VALIDATION]
"""Tasks outside the paper's 22, and the Keras models that weights are chosen by."""
SEEDS_FROM = 400_000
"""Seed of the first run on those tasks: no evaluation begins there."""


def runner_of(name: str, make_optimizer: Callable[[], RNNprop]) -> Runner | FitRunner:
    """Runs a task of the catalog or a Keras model by that name with an optimizer."""
    if name in VALIDATION:
        return FitRunner(VALIDATION[name], lambda _: make_optimizer())
    return KerasRunner(catalog.task(name).build(None), make_optimizer())


def final_losses(runner: Runner | FitRunner, steps: int, seeds: Iterable[int]) -> np.ndarray:
    """Final loss of a run of so many steps from each seed, [seeds]."""
    return np.array([runner.run(steps, seed).final_loss for seed in seeds])


def print_head(*headers: str) -> None:
    """The head of a table whose rows `print_row` prints."""
    print_row(*headers)
    print("|---" * len(headers) + "|")


def print_row(first: str, *cells: str) -> None:
    """A row, shown at once: a study takes long."""
    print(f"| {' | '.join((first, *cells))} |", flush=True)

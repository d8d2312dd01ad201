"""Makes the runs that a results folder lacks, traditional optimizers tuned first."""

from __future__ import annotations

import time
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from rnnprop_tf import pretrained
from trainer.evaluation import baselines
from trainer.evaluation.curves import KerasRunner, LearnedRunner, Runner
from trainer.evaluation.results import Cell, Results, short_digest
from trainer.problems import catalog

TUNING_SEED = 500_000
"""First of the seeds used for tuning, far from those of any reported run."""


class Entrant(NamedTuple):
    """An optimizer, as the command line names it."""

    name: str
    weights: pretrained.Pretrained | None
    rate: float | None
    """None: to be tuned."""

    def cell(self, task: str, rate: float, steps: int) -> Cell:
        """The cell of its runs at that rate."""
        digest = short_digest(self.weights.config) if self.weights else ""
        return Cell(task, self.name, digest, rate, steps)


def entrant(text: str) -> Entrant:
    """The optimizer of that name.

    Raises:
        ValueError: there is none, or its weights cannot be read.
    """
    name, _, rate = text.partition(":")
    if name in baselines.OPTIMIZERS:
        try:
            value = float(rate) if rate else None
        except ValueError:
            raise ValueError(
                f"Expected a learning rate after the colon, as in adam:0.001. Received: {text!r}"
            ) from None
        if value is not None and not 0 < value < float("inf"):
            raise ValueError(f"Expected a positive learning rate. Received: {text!r}")
        return Entrant(name, None, value)
    weights = pretrained.load(text)
    return Entrant(text, weights, weights.learning_rate)


class Evaluation:
    """Optimizers on one task, each compiled once."""

    def __init__(self, results: Results, task: str, steps: int | None, data_dir: str | None) -> None:
        """
        Args:
            results: where runs are looked up and written.
            task: a name of the catalog.
            steps: of a run; the task's own where None.
            data_dir: TFDS's folder, its default where None.
        """
        self._results = results
        self._task = task
        self._steps = steps or catalog.task(task).steps
        self._problem = catalog.task(task).build(data_dir)

    def losses(self, entrant: Entrant, seeds: range, tuning_seeds: range) -> tuple[float, list[float]]:
        """The learning rate, tuned where the entrant names none, and the final losses by seed."""
        runner: Runner
        if entrant.weights is not None:
            weights = entrant.weights
            runner = LearnedRunner(self._problem, weights.rule, weights.network, weights.learning_rate)
        else:
            runner = KerasRunner(self._problem, baselines.OPTIMIZERS[entrant.name]())

        def losses_at(rate: float, seeds: range) -> list[float]:
            if isinstance(runner, KerasRunner):
                runner.tune(rate)
            return self._cell(entrant.cell(self._task, rate, self._steps), runner, seeds)

        def mean_loss(rate: float) -> float:
            return float(np.mean(losses_at(rate, tuning_seeds)))

        rate = entrant.rate or baselines.tune(baselines.FIRST_GRID[entrant.name], mean_loss)
        return rate, losses_at(rate, seeds)

    def _cell(self, cell: Cell, runner: Runner, seeds: range) -> list[float]:
        there = {row.seed: row.final_loss for row in self._results.of(cell)}
        missing = [seed for seed in seeds if seed not in there]
        if missing:
            runs, seconds = [], []
            label = f"{cell.task} {cell.optimizer} {cell.learning_rate:.4g}"
            for seed in tqdm(missing, desc=label, unit="run", leave=False):
                begin = time.perf_counter()
                runs.append(runner.run(cell.steps, seed))
                seconds.append(round(time.perf_counter() - begin, 3))
            final = [run.final_loss for run in runs]
            self._results.add(cell, missing, final, seconds, np.stack([run.curve for run in runs]))
            there |= dict(zip(missing, final, strict=True))
        return [there[seed] for seed in seeds]

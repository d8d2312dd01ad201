"""Makes the runs that a results folder lacks, traditional optimizers tuned first."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np

from rnnprop_tf import DMOptimizer, RNNprop, pretrained
from rnnprop_tf.rule import RNNpropRule
from trainer.evaluation import baselines
from trainer.evaluation.curves import KerasRunner, LearnedRunner, Runner
from trainer.evaluation.fits import FitRunner, check_steps
from trainer.evaluation.results import TUNING_SEED, Cell, Results, short_digest
from trainer.problems import catalog
from trainer.problems.workloads import WORKLOADS

DEFAULT_STEPS = 200
"""Of a Keras model's run, where none are named."""


class Entrant(NamedTuple):
    """An optimizer that takes part."""

    name: str
    weights: pretrained.Pretrained | None
    rate: float | None
    """None: to be tuned."""

    def make(self, rate: Any) -> keras.optimizers.Optimizer:
        """The Keras optimizer; learned ones keep the learning rate of their weights."""
        if self.weights is None:
            return baselines.OPTIMIZERS[self.name](rate)
        network, rule, rate, _ = self.weights
        kind = RNNprop if isinstance(rule, RNNpropRule) else DMOptimizer
        return kind(network, learning_rate=rate, **dataclasses.asdict(rule))

    def cell(self, task: str, rate: float, steps: int) -> Cell:
        """The cell of its runs at that rate."""
        digest = short_digest(self.weights.config) if self.weights else ""
        return Cell(task, self.name, digest, rate, steps)


def entrant(text: str) -> Entrant:
    """The optimizer that the command line names so.

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
        if name in baselines.FIXED and rate:
            raise ValueError(f"Expected {name} without a learning rate. Received: {text!r}")
        if value is not None and not 0 < value < float("inf"):
            raise ValueError(f"Expected a positive learning rate. Received: {text!r}")
        return Entrant(name, None, baselines.FIXED.get(name, value))
    return learned(text, text)


def learned(name: str, weights: str) -> Entrant:
    """The learned optimizer of these weights (a name or a folder), under a name of its own.

    Raises:
        ValueError: the weights cannot be read.
    """
    found = pretrained.load(weights)
    return Entrant(name, found, found.learning_rate)


def check_task(name: str, optimizers: Collection[str] = (), steps: int | None = None) -> None:
    """That the optimizers can be run on that task, one of the catalog or of the Keras models, for so long.

    Raises:
        ValueError: they cannot.
    """
    if name in WORKLOADS:
        check_steps(steps or DEFAULT_STEPS)
        return
    if name.startswith("keras-"):
        raise ValueError(f"No Keras model named {name!r}. Expected one of {', '.join(WORKLOADS)}.")
    catalog.task(name)
    if baselines.ADAMW_COSINE in optimizers:
        raise ValueError(f"{baselines.ADAMW_COSINE}: expected Keras models as tasks. Received: {name}")


class Evaluation:
    """Optimizers on one task, each compiled once."""

    def __init__(
        self,
        results: Results,
        task: str,
        steps: int | None = None,
        data_dir: str | None = None,
        after_run: Callable[[float], Any] = lambda seconds: None,
    ) -> None:
        """
        Args:
            results: where runs are looked up and written.
            task: a name of the catalog or of `WORKLOADS`.
            steps: of a run; where None the task's own, or `DEFAULT_STEPS`.
            data_dir: TFDS's folder, its default where None.
            after_run: called with the seconds of each run that was made, to show progress or, by raising,
                to stop.
        """
        self._results = results
        self._task = task
        self._data_dir = data_dir
        if task in WORKLOADS:
            self._steps = steps or DEFAULT_STEPS
        else:
            self._steps = steps or catalog.task(task).steps
            self._problem = catalog.task(task).build(data_dir)
        self._after_run = after_run

    def losses(
        self,
        entrant: Entrant,
        seeds: range,
        tuning_seeds: range,
        grid: range | None = None,
        strides: Sequence[int] = baselines.STRIDES,
    ) -> tuple[float, list[float]]:
        """The learning rate, tuned where the entrant names none, and the final losses by seed.

        Args:
            entrant: the optimizer.
            seeds: of the runs, below `TUNING_SEED`.
            tuning_seeds: from `TUNING_SEED` on.
            grid: see `baselines.tune`; `baselines.FIRST_GRID` where None.
            strides: see `baselines.tune`.
        """
        runner = self._runner(entrant)

        def losses_at(rate: float, seeds: range) -> list[float]:
            if not isinstance(runner, LearnedRunner):
                runner.tune(rate)
            return self._cell(entrant.cell(self._task, rate, self._steps), runner, seeds)

        def mean_loss(rate: float) -> float:
            return float(np.mean(losses_at(rate, tuning_seeds)))

        rate = entrant.rate
        if rate is None:
            rate = baselines.tune(grid or baselines.FIRST_GRID[entrant.name], mean_loss, strides)
        return rate, losses_at(rate, seeds)

    def _runner(self, entrant: Entrant) -> LearnedRunner | KerasRunner | FitRunner:
        cosine = entrant.name == baselines.ADAMW_COSINE
        if self._task in WORKLOADS:
            return FitRunner(WORKLOADS[self._task], entrant.make, cosine, self._data_dir)
        check_task(self._task, [entrant.name])
        if entrant.weights is not None:
            weights = entrant.weights
            return LearnedRunner(self._problem, weights.rule, weights.network, weights.learning_rate)
        return KerasRunner(self._problem, entrant.make(0.01))

    def _cell(self, cell: Cell, runner: Runner | FitRunner, seeds: range) -> list[float]:
        there = {row.seed: row.final_loss for row in self._results.of(cell)}
        missing = [seed for seed in seeds if seed not in there]
        if missing:
            runs, seconds = [], []
            for seed in missing:
                begin = time.perf_counter()
                runs.append(runner.run(cell.steps, seed))
                seconds.append(round(time.perf_counter() - begin, 3))
                self._after_run(seconds[-1])
            final = [run.final_loss for run in runs]
            reported = min(missing) < TUNING_SEED
            curves = np.stack([run.curve for run in runs]) if reported else None
            self._results.add(cell, missing, final, seconds, curves)
            there |= dict(zip(missing, final, strict=True))
        return [there[seed] for seed in seeds]

"""Makes the runs that a results folder lacks, of optimizers on one task; traditional ones are tuned first."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from trainer.evaluation import baselines
from trainer.evaluation.competitors import Competitor
from trainer.evaluation.results import TUNING_SEED, Cell, Results
from trainer.evaluation.runner import Runner
from trainer.evaluation.tasks import task


class Evaluation:
    """Optimizers on one task, each compiled once."""

    def __init__(
        self,
        results: Results,
        task_name: str,
        steps: int | None = None,
        data_dir: str | None = None,
        after_run: Callable[[float], Any] = lambda seconds: None,
    ) -> None:
        """
        Args:
            results: where runs are looked up and written.
            task_name: one of `tasks.TASKS`.
            steps: of a run; the task's own where None.
            data_dir: TFDS's folder, its default where None.
            after_run: called with the seconds of each run that was made, to show progress or, by raising,
                to stop.
        """
        self._results = results
        self._task = task(task_name)
        self._steps = steps or self._task.steps
        self._make_runner = self._task.load(data_dir)
        self._after_run = after_run

    def losses(
        self,
        competitor: Competitor,
        seeds: range,
        tuning_seeds: range,
        grid: range | None = None,
        strides: Sequence[int] = baselines.STRIDES,
    ) -> tuple[float, list[float]]:
        """The learning rate, tuned where the competitor names none, and the final losses by seed.

        Args:
            competitor: the optimizer.
            seeds: of the runs, below `TUNING_SEED`.
            tuning_seeds: from `TUNING_SEED` on.
            grid: see `baselines.tune`; `baselines.FIRST_GRID` where None.
            strides: see `baselines.tune`.
        """
        self._task.check([competitor.name], self._steps)
        runner = functools.cache(lambda: self._make_runner(competitor))  # Only if a run is missing.

        def losses_at(rate: float, seeds: range) -> list[float]:
            return self._cell(competitor.cell(self._task.name, rate, self._steps), runner, seeds)

        def mean_loss(rate: float) -> float:
            return float(np.mean(losses_at(rate, tuning_seeds)))

        rate = competitor.rate
        if rate is None:
            rate = baselines.tune(grid or baselines.FIRST_GRID[competitor.name], mean_loss, strides)
        return rate, losses_at(rate, seeds)

    def _cell(self, cell: Cell, runner: Callable[[], Runner], seeds: range) -> list[float]:
        there = {row.seed: row.final_loss for row in self._results.of(cell)}
        missing = [seed for seed in seeds if seed not in there]
        if missing:
            runs, seconds = [], []
            for seed in missing:
                begin = time.perf_counter()
                runs.append(runner().run(cell.steps, seed, cell.learning_rate))
                seconds.append(round(time.perf_counter() - begin, 3))
                self._after_run(seconds[-1])
            final = [run.final_loss for run in runs]
            reported = min(missing) < TUNING_SEED
            curves = [run.curve for run in runs] if reported else None
            self._results.add(cell, missing, final, seconds, curves)
            there |= dict(zip(missing, final, strict=True))
        return [there[seed] for seed in seeds]

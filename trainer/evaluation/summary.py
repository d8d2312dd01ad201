"""What runs say together: means, medians, bootstrap intervals, comparisons. Reads results only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from trainer.evaluation.results import TUNING_SEED, Results, Row

RESAMPLES = 10_000
CONFIDENCE = 0.95

HELD = 1.5
"""The most that one ratio counts for in a geometric mean, upwards and downwards."""

TIE = 0.01
"""Means that differ by less than this share are called tied, whatever their intervals."""


class NotRunError(Exception):
    """Runs that are needed are not there."""


class Interval(NamedTuple):
    """A mean and its bootstrap interval."""

    mean: float
    low: float
    high: float


class Summary(NamedTuple):
    """The final losses of one optimizer on one task."""

    rate: float
    """The learning rate, tuned or the weights' own."""
    losses: np.ndarray
    """[runs], by rising seed."""
    seeds: tuple[int, ...] = ()

    @property
    def mean(self) -> float:
        return float(np.mean(self.losses))

    @property
    def median(self) -> float:
        return float(np.median(self.losses))

    @property
    def interval(self) -> Interval:
        return bootstrap(self.losses)

    def __str__(self) -> str:
        mean, low, high = self.interval
        return f"mean {mean:.4f} [{low:.4f}, {high:.4f}], median {self.median:.4f}, {len(self.losses)} runs"


def bootstrap(values: np.ndarray) -> Interval:
    """The mean of values [n] and the percentile interval of the mean of resamples, the same at every call.

    A single value, and values of which one is not finite, have an interval of no width.
    """
    mean = float(np.mean(values))
    if len(values) < 2 or not np.isfinite(values).all():
        return Interval(mean, mean, mean)
    picks = np.random.default_rng(0).integers(len(values), size=(RESAMPLES, len(values)))
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(np.asarray(values)[picks].mean(axis=1), [tail, 1 - tail])
    return Interval(mean, float(low), float(high))


def reported(results: Results, task: str, steps: int, optimizer: str) -> list[Row]:
    """The runs of an optimizer that count, by seed: those not made for tuning.

    Those at the tuned learning rate, the best of its tuning runs. Where there are still several cells, of
    other weights under the same name or of rates given by hand, those of the one written last.
    """
    rows = [
        row
        for row in results.rows
        if (row.task, row.steps, row.optimizer) == (task, steps, optimizer) and row.seed < TUNING_SEED
    ]
    if by_rate := tuning(results, task, steps, optimizer):
        tuned = min(by_rate, key=lambda rate: (math.isnan(by_rate[rate]), by_rate[rate]))
        rows = [row for row in rows if row.learning_rate == tuned] or rows
    return sorted((row for row in rows if row.cell == rows[-1].cell), key=lambda row: row.seed)


def summary(results: Results, task: str, steps: int, optimizer: str) -> Summary | None:
    """The final losses of an optimizer on a task; None where there are no runs."""
    rows = reported(results, task, steps, optimizer)
    if not rows:
        return None
    losses = np.array([row.final_loss for row in rows])
    return Summary(rows[0].learning_rate, losses, tuple(row.seed for row in rows))


def tuning(results: Results, task: str, steps: int, optimizer: str) -> dict[float, float]:
    """The mean final loss by learning rate, rising, of the runs made for tuning."""
    by_rate: dict[float, list[float]] = {}
    for row in results.rows:
        if (row.task, row.steps, row.optimizer) == (task, steps, optimizer) and row.seed >= TUNING_SEED:
            by_rate.setdefault(row.learning_rate, []).append(row.final_loss)
    return {rate: float(np.mean(by_rate[rate])) for rate in sorted(by_rate)}


def difference(ours: Summary, theirs: Summary) -> Interval:
    """The mean difference of final losses, ours less theirs, over the seeds that both have.

    Equal seeds are equal starts and data, so the runs are compared in pairs.
    """
    both = sorted(set(ours.seeds) & set(theirs.seeds))
    by_seed = [dict(zip(one.seeds, one.losses, strict=True)) for one in (ours, theirs)]
    with np.errstate(invalid="ignore"):
        return bootstrap(np.array([by_seed[0][seed] - by_seed[1][seed] for seed in both]))


def ratio(ours: Summary, theirs: Summary) -> Interval:
    """The mean final loss, ours as a multiple of theirs, over the seeds that both have.

    Runs are compared in pairs, as in `difference`: a resample takes the same seeds of both.
    """
    both = sorted(set(ours.seeds) & set(theirs.seeds))
    by_seed = [dict(zip(one.seeds, one.losses, strict=True)) for one in (ours, theirs)]
    losses = np.array([[of[seed] for seed in both] for of in by_seed])
    value = float(losses[0].mean() / losses[1].mean())
    if len(both) < 2 or not np.isfinite(losses).all():
        return Interval(value, value, value)
    picks = np.random.default_rng(0).integers(len(both), size=(RESAMPLES, len(both)))
    means = losses[:, picks].mean(axis=-1)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(means[0] / means[1], [tail, 1 - tail])
    return Interval(value, float(low), float(high))


def geometric_mean(ratios: Sequence[float]) -> Interval:
    """The geometric mean of ratios, and its interval over resamples of them.

    Each ratio is held within 1 / `HELD` and `HELD` first, so that no single one decides.
    """
    logs = np.log(np.clip(np.nan_to_num(ratios, nan=HELD), 1 / HELD, HELD))
    return Interval(*(math.exp(value) for value in bootstrap(logs)))


def verdict(ours: Summary, theirs: Summary) -> str:
    """won, tied or lost: tied within 1 % or where the interval of the paired difference holds 0.

    A mean that is not finite, as some run diverged, loses against one that is.
    """
    finite = math.isfinite(ours.mean), math.isfinite(theirs.mean)
    if not all(finite):
        return "tied" if not any(finite) else "won" if finite[0] else "lost"
    gap = difference(ours, theirs)
    if abs(ours.mean / theirs.mean - 1) < TIE or gap.low <= 0 <= gap.high:
        return "tied"
    return "won" if gap.mean < 0 else "lost"


def mean_curve(results: Results, task: str, steps: int, optimizer: str, window: int) -> np.ndarray:
    """The loss by step, mean over runs and over windows of steps, [steps // window].

    Raises:
        NotRunError: there are no runs.
    """
    rows = reported(results, task, steps, optimizer)
    if not rows:
        raise NotRunError(f"{optimizer} on {task}")
    curve = results.curves(rows)["loss"].mean(axis=0)
    return curve[: len(curve) // window * window].reshape(-1, window).mean(axis=1)

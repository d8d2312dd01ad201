"""The paper's tables from the runs, in Markdown, beside its printed numbers. Reads results only."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from trainer.evaluation.markdown import MEAN, NOT_RUN, mean, median, number, rate, table
from trainer.evaluation.results import Results
from trainer.evaluation.summary import HELD, Summary, geometric_mean, ratio, summary, verdict
from trainer.paper import experiments
from trainer.paper.experiments import (
    ACTIVATIONS,
    BASE,
    DM,
    LEARNED,
    NO_CONVEX,
    NO_SCALING,
    OTHER_OPTIMIZEES,
    OTHER_OPTIMIZEES_STEPS,
    RELU,
    REPLICATE_SEEDS,
    REPLICATED,
    RNNPROP,
    SINES,
    TABLE_4_ITERATIONS,
    TRADITIONAL,
    at_iteration,
    long_run_baselines,
    replicate,
)
from trainer.problems.catalog import PAPER_TASKS

PAPER_TABLE_2: Mapping[str, Mapping[str, float]] = {
    "mnist-nn-sigmoid-100": {"adam": 0.31, DM: 0.24, RNNPROP: 0.29},
    "mnist-nn-relu-100": {"adam": 0.28, DM: 1.05, RNNPROP: 0.27},
    "mnist-nn-elu-100": {"adam": 0.26, DM: 13.51, RNNPROP: 0.24},
    "mnist-nn-tanh-100": {"adam": 0.31, DM: 0.50, RNNPROP: 0.28},
}
PAPER_TABLE_3: Mapping[str, Mapping[str, float]] = {
    "sin_lstm": {"adam": 0.62, "adagrad": 0.54, DM: 26.43, RNNPROP: 0.55},
    "sin_lstm-x2": {"adam": 0.44, "adagrad": 0.65, DM: 5.06, RNNPROP: 0.28},
    "sin_lstm-no001": {"adam": 0.39, "adagrad": 0.50, DM: 22.04, RNNPROP: 0.36},
}
PAPER_TABLE_4: Mapping[str, Mapping[int, Sequence[float]]] = {
    BASE: {5_000: (0.31, 0.33, 0.33), 10_000: (0.31, 0.31, 0.32), 15_000: (0.31, 0.30, 0.33)},
    RELU: {5_000: (0.28, 0.30, 0.31), 10_000: (0.28, 0.29, 0.31), 15_000: (0.28, 0.27, 0.32)},
}
"""Losses of Adam, RNNprop, RNNprop without the convex part, by task and iterations."""

STEPS = {name: task.steps for name, task in PAPER_TASKS.items()}

PRINTED = "final loss in the paper"
"""Header of the paper's own numbers."""


def table2(results: Results) -> str:
    """Activations of the base MLP."""
    return _with_printed_numbers(results, ACTIVATIONS, PAPER_TABLE_2)


def table3(results: Results) -> str:
    """The sine LSTM."""
    return _with_printed_numbers(results, SINES, PAPER_TABLE_3)


def _with_printed_numbers(
    results: Results, tasks: Sequence[str], printed: Mapping[str, Mapping[str, float]]
) -> str:
    rows = []
    for task in tasks:
        for name, value in printed[task].items():
            found = summary(results, task, STEPS[task], name)
            tuned = rate(found) if name in TRADITIONAL else ""
            rows.append([task, name, mean(found), median(found), number(value), tuned])
    header = ["task", "optimizer", MEAN, "median final loss", PRINTED, "tuned learning rate"]
    return table(header, rows)


def table4(results: Results) -> str:
    """With and without the convex part, by iterations of meta-training."""
    rows = []
    for task in (BASE, RELU):
        for iterations in TABLE_4_ITERATIONS:
            names = ("adam", at_iteration(RNNPROP, iterations), at_iteration(NO_CONVEX, iterations))
            for name, value in zip(names, PAPER_TABLE_4[task][iterations], strict=True):
                found = summary(results, task, STEPS[task], name)
                rows.append([task, f"{iterations:,}", name, mean(found), median(found), number(value)])
    header = ["task", "iterations of meta-training", "optimizer", MEAN, "median final loss", PRINTED]
    return table(header, rows)


def best_traditional(results: Results, task: str, steps: int) -> tuple[str, Summary] | None:
    """The one of the lowest mean final loss, NaN the highest; None where not all were run."""
    names = TRADITIONAL if steps == STEPS[task] else long_run_baselines(task)
    found = {name: summary(results, task, steps, name) for name in names}
    there = {name: one for name, one in found.items() if one is not None}
    if len(there) < len(names):
        return None
    best = min(there, key=lambda name: (math.isnan(there[name].mean), there[name].mean))
    return best, there[best]


class Comparison(NamedTuple):
    """An optimizer against the best traditional one on a task."""

    task: str
    steps: int
    ours: Summary
    theirs: Summary

    @property
    def task_and_steps(self) -> str:
        """The task, and the steps where they are not its own."""
        return self.task if self.steps == STEPS[self.task] else f"{self.task} for {self.steps:,} steps"

    @property
    def ratio(self) -> float:
        """Ratio of the mean final losses, ours to theirs."""
        return self.ours.mean / self.theirs.mean

    @property
    def verdict(self) -> str:
        return verdict(self.ours, self.theirs)


def scorecard(
    results: Results,
    optimizer: str = RNNPROP,
    tasks_and_steps: Iterable[tuple[str, int]] = tuple(STEPS.items()),
) -> str:
    """An optimizer against the best traditional one, each tuned for the task; by default the 22 tasks.

    The numbers, then the verdicts.
    """
    rows: list[list[str]] = []
    comparisons: list[Comparison] = []
    for task, steps in tasks_and_steps:
        ours, best = summary(results, task, steps, optimizer), best_traditional(results, task, steps)
        name, theirs = best or (NOT_RUN, None)
        ratio = ""
        if ours is not None and theirs is not None:
            comparisons.append(Comparison(task, steps, ours, theirs))
            ratio = f"{comparisons[-1].ratio:.3f}"
        row = [task, f"{steps:,}", mean(ours), name, mean(theirs), ratio]
        rows.append([*row, median(ours), median(theirs), rate(theirs)])
    header = [
        "task",
        "steps",
        f"{optimizer}: {MEAN}",
        "best traditional optimizer",
        f"best traditional: {MEAN}",
        "ratio of means",
        f"{optimizer}: median final loss",
        "best traditional: median final loss",
        "best traditional: tuned learning rate",
    ]
    numbers = table(header, rows)
    return f"{numbers}\n\n{_verdicts(optimizer, comparisons)}" if comparisons else numbers


def _verdicts(optimizer: str, compared: Sequence[Comparison]) -> str:
    """Tasks on which the optimizer won, tied and lost, and what the ratios are on the whole."""
    rows = []
    for one in ("won", "tied", "lost"):
        where = [each.task_and_steps for each in compared if each.verdict == one]
        rows.append([f"{optimizer} {one}", str(len(where)), ", ".join(where)])
    verdicts = table(["verdict", "number of tasks", "tasks"], rows)
    return f"{verdicts}\n\n{_ratios([each.ratio for each in compared])}".rstrip()


def _ratios(ratios: Sequence[float]) -> str:
    finite = [ratio for ratio in ratios if math.isfinite(ratio) and ratio > 0]
    if not finite:
        return ""
    text = f"Ratios of means: geometric mean {math.exp(np.mean(np.log(finite))):.3f}, worst {max(finite):.3f}"
    others = len(ratios) - len(finite)
    return f"{text}; {others} not finite." if others else f"{text}."


def other_optimizees(results: Results) -> str:
    """The optimizees run for longer, as the paper does not name its own."""
    return scorecard(results, RNNPROP, [(task, OTHER_OPTIMIZEES_STEPS) for task in OTHER_OPTIMIZEES])


def the_22_tasks(results: Results) -> str:
    """RNNprop against the best traditional optimizer, then all optimizers."""
    return f"{scorecard(results)}\n\n{all_optimizers(results)}"


def all_optimizers(results: Results) -> str:
    """Final losses of all optimizers on all tasks, and the tuned learning rates."""
    names = LEARNED + TRADITIONAL
    return "\n\n".join(
        (
            matrix(results, STEPS.items(), names, MEAN, mean),
            matrix(results, STEPS.items(), names, "median final loss", median),
            matrix(results, STEPS.items(), TRADITIONAL, "tuned learning rate", rate),
        )
    )


def relative(results: Results, ours: str, theirs: str, tasks_and_steps: Iterable[tuple[str, int]]) -> str:
    """The mean final losses of an optimizer as multiples of another's, by task, and their geometric mean.

    Args:
        results: the runs.
        ours: the optimizer.
        theirs: what it is compared with, on the same seeds.
        tasks_and_steps: a row for each on which both were run.
    """
    rows, ratios = [], []
    for task, steps in tasks_and_steps:
        both = [summary(results, task, steps, name) for name in (ours, theirs)]
        if both[0] is None or both[1] is None:
            continue
        mean, low, high = ratio(both[0], both[1])
        runs = len(set(both[0].seeds) & set(both[1].seeds))
        rows.append([task, f"{steps:,}", f"{mean:.3f}", f"{low:.3f}", f"{high:.3f}", str(runs)])
        ratios.append(mean)
    if not rows:
        return f"{ours} beside {theirs}: {NOT_RUN}."
    total = geometric_mean(ratios)
    header = ["task", "steps", "ratio of the mean final losses", "95 % from", "to", "pairs of runs"]
    return (
        f"{ours} as a multiple of {theirs}, runs compared in pairs. Geometric mean of {len(ratios)} ratios, "
        f"each held within 1 / {HELD} and {HELD}: {total.mean:.3f} [{total.low:.3f}, {total.high:.3f}].\n\n"
        f"{table(header, rows)}"
    )


def matrix(
    results: Results,
    tasks_and_steps: Iterable[tuple[str, int]],
    optimizers: Sequence[str],
    quantity: str,
    shown: Callable[[Summary | None], str],
) -> str:
    """One quantity of some optimizers, by task.

    Args:
        results: the runs.
        tasks_and_steps: a row for each.
        optimizers: a column for each.
        quantity: what the cells say, for the header.
        shown: writes a cell.
    """
    rows = [
        [task, f"{steps:,}", *(shown(summary(results, task, steps, name)) for name in optimizers)]
        for task, steps in tasks_and_steps
    ]
    title = f"{quantity[0].upper()}{quantity[1:]}, by optimizer:"
    return f"{title}\n\n{table(['task', 'steps', *optimizers], rows)}"


def replicates(results: Results) -> str:
    """Final losses of three meta-training seeds at the smaller budget, and the spread between seeds."""
    tasks = [*((task, 100) for task in ACTIVATIONS), (RELU, experiments.FIGURE_9_STEPS)]
    rows = []
    for task, steps in tasks:
        adam = summary(results, task, steps, "adam")
        rows.append([task, f"{steps:,}", "adam", NOT_RUN if adam is None else number(adam.mean), *[""] * 4])
        for name in REPLICATED:
            found = [summary(results, task, steps, replicate(name, seed)) for seed in REPLICATE_SEEDS]
            rows.append([task, f"{steps:,}", name, *_spread(found)])
    seeds = [f"mean final loss, meta-training seed {seed}" for seed in REPLICATE_SEEDS]
    spread = ["mean final loss, all seeds", "standard deviation between seeds"]
    header = ["task", "steps", "optimizer", *spread, *seeds]
    rivals = [[name, *_tally(_pairs(results, tasks, name))] for name in ("adam", DM, NO_SCALING)]
    return "\n\n".join(
        (
            table(header, rows),
            f"{RNNPROP} against another optimizer of the same meta-training seed, each seed on each task:",
            table(["against", "won", "tied", "lost"], rivals),
        )
    )


def _tally(verdicts: Sequence[str]) -> list[str]:
    return [str(verdicts.count(one)) for one in ("won", "tied", "lost")]


def _pairs(results: Results, tasks: Iterable[tuple[str, int]], rival: str) -> list[str]:
    """RNNprop's verdicts against Adam or another of the same meta-training seed."""
    verdicts = []
    for task, steps in tasks:
        for seed in REPLICATE_SEEDS:
            name = rival if rival in TRADITIONAL else replicate(rival, seed)
            ours = summary(results, task, steps, replicate(RNNPROP, seed))
            theirs = summary(results, task, steps, name)
            if ours is not None and theirs is not None:
                verdicts.append(verdict(ours, theirs))
    return verdicts


def _spread(found: Sequence[Summary | None]) -> list[str]:
    """Mean and standard deviation over meta-training seeds, and each one's mean final loss."""
    each = [NOT_RUN if one is None else number(one.mean) for one in found]
    means = [one.mean for one in found if one is not None]
    if len(means) < len(found):
        return [NOT_RUN, NOT_RUN, *each]
    return [number(float(np.mean(means))), number(float(np.std(means, ddof=1))), *each]

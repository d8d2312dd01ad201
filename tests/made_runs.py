"""Runs that tests make up, and what they read from tables."""

import numpy as np

from trainer.evaluation.results import TUNING_SEED, Cell, Results
from trainer.paper import experiments
from trainer.paper.experiments import BASE, DM, RNNPROP, TRADITIONAL
from trainer.problems.catalog import PAPER_TASKS

TASK = "digits-nn-sigmoid-100"


def add_cell(results, seeds=(0, 1), steps=3, optimizer="adam", weights="", rate=0.1):
    """Adds runs of one cell of `TASK`; gives their final losses and curves, [runs] and [runs, steps]."""
    final = [0.5 + seed / 7 for seed in seeds]
    values = np.arange(len(seeds) * steps).reshape(len(seeds), steps) + steps
    seconds = [0.25] * len(seeds)
    curves = [{"step": np.arange(steps), "loss": losses} for losses in values]
    results.add(Cell(TASK, optimizer, weights, rate, steps), list(seeds), final, seconds, curves)
    return final, values


def add(results, task, optimizer, losses, first_seed=0, rate=0.1, steps=None, curves=None):
    """Adds runs with these final losses, whose curves fall from 2.3 to 0.5 where none are given."""
    steps = steps or PAPER_TASKS[task].steps
    seeds = range(first_seed, first_seed + len(losses))
    if curves is None and first_seed < TUNING_SEED:
        curves = np.tile(np.linspace(2.3, 0.5, steps), (len(losses), 1))
    if curves is not None:
        curves = [{"step": np.arange(steps), "loss": curve} for curve in curves]
    results.add(Cell(task, optimizer, "", rate, steps), seeds, losses, [0.1] * len(losses), curves)


def change(results, task, optimizer, loss):
    """Other final losses for the reported runs of one optimizer."""
    results.rows = [
        row._replace(final_loss=loss)
        if (row.task, row.optimizer) == (task, optimizer) and row.seed < TUNING_SEED
        else row
        for row in results.rows
    ]


def paper_like_runs(folder):
    """Runs that agree with the paper wherever a table or claim looks, in that folder."""
    results = Results(str(folder))
    rng = np.random.default_rng(0)

    def put(task, name, mean, steps=None):
        add(results, task, name, list(mean + 0.001 * rng.normal(size=4)), steps=steps)

    for task in PAPER_TASKS:
        hard = task in [experiments.DEPTHS[n] for n in (8, 9, 10)]
        best = "sgd" if task in experiments.CNNS else "adam"
        for name in TRADITIONAL:
            put(task, name, 2.3 if hard else 0.5 if name != best else 0.4)
        put(task, RNNPROP, 2.3 if hard else 0.45 if task in experiments.CNNS[1:3] else 0.3)
        put(task, DM, 0.2 if task == BASE else 5.0)
    for task in (BASE, experiments.RELU):
        for k in experiments.TABLE_4_ITERATIONS:
            put(task, f"{RNNPROP}-{k}", 0.3)
            put(task, f"{experiments.NO_CONVEX}-{k}", 0.35)
    for name, loss in (
        (experiments.RNNPROP_5000, 0.2),
        (experiments.NO_SCALING, 0.9),
        (experiments.NO_CONVEX_5000, 0.25),
        (DM, 5.0),
        (experiments.DM_TRICKS, 0.3),
    ):
        put(experiments.RELU, name, loss, steps=1_000)
    for task in experiments.OTHER_OPTIMIZEES:
        for name in (*TRADITIONAL, RNNPROP):
            put(task, name, 0.2, steps=experiments.OTHER_OPTIMIZEES_STEPS)
    long = "mnist-nn-sigmoid-10000"
    for rate, loss in ((0.001, 0.5), (0.004, 0.1), (0.008, 0.1), (0.03, 0.6)):
        add(results, long, "adam", [loss], first_seed=TUNING_SEED, rate=rate)
    rising = np.interp(np.arange(10_000), [0, 400, 10_000], [2.3, 0.3, 30.0])
    results.rows = [row for row in results.rows if (row.task, row.optimizer) != (long, DM)]
    add(results, long, DM, [26.0, 26.1], rate=0.2, curves=np.tile(rising, (2, 1)))
    results.rows = [row for row in results.rows if (row.task, row.optimizer) != (long, RNNPROP)]
    add(
        results, long, RNNPROP, [0.45, 0.46], rate=0.2, curves=np.tile(np.geomspace(2.3, 0.4, 10_000), (2, 1))
    )
    return results


def cells(text, *first):
    """The remaining cells of the table row that begins with these."""
    starts = f"| {' | '.join(first)} | "
    [line] = [line for line in text.splitlines() if line.startswith(starts)]
    return line.removeprefix(starts).removesuffix(" |").split(" | ")

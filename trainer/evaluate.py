"""Runs optimizers on tasks and writes every run down.

    python -m trainer.evaluate --tasks=mnist-nn-sigmoid-100 --optimizers=rnnprop-paper,adam --runs=20
    --out=results/mine

Runs that the folder already holds are not made again. Prints a table of mean final losses.
"""

from __future__ import annotations

import os
from typing import NamedTuple

import numpy as np
from absl import app, flags
from tqdm import tqdm

from rnnprop_tf import pretrained
from trainer.evaluation import baselines
from trainer.evaluation.curves import KerasRunner, LearnedRunner, Runner
from trainer.evaluation.results import Results
from trainer.problems import catalog

TUNING_SEED = 500_000
"""First of the seeds used for tuning, far from those of any reported run."""

FLAGS = flags.FLAGS


class Entrant(NamedTuple):
    """What `--optimizers` names."""

    name: str
    weights: pretrained.Pretrained | None
    rate: float | None
    """None: to be tuned."""


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


def evaluate(
    results: Results,
    task_name: str,
    entrants: list[Entrant],
    seeds: range,
    tuning_seeds: range,
    steps: int | None,
    data_dir: str | None,
) -> dict[str, list[float]]:
    """Makes the runs that `results` lacks. Returns the final losses by optimizer and rate."""
    task = catalog.task(task_name)
    steps = steps or task.steps
    problem = task.build(data_dir)
    losses = {}
    for name, weights, rate in entrants:
        runner: Runner
        if weights is not None:
            runner = LearnedRunner(problem, weights.rule, weights.network, weights.learning_rate)
        else:
            runner = KerasRunner(problem, baselines.OPTIMIZERS[name]())
        rate = rate or _tuned(results, task_name, name, runner, steps, tuning_seeds)
        losses[f"{name} ({rate:.4g})"] = _cell(results, task_name, name, runner, rate, steps, list(seeds))
    return losses


def _tuned(results: Results, task: str, name: str, runner: Runner, steps: int, seeds: range) -> float:
    return baselines.tune(
        baselines.FIRST_GRID[name],
        lambda rate: float(np.mean(_cell(results, task, name, runner, rate, steps, list(seeds)))),
    )


def _cell(
    results: Results, task: str, name: str, runner: Runner, rate: float, steps: int, seeds: list[int]
) -> list[float]:
    there = {row.seed: row.final_loss for row in results.cell(task, name, rate, steps)}
    missing = [seed for seed in seeds if seed not in there]
    if missing:
        if isinstance(runner, KerasRunner):
            runner.tune(rate)
        label = f"{task} {name} {rate:.4g}"
        runs = [runner.run(steps, seed) for seed in tqdm(missing, desc=label, unit="run", leave=False)]
        final = [run.final_loss for run in runs]
        results.add(task, name, rate, steps, missing, final, np.stack([run.curve for run in runs]))
        there |= dict(zip(missing, final, strict=True))
    return [there[seed] for seed in seeds]


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {' '.join(argv[1:])}")
    try:
        entrants = [entrant(text) for text in FLAGS.optimizers]
        names = list(catalog.PAPER_TASKS) if FLAGS.tasks == ["paper"] else FLAGS.tasks
        for name in names:
            catalog.task(name)
        results = Results(os.path.expanduser(FLAGS.out))
        seeds = range(FLAGS.first_seed, FLAGS.first_seed + FLAGS.runs)
        tuning_seeds = range(TUNING_SEED, TUNING_SEED + FLAGS.tuning_runs)
        for name in names:
            losses = evaluate(results, name, entrants, seeds, tuning_seeds, FLAGS.steps, FLAGS.data_dir)
            print(f"{name}: final loss of {FLAGS.runs} runs")
            for label, values in losses.items():
                error = np.std(values, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan
                print(
                    f"  {label:40s} mean {np.mean(values):.4f} +- {error:.4f}, median {np.median(values):.4f}"
                )
    except (ValueError, RuntimeError) as error:
        raise SystemExit(str(error)) from error


if __name__ == "__main__":
    flags.DEFINE_list(
        "tasks", ["mnist-nn-sigmoid-100"], "names of trainer.problems.catalog, or 'paper' for its 22 tasks"
    )
    flags.DEFINE_list(
        "optimizers",
        [pretrained.DEFAULT, "adam"],
        "each is the name or folder of pretrained weights; or one of "
        f"{', '.join(baselines.OPTIMIZERS)}, which is tuned on the sqrt(2) grid of learning rates, task by "
        "task; or such a name with a rate, as in adam:0.001",
    )
    flags.DEFINE_integer("runs", 20, "runs a cell, their seeds counting up from --first_seed", lower_bound=1)
    flags.DEFINE_integer("first_seed", 0, "of the runs", lower_bound=0, upper_bound=TUNING_SEED - 1)
    flags.DEFINE_integer(
        "tuning_runs", 5, "runs for each learning rate tried, with seeds of their own", lower_bound=1
    )
    flags.DEFINE_integer("steps", None, "steps a run; the task's own by default", lower_bound=1)
    flags.DEFINE_string("out", None, "folder for runs.csv and the curves", required=True)
    flags.DEFINE_string("data_dir", None, "TFDS's folder; by default TFDS_DATA_DIR, or TFDS's own")
    app.run(main)

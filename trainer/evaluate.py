"""Runs optimizers on tasks and writes every run down.

    python -m trainer.evaluate --tasks=mnist-nn-sigmoid-100 --optimizers=rnnprop-2,adam --runs=20
    --out=results/mine

Runs that the folder already holds are not made again. Prints a table of mean final losses.
"""

from __future__ import annotations

import os

import numpy as np
from absl import flags
from tqdm import tqdm

from rnnprop_tf import pretrained
from trainer import commands
from trainer.evaluation import baselines
from trainer.evaluation.competitors import competitor
from trainer.evaluation.evaluation import Evaluation
from trainer.evaluation.results import TUNING_SEED, Results
from trainer.evaluation.summary import Summary
from trainer.evaluation.tasks import KERAS_MODEL_STEPS, check_task
from trainer.problems import catalog

FLAGS = flags.FLAGS


def main(_: list[str]) -> None:
    try:
        competitors = [competitor(os.path.expanduser(text)) for text in FLAGS.optimizers]
        names = list(catalog.PAPER_TASKS) if FLAGS.tasks == ["paper"] else FLAGS.tasks
        for name in names:
            check_task(name, [one.name for one in competitors], FLAGS.steps)
        if FLAGS.first_seed + FLAGS.runs > TUNING_SEED:
            raise ValueError(
                f"runs: expected seeds below {TUNING_SEED}, where tuning's begin. "
                f"Received: {FLAGS.runs} runs from seed {FLAGS.first_seed}"
            )
        results = Results(os.path.expanduser(FLAGS.out), adding=True)
        seeds = range(FLAGS.first_seed, FLAGS.first_seed + FLAGS.runs)
        tuning_seeds = range(TUNING_SEED, TUNING_SEED + FLAGS.tuning_runs)
        for name in names:
            print(f"{name}: final loss of {FLAGS.runs} runs")
            with tqdm(desc=name, unit="run", leave=False) as bar:
                evaluation = Evaluation(results, name, FLAGS.steps, FLAGS.data_dir, lambda _: bar.update())
                for one in competitors:
                    rate, values = evaluation.losses(one, seeds, tuning_seeds)
                    found = Summary(rate, np.array(values))
                    bar.write(f"  {f'{one.name} ({rate:.4g})':40s} {found}")
    except (ValueError, RuntimeError, OSError) as error:
        raise SystemExit(str(error)) from error


if __name__ == "__main__":
    flags.DEFINE_list(
        "tasks",
        ["mnist-nn-sigmoid-100"],
        "names of trainer.problems.catalog or of trainer.keras_models.catalog, or 'paper' for the 22 tasks",
    )
    flags.DEFINE_list(
        "optimizers",
        [pretrained.DEFAULT, "adam"],
        "each is the name or folder of pretrained weights, on Keras models also with the average of the "
        "iterates, as in rnnprop-2:averaged; or one of "
        f"{', '.join(baselines.FIRST_GRID)}, which is tuned on the sqrt(2) grid of learning rates, task by "
        f"task, {', '.join(baselines.FOR_KERAS_MODELS)} on Keras models only; or such a name with a rate, "
        "as in adam:0.001; or adam-default",
    )
    flags.DEFINE_integer("runs", 20, "runs a cell, their seeds counting up from --first_seed", lower_bound=1)
    flags.DEFINE_integer("first_seed", 0, "of the runs", lower_bound=0, upper_bound=TUNING_SEED - 1)
    flags.DEFINE_integer(
        "tuning_runs", 5, "runs for each learning rate tried, with seeds of their own", lower_bound=1
    )
    flags.DEFINE_integer(
        "steps",
        None,
        f"steps a run; by default the task's own, {KERAS_MODEL_STEPS} for Keras models",
        lower_bound=1,
    )
    flags.DEFINE_string("out", None, "folder for the runs, a folder for each task", required=True)
    flags.DEFINE_string("data_dir", None, "TFDS's folder; by default TFDS_DATA_DIR, or TFDS's own")
    commands.run(main)

"""Weights of different networks beside each other: what an update costs, and how low the losses get.

    python -m studies.architectures --out=runs/architectures
    python -m studies.architectures --weights=rnnprop-1,rnnprop-1-small,weights/mine --out=runs/architectures

Losses are those of tasks outside the paper's 22, and of the Keras models that weights are chosen by after 200
steps; runs that the folder holds are not made again. Prints a Markdown table: the state, the time of an
update of one variable of a million numbers on one core, and the geometric mean over the tasks of the mean
final losses relative to those of the first weights, runs compared in pairs.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf
from absl import flags

from rnnprop_tf import RNNprop, pretrained
from rnnprop_tf.network import architecture_of
from studies import losses
from trainer import commands
from trainer.evaluation.competitors import Competitor, competitor
from trainer.evaluation.evaluation import Evaluation
from trainer.evaluation.results import Results
from trainer.evaluation.summary import Summary, geometric_mean, ratio
from trainer.keras_models.catalog import VALIDATION

FLAGS = flags.FLAGS

KERAS_STEPS = 200
"""Steps of a Keras model's run."""
ROUNDS = 9
"""Updates timed, all weights in turn; the medians count."""


def shown(weights: str) -> str:
    """The network in words, as in "4, LSTM 4"."""
    sizes = architecture_of(pretrained.load(weights).network)
    parts = [*map(str, sizes.preprocess), f"LSTM {', '.join(map(str, sizes.lstm))}"]
    return ", ".join(parts)


def bytes_of_state(weights: str) -> int:
    """Bytes of state a parameter, with float32."""
    loaded = pretrained.load(weights)
    return 4 * (len(loaded.rule.accumulators_class._fields) + 2 * sum(architecture_of(loaded.network).lstm))


def updates(names: list[str]) -> list[float]:
    """Nanoseconds a parameter of an update of one variable, for each of the weights."""

    def made(weights: str) -> Callable[[], None]:
        variable = keras.Variable(tf.zeros([FLAGS.parameters]))
        optimizer = RNNprop.from_pretrained(weights)
        optimizer.build([variable])
        gradient = tf.random.stateless_normal([FLAGS.parameters], [0, 0])
        step = tf.function(lambda: optimizer.apply([gradient], [variable]), autograph=False)

        def run() -> None:
            step()
            variable[:1].numpy()

        run()
        return run

    steps = [made(name) for name in names]
    seconds = np.zeros([ROUNDS, len(steps)])
    for times in seconds:
        for k, step in enumerate(steps):
            start = time.perf_counter()
            step()
            times[k] = time.perf_counter() - start
    return list(1e9 * np.median(seconds, axis=0) / FLAGS.parameters)


def summaries(results: Results, optimizers: list[Competitor], task: str) -> list[Summary]:
    """The runs of one task, made where they are missing."""
    seeds = range(losses.SEEDS_FROM, losses.SEEDS_FROM + FLAGS.runs)
    steps = KERAS_STEPS if task in VALIDATION else None
    evaluation = Evaluation(results, task, steps, FLAGS.data_dir, lambda _: None)
    found = []
    for one in optimizers:
        rate, values = evaluation.losses(one, seeds, range(0))
        found.append(Summary(rate, np.array(values), tuple(seeds)))
    return found


def main(_: list[str]) -> None:
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    names = [os.path.expanduser(name) for name in FLAGS.weights]
    optimizers = [competitor(name) for name in names]
    results = Results(os.path.expanduser(FLAGS.out), adding=True)
    by_task = {task: summaries(results, optimizers, task) for task in FLAGS.tasks}
    losses.print_head(
        "weights (network)", "state, bytes a parameter", "update, ns a parameter and core",
        "geometric mean of the ratios", "95 % from", "to", "worst ratio",
    )  # fmt: skip
    for k, (name, cost) in enumerate(zip(names, updates(names), strict=True)):
        ratios = [ratio(found[k], found[0]).mean for found in by_task.values()]
        numbers = (*geometric_mean(ratios), max(ratios))
        costs = (str(bytes_of_state(name)), f"{cost:.1f}")
        first = f"`{os.path.basename(os.path.normpath(name))}` ({shown(name)})"
        losses.print_row(first, *costs, *(f"{number:.3f}" for number in numbers))


if __name__ == "__main__":
    flags.DEFINE_list("weights", ["rnnprop-1", "rnnprop-1-small"], "names or folders")
    flags.DEFINE_list("tasks", losses.SMALL, "tasks of trainer.problems.catalog and Keras models")
    flags.DEFINE_integer("runs", 6, "runs a task", lower_bound=1)
    flags.DEFINE_integer("parameters", 2**20, "numbers in the variable that is timed", lower_bound=1)
    flags.DEFINE_string("out", None, "folder for the runs", required=True)
    flags.DEFINE_string("data_dir", None, "TFDS's folder; by default TFDS_DATA_DIR, or TFDS's own")
    commands.run(main)

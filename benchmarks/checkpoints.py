"""How the final losses of a meta-training run's checkpoints differ, beside the criterion that chooses one.

    python -m benchmarks.checkpoints --run_dir=runs/paper-rnnprop

Seeds that no evaluation uses. Prints a Markdown table: mean final loss and its standard error.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf
from absl import app, flags

from rnnprop_tf import network as coordinatewise
from trainer import checkpoint
from trainer.config import MetaTrainConfig
from trainer.evaluation.curves import LearnedRunner
from trainer.meta_train import rule_of
from trainer.problems import catalog

FLAGS = flags.FLAGS
flags.DEFINE_string("run_dir", None, "folder of the run", required=True)
flags.DEFINE_list("tasks", ["mnist-nn-elu-100", "mnist-nn-relu-100"], "names of trainer.problems.catalog")
flags.DEFINE_integer("runs", 8, "of each checkpoint on each task", lower_bound=2)

FIRST_SEED = 3_000_000


def main(_: list[str]) -> None:
    saved = [
        checkpoint.load(checkpoint.path_of(FLAGS.run_dir, k)) for k in checkpoint.iterations(FLAGS.run_dir)
    ]
    config = MetaTrainConfig.from_dict(saved[0].record["config"])
    rule, architecture = rule_of(config)
    networks = [coordinatewise.from_tensors(checkpoint.network_tensors(one), architecture) for one in saved]
    columns = []
    for task in FLAGS.tasks:
        runner = LearnedRunner(catalog.task(task).build(None), rule, networks[0], config.alpha)
        column = []
        for network in networks:
            runner.network = tf.nest.map_structure(tf.convert_to_tensor, network)
            losses = [runner.run(config.steps, FIRST_SEED + k).final_loss for k in range(FLAGS.runs)]
            column.append(f"{np.mean(losses):.4f} ({np.std(losses, ddof=1) / np.sqrt(len(losses)):.4f})")
        columns.append(column)
    print(f"| episodes | average train loss | {' | '.join(FLAGS.tasks)} |")
    print("|---" * (2 + len(columns)) + "|")
    for one, *cells in zip(saved, *columns, strict=True):
        print(f"| {one.record['iteration']:,} | {one.record['average_loss']:.4f} | {' | '.join(cells)} |")


if __name__ == "__main__":
    app.run(main)

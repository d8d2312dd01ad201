"""What evaluating costs beyond the bare updates and gradients.

    python -m benchmarks.evaluation

Times runs of 100 steps of a learned optimizer on the base MLP, as `trainer.evaluate` makes them (drawing
starts, reading batches, final losses), against as many compiled steps of update and gradient alone, in
alternation. Prints the ratio and the peak memory.
"""

from __future__ import annotations

import resource
import time

import numpy as np
import tensorflow as tf
from absl import flags

from rnnprop_tf import pretrained
from trainer import commands
from trainer.evaluation.unrolled_runner import LearnedRunner
from trainer.problems import catalog
from trainer.unroll import start, unroll

FLAGS = flags.FLAGS

STEPS = 100


def main(_: list[str]) -> None:
    problem = catalog.task("mnist-nn-sigmoid-100").build(FLAGS.data_dir)
    weights = pretrained.load(pretrained.DEFAULT)
    network = tf.nest.map_structure(tf.constant, weights.network)
    runner = LearnedRunner(problem, weights.rule, network)
    draw = problem.draw(tf.constant([0, 1]))
    batches = problem.batches(tf.constant([0, 1]), tf.constant(0), STEPS)
    carry = start(weights.rule, network, draw.params)

    @tf.function(jit_compile=True, autograph=False)
    def bare() -> tf.Tensor:
        last, _ = unroll(
            problem, weights.rule, network, weights.learning_rate, carry, draw.constants, batches, STEPS
        )
        return last.params

    bare().numpy()
    runner.run(STEPS, 0, weights.learning_rate)
    seconds = np.zeros([FLAGS.runs, 2])
    for k in range(FLAGS.runs):
        times = [time.perf_counter()]
        bare().numpy()
        times.append(time.perf_counter())
        runner.run(STEPS, k, weights.learning_rate)
        times.append(time.perf_counter())
        seconds[k] = np.diff(times)
    alone, whole = np.median(seconds, axis=0)
    print(f"{FLAGS.runs} runs of {STEPS} steps, base MLP ({problem.size} parameters)")
    print(f"  update and gradient alone  {1e3 * alone / STEPS:6.2f} ms a step")
    print(f"  a run, all included        {1e3 * whole / STEPS:6.2f} ms a step, ratio {whole / alone:.2f}")
    print(f"  in all                     {seconds[:, 1].sum():6.1f} s")
    print(
        f"  peak memory                {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:6.2f} GiB"
    )


if __name__ == "__main__":
    flags.DEFINE_string("data_dir", None, "TFDS's folder")
    flags.DEFINE_integer("runs", 100, "runs timed")
    commands.run(main)

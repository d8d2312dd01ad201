"""What meta-training costs and how noisy its gradient is, at the paper's setting.

    python -m benchmarks.meta_training

Milliseconds per task-step (one step of one episode) of the replayed meta-gradient at several sample shares
and of the plain tape in graph mode, in alternation so that the ratios survive a noisy machine; and how much
variance the sampling adds to that which episodes, data and starting points have anyway.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from absl import flags

from rnnprop_tf import pretrained
from trainer import commands
from trainer.config import preset
from trainer.episodes import problem_of
from trainer.estimators.base import Estimator, Period
from trainer.estimators.replay import Replay
from trainer.estimators.tape import Tape

FLAGS = flags.FLAGS

SHARES = (0.02, 0.05, 0.1, 0.2)


def flat(gradient: Any) -> np.ndarray:
    return np.concatenate([np.ravel(g) for g in tf.nest.flatten(gradient)])


def main(_: list[str]) -> None:
    config = preset("paper-rnnprop")
    problem = problem_of(config, config.task, FLAGS.data_dir, config.meta_batch_size)
    weights = pretrained.load(pretrained.DEFAULT)
    rule, objective = weights.rule, config.objective
    network = tf.nest.map_structure(tf.constant, weights.network)

    settings: dict[str, Any] = {"rule": rule, "alpha": config.alpha, "objective": objective}
    ways: dict[str, Estimator] = {
        f"replayed, share {share}": Replay(**settings, sample=share) for share in SHARES
    }
    ways |= {"replayed, all": Replay(**settings, sample=1.0), "plain tape, graph": Tape(**settings)}

    @tf.function
    def begin(seed: tf.Tensor) -> Any:
        return ways["replayed, all"].begin(problem, network, problem.draw(seed), seed)

    @tf.function
    def batches_of(seed: tf.Tensor) -> Any:
        return problem.batches(seed, tf.constant(0, tf.int64), objective.batches)

    def compiled(way: Estimator) -> Callable[..., Any]:
        @tf.function(autograph=False)
        def estimate(episode: Any, batches: Any, seed: tf.Tensor) -> Any:
            return way.estimate(Period(problem, network, episode, batches, seed, tf.constant(0.0)))

        return estimate

    estimates = {name: compiled(way) for name, way in ways.items()}
    seed = tf.constant([1, 2])
    episode = begin(seed)
    batches = batches_of(seed)

    seconds: dict[str, list[float]] = {name: [] for name in ["input pipeline", *estimates]}
    for _round in range(FLAGS.rounds + 1):
        begin_at = time.perf_counter()
        tf.nest.map_structure(lambda b: b.numpy(), batches_of(seed))
        seconds["input pipeline"].append(time.perf_counter() - begin_at)
        for name, estimate in estimates.items():
            begin_at = time.perf_counter()
            flat(estimate(episode, batches, seed).gradient)
            seconds[name].append(time.perf_counter() - begin_at)
    print("ms per task-step, median (first call in brackets, seconds)")
    for name, times in seconds.items():
        print(f"  {name:24s} {1e3 * np.median(times[1:]) / objective.period:6.2f} ({times[0]:.1f})")

    print("root mean square of the meta-gradient's deviation, as a share of its norm")
    truths = []
    own_noise: dict[float, list[float]] = {share: [] for share in SHARES}
    for k in range(FLAGS.episodes):
        episode = begin(tf.constant([k, 4]))
        batches = batches_of(tf.constant([k, 5]))
        truth = flat(estimates["replayed, all"](episode, batches, seed).gradient)
        truths.append(truth)
        for share in SHARES:
            drawn = estimates[f"replayed, share {share}"](episode, batches, tf.constant([k, 3])).gradient
            own_noise[share].append(float(np.sum((flat(drawn) - truth) ** 2)))
    mean = np.mean(truths, 0)
    between = float(np.mean([np.sum((truth - mean) ** 2) for truth in truths]))
    print(f"  between episodes           {np.sqrt(between) / np.linalg.norm(mean):6.2f}")
    for share, squares in own_noise.items():
        added = float(np.mean(squares))
        print(
            f"  by sampling {share:<5g}          {np.sqrt(added) / np.linalg.norm(mean):6.2f}, "
            f"{added / between:6.1%} more variance"
        )


if __name__ == "__main__":
    flags.DEFINE_string("data_dir", None, "TFDS's folder")
    flags.DEFINE_integer("rounds", 7, "alternations; the median counts")
    flags.DEFINE_integer("episodes", 30, "episodes for the estimate of noise")
    commands.run(main)

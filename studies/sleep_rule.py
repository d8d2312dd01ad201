"""What to do with a coordinate that has no gradient: six rules measured.

    python -m studies.sleep_rule --weights=rnnprop-quick

On the base MLP and its ReLU variant, and on an Embedding under a linear classifier whose words follow Zipf's
law and whose last rows are never used. Prints a Markdown table of final losses and of how far rows that had
no gradient moved: a row that is never used over the run, a used one in each step that it is idle.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf
from absl import flags
from keras import ops

from rnnprop_tf import pretrained
from rnnprop_tf.rule import Observation, RNNpropRule
from studies import losses
from trainer import commands
from trainer.evaluation.unrolled_runner import LearnedRunner
from trainer.problems import catalog
from trainer.problems.base import Draw, Problem, Seed, normal_params, unpack

FLAGS = flags.FLAGS


@dataclass(frozen=True)
class NeverAsleep(RNNpropRule):
    """The paper's: every coordinate moves at every step."""

    def observe(self, accumulators: Any, gradient: Any, step: Any) -> Any:
        new = self.accumulate(accumulators, gradient, step)
        awake = ops.ones_like(gradient, dtype="bool")
        return Observation(self.inputs(new, gradient, step), scale=(), awake=awake), new


@dataclass(frozen=True)
class AsleepUntilFirstGradient(RNNpropRule):
    """Held while v = 0."""

    def observe(self, accumulators: Any, gradient: Any, step: Any) -> Any:
        new = self.accumulate(accumulators, gradient, step)
        return Observation(self.inputs(new, gradient, step), scale=(), awake=new.v > 0), new


@dataclass(frozen=True)
class AsleepWhenMomentumIsSpent(RNNpropRule):
    """Held when g = 0 and |m~| is below the threshold; m and v go on decaying."""

    threshold: ClassVar[float] = 0.1

    def observe(self, accumulators: Any, gradient: Any, step: Any) -> Any:
        new = self.accumulate(accumulators, gradient, step)
        awake = (gradient != 0) | (ops.abs(self.m_tilde(new, step)) >= self.threshold)
        return Observation(self.inputs(new, gradient, step), scale=(), awake=awake), new


class AsleepEarlier(AsleepWhenMomentumIsSpent):
    """The same with a higher threshold."""

    threshold = 0.5


@dataclass(frozen=True)
class NoStepButDecay(RNNpropRule):
    """No gradient, no step; m and v go on decaying, the LSTM's state is held."""

    def observe(self, accumulators: Any, gradient: Any, step: Any) -> Any:
        new = self.accumulate(accumulators, gradient, step)
        return Observation(self.inputs(new, gradient, step), scale=(), awake=gradient != 0), new


RULES: dict[str, Callable[[], RNNpropRule]] = {
    "never asleep (paper)": NeverAsleep,
    "held while v = 0": AsleepUntilFirstGradient,
    "held at g = 0, m~ below 0.1": AsleepWhenMomentumIsSpent,
    "held at g = 0, m~ below 0.5": AsleepEarlier,
    "no step at g = 0, m, v decay": NoStepButDecay,
    "all held at g = 0 (ours)": RNNpropRule,
}


class BagOfWords(Problem):
    """Classifies bags of words by their mean embedding; the last `UNUSED` words never occur."""

    WORDS, UNUSED, UNITS, CLASSES, LENGTH, BATCH = 1_000, 100, 8, 4, 20, 32

    def __init__(self, exponent: float) -> None:
        """With Zipf's exponent 1 the rarest word comes about every 10 steps, with 1.5 every 100."""
        self._exponent = exponent

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        return ((self.WORDS, self.UNITS), (self.UNITS, self.CLASSES), (self.CLASSES,))

    def draw(self, seed: Seed) -> Draw:
        # The classes' word preferences: what is to be learned.
        taste = tf.random.stateless_normal([self.WORDS, self.CLASSES], [7, 7])
        return Draw(normal_params(self.size, seed), constants=(taste,))

    def batches(self, seed: Seed, first: tf.Tensor, count: int) -> Any:
        positions = tf.cast(first, tf.int32) + tf.range(count)
        ranks = tf.range(1, self.WORDS - self.UNUSED + 1, dtype=tf.float32)
        logits = tf.repeat(-self._exponent * tf.math.log(ranks)[None], self.BATCH, 0)
        draw = lambda p: tf.random.stateless_categorical(  # noqa: E731
            logits, self.LENGTH, tf.random.fold_in(seed, p), dtype=tf.int32
        )
        return (tf.map_fn(draw, positions),)

    def loss(self, params: tf.Tensor, constants: Any, batch: Any) -> tf.Tensor:
        (words,), (taste,) = batch, constants
        embedding, kernel, bias = unpack(params, self.shapes)
        labels = tf.argmax(tf.reduce_sum(tf.gather(taste, words), 1), -1)
        logits = tf.reduce_mean(tf.gather(embedding, words), 1) @ kernel + bias
        return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))


WORDS: dict[str, Callable[[], BagOfWords]] = {
    "frequent words": lambda: BagOfWords(1.0),
    "rare words": lambda: BagOfWords(1.5),
}


def idle_drift(problem: BagOfWords, runner: LearnedRunner, alpha: float, steps: int) -> tuple[float, float]:
    """Mean |change| of an embedding number: in unused rows over the run, in used rows per idle step."""
    draw = problem.draw(tf.constant([0, 1]))
    carry, constants = runner._start(draw.params, alpha), draw.constants
    start = carry.params
    idle, idle_steps = 0.0, 0
    rows = problem.WORDS * problem.UNITS
    for t in range(steps):
        batches = problem.batches(tf.constant([3, 4]), tf.constant(t), 1)
        before = carry.params
        carry, _ = runner._advance(carry, constants, batches, 1, alpha)
        moved = np.abs((carry.params - before).numpy()[:rows]).reshape(problem.WORDS, problem.UNITS)
        absent = np.ones(problem.WORDS, bool)
        absent[batches[0].numpy().ravel()] = False
        absent[-problem.UNUSED :] = False
        idle, idle_steps = idle + moved[absent].sum(), idle_steps + moved[absent].size
    unused = np.abs((carry.params - start).numpy()[:rows]).reshape(problem.WORDS, -1)[-problem.UNUSED :]
    return float(unused.mean()), float(idle / idle_steps)


def main(_: list[str]) -> None:
    loaded = pretrained.load(FLAGS.weights)
    bag = WORDS["rare words"]()
    build: dict[str, Callable[[], Problem]] = {
        "base MLP": lambda: catalog.task("mnist-nn-sigmoid-100").build(FLAGS.data_dir),
        "ReLU": lambda: catalog.task("mnist-nn-relu-100").build(FLAGS.data_dir),
        **WORDS,
    }
    problems = {name: build[name]() for name in FLAGS.problems or build}
    columns = [f"mean final loss, {name}" for name in problems]
    losses.print_head("rule", *columns, "move of an unused row", "move of an idle row, a step")
    for title, rule in RULES.items():
        cells = []
        for problem in problems.values():
            runner = LearnedRunner(problem, rule(), loaded.network)
            found = losses.final_losses(runner, FLAGS.steps, range(FLAGS.runs), loaded.learning_rate)
            cells.append(f"{found.mean():.4f}")
        on_bag = LearnedRunner(bag, rule(), loaded.network)
        unused, idle = idle_drift(bag, on_bag, loaded.learning_rate, min(FLAGS.steps, 500))
        losses.print_row(title, *cells, f"{unused:.4f}", f"{idle:.6f}")


if __name__ == "__main__":
    flags.DEFINE_list("problems", None, "of: base MLP, ReLU, frequent words, rare words; all by default")
    flags.DEFINE_string("weights", pretrained.DEFAULT, "name or folder of RNNprop weights")
    flags.DEFINE_string("data_dir", None, "TFDS's folder")
    flags.DEFINE_integer("steps", 2_000, "steps a run")
    flags.DEFINE_integer("runs", 3, "runs a cell, seeds 0, 1, ...")
    commands.run(main)

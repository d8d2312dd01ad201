"""Evolution: the weights move towards those perturbations under which whole episodes end lower.

A gradient that stops at a period's ends does not see that a step that is good now is bad later. Here several
copies of an episode run side by side, each with weights of its own, from the same start on the same batches;
what a perturbation did to the loss, however long ago it acted, counts. The more weights, the more episodes
that needs, so it is for small networks.

Perturbations come in antithetic pairs and stay for the whole episode, with an estimate each period, as in
noise-reuse evolution strategies (Li, Harrison, Sohl-Dickstein, Smith, Metz 2023); but there is one outer
update, after the episode.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from rnnprop_tf.network import Network
from trainer import unroll
from trainer.estimators.base import Episode, Estimate, Estimator, Period
from trainer.problems.base import Draw, Problem, Seed, split_seed
from trainer.unroll import Carry

FLOOR = 1e-6
"""Loss far below which losses do not count."""
LARGEST_DIFFERENCE = 0.5
"""Bound on the difference of two logarithms of losses, so that no single episode decides."""


@dataclass(frozen=True, kw_only=True)
class Evolution(Estimator):
    """The derivative of the expected logarithm of the objective, for weights with normal noise.

    The logarithm makes problems alike: an estimate is about ratios of losses, as their geometric mean is.
    """

    pairs: int
    """Number P of antithetic pairs of perturbed weights."""
    deviation: float
    """Standard deviation of a weight's perturbation."""

    @property
    def once_an_episode(self) -> bool:
        """The perturbations are an episode's, and so are the errors of its estimates: they would add up."""
        return True

    def begin(self, problem: Problem, network: Network, draw: Draw, seed: Seed) -> Episode:
        """An episode of 2 P copies: its carry's tensors have a first axis of as many, the two of a pair one
        after the other. Its memory is the perturbations [P, ...], added for the first of a pair and
        subtracted for the second."""
        start = unroll.start(self.rule, network, draw.params)
        carry = tf.nest.map_structure(
            lambda t: tf.repeat(tf.convert_to_tensor(t)[None], 2 * self.pairs, axis=0), start
        )
        weights = tf.nest.flatten(network)
        noise = [
            tf.random.stateless_normal([self.pairs, *w.shape], part, stddev=self.deviation, dtype=w.dtype)
            for w, part in zip(weights, split_seed(seed, len(weights)), strict=True)
        ]
        return Episode(carry, draw.constants, tf.nest.pack_sequence_as(network, noise))

    def estimate(self, period: Period) -> Estimate:
        problem, network, objective = period.problem, period.network, self.objective
        carry, constants, noise = period.episode

        @tf.function(jit_compile=problem.compiles_well or None, autograph=False)
        def forward(network: Network, carry: Carry, constants: Any, batches: Any) -> tuple[Carry, tf.Tensor]:
            steps = objective.period
            carry, met = unroll.unroll(
                problem, self.rule, network, self.alpha, carry, constants, batches, steps
            )
            last = objective.last_loss_and_gradient(problem, carry.params, constants, batches)[0]
            return carry, objective.value(tf.concat([met.losses, last[None]], axis=0))

        copies = [
            forward(_moved(network, noise, k, sign), _copy(carry, 2 * k + second), constants, period.batches)
            for k in range(self.pairs)
            for second, sign in enumerate((1.0, -1.0))
        ]
        carries, values = zip(*copies, strict=True)
        carry = tf.nest.map_structure(lambda *tensors: tf.stack(tensors), *carries)
        logs = tf.math.log(tf.stack(values) + FLOOR)
        finite = tf.boolean_mask(logs, tf.math.is_finite(logs))
        return Estimate(Episode(carry, constants, noise), tf.reduce_mean(finite), self._gradient(logs, noise))

    def _gradient(self, logs: tf.Tensor, noise: Network) -> Network:
        """The estimate, from the logarithm of each copy's objective, [2 P].

        A copy that is not finite counts as far worse than its other; where neither is, nothing is known.
        """
        worst = tf.cast(tf.float32.max / 4, logs.dtype)
        logs = tf.where(tf.math.is_finite(logs), logs, worst)
        difference = tf.clip_by_value(logs[::2] - logs[1::2], -LARGEST_DIFFERENCE, LARGEST_DIFFERENCE)
        share = difference / (2.0 * self.deviation**2 * self.pairs)
        return tf.nest.map_structure(lambda n: tf.tensordot(share, n, 1), noise)


def _moved(network: Network, noise: Network, pair: int, sign: float) -> Network:
    """The weights of one copy."""
    return tf.nest.map_structure(lambda weight, n: weight + sign * n[pair], network, noise)


def _copy(carry: Carry, index: int) -> Carry:
    """The carry of one copy."""
    return tf.nest.map_structure(lambda tensor: tensor[index], carry)

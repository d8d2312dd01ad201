"""The interface of an outer gradient's estimator: what the outer loop asks for, whatever the way.

The outer loop begins an episode and then, period by period, asks how the weights should change. An estimator
makes the period's steps itself, so it may choose who makes them; what it hands from one period to the next
is the episode's `memory`; what it keeps from one episode to the next is its own and stands in the checkpoint.
Another way of training is another module here and a line in `catalog`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from rnnprop_tf.network import Network
from rnnprop_tf.rule import Rule
from trainer import unroll
from trainer.problems.base import Draw, Problem, Seed, loss_and_gradient
from trainer.unroll import Carry


@dataclass(frozen=True, kw_only=True)
class Objective:
    """Objective of a period of T steps, made small by training: a function of f(theta_1) ... f(theta_T)."""

    period: int
    """T, the period's length in steps."""
    weights: str = "last"
    """"last": f(theta_T), the paper's for RNNprop; "mean": the mean over all, the paper's for DMoptimizer.

    The 1/T in front of the last loss (section 5) is left out: it only matters to clipping."""
    last_batches: int = 1
    """Number of batches whose mean is the loss at theta_T; more make the meta-gradient less noisy."""

    def __post_init__(self) -> None:
        if self.weights not in ("last", "mean"):
            raise ValueError(f"Expected the loss weights 'last' or 'mean'. Received: {self.weights!r}")
        if self.period < 1 or self.last_batches < 1:
            raise ValueError(
                "Expected a period of at least 1 step and 1 last batch. "
                f"Received: {self.period}, {self.last_batches}"
            )

    @property
    def batches(self) -> int:
        """Batches that a period needs."""
        return self.period + self.last_batches

    def value(self, losses: tf.Tensor) -> tf.Tensor:
        """The objective, a scalar, from f(theta_0) ... f(theta_T), [T + 1] or [T + 1, tasks]."""
        return tf.reduce_mean(losses[-1:] if self.weights == "last" else losses[1:])

    def last_loss_and_gradient(
        self, problem: Problem, params: tf.Tensor, constants: Any, batches: Any
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """The loss at theta_T and its gradient [N], means over the batches that follow the steps.

        Args:
            problem: the optimizee.
            params: theta_T, [N].
            constants: the episode's.
            batches: the period's, `self.batches` of them.
        """
        each = [
            loss_and_gradient(problem, params, constants, batch_at(batches, self.period + k))
            for k in range(self.last_batches)
        ]
        losses, gradients = zip(*each, strict=True)
        return tf.add_n(losses) / len(each), tf.add_n(gradients) / len(each)


class Episode(NamedTuple):
    """State of an episode between two periods."""

    carry: Carry
    """The optimizee's parameters and the rule's state."""
    constants: Any
    """The tensors of the problem's draw that stay fixed during the episode."""
    memory: Any
    """Tensors of the estimator's own, nested in tuples; `()` where it needs none."""


class Period(NamedTuple):
    """One period of an episode, before it is run."""

    problem: Problem
    network: Network
    """The rule's weights."""
    episode: Episode
    """State at the period's start. Its tensors are constants, which truncates the backpropagation."""
    batches: Any
    """`Objective.batches` batches of the problem."""
    seed: Seed
    """Seed [2] for what the estimator draws in this period."""
    progress: tf.Tensor
    """Scalar in [0, 1): the share of the meta-training that is done."""


class Estimate(NamedTuple):
    """Result of a period."""

    episode: Episode
    """State after the last step."""
    objective: tf.Tensor
    """Scalar, mean over tasks: what the gradient makes small, and what the outer loop reports."""
    gradient: Network
    """The derivative of the objective by the rule's weights."""


@dataclass(frozen=True, kw_only=True)
class Estimator(ABC):
    """A way to find out how the weights of a rule should change."""

    rule: Rule
    """Rule that turns gradients into directions."""
    alpha: float
    """The rule's learning rate."""
    objective: Objective

    @property
    def once_an_episode(self) -> bool:
        """Whether the weights stay during an episode and change after it, by the mean of its estimates."""
        return False

    def begin(self, problem: Problem, network: Network, draw: Draw, seed: Seed) -> Episode:
        """An episode before its first step.

        Args:
            problem: the optimizee.
            network: the rule's weights, for their sizes.
            draw: the problem's, for this episode.
            seed: [2], for what the estimator draws; the first period has the same one.
        """
        return Episode(unroll.start(self.rule, network, draw.params), draw.constants, memory=())

    @abstractmethod
    def estimate(self, period: Period) -> Estimate:
        """The period's steps, and how the weights should change after them.

        TensorFlow traces it once for each problem, so what an estimator keeps between episodes lies in
        `tf.Variable`s: a Python attribute would change at the trace only. Where a strategy has several
        replicas, each of them runs it, and one variable that they all assign to is assigned to once by each.
        """

    def tensors(self) -> Mapping[str, np.ndarray]:
        """The estimator's state between two episodes by name, for the checkpoint; nothing by default."""
        return {}

    def restore(self, tensors: Mapping[str, np.ndarray]) -> None:
        """Goes on from what `tensors` returned when the checkpoint was written.

        Raises:
            ValueError: the tensors are of another estimator.
        """
        if tensors:
            raise ValueError(
                f"Expected a checkpoint of {type(self).__name__}, which keeps nothing of its own. Received "
                f"one with {', '.join(tensors)}: name another folder for a new run."
            )

    @property
    def fingerprint(self) -> int | None:
        """Checksum of weights that the estimator reads, such as a teacher's; a resumed run needs the same."""
        return None


def batch_at(batches: Any, index: int) -> Any:
    """The batch of that index."""
    return tf.nest.map_structure(lambda b: b[index], batches)


def sample_size(share: float, problem: Problem) -> int | None:
    """Number of coordinates in a share of the problem's; None where the share is 1: each of them once."""
    return None if share == 1 else int(np.ceil(share * problem.size))

"""The meta-gradient by one tape over the whole unroll: slow, plain, and the truth that tests compare with."""

from __future__ import annotations

from dataclasses import dataclass

import tensorflow as tf

from trainer.estimators.base import Estimate, Estimator, Period, batch_at
from trainer.problems.base import loss_and_gradient
from trainer.unroll import Carry


@dataclass(frozen=True, kw_only=True)
class Tape(Estimator):
    """Exact truncated BPTT, section 5; the network's inputs are constants (no second derivatives)."""

    def estimate(self, period: Period) -> Estimate:
        problem, network, batches = period.problem, period.network, period.batches
        carry, constants = period.episode.carry, period.episode.constants
        losses = []
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(network)
            for t in range(self.objective.period):
                loss, gradient = loss_and_gradient(problem, carry.params, constants, batch_at(batches, t))
                losses.append(loss)
                direction, state = self.rule.update(
                    network, carry.state, tf.stop_gradient(gradient), carry.step + 1.0
                )
                carry = Carry(carry.params + self.alpha * direction, state, carry.step + 1.0)
            last, _ = self.objective.last_loss_and_gradient(problem, carry.params, constants, batches)
            losses.append(last)
            value = self.objective.value(tf.stack(losses))
        return Estimate(period.episode._replace(carry=carry), value, tape.gradient(value, network))

"""The optimizers that take part in an evaluation, by the names that commands and result files use."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, NamedTuple

import keras

from rnnprop_tf import DMOptimizer, RNNprop, pretrained
from rnnprop_tf.rule import RNNpropRule
from trainer.evaluation import baselines
from trainer.evaluation.results import Cell, short_digest

AVERAGED = ":averaged"
"""After the name of weights: with `use_averaging`."""


class Competitor(NamedTuple):
    """An optimizer that takes part."""

    name: str
    weights: pretrained.Pretrained | None
    """A learned optimizer's; None for a traditional one."""
    rate: float | None
    """The learning rate of its runs; None: to be tuned."""
    averaged: bool = False
    """Whether a learned optimizer is judged at the average of its iterates; for Keras models only."""

    def make(self, rate: Any) -> keras.optimizers.Optimizer:
        """The Keras optimizer with that learning rate: a number, a schedule or a callable."""
        if self.weights is None:
            return baselines.OPTIMIZERS[self.name](rate)
        network, rule, _, _ = self.weights
        kind = RNNprop if isinstance(rule, RNNpropRule) else DMOptimizer
        return kind(
            rate,
            network=network,
            use_averaging=self.averaged,
            state_dtype=self.weights.state_dtype,
            **dataclasses.asdict(rule),
        )

    def cell(self, task: str, rate: float, steps: int) -> Cell:
        """The cell of its runs at that rate."""
        digest = short_digest(self.weights.config) if self.weights else ""
        return Cell(task, self.name, digest, rate, steps)


def competitor(text: str) -> Competitor:
    """The optimizer that the command line names so.

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
        if name in baselines.FIXED and rate:
            raise ValueError(f"Expected {name} without a learning rate. Received: {text!r}")
        if value is not None and not 0 < value < math.inf:
            raise ValueError(f"Expected a positive learning rate. Received: {text!r}")
        return Competitor(name, None, baselines.FIXED.get(name, value))
    return learned(text, text.removesuffix(AVERAGED))


def learned(name: str, weights: str) -> Competitor:
    """The learned optimizer of these weights (a name or a folder), under a name of its own.

    With `AVERAGED` at the name's end it is judged at the average of its iterates.

    Raises:
        ValueError: the weights cannot be read.
    """
    found = pretrained.load(weights)
    return Competitor(name, found, found.learning_rate, averaged=name.endswith(AVERAGED))

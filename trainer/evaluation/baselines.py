"""The six traditional optimizers of Table 1, tuned by learning rate, and others for Keras models.

The six are Keras's own classes, their other hyperparameters Keras's defaults. Those that differ from the
defaults of the paper's TensorFlow 0.12: Adagrad starts its sums at 0.1 in both; Adadelta's epsilon is 1e-7
(there 1e-8); RMSprop's epsilon 1e-7 (there 1e-10) and it is added outside the root (there inside); Adam's
epsilon is 1e-7 (there 1e-8). Momentum is SGD with momentum 0.9, as in the paper's code; Table 1 writes the
gradient's share as 1 - 0.9, which only rescales the learning rate.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from trainer.evaluation import rivals

TRADITIONAL = ("sgd", "momentum", "adagrad", "adadelta", "rmsprop", "adam")
"""Optimizers of Table 1."""

ADAM_DEFAULT = "adam-default"
"""Adam at Keras's default learning rate: the untuned baseline."""
ADAMW_COSINE = "adamw-cosine"
"""AdamW, the learning rate falling to 0 over the run; for Keras models only."""
ADAMW_AVERAGED = "adamw-averaged"
"""AdamW at a constant rate, judged at the average of its iterates; for Keras models only."""
MUON_COSINE = "muon-cosine"
"""Muon, the learning rate falling as that of `ADAMW_COSINE`; for Keras models only."""
SCHEDULE_FREE = "schedule-free"
"""Schedule-Free AdamW, judged at its average; for Keras models only."""

COSINES = (ADAMW_COSINE, MUON_COSINE)
"""Optimizers whose learning rate falls to 0 over the run."""
FOR_KERAS_MODELS = (*COSINES, ADAMW_AVERAGED, SCHEDULE_FREE)
"""Optimizers that only `fit` runs as they are meant."""

WEIGHT_DECAY = 0.004
"""Keras's default for AdamW and Muon."""

OPTIMIZERS: dict[str, Callable[[Any], keras.optimizers.Optimizer]] = {
    "sgd": keras.optimizers.SGD,
    "momentum": lambda rate: keras.optimizers.SGD(rate, momentum=0.9),
    "adagrad": keras.optimizers.Adagrad,
    "adadelta": keras.optimizers.Adadelta,
    "rmsprop": keras.optimizers.RMSprop,
    "adam": keras.optimizers.Adam,
    ADAM_DEFAULT: keras.optimizers.Adam,
    ADAMW_COSINE: keras.optimizers.AdamW,
    ADAMW_AVERAGED: rivals.AveragedAdamW,
    MUON_COSINE: rivals.MuonWithHead,
    SCHEDULE_FREE: lambda rate: rivals.ScheduleFreeAdamW(rate, decay=WEIGHT_DECAY),
}
"""Each makes the optimizer from a learning rate: a number, a schedule or a callable."""

FIXED: dict[str, float] = {ADAM_DEFAULT: 0.001}
"""Learning rates that are not tuned."""

FIRST_GRID: dict[str, range] = {
    "sgd": range(-8, 5),
    "momentum": range(-14, 1),
    "adagrad": range(-12, 3),
    "adadelta": range(0, 15),
    "rmsprop": range(-20, -3),
    "adam": range(-20, -3),
    **dict.fromkeys(FOR_KERAS_MODELS, range(-20, -3)),
}
"""Where the search begins: exponents k of the learning rate 2^(k/2)."""

STRIDES = (4, 2, 1)
"""The search's steps on the grid: every fourth rate, then the best one's neighbours at half that distance."""

WIDEST = 40
"""The search ends at the learning rates 2^(-WIDEST/2) and 2^(WIDEST/2)."""


def learning_rate(exponent: int) -> float:
    """The grid of ratio sqrt(2): 2^(exponent / 2)."""
    return 2.0 ** (exponent / 2)


def around(rate: float) -> range:
    """Where the search begins if shorter runs were best at this rate; for strides of 2 and 1."""
    exponent = round(2 * math.log2(rate))
    return range(exponent - 2, exponent + 3)


def tune(grid: range, mean_loss: Callable[[float], float], strides: Sequence[int] = STRIDES) -> float:
    """The learning rate of the lowest loss on the sqrt(2) grid; a best rate at its edge widens the grid.

    The search is by halving: every fourth rate of the grid first, then the neighbours of the best at a
    distance of two, then of one. So at the end the losses of the best rate and of both its neighbours on
    the sqrt(2) grid are known.

    Args:
        grid: exponents to begin with.
        mean_loss: what a learning rate leads to, NaN or infinity for a run that diverged.
        strides: distances between exponents, from the first look to the last. `(1,)` tries the whole grid.

    Raises:
        ValueError: every learning rate diverges.
    """
    losses: dict[int, float] = {}

    def best_after(exponents: Sequence[int]) -> int:
        losses.update({k: _or_infinity(mean_loss(learning_rate(k))) for k in exponents})
        best = min(losses, key=losses.__getitem__)
        if not math.isfinite(losses[best]):
            raise ValueError(f"Every learning rate tried diverges: {sorted(map(learning_rate, losses))}")
        return best

    best = best_after(grid[:: strides[0]])
    for stride in strides:
        while new := [k for k in (best - stride, best + stride) if k not in losses and abs(k) <= WIDEST]:
            best = best_after(new)
    return learning_rate(best)


def _or_infinity(loss: float) -> float:
    return loss if np.isfinite(loss) else math.inf

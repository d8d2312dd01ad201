"""What a run is, whatever is run: a loss curve with named columns and a final loss, for a given seed.

A seed fixes the starting point and the order of the data, the same for every optimizer, so that runs of two
optimizers with the same seed can be compared as a pair.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple, TypeAlias

import numpy as np

Curve: TypeAlias = dict[str, np.ndarray]
"""The measurements of a run by the names of their columns, each [points]. Two columns are always there:
`step`, the number of steps made before the measurement, and `loss`. Further ones are the runner's own."""


class Run(NamedTuple):
    """One optimizee or Keras model, optimized once."""

    curve: Curve
    final_loss: float
    """The number that runs are compared by; the runner says how it is measured."""


class Runner(ABC):
    """Runs one optimizer on one task; compiled at the first run, cheap to call again."""

    @abstractmethod
    def run(self, steps: int, seed: int, learning_rate: float) -> Run:
        """Optimizes for `steps` steps from the start and with the data that `seed` draws.

        Args:
            steps: how many steps to make.
            seed: of the start and of the data.
            learning_rate: the optimizer's; alpha of a learned one.
        """

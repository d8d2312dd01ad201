"""What is to be run: some optimizers on one task."""

from __future__ import annotations

from typing import NamedTuple

from trainer.evaluation.baselines import STRIDES


class Block(NamedTuple):
    """Optimizers on one task."""

    task: str
    steps: int
    optimizers: tuple[str, ...]
    """Learned ones by the name of their weights; traditional ones are tuned."""
    runs: int
    """Runs of each optimizer, seeds from 0."""
    tuning_runs: int
    """Runs at each learning rate tried."""
    strides: tuple[int, ...] = STRIDES
    """See `baselines.tune`."""
    after: int = 0
    """Steps of a block of the same task that is run before; tuning begins around the rates that were best
    there. 0: around none."""

"""What is to be run: some optimizers on one task, and their races to a target on it."""

from __future__ import annotations

import re
from typing import NamedTuple

from trainer.evaluation.baselines import STRIDES

LOOKS = 100
"""Measurements of a race in T steps, at equal distances."""
LONGEST = 2
"""Races go on to so many times T steps."""
RACE = re.compile(r"(.+)-race-(\d+)")
"""Name of the task of races: on which task, and T."""


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
    races: int = 0
    """Races of each optimizer besides, T being `steps`, at the rates tuned for that; seeds from 0."""

    @property
    def race(self) -> str:
        """Name of the task of its races."""
        return f"{self.task}-race-{self.steps}"

    @property
    def shown(self) -> tuple[tuple[str, int], ...]:
        """Tasks and steps of the runs that it is there for: its races, where it has some."""
        if self.races:
            return (self.race, self.steps), (self.race, LONGEST * self.steps)
        return ((self.task, self.steps),)

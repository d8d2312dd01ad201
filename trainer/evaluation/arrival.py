"""When races arrive at the loss that a tuned AdamW with a cosine has after T steps. Reads results only.

The target of a race is the final loss of that AdamW from the same start and with the same data. A race
arrives at the first of its measurements, `LOOKS` in T steps, whose training loss is at most the target.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from trainer.evaluation.baselines import ADAMW_COSINE
from trainer.evaluation.block import Block
from trainer.evaluation.results import Results, Row
from trainer.evaluation.summary import reported

TARGET = ADAMW_COSINE
"""Whose final loss is the target."""
NOT_ARRIVED = 3.0
"""What the steps to the target count as, in T, where a race has not arrived by its end."""


class Arrival(NamedTuple):
    """One race."""

    steps: float
    """Steps to the target, in T."""
    seconds: float
    """As many steps at the race's median seconds a step."""
    arrived: bool


def arrivals(results: Results, block: Block, optimizer: str) -> dict[int, Arrival]:
    """The races of an optimizer that have a target, by seed.

    Where there are a race over T steps and one over more, as of a cosine, the second counts for those that do
    not arrive in the first.
    """
    targets = {row.seed: row.final_loss for row in reported(results, block.race, block.steps, TARGET)}
    found: dict[int, Arrival] = {}
    for task, length in block.shown:
        if rows := reported(results, task, length, optimizer):
            for row, one in zip(rows, _each(results, rows, targets, block.steps), strict=True):
                if row.seed in targets and not (row.seed in found and found[row.seed].arrived):
                    found[row.seed] = one
    return found


def _each(results: Results, rows: list[Row], targets: dict[int, float], steps: int) -> list[Arrival]:
    curves = results.curves(rows)
    made, loss, seconds = (curves[column] for column in ("step", "loss", "seconds"))
    a_step = np.median(np.diff(seconds) / np.diff(made), axis=1)
    arrived = []
    for k, row in enumerate(rows):
        there = np.flatnonzero(loss[k] <= np.float32(targets.get(row.seed, np.nan)))
        share = float(made[k, there[0]]) / steps if len(there) else NOT_ARRIVED
        arrived.append(Arrival(share, share * steps * float(a_step[k]), bool(len(there))))
    return arrived

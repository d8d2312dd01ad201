"""Makes the races that a results folder lacks: runs of one task measured often, to see when they arrive."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from trainer.evaluation.arrival import TARGET, arrivals
from trainer.evaluation.baselines import COSINES
from trainer.evaluation.block import LONGEST, Block
from trainer.evaluation.competitors import Competitor
from trainer.evaluation.evaluation import Evaluation
from trainer.evaluation.results import Results

NO_TUNING = range(0)


def race(
    results: Results,
    block: Block,
    competitors: Iterable[Competitor],
    data_dir: str | None,
    after_run: Callable[[float], Any],
) -> None:
    """Makes the races of a block. With T the block's steps:

    - An optimizer without a schedule makes one run of `LONGEST` T steps a seed.
    - A cosine ends where it was to end, so it makes a run of T steps. Where that does not arrive with every
      seed, it makes another whose cosine is over `LONGEST` T.
    - That of the target makes the run of T steps alone.

    Args:
        results: where races are looked up and written.
        block: the block.
        competitors: the optimizers, with the learning rates of their races.
        data_dir: TFDS's folder, its default where None.
        after_run: see `Evaluation`.
    """
    ending, going_on = (
        Evaluation(results, block.race, times * block.steps, data_dir, after_run) for times in (1, LONGEST)
    )
    for one in sorted(competitors, key=lambda one: one.name != TARGET):
        if one.name in COSINES:
            ending.losses(one, range(block.races), NO_TUNING)
        if not done_at_t(results, block, one.name):
            going_on.losses(one, range(block.races), NO_TUNING)


def done_at_t(results: Results, block: Block, optimizer: str) -> bool:
    """Whether an optimizer needs no race over more than T steps, by its races over T."""
    if optimizer == TARGET:
        return True
    found = arrivals(results, block, optimizer)
    return optimizer in COSINES and all(one.arrived for one in found.values())

"""Tables of steps to the target on Keras models, in Markdown. Reads results only."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from trainer.evaluation.arrival import NOT_ARRIVED, TARGET, Arrival, arrivals
from trainer.evaluation.block import LONGEST, LOOKS, Block
from trainer.evaluation.markdown import NOT_RUN, interval, number, table
from trainer.evaluation.results import Results
from trainer.evaluation.summary import Interval, bootstrap
from trainer.paper.experiments import (
    BEYOND,
    KERAS_MODEL_OPTIMIZERS,
    STEPS_TO_TARGET,
    STEPS_TO_TARGET_HELD_BACK,
)

PREFACE = (
    f"The target is the training loss that {TARGET} has at the end of T steps, with the rate and the cosine "
    "tuned for T, from the same start and with the same data. An optimizer arrives at the first measurement, "
    f"one every {1 / LOOKS:.0%} of T, whose loss is at most that. It is judged by what `fit` would leave "
    f"behind. Each runs for {LONGEST} T steps at the rate tuned for T; a cosine for T, and where that does "
    f"not arrive with every seed, again with the cosine over {LONGEST} T, which counts for those seeds. One "
    f"that has not arrived counts as {NOT_ARRIVED:g} T. Seconds are as many steps at the median time of a "
    f"step, divided by those of T steps of {TARGET}. Means are geometric, over seeds and then over models, "
    "with the 95 % bootstrap interval over models."
)


def steps_to_target(results: Results) -> str:
    """The models by which weights are chosen, and those looked at once."""
    return _tables(results, [("the 15 models above", BEYOND[STEPS_TO_TARGET])])


def steps_to_target_held_back(results: Results) -> str:
    """The models held back, and all models."""
    held_back, others = BEYOND[STEPS_TO_TARGET_HELD_BACK], BEYOND[STEPS_TO_TARGET]
    return _tables(results, [("the models held back", held_back), ("all models", (*others, *held_back))])


def _tables(results: Results, groups: Sequence[tuple[str, Sequence[Block]]]) -> str:
    found = {
        block: {name: list(arrivals(results, block, name).values()) for name in KERAS_MODEL_OPTIMIZERS}
        for _, blocks in groups
        for block in blocks
    }
    parts = [PREFACE]
    for title, blocks in groups:
        for steps in dict.fromkeys(block.steps for block in blocks):
            there = [found[block] for block in blocks if block.steps == steps and found[block][TARGET]]
            if there:
                rows = [_means(name, there) for name in KERAS_MODEL_OPTIMIZERS]
                header = [
                    "optimizer",
                    "models",
                    "steps to target, T",
                    "seconds, those of the target's T steps",
                ]
                parts += [
                    f"Over {title}, T = {steps:,}:",
                    table([*header, "races not arrived", "of"], rows),
                ]
    rows = [
        [block.task, f"{block.steps:,}", *(_steps(found[block][name]) for name in KERAS_MODEL_OPTIMIZERS)]
        for block in groups[0][1]
        if found[block][TARGET]
    ]
    parts += [
        "Steps to target of each model, T, geometric mean, by optimizer:",
        table(["model", "T, steps", *KERAS_MODEL_OPTIMIZERS], rows),
    ]
    return "\n\n".join(parts)


def _means(name: str, models: Sequence[dict[str, list[Arrival]]]) -> list[str]:
    """A row of one optimizer, over models that have a target."""
    there = [one for one in models if one[name]]
    races = [race for one in there for race in one[name]]
    if not there:
        return [name, "0", NOT_RUN, NOT_RUN, "0", "0"]
    steps = [_mean([race.steps for race in one[name]]) for one in there]
    seconds = [_mean([race.seconds for race in one[name]]) / _seconds_of_target(one) for one in there]
    late = sum(not race.arrived for race in races)
    return [name, str(len(there)), _interval(steps), _interval(seconds), str(late), str(len(races))]


def _seconds_of_target(one: dict[str, list[Arrival]]) -> float:
    """Seconds of the target's T steps."""
    return _mean([race.seconds / race.steps for race in one[TARGET]])


def _mean(values: Sequence[float]) -> float:
    return math.exp(np.mean(np.log(values)))


def _interval(values: Sequence[float]) -> str:
    return interval(Interval(*map(math.exp, bootstrap(np.log(values)))))


def _steps(races: Sequence[Arrival]) -> str:
    return number(_mean([race.steps for race in races])) if races else NOT_RUN

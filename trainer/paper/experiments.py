"""The experiments, the paper's and ours: the runs that each table and figure is made from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from rnnprop_tf import pretrained
from trainer.evaluation.baselines import (
    ADAM_DEFAULT,
    ADAMW_AVERAGED,
    ADAMW_COSINE,
    MUON_COSINE,
    SCHEDULE_FREE,
    STRIDES,
    TRADITIONAL,
)
from trainer.evaluation.block import Block
from trainer.evaluation.competitors import AVERAGED
from trainer.keras_models.catalog import HELD_BACK, TEST, VALIDATION
from trainer.problems.catalog import PAPER_TASKS

RNNPROP = "rnnprop-paper"
DM = "dm-paper"
NO_SCALING = "rnnprop-paper-no-scaling"
NO_CONVEX = "rnnprop-paper-no-convex"
DM_TRICKS = "dm-paper-tricks"
LEARNED = (RNNPROP, DM, NO_SCALING, NO_CONVEX, DM_TRICKS)
"""The five learned optimizers of section 5, names of pretrained weights."""

TABLE_4_ITERATIONS = (5_000, 10_000, 15_000)
REPLICATE_SEEDS = (0, 1, 2)
REPLICATED = (RNNPROP, NO_SCALING, DM)

BASE = "mnist-nn-sigmoid-100"
RELU = "mnist-nn-relu-100"
ACTIVATIONS = tuple(f"mnist-nn-{name}-100" for name in ("sigmoid", "relu", "elu", "tanh"))
DEPTHS: Mapping[int, str] = {1: BASE} | {n: f"mnist-nn-l{n}-sigmoid-100" for n in range(2, 11)}
CNNS = tuple(task for task in PAPER_TASKS if task.startswith("vgg"))
SINES = ("sin_lstm", "sin_lstm-x2", "sin_lstm-no001")

DEFAULT = pretrained.DEFAULT
"""The weights of `from_pretrained()`."""
LARGE = "rnnprop-1"
"""The default weights before those, with a network of the paper's size, under the paper's rule."""
SETTLING = f"{LARGE}-settling"
"""That network under the rule whose steps become smaller once gradients have."""
SMALL = f"{LARGE}-small"
"""The network of the default weights under the paper's rule."""
OURS = (DEFAULT, LARGE, SETTLING, SMALL)
LONG_RUN_STEPS = (2_000, 10_000)
LONG_RUN_TASKS = (RELU, DEPTHS[2], CNNS[0])
"""Tasks run for `LONG_RUN_STEPS` too, to judge the default weights by; the base MLP's are the paper's."""
LONG_RUN_CNN_BASELINES = ("momentum", "rmsprop", "adam")
"""The only traditional optimizers on a CNN for so long, where a run takes minutes."""
PEER = "vita-rnnprop-cl-il"
"""RNNprop weights of others, VITA-Group/L2O-Training-Techniques', read by `trainer.convert`."""
COMPARED_WITH = (ADAM_DEFAULT, RNNPROP, PEER)
"""Other optimizers that the default weights are compared with on the 22 tasks and on longer runs, beside the
traditional ones."""
KERAS_MODEL_LEARNED = (*OURS, f"{DEFAULT}{AVERAGED}")
"""Learned optimizers on Keras models; the last is the default at the average of its iterates."""
KERAS_MODEL_BASELINES = (ADAM_DEFAULT, "adam", ADAMW_COSINE, ADAMW_AVERAGED, MUON_COSINE, SCHEDULE_FREE)
"""Optimizers that the default weights are compared with on Keras models; all but the first are tuned."""
KERAS_MODEL_OPTIMIZERS = (*KERAS_MODEL_LEARNED, *KERAS_MODEL_BASELINES)
KERAS_MODEL_RUNS: Mapping[int, int] = {200: 6, 2_000: 4, 10_000: 2}
"""Runs of each optimizer on each Keras model, by steps."""
RACES: Mapping[int, int] = {200: 3, 2_000: 3}
"""Races of each optimizer on each Keras model, by T. With 10,000 they would be runs of 20,000 steps."""


def at_iteration(name: str, iteration: int) -> str:
    """The weights of Table 4: those of a run after so many iterations."""
    return f"{name}-{iteration}"


def replicate(name: str, seed: int) -> str:
    """Weights trained at the smaller budget, one for each meta-training seed."""
    return f"{name}-seed{seed}"


OTHER_SEEDS = (replicate(DEFAULT, 1), replicate(DEFAULT, 2))
"""The default weights from other seeds of meta-training."""

OTHER_OPTIMIZEES, OTHER_OPTIMIZEES_STEPS = (RELU, DEPTHS[2]), 2_000
"""In place of the other optimizees that section 5.1 says to have been run for longer, without naming them."""
FIGURE_9_STEPS = 1_000
RNNPROP_5000, NO_CONVEX_5000 = (at_iteration(name, 5_000) for name in (RNNPROP, NO_CONVEX))
FIGURE_9 = (RNNPROP_5000, NO_SCALING, NO_CONVEX_5000, DM, DM_TRICKS)
"""At equal iterations of meta-training; without the convex part is ours."""

TABLE_4 = tuple(at_iteration(name, k) for k in TABLE_4_ITERATIONS for name in (RNNPROP, NO_CONVEX))
REPLICATES = tuple(replicate(name, seed) for name in REPLICATED for seed in REPLICATE_SEEDS)


def _block(task: str, optimizers: tuple[str, ...] = LEARNED + TRADITIONAL, steps: int | None = None) -> Block:
    steps = steps or PAPER_TASKS[task].steps
    if task == "mnist-nn-sigmoid-10000":  # Figure 3 shows the whole grid.
        return Block(task, steps, optimizers, runs=5, tuning_runs=2, strides=(1,))
    if steps > 100 and task in CNNS:
        return Block(task, steps, optimizers, runs=3, tuning_runs=1, after=_before(steps))
    if steps == 10_000:
        return Block(task, steps, optimizers, runs=5, tuning_runs=2, after=LONG_RUN_STEPS[0])
    if steps >= FIGURE_9_STEPS:
        return Block(task, steps, optimizers, runs=10, tuning_runs=3)
    if task in CNNS:
        return Block(task, steps, optimizers, runs=20, tuning_runs=3)
    return Block(task, steps, optimizers, runs=100, tuning_runs=5)


def _keras_models(names: Iterable[str]) -> tuple[Block, ...]:
    return tuple(
        Block(name, steps, KERAS_MODEL_OPTIMIZERS, runs, tuning_runs=1, after=_before(steps))
        for steps, runs in KERAS_MODEL_RUNS.items()
        for name in names
    )


def _steps_to_target(blocks: Iterable[Block]) -> tuple[Block, ...]:
    return tuple(block._replace(races=RACES[block.steps]) for block in blocks if block.steps in RACES)


def long_run_baselines(task: str) -> tuple[str, ...]:
    """The traditional optimizers that are run for `LONG_RUN_STEPS`."""
    return LONG_RUN_CNN_BASELINES if task in CNNS else TRADITIONAL


def _before(steps: int) -> int:
    """`Block.after`: a search over all rates is too dear for the longest runs."""
    return LONG_RUN_STEPS[0] if steps == LONG_RUN_STEPS[1] else 0


STEPS_TO_TARGET = "steps-to-target"
STEPS_TO_TARGET_HELD_BACK = f"{STEPS_TO_TARGET}-held-back"

PAPER: dict[str, tuple[Block, ...]] = {
    "table2": tuple(_block(task) for task in ACTIVATIONS),
    "table3": tuple(_block(task) for task in SINES),
    "table4": tuple(_block(task, (*TABLE_4, "adam")) for task in (BASE, RELU)),
    "figure2": (_block("mnist-nn-sigmoid-2000"), _block("mnist-nn-sigmoid-10000")),
    "figure3": (_block("mnist-nn-sigmoid-10000"),),
    "figure4": (_block(RELU),),
    "figure5": (_block(DEPTHS[5]),),
    "figure6": tuple(_block(task) for task in DEPTHS.values()),
    "figure7": tuple(_block(task) for task in CNNS),
    "figure8": (_block("sin_lstm"),),
    "figure9": (_block(RELU, FIGURE_9, FIGURE_9_STEPS),),
    "longer": tuple(
        _block(task, (RNNPROP, *TRADITIONAL), OTHER_OPTIMIZEES_STEPS) for task in OTHER_OPTIMIZEES
    ),
    "scorecard": tuple(_block(task) for task in PAPER_TASKS),
    "replicates": (
        *(_block(task, (*REPLICATES, "adam"))._replace(runs=20) for task in ACTIVATIONS),
        _block(RELU, (*REPLICATES, "adam"), FIGURE_9_STEPS),
    ),
}
"""The experiments of the paper: the blocks that each table, figure or claim is made from."""

BEYOND: dict[str, tuple[Block, ...]] = {
    "default-weights": (
        *(_block(task, (*OURS, *COMPARED_WITH, *TRADITIONAL)) for task in PAPER_TASKS),
        *(
            _block(task, (*OURS, *COMPARED_WITH, *long_run_baselines(task)), steps)
            for steps in LONG_RUN_STEPS
            for task in LONG_RUN_TASKS
        ),
    ),
    "default-weights-seeds": tuple(
        _block(task, (DEFAULT, *OTHER_SEEDS, *TRADITIONAL))._replace(runs=6) for task in PAPER_TASKS
    ),
    "keras-models": _keras_models(VALIDATION),
    "keras-models-test": _keras_models(TEST),
    "keras-models-held-back": _keras_models(HELD_BACK),
    STEPS_TO_TARGET: _steps_to_target(_keras_models([*VALIDATION, *TEST])),
    STEPS_TO_TARGET_HELD_BACK: _steps_to_target(_keras_models(HELD_BACK)),
}
"""Experiments that our weights are judged by: the paper's tasks, some for longer, and Keras models."""

EXPERIMENTS: dict[str, tuple[Block, ...]] = PAPER | BEYOND


def _longer(of: Iterable[Block]) -> Iterator[Block]:
    """Blocks of tasks that an earlier block runs for fewer steps."""
    seen: set[str] = set()
    for block in of:
        if block.task in seen:
            yield block
        seen.add(block.task)


def blocks(names: Iterable[str], quick: bool) -> list[Block]:
    """The blocks of these experiments, none twice.

    Args:
        names: keys of `EXPERIMENTS`.
        quick: two runs of each, and a coarse tuning with one, to see all of it work in minutes; beyond the
            paper only the shortest runs of a task.
    """
    found = dict.fromkeys(block for name in names for block in EXPERIMENTS[name])
    if quick:
        longer = {block for name in names if name in BEYOND for block in _longer(BEYOND[name])}
        found = dict.fromkeys(block for block in found if block not in longer)
        return [
            block._replace(runs=2, tuning_runs=1, strides=STRIDES[:1], races=min(block.races, 2))
            for block in found
        ]
    return list(found)

"""What optimizers are evaluated on, by name: the optimizees of the catalog and the Keras models."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TypeAlias

from trainer.evaluation import baselines
from trainer.evaluation.block import LONGEST, LOOKS, RACE
from trainer.evaluation.competitors import AVERAGED, Competitor
from trainer.evaluation.fit_runner import FitRunner, check_steps
from trainer.evaluation.runner import Runner
from trainer.evaluation.unrolled_runner import KerasRunner, LearnedRunner
from trainer.keras_models.catalog import KERAS_MODELS, KerasModel
from trainer.problems import catalog

MakeRunner: TypeAlias = Callable[[Competitor], Runner]
"""Makes what runs an optimizer on one task."""

KERAS_MODEL_STEPS = 200
"""Steps of a Keras model's run, where none are named."""


@dataclass(frozen=True)
class Task(ABC):
    """What an optimizer can be run on."""

    name: str
    steps: int
    """Steps of a run, where none are named."""

    @abstractmethod
    def check(self, optimizers: Collection[str], steps: int) -> None:
        """Refuses what cannot be run on this task.

        Args:
            optimizers: their names.
            steps: of a run.

        Raises:
            ValueError: one of them cannot be run, or not for so many steps.
        """

    @abstractmethod
    def load(self, data_dir: str | None) -> MakeRunner:
        """Reads the data; `data_dir` is TFDS's folder, its default where None."""


@dataclass(frozen=True)
class OptimizeeTask(Task):
    """A problem, unrolled."""

    build: catalog.Build

    def check(self, optimizers: Collection[str], steps: int) -> None:
        for name in optimizers:
            if name in baselines.FOR_KERAS_MODELS or name.endswith(AVERAGED):
                raise ValueError(f"{name}: expected Keras models as tasks. Received: {self.name}")

    def load(self, data_dir: str | None) -> MakeRunner:
        problem = self.build(data_dir)

        def make(one: Competitor) -> Runner:
            if one.weights is None:
                return KerasRunner(problem, one.make)
            return LearnedRunner(problem, one.weights.rule, one.weights.network)

        return make


@dataclass(frozen=True)
class KerasModelTask(Task):
    """A Keras model under `fit`."""

    model: KerasModel
    every: int | None = None
    """Steps between measurements; None for a few in a run."""

    def check(self, optimizers: Collection[str], steps: int) -> None:
        check_steps(steps, self.every)

    def load(self, data_dir: str | None) -> MakeRunner:
        return lambda one: FitRunner(
            self.model, one.make, one.name in baselines.COSINES, data_dir, self.every
        )


TASKS: dict[str, Task] = {
    **{name: OptimizeeTask(name, task.steps, task.build) for name, task in catalog.TASKS.items()},
    **{name: KerasModelTask(name, KERAS_MODEL_STEPS, model) for name, model in KERAS_MODELS.items()},
}
"""All tasks that there are, but for races on Keras models."""


def task(name: str) -> Task:
    """The task of that name; races have names as `Block.race` gives them.

    Raises:
        ValueError: there is none.
    """
    found = RACE.fullmatch(name)
    if found and found[1] in KERAS_MODELS:
        return _race(name, KERAS_MODELS[found[1]], int(found[2]))
    if name not in TASKS:
        raise ValueError(f"No task named {name!r}. Expected one of {', '.join(TASKS)}.")
    return TASKS[name]


def _race(name: str, model: KerasModel, steps: int) -> Task:
    if steps <= 0 or steps % LOOKS:
        raise ValueError(f"{name}: expected a multiple of {LOOKS} steps for a race. Received: {steps}")
    return KerasModelTask(name, LONGEST * steps, model, every=steps // LOOKS)


def check_task(name: str, optimizers: Collection[str] = (), steps: int | None = None) -> None:
    """Refuses a task that there is not, and what cannot be run on it.

    Args:
        name: the task.
        optimizers: names of those to be run on it.
        steps: of a run; the task's own where None.

    Raises:
        ValueError: there is no such task, or `Task.check` refuses.
    """
    found = task(name)
    found.check(optimizers, steps or found.steps)

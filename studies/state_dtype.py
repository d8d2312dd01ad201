"""What storing the LSTM's state in fewer bytes does to final losses.

    python -m studies.state_dtype
    python -m studies.state_dtype --weights=rnnprop-1 --out=results/benchmarks/state_dtype_large.json
    python -m studies.state_dtype --tasks=sin_lstm --runs=100

Five of the paper's tasks, optimized with the shipped weights from the same starts on the same data: with h
and c in float32, and in bfloat16 and int8, as the optimizers' `state_dtype` has it. Reports mean final losses
and the mean difference to float32, its standard error over seeds.
"""

from __future__ import annotations

import dataclasses
import json
import os
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf
from absl import flags

from benchmarks.machine import machine, write
from rnnprop_tf import pretrained, state_types
from rnnprop_tf.network import Network, Tensor
from rnnprop_tf.rule import Observation, RNNpropRule, Rule, RuleState
from studies import losses
from trainer import commands
from trainer.evaluation.unrolled_runner import LearnedRunner
from trainer.problems import catalog

FLAGS = flags.FLAGS

TASKS = [
    *(f"mnist-nn-{kind}-100" for kind in ("sigmoid", "relu", "elu")),
    *("mnist-nn-sigmoid-2000", "sin_lstm"),
]


class Stored(RNNpropRule):
    """Before a rule of weights, in a class of both: the state is carried from step to step in this type.

    Carried, and not only rounded: XLA drops a cast to bfloat16 and back.
    """

    state_dtype: ClassVar[str]

    def initial_state(self, network: Network, coordinates: int, dtype: str = "float32") -> RuleState:
        state = super().initial_state(network, coordinates, dtype)
        return state._replace(lstm=tf.nest.map_structure(lambda s: tf.cast(s, self.state_dtype), state.lstm))

    def respond(self, network: Network, observation: Observation, lstm: Any) -> tuple[Tensor, Any]:
        exact = state_types.exact(lstm, observation.inputs.dtype)
        direction, new = super().respond(network, observation, exact)
        return direction, state_types.stored(new, lstm)


def rules(rule: Rule) -> dict[str, Rule]:
    """The rule with its state in each type, by the type's name."""
    both = {
        dtype: type(f"Stored{dtype}", (Stored, type(rule)), {"state_dtype": dtype})
        for dtype in state_types.STATE_DTYPES[1:]
    }
    return {"float32": rule} | {dtype: kind(**dataclasses.asdict(rule)) for dtype, kind in both.items()}


def main(_: list[str]) -> None:
    weights = pretrained.load(FLAGS.weights)
    stored = rules(weights.rule)
    tasks: dict[str, Any] = {}
    if os.path.exists(FLAGS.out):
        with open(FLAGS.out) as file:
            before = json.load(file)
        tasks = before["tasks"] if before["weights"] == FLAGS.weights else {}
    for name in FLAGS.tasks:
        task = catalog.task(name)
        problem = task.build(FLAGS.data_dir)
        seeds = range(FLAGS.runs if task.steps <= 100 else FLAGS.runs // 4)
        found = {}
        for title, rule in stored.items():
            runner = LearnedRunner(problem, rule, weights.network)
            found[title] = losses.final_losses(runner, task.steps, seeds, weights.learning_rate)
        tasks[name] = {"runs": len(seeds)} | {title: summary(found, title) for title in stored}
        print(name, tasks[name], flush=True)
    write({"machine": machine(), "weights": FLAGS.weights, "tasks": tasks}, FLAGS.out)


def summary(found: dict[str, np.ndarray], title: str) -> dict[str, float]:
    """The mean loss, and the mean difference to float32 as a share of float32's mean."""
    difference = (found[title] - found["float32"]) / found["float32"].mean()
    return {
        "mean_final_loss": float(found[title].mean()),
        "relative_difference": float(difference.mean()),
        "standard_error": float(difference.std(ddof=1) / np.sqrt(len(difference))),
    }


if __name__ == "__main__":
    flags.DEFINE_list(
        "tasks",
        TASKS,
        "names of the catalog; what the file says of others stays there",
    )
    flags.DEFINE_string(
        "weights", pretrained.DEFAULT, "name or folder of weights; a file of others' is begun anew"
    )
    flags.DEFINE_integer("runs", 20, "runs of a task of 100 steps, from seed 0 on; longer ones get a quarter")
    flags.DEFINE_string("data_dir", None, "TFDS's folder")
    flags.DEFINE_string("out", "results/benchmarks/state_dtype.json", "where to write")
    commands.run(main)

"""What each option of the optimizer costs: time and state of an update as ratios to the plain one's.

    python -m benchmarks.options
    python -m benchmarks.options --only=state_dtype --weights=rnnprop-1 \\
        --out=results/benchmarks/options_large.json

Measures each option beside the plain update, that of the weights as they come, call by call in turn, in one
process, on the million parameters of `benchmarks.update_step`. Writes the numbers, and the table of them in
docs/cost-and-limits.md; what it says of other options stays.
"""

from __future__ import annotations

import gc
import inspect
import json
import os
import re
import tempfile
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import keras
import tensorflow as tf
from absl import flags

from benchmarks.machine import machine, write
from benchmarks.update_step import PARAMETERS, SHAPES, Bag, alternated
from rnnprop_tf import LossScaleOptimizer, OptimizerMonitor, RNNprop, pretrained
from rnnprop_tf.optimizer import KerasArguments
from trainer import commands, files
from trainer.evaluation.markdown import table as markdown_table

FLAGS = flags.FLAGS

HEADING = "## Options"
"""Of the document's section that holds the table of the default weights."""
HEADING_OF_OTHERS = "### Options with `{}`"

FREE = {"network", "beta_1", "beta_2", "epsilon", "beta_3", "ema_momentum", "name"}
"""Arguments without work of their own: numbers that the plain update or another option uses, and names."""


class Option(NamedTuple):
    """One way to run the update. Without arguments, the plain one: in a `tf.function`, as `fit` on a CPU."""

    arguments: Mapping[str, Any] = {}
    """Of `RNNprop.from_pretrained`."""
    batches: int = 1
    """Gradients that one update takes; time is counted for one of them."""
    loss_scaling: bool = False
    how: str = "graph"
    """Or `"eager"`, or `"compiled"`: all of the update by XLA."""
    bad_gradient: bool = False
    monitored: bool = False


PLAIN = Option()
OPTIONS: dict[str, Option] = {
    '`state_dtype="float32"`': Option({"state_dtype": "float32"}),
    '`state_dtype="bfloat16"`': Option({"state_dtype": "bfloat16"}),
    '`state_dtype="int8"`': Option({"state_dtype": "int8"}),
    "`annealing=0.0`": Option({"annealing": 0.0}),
    "`annealing=1500.0`": Option({"annealing": 1_500.0}),
    "`annealing=0.0, settling=2.0`": Option({"annealing": 0.0, "settling": 2.0}),
    "`skip_nonfinite=False`": Option({"skip_nonfinite": False}),
    "a step that is skipped": Option(bad_gradient=True),
    "`clipvalue=1.0`": Option({"clipvalue": 1.0}),
    "`clipnorm=1.0`": Option({"clipnorm": 1.0}),
    "`global_clipnorm=1.0`": Option({"global_clipnorm": 1.0}),
    "`weight_decay=1e-4`": Option({"weight_decay": 1e-4}),
    "`use_ema=True`": Option({"use_ema": True}),
    "`use_ema=True, ema_overwrite_frequency=10`": Option({"use_ema": True, "ema_overwrite_frequency": 10}),
    "`use_averaging=True`": Option({"use_averaging": True}),
    "`gradient_accumulation_steps=4`, a batch": Option({"gradient_accumulation_steps": 4}, batches=4),
    "`loss_scale_factor=128.0`": Option({"loss_scale_factor": 128.0}),
    "`LossScaleOptimizer`, for `mixed_float16`": Option(loss_scaling=True),
    "a schedule as `learning_rate`": Option(
        {"learning_rate": keras.optimizers.schedules.CosineDecay(0.1, 1_000)}
    ),
    "`OptimizerMonitor`, a log after every update": Option(monitored=True),
    "`RNNprop(jit_compile=False)`, without XLA": Option({"jit_compile": False}),
    "`compile(jit_compile=True)`": Option(how="compiled"),
    "`apply` in eager mode": Option(how="eager"),
}


class Cost(NamedTuple):
    """Of one update, or of one batch of an accumulated one."""

    milliseconds: float
    state_bytes_a_parameter: float


def arguments() -> set[str]:
    """The names of all arguments of RNNprop."""
    own = set(inspect.signature(RNNprop.__init__).parameters) - {"self", "kwargs"}
    return own | set(KerasArguments.__annotations__)


def update(
    option: Option, weights: str, shapes: tuple[tuple[int, ...], ...], folder: str
) -> tuple[Callable[[], Any], keras.optimizers.Optimizer]:
    """One update as a function to call, and the optimizer; a monitor logs into `folder`."""
    model = Bag(shapes)
    variables = model.trainable_variables
    optimizer: Any = RNNprop.from_pretrained(weights, **option.arguments)
    if option.loss_scaling:
        optimizer = LossScaleOptimizer(optimizer)
    optimizer.build(variables)
    gradients = [tf.random.normal(shape) for shape in shapes]
    if option.bad_gradient:
        gradients[-1] *= float("nan")

    def apply() -> None:
        optimizer.apply(gradients, variables)

    if option.how != "eager":
        apply = tf.function(apply, jit_compile=option.how == "compiled", autograph=False)
    monitor = (
        OptimizerMonitor(folder, update_freq="batch") if option.monitored else keras.callbacks.Callback()
    )
    model.compile(optimizer)
    monitor.set_model(model)
    monitor.on_train_begin()

    def run() -> Any:
        for _ in range(option.batches):
            apply()
            monitor.on_epoch_begin(0)
            monitor.on_train_batch_end(0)
        return variables[-1].value  # To be read, which waits for the device.

    return run, optimizer


def beside_plain(
    option: Option, weights: str, shapes: tuple[tuple[int, ...], ...], rounds: int
) -> tuple[Cost, Cost]:
    """The costs of the plain update and of the option's, measured in turn."""
    with tempfile.TemporaryDirectory() as folder:
        pair = {"plain": PLAIN, "option": option}
        built = {name: update(one, weights, shapes, folder) for name, one in pair.items()}
        parts = {name: run for name, (run, _) in built.items()}
        alternated(parts, 1)  # Traces and compiles.
        times = alternated(parts, rounds)
    parameters = sum(tf.TensorShape(shape).num_elements() for shape in shapes)

    def cost(name: str, batches: int) -> Cost:
        variables = built[name][1].variables
        state = sum(v.value.shape.num_elements() * v.value.dtype.size for v in variables)
        return Cost(1e3 * times[name] / batches, state / parameters)

    return cost("plain", PLAIN.batches), cost("option", option.batches)


def measure(
    options: Mapping[str, Option],
    shapes: tuple[tuple[int, ...], ...],
    rounds: int,
    weights: str = pretrained.DEFAULT,
) -> dict[str, dict[str, dict[str, float]]]:
    """For each option its cost and that of the plain update beside it."""
    result = {}
    for name, option in options.items():
        plain, cost = beside_plain(option, weights, shapes, rounds)
        result[name] = {"plain": plain._asdict(), "option": cost._asdict()}
        print(f"{ratio(result[name], 'milliseconds'):6.2f} times the plain update: {name}", flush=True)
        gc.collect()
    return result


def ratio(row: Mapping[str, Any], quantity: str) -> float:
    """The option's cost as a multiple of the plain update's."""
    return row["option"][quantity] / row["plain"][quantity]


def too_dear(measured: Mapping[str, Any], expected: Mapping[str, Any]) -> list[str]:
    """The options whose time is more than twice what was expected of them."""
    return [
        name
        for name, row in measured.items()
        if ratio(row, "milliseconds") > 2.0 * ratio(expected[name], "milliseconds")
    ]


def table(rows: Mapping[str, Any]) -> str:
    """The costs in Markdown."""
    header = ["option", "time, ratio", "state, ratio", "state, bytes a parameter"]
    lines = [
        [
            name,
            f"{ratio(row, 'milliseconds'):.2f}",
            f"{ratio(row, 'state_bytes_a_parameter'):.2f}",
            f"{row['option']['state_bytes_a_parameter']:.0f}",
        ]
        for name, row in rows.items()
    ]
    return markdown_table(header, lines)


def with_table(document: str, rows: Mapping[str, Any], weights: str = pretrained.DEFAULT) -> str:
    """The document with this table in place of the one under the weights' heading."""
    title = HEADING if weights == pretrained.DEFAULT else HEADING_OF_OTHERS.format(weights)
    before, heading, after = document.partition(f"\n{title}\n")
    if not heading:
        raise ValueError(f"Expected a document with the heading {title!r}. Add it, with a table below.")
    return before + heading + re.sub(r"(^\|.*\n)+", lambda _: f"{table(rows)}\n", after, count=1, flags=re.M)


def main(_: list[str]) -> None:
    tf.get_logger().setLevel("ERROR")  # Each option is traced anew, of which TensorFlow warns.
    measured = {name: option for name, option in OPTIONS.items() if FLAGS.only in name}
    before = json.loads(files.read(FLAGS.out))["options"] if os.path.exists(FLAGS.out) else {}
    before |= measure(measured, SHAPES, FLAGS.rounds, FLAGS.weights)
    rows = {name: before[name] for name in OPTIONS if name in before}
    write(
        {
            "machine": machine(),
            "parameters": PARAMETERS,
            "weights": FLAGS.weights,
            "rounds": FLAGS.rounds,
            "options": rows,
        },
        FLAGS.out,
    )
    if FLAGS.document:
        document = files.read(FLAGS.document).decode()
        files.write_atomically(FLAGS.document, with_table(document, rows, FLAGS.weights).encode())


if __name__ == "__main__":
    flags.DEFINE_string("weights", pretrained.DEFAULT, "weights of RNNprop, a name or folder")
    flags.DEFINE_string("only", "", "measure the options whose names contain this")
    flags.DEFINE_integer("rounds", 9, "updates of each kind to time; medians count", lower_bound=1)
    flags.DEFINE_string("out", "results/benchmarks/options.json", "where to write")
    flags.DEFINE_string("document", "docs/cost-and-limits.md", "whose table to write; empty for none")
    commands.run(main, may_be_empty=("document", "only"))

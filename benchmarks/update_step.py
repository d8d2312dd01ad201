"""How long RNNprop's update takes, as multiples of the bare matrix products and of Adam.

    python -m benchmarks.update_step
    python -m benchmarks.update_step --weights=rnnprop-1 --out=results/benchmarks/update_step_large.json

On a GPU the same command measures the GPU. Everything is measured in alternation, round by round, and the
medians are reported: on a shared machine single times drift by half.

- The limit: the operations of the matrix products (13,200 a parameter for the paper's network) at the rate
  that a 1024x1024x1024 float32 product reaches in the same process.
- The bare update: tracing and compiling, then a step, in a plain graph and compiled, on a model of a million
  parameters in 31 variables.
- Training steps (`fit`'s own function on one batch) with RNNprop and with Adam, of that model's size and of
  the base MLP, uncompiled and compiled, the small one also 10 steps at a time.
- The roofline: the matrix products at the network's own shapes, the transcendental functions, the traffic of
  the state, and the rule on one chunk over and over, which the caches hold; nanoseconds a parameter each.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import flags

from benchmarks.machine import machine, write
from rnnprop_tf import RNNprop, compute, pretrained
from rnnprop_tf import network as coordinatewise
from rnnprop_tf.rule import RuleState
from trainer import commands

FLAGS = flags.FLAGS

SHAPES: tuple[tuple[int, ...], ...] = (
    (2000, 128),
    *((3, 3, 3, 32), (32,), (3, 3, 32, 64), (64,), (3, 3, 64, 64), (64,), (3, 3, 64, 128), (128,)),
    *((3, 3, 128, 128), (128,), (128, 256), (256,), (256, 512), (512,), (512, 256), (256,), (256, 100)),
    *((100,), (64, 64), (64,), (), (), (128,), (128,), (128, 128), (128,), (256, 256), (256,), (256, 10)),
    (10,),
)
PARAMETERS = sum(int(np.prod(shape)) for shape in SHAPES)
ROOFLINE_COORDINATES = 65_536


def rnnprop() -> RNNprop:
    """The optimizer that is measured."""
    return RNNprop.from_pretrained(FLAGS.weights)


class Bag(keras.Model):
    """A model of variables of any shape, whose gradients cost next to nothing."""

    def __init__(self, shapes: tuple[tuple[int, ...], ...]) -> None:
        super().__init__()
        self.variables_of_the_bag = [self.add_weight(shape=s, initializer="zeros") for s in shapes]

    def call(self, x: tf.Tensor) -> tf.Tensor:
        return tf.add_n([tf.reduce_sum(tf.sin(v)) for v in self.variables_of_the_bag]) + 0.0 * x


def mlp() -> keras.Model:
    """The paper's base MLP, 15,910 parameters."""
    layers = [keras.Input((784,)), keras.layers.Dense(20, "sigmoid"), keras.layers.Dense(10)]
    return keras.Sequential(layers)


def seconds(function: Callable[[], Any]) -> float:
    start = time.perf_counter()
    tf.nest.map_structure(np.asarray, function())
    return time.perf_counter() - start


def alternated(parts: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Median seconds of each part, round by round in turn: a drift of the machine meets all of them alike."""
    times: dict[str, list[float]] = {name: [] for name in parts}
    for _round in range(rounds):
        for name, part in parts.items():
            times[name].append(seconds(part))
    return {name: float(np.median(values)) for name, values in times.items()}


def matmul_limit() -> Callable[[], Any]:
    a = tf.random.normal([1024, 1024])
    product = tf.function(lambda: tf.matmul(a, a)[0, 0], autograph=False)

    # Without the optimizer of graphs taking five equal products for one.
    return lambda: [product() for _ in range(5)]


def bytes_of_state() -> int:
    """Bytes of state for one parameter."""
    optimizer = rnnprop()
    optimizer.build([keras.Variable(0.0)])
    slots = [slot.value for slot in tf.nest.flatten(list(optimizer._slots))]
    return sum(slot.dtype.size * slot.shape.num_elements() for slot in slots)


def operations(network: coordinatewise.Network) -> int:
    """Operations of the matrix products, for one parameter and step."""
    kernels = [w for w in tf.nest.flatten(network) if len(w.shape) == 2]
    return 2 * sum(int(np.prod(w.shape)) for w in kernels)


def bare_update(jit_compile: bool, shapes: tuple[tuple[int, ...], ...] = SHAPES) -> Callable[[], Any]:
    """`compute.update` alone, on the optimizer's own slots."""
    variables = [keras.Variable(tf.zeros(shape)) for shape in shapes]
    optimizer = rnnprop()
    optimizer.build(variables)
    slots = tf.nest.map_structure(lambda slot: slot.value, list(optimizer._slots))
    gradients = [tf.random.normal(shape) for shape in shapes]

    @tf.function(jit_compile=jit_compile, autograph=False)
    def update() -> tf.Tensor:
        scalars = compute.Scalars(taken=tf.constant(True), step=tf.constant(5.0), rate=tf.constant(0.001))
        changes = compute.update(optimizer.rule, optimizer.network, slots, gradients, scalars)
        return tf.add_n([tf.reshape(change, [-1])[0] for change in changes])

    return update


def applied(optimizer: keras.optimizers.Optimizer, jit_compile: bool) -> Callable[[], Any]:
    """The optimizer's `apply` in a `tf.function`, gradients given."""
    variables = [keras.Variable(tf.zeros(shape)) for shape in SHAPES]
    optimizer.build(variables)
    gradients = [tf.random.normal(shape) for shape in SHAPES]
    apply = tf.function(
        lambda: optimizer.apply(gradients, variables), jit_compile=jit_compile, autograph=False
    )
    return lambda: (apply(), variables[-1].value)[1]  # To be read, which waits for the device.


def train_step(
    model: keras.Model, optimizer: Any, jit_compile: bool, steps: int = 1, batch: int = 128
) -> Callable[[], Any]:
    """One call of the function that `fit` runs: `steps` steps, on random data for a classifier."""
    if isinstance(model, Bag):
        # Far from the target, or gradients would be zero and coordinates asleep.
        x, y, loss = np.zeros((1, 1), "float32"), np.full((1, 1), 1e9, "float32"), "mae"
    else:
        rng = np.random.default_rng(0)
        shape = (batch, *model.input_shape[1:])
        tokens = model.inputs[0].dtype.startswith("int")
        x = rng.integers(0, 100, shape) if tokens else rng.normal(size=shape).astype("float32")
        y = rng.integers(0, model.output_shape[-1], batch)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, jit_compile=jit_compile, steps_per_execution=steps)
    model.make_train_function()
    batches = iter(tf.data.Dataset.from_tensors((x, y)).repeat())
    return lambda: (model.train_function(batches), optimizer.iterations.numpy())[1]


def roofline() -> dict[str, Callable[[], Any]]:
    """The parts of a step on `ROOFLINE_COORDINATES` coordinates, compiled."""
    optimizer = rnnprop()
    size = compute.chunk_of(optimizer.network)
    chunk = optimizer.rule.initial_state(optimizer.network, size)
    gradient = tf.random.normal([size])
    rows, columns = optimizer.network.lstm[-1].kernel.shape
    kernel, inputs = tf.random.normal([rows, columns]), tf.random.normal([columns, ROOFLINE_COORDINATES])
    gates = tf.random.normal([rows, ROOFLINE_COORDINATES])
    state = tf.Variable(tf.random.normal([bytes_of_state() // 4, ROOFLINE_COORDINATES]))
    network = tf.nest.map_structure(tf.constant, optimizer.network)

    def compiled(function: Callable, *arguments: Any) -> Callable[[], Any]:
        function = tf.function(function, jit_compile=True, autograph=False)

        def run() -> tf.Tensor:
            # Of all that was computed: what is not returned, XLA leaves out.
            return tf.reshape(tf.nest.flatten(function(*arguments))[0], [-1])[0]

        return run

    def touch() -> tf.Tensor:
        state.assign_add(tf.ones_like(state), read_value=False)
        return state[0, :1]

    def turns(state: RuleState) -> RuleState:
        def turn(t: tf.Tensor, state: RuleState) -> tuple[tf.Tensor, RuleState]:
            return t + 1, optimizer.rule.update(network, state, gradient, tf.constant(5.0))[1]

        count = ROOFLINE_COORDINATES // size
        return tf.while_loop(lambda t, _: t < count, turn, (tf.constant(0), state))[1]

    return {
        f"the last layer's [{rows}, {columns}] product": compiled(lambda x: tf.matmul(kernel, x), inputs),
        f"{rows} tanh": compiled(tf.tanh, gates),
        f"{rows} sigmoid": compiled(tf.sigmoid, gates),
        "state read and written": compiled(touch),
        "the rule, in cache": compiled(turns, chunk),
    }


def training_steps() -> dict[str, Callable[[], Any]]:
    result = {}
    for jit in (False, True):
        how = "compiled" if jit else "plain"
        for name, make in (("rnnprop", rnnprop), ("adam", keras.optimizers.Adam)):
            result[f"apply, {how}, {name}"] = applied(make(), jit)
            result[f"million, {how}, {name}"] = train_step(Bag(SHAPES), make(), jit)
            result[f"mlp, {how}, {name}"] = train_step(mlp(), make(), jit)
            result[f"mlp, {how}, {name}, 10 steps"] = train_step(mlp(), make(), jit, 10)
    return result


def main(_: list[str]) -> None:
    # The first call of each traces and compiles; that of the first bare update has nothing to reuse.
    small = tuple(tuple(v.shape) for v in mlp().trainable_variables)
    limit = matmul_limit()
    limit()
    parts = {"limit": limit, "bare, plain": bare_update(False)}
    first = {"bare, plain": seconds(parts["bare, plain"])}
    parts |= {"bare, plain, second model": bare_update(False), "bare, compiled": bare_update(True)}
    parts |= {"bare mlp": bare_update(False, small)} | training_steps() | roofline()
    for name, part in parts.items():
        first.setdefault(name, seconds(part))
    report(first, alternated(parts, FLAGS.rounds))


def report(first: dict[str, float], median: dict[str, float]) -> None:
    """Prints and writes ratios; times in seconds."""
    flops = 5 * 2 * 1024**3 / median["limit"]
    bare_limit = operations(rnnprop().network) * PARAMETERS / flops
    ratios = {f"{how} update / limit": median[f"bare, {how}"] / bare_limit for how in ("plain", "compiled")}
    for how in ("plain", "compiled"):
        ours, adam = (median[f"million, {how}, {name}"] for name in ("rnnprop", "adam"))
        ratios[f"fit step / Adam's, {how}"] = ours / adam
        ratios[f"apply / Adam's, {how}"] = median[f"apply, {how}, rnnprop"] / median[f"apply, {how}, adam"]
        extra = ours - adam
        ratios[f"fit step beyond Adam's / bare update, {how}"] = extra / median[f"bare, {how}"]
        for steps, suffix in ((1, ""), (10, ", 10 steps")):
            ours, adam = (median[f"mlp, {how}, {name}{suffix}"] / steps for name in ("rnnprop", "adam"))
            ratios[f"mlp fit step beyond Adam's / bare update, {how}{suffix}"] = (ours - adam) / median[
                "bare mlp"
            ]
    result = {
        "machine": machine(),
        "parameters": PARAMETERS,
        "weights": FLAGS.weights,
        "bytes_of_state_a_parameter": bytes_of_state(),
        "matmul_gflops": flops / 1e9,
        "ratios": ratios,
        "first_call_seconds": first,
        "median_milliseconds": {name: 1e3 * value for name, value in median.items()},
        "roofline_ns_per_parameter": {n: 1e9 * median[n] / ROOFLINE_COORDINATES for n in roofline()},
    }
    write(result, FLAGS.out)


if __name__ == "__main__":
    flags.DEFINE_string("weights", pretrained.DEFAULT, "weights of RNNprop, a name or folder")
    flags.DEFINE_integer("rounds", 9, "rounds of alternation; medians are over these")
    flags.DEFINE_string("out", "results/benchmarks/update_step.json", "where to write")
    commands.run(main)

"""Memory that stays when trained models are dropped, as in a search over settings.

    python -m studies.dropped_models
    python -m studies.dropped_models --modes=fit,own_loop --models=20

Trains and drops one model after another of the same shapes, with RNNprop and with Adam, each mode in a
process of its own. Prints a Markdown table of the growth of the resident memory for each model more, by a
line through all but the first three. The state of RNNprop (`rnnprop-1`) is 20 MiB, that of Adam 0.5. Linux
only.
"""

from __future__ import annotations

import functools
import gc
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import flags

from rnnprop_tf import RNNprop
from studies import losses
from trainer import commands

FLAGS = flags.FLAGS

MIB = 2**20
OPTIMIZERS: dict[str, Callable[..., Any]] = {
    # A large state, which would show.
    "rnnprop": functools.partial(RNNprop.from_pretrained, "rnnprop-1"),
    "adam": keras.optimizers.Adam,
}
X, Y = np.random.default_rng(0).normal(size=(64, 20)).astype("float32"), np.zeros((64, 1), "float32")


def build() -> keras.Model:
    """65,000 parameters, for which the network of the paper's size keeps 20 MiB."""
    sizes = [keras.layers.Dense(800, "relu"), keras.layers.Dense(60, "relu"), keras.layers.Dense(1)]
    return keras.Sequential([keras.Input((20,)), *sizes])


def fit(optimizer: keras.optimizers.Optimizer, model: keras.Model | None = None, **how: Any) -> None:
    model = build() if model is None else model
    model.compile(optimizer, "mse", **how)
    model.fit(X, Y, epochs=2, verbose=0)


def own_loop(optimizer: keras.optimizers.Optimizer, compiled: bool) -> None:
    model = build()

    def step(x: tf.Tensor, y: tf.Tensor) -> None:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(model(x, training=True) - y))
        optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)

    if compiled:
        optimizer.build(model.trainable_variables)
        step = tf.function(step)
    for _ in range(3):
        step(tf.constant(X), tf.constant(Y))


def mirrored(make: Callable[..., Any]) -> None:
    with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
        model, optimizer = build(), make()
    fit(optimizer, model)


def scaled(make: Callable[..., Any]) -> None:
    fit(keras.optimizers.LossScaleOptimizer(make()))


MODES: dict[str, Callable[[Callable[..., Any]], None]] = {
    "fit": lambda make: fit(make()),
    "fit_eager": lambda make: fit(make(), run_eagerly=True),
    "fit_jit": lambda make: fit(make(), jit_compile=True),
    "own_loop": lambda make: own_loop(make(), compiled=True),
    "own_loop_eager": lambda make: own_loop(make(), compiled=False),
    "mirrored": mirrored,
    "accumulation": lambda make: fit(make(gradient_accumulation_steps=2)),
    "use_ema": lambda make: fit(make(use_ema=True)),
    "clipnorm": lambda make: fit(make(clipnorm=1.0)),
    "loss_scale": scaled,
}
"""One model trained in each way, and forgotten."""


def resident() -> float:
    """MiB of this process."""
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * 4096 / MIB


def growth(mode: str, name: str) -> float:
    """MiB a model."""
    if mode == "mirrored":
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    sizes = []
    for _ in range(FLAGS.models):
        MODES[mode](OPTIMIZERS[name])
        keras.backend.clear_session()
        gc.collect()
        sizes.append(resident())
    return float(np.polyfit(range(len(sizes) - 3), sizes[3:], 1)[0])


def growth_apart(mode: str, name: str) -> float:
    """`growth` in a process of its own, as a process never gets all of its memory back."""
    command = [sys.executable, "-m", "studies.dropped_models", f"--models={FLAGS.models}"]
    command += [f"--worker_mode={mode}", f"--worker_optimizer={name}"]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.split()[-1])


def main(_: list[str]) -> None:
    if FLAGS.worker_mode:
        print(growth(FLAGS.worker_mode, FLAGS.worker_optimizer))
        return
    losses.print_head("mode", *(f"{name}, MiB a model" for name in OPTIMIZERS))
    for mode in FLAGS.modes:
        losses.print_row(f"`{mode}`", *(f"{growth_apart(mode, name):.1f}" for name in OPTIMIZERS))


if __name__ == "__main__":
    flags.DEFINE_list("modes", list(MODES), f"ways to train, of {', '.join(MODES)}")
    flags.DEFINE_integer("models", 12, "models one after another", lower_bound=5)
    flags.DEFINE_enum("worker_mode", None, list(MODES), "for the command itself: measure in this process")
    flags.DEFINE_enum("worker_optimizer", None, list(OPTIMIZERS), "for the command itself")
    commands.run(main)

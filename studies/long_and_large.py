"""One training of 100,000 steps with a stop in its middle, and one model of 50 million parameters.

    python -m studies.long_and_large
    python -m studies.long_and_large --parts=large --weights=rnnprop-paper

The long part trains a small model without a stop, and again from the model file that was saved half-way, in
a new process; what both end with is compared bit for bit. Memory is that of the process, read each tenth.

The large part trains for some steps with RNNprop, Adam and plain SGD, each in a process of its own. SGD has
no state, so what RNNprop takes beyond it is its own. Linux only.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import flags

from rnnprop_tf import RNNprop, pretrained
from studies import losses
from studies.dropped_models import MIB, resident
from trainer import commands

FLAGS = flags.FLAGS

BATCH = 32
BATCHES = 50
"""Batches in the data of the long part."""
WIDTH = 5_000
"""Units of the large model's layers; two kernels of this size squared are 50 million parameters."""
LARGE_BATCH = 16

OPTIMIZERS: dict[str, Callable[[], Any]] = {
    "rnnprop": lambda: RNNprop.from_pretrained(os.path.expanduser(FLAGS.weights)),
    "adam": keras.optimizers.Adam,
    "sgd": lambda: keras.optimizers.SGD(1e-3),
}


def small_model() -> keras.Model:
    """20,150 parameters."""
    layers = [keras.layers.Dense(100, "relu"), keras.layers.Dense(100, "relu"), keras.layers.Dense(50)]
    return keras.Sequential([keras.Input((49,)), *layers])


def small_data() -> tuple[np.ndarray, np.ndarray]:
    """Noise that a network of random weights answers to, with noise added: its loss has a floor."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(BATCHES * BATCH, 49)).astype("float32")
    y = np.tanh(x @ rng.normal(size=(49, 50)) / 7.0) + 0.1 * rng.normal(size=(len(x), 50))
    return x, y.astype("float32")


def digest(model: keras.Model) -> str:
    """A digest of all weights and all of the optimizer's variables."""
    found = hashlib.sha256()
    for variable in (*model.weights, *model.optimizer.variables):
        found.update(np.ascontiguousarray(variable.numpy()).tobytes())
    return found.hexdigest()


def long_run(name: str, folder: str, resumed: bool) -> dict[str, Any]:
    """Trains for `--steps` steps, or for the second half of them from the file in the folder."""
    file = os.path.join(folder, f"{name}.keras")
    x, y = small_data()
    if resumed:
        model = keras.saving.load_model(file)
    else:
        keras.utils.set_random_seed(0)
        model = small_model()
        model.compile(OPTIMIZERS[name](), "mse")
    tenth = FLAGS.steps // 10 // BATCHES
    sizes, found = [], []
    for part in range(5 if resumed else 0, 10):
        history = model.fit(x, y, batch_size=BATCH, epochs=tenth, shuffle=False, verbose=0).history
        found += history["loss"]
        sizes.append(resident())
        if part == 4:
            model.save(file)
    return {
        "digest": digest(model),
        "steps": int(model.optimizer.iterations.numpy()),
        "finite": bool(np.isfinite(found).all()),
        "first": found[0],
        "last": found[-1],
        # The first tenth compiles, and holds what every process needs.
        "growth": sizes[-1] - sizes[1] if len(sizes) > 5 else sizes[-1] - sizes[0],
    }


def large_run(name: str) -> dict[str, Any]:
    """Trains a model of 50 million parameters for `--large_steps` steps."""
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(WIDTH, "relu"), keras.layers.Dense(WIDTH, "relu"), keras.layers.Dense(1)]
    model = keras.Sequential([keras.Input((WIDTH,)), *layers])
    rng = np.random.default_rng(0)
    x = rng.normal(size=(LARGE_BATCH, WIDTH)).astype("float32")
    y = np.sign(x[:, :1])
    model.compile(OPTIMIZERS[name](), "mse")
    seconds, found = [], []
    for _ in range(FLAGS.large_steps):
        start = time.perf_counter()
        found.append(float(model.train_on_batch(x, y)))
        seconds.append(time.perf_counter() - start)
    return {
        "parameters": model.count_params(),
        "seconds": float(np.median(seconds[1:])),
        "first_seconds": seconds[0],
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "first": found[0],
        "last": found[-1],
    }


def apart(part: str, name: str, folder: str = "", resumed: bool = False) -> dict[str, Any]:
    """A run in a process of its own."""
    command = [sys.executable, "-m", "studies.long_and_large", f"--weights={FLAGS.weights}"]
    command += [f"--steps={FLAGS.steps}", f"--large_steps={FLAGS.large_steps}"]
    command += [f"--worker={part},{name},{folder},{int(resumed)}"]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout.splitlines()[-1])


def long_part() -> None:
    headers = ("optimizer", "steps", "training loss, first", "last", "not finite, 0 or 1")
    losses.print_head(*headers, "growth after the second tenth, MiB", "resumed run differs, 0 or 1")
    for name in ("rnnprop", "adam"):
        with tempfile.TemporaryDirectory() as folder:
            whole, half = apart("long", name, folder), apart("long", name, folder, resumed=True)
        equal = whole["digest"] == half["digest"]
        row = (f"{whole['first']:.4f}", f"{whole['last']:.4f}", f"{int(not whole['finite'])}")
        losses.print_row(name, f"{whole['steps']:,}", *row, f"{whole['growth']:.1f}", f"{int(not equal)}")


def large_part() -> None:
    headers = ("optimizer", "parameters", "loss, first", f"loss, after {FLAGS.large_steps} steps")
    losses.print_head(*headers, "s a step", "first step, s", "peak memory, MiB", "bytes a parameter", "ns")
    base = apart("large", "sgd")
    for name in ("rnnprop", "adam", "sgd"):
        found = base if name == "sgd" else apart("large", name)
        size = found["parameters"]
        more = (
            f"{(found['peak'] - base['peak']) / size:.1f}",
            f"{(found['seconds'] - base['seconds']) / size * 1e9:.1f}",
        )
        row = (f"{size:,}", f"{found['first']:.3f}", f"{found['last']:.3f}", f"{found['seconds']:.2f}")
        losses.print_row(name, *row, f"{found['first_seconds']:.1f}", f"{found['peak'] / MIB:,.0f}", *more)


def main(_: list[str]) -> None:
    tf.get_logger().setLevel("ERROR")
    if FLAGS.worker:
        part, name, folder, resumed = FLAGS.worker
        found = long_run(name, folder, resumed == "1") if part == "long" else large_run(name)
        print(json.dumps(found))
        return
    for part in FLAGS.parts:
        {"long": long_part, "large": large_part}[part]()


if __name__ == "__main__":
    flags.DEFINE_list("parts", ["long", "large"], "of long and large")
    flags.DEFINE_string("weights", pretrained.DEFAULT, "weights of RNNprop, a name or folder")
    flags.DEFINE_integer("steps", 100_000, "steps of the long part, a multiple of 500", lower_bound=500)
    flags.DEFINE_integer("large_steps", 10, "steps of the large part", lower_bound=2)
    flags.DEFINE_list("worker", None, "for the command itself: the run to make in this process")
    commands.run(main)

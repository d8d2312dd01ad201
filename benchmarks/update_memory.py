"""Peak memory of RNNprop on a model of ten million parameters, in the default, uncompiled `fit` on a CPU.

    python -m benchmarks.update_memory
    python -m benchmarks.update_memory --weights=rnnprop-1 --out=results/benchmarks/update_memory_large.json

The same model is fitted with SGD, whose steps hold the gradients and have no state, and then with RNNprop.
What RNNprop's peak is above SGD's and above its own state is the compiler's memory, which does not depend on
the model's size and is measured on a small model with as many programs, and its temporaries. Linux only.
"""

from __future__ import annotations

import json
import subprocess
import sys

import keras
import numpy as np
from absl import flags

from benchmarks.machine import machine, write
from rnnprop_tf import RNNprop, pretrained
from rnnprop_tf.state_types import STATE_DTYPES
from trainer import commands

FLAGS = flags.FLAGS

MIB = 2**20


def make_model(small: bool) -> keras.Model:
    """10 million parameters, or as few as still have a loop for each of the three large variables."""
    rows, units, narrow = (500, 30, 2_200) if small else (32_000, 1_536, 640)
    return keras.Sequential(
        [
            keras.Input((16,), dtype="int32"),
            keras.layers.Embedding(rows, 160),
            keras.layers.Flatten(),
            keras.layers.Dense(units, "relu"),
            keras.layers.Dense(narrow, "relu"),
            keras.layers.Dense(10),
        ]
    )


def peak() -> int:
    """The most memory that this process has had resident so far, bytes."""
    with open("/proc/self/status") as status:
        line = next(line for line in status if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def measure(name: str) -> dict[str, int]:
    """Fits a few steps; the peak, the state and the parameters."""
    model = make_model(FLAGS.small)
    if name == "rnnprop":
        optimizer = RNNprop.from_pretrained(FLAGS.weights, state_dtype=FLAGS.state_dtype)
    else:
        optimizer = keras.optimizers.SGD(1e-3)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, jit_compile=FLAGS.jit_compile)
    x, y = np.random.default_rng(0).integers(0, 500, (32, 16)), np.zeros(32, int)
    model.fit(x, y, batch_size=8, verbose=0)
    state = sum(v.value.shape.num_elements() * v.value.dtype.size for v in optimizer.variables)
    return {"peak": peak(), "state": state, "parameters": model.count_params()}


def measure_apart(name: str, small: bool) -> dict[str, int]:
    """`measure` in a process of its own: a peak cannot be reset."""
    command = [sys.executable, "-m", "benchmarks.update_memory", *sys.argv[1:], f"--worker={name}"]
    output = subprocess.run([*command, f"--small={small}"], check=True, capture_output=True, text=True).stdout
    return json.loads(output.splitlines()[-1])


def main(_: list[str]) -> None:
    if FLAGS.worker:
        print(json.dumps(measure(FLAGS.worker)))
        return
    sgd, ours = measure_apart("sgd", False), measure_apart("rnnprop", False)
    small_sgd, small = measure_apart("sgd", True), measure_apart("rnnprop", True)
    beyond = ours["peak"] - ours["state"] - sgd["peak"]
    compiler = small["peak"] - small["state"] - small_sgd["peak"]
    result = {
        "machine": machine(),
        "parameters": ours["parameters"],
        "weights": FLAGS.weights,
        "state_dtype": FLAGS.state_dtype or pretrained.load(FLAGS.weights).state_dtype,
        "jit_compile": FLAGS.jit_compile,
        "state_bytes_per_parameter": ours["state"] / ours["parameters"],
        "state_mib": ours["state"] / MIB,
        "peak_mib": ours["peak"] / MIB,
        "peak_mib_sgd": sgd["peak"] / MIB,
        "beyond_state_mib": beyond / MIB,
        "compiler_mib": compiler / MIB,
        "temporaries_mib": (beyond - compiler) / MIB,
    }
    write(result, FLAGS.out)


if __name__ == "__main__":
    flags.DEFINE_string("weights", pretrained.DEFAULT, "weights of RNNprop, a name or folder")
    flags.DEFINE_enum(
        "state_dtype", None, STATE_DTYPES, "how h and c are stored; by default as the weights say"
    )
    flags.DEFINE_string("out", "results/benchmarks/update_memory.json", "where to write")
    flags.DEFINE_bool("jit_compile", False, "compile the whole training step")
    flags.DEFINE_enum("worker", None, ["sgd", "rnnprop"], "for the command itself: measure in this process")
    flags.DEFINE_bool("small", False, "for the command itself: the small model")
    commands.run(main)

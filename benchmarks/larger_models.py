"""Training steps of larger models with RNNprop and with Adam: the first one, and later ones.

    python -m benchmarks.larger_models
    python -m benchmarks.larger_models --models=bag --rounds=3

The first step is made in a process of its own for each optimizer, with nothing traced or compiled; later ones
are made in turn in one process. A step is the one that `fit` runs. Prints a Markdown table and writes the
numbers.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from absl import flags
from keras import layers

from benchmarks.gpu_models import encoder
from benchmarks.machine import machine, save
from benchmarks.update_step import SHAPES, Bag, alternated, rnnprop, seconds, train_step
from rnnprop_tf import pretrained
from trainer import commands
from trainer.evaluation.markdown import table

FLAGS = flags.FLAGS


def transformer(
    words: int = 8_000, width: int = 256, heads: int = 4, depth: int = 6, length: int = 64
) -> keras.Model:
    """A classifier of texts: embeddings of words and positions, blocks of attention and two dense layers."""
    tokens = keras.Input((length,), dtype="int32")
    places = layers.Embedding(length, width)(keras.ops.arange(length))
    x = encoder(layers.Embedding(words, width)(tokens) + places, width, heads, depth)
    return keras.Model(tokens, layers.Dense(words)(layers.GlobalAveragePooling1D()(x)))


def efficient_net() -> keras.Model:
    """EfficientNetB0 for ten classes and pictures of 32 x 32 pixels."""
    return keras.applications.EfficientNetB0(
        weights=None, input_shape=(32, 32, 3), classes=10, classifier_activation=None
    )


MODELS: dict[str, Callable[[], keras.Model]] = {
    "bag": lambda: Bag(SHAPES),
    "transformer": transformer,
    "efficient_net": efficient_net,
}
OPTIMIZERS: dict[str, Callable[[], keras.optimizers.Optimizer]] = {
    "rnnprop": rnnprop,
    "adam": keras.optimizers.Adam,
}
BATCH = 32
"""As `fit` has it, if it is not told."""


def step(model: str, optimizer: str) -> Callable[[], Any]:
    """One training step of the model, as `fit` makes it."""
    return train_step(MODELS[model](), OPTIMIZERS[optimizer](), jit_compile=False, batch=BATCH)


def work(worker: dict[str, Any]) -> dict[str, float]:
    """What one process measures: seconds by optimizer."""
    if "first" in worker:
        return {worker["first"]: seconds(step(worker["model"], worker["first"]))}
    parts = {name: step(worker["model"], name) for name in OPTIMIZERS}
    alternated(parts, 2)  # Traces, compiles and warms up.
    return alternated(parts, FLAGS.rounds)


def apart(**worker: Any) -> dict[str, float]:
    """`work` in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.larger_models", *sys.argv[1:]]
    command.append(f"--worker={json.dumps(worker)}")
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(printed.splitlines()[-1])


def main(_: list[str]) -> None:
    if FLAGS.worker:
        print(json.dumps(work(json.loads(FLAGS.worker))))
        return
    found: dict[str, Any] = {}
    rows = []
    for name in FLAGS.models:
        print(f"{name} ...", file=sys.stderr, flush=True)
        variables = MODELS[name]().trainable_variables
        parameters = sum(int(np.prod(v.shape)) for v in variables)
        first = apart(model=name, first="rnnprop") | apart(model=name, first="adam")
        later = apart(model=name)
        found[name] = {"parameters": parameters, "variables": len(variables), "first": first, "later": later}
        for optimizer in OPTIMIZERS:
            ratios = (f"{took[optimizer] / took['adam']:.2f}" for took in (first, later))
            times = f"{first[optimizer]:.1f}", f"{1e3 * later[optimizer]:.1f}"
            rows.append([name, f"{parameters:,}", str(len(variables)), optimizer, *times, *ratios])
    titles = ["first step, s", "later step, ms", "first step / Adam's", "later step / Adam's"]
    print(table(["model", "parameters", "variables", "optimizer", *titles], rows))
    save({"machine": machine(), "weights": FLAGS.weights, "seconds": found}, FLAGS.out)


if __name__ == "__main__":
    flags.DEFINE_list("models", list(MODELS), f"of {', '.join(MODELS)}")
    flags.DEFINE_string("weights", pretrained.DEFAULT, "weights of RNNprop, a name or folder")
    flags.DEFINE_integer("rounds", 11, "later steps of each; medians count", lower_bound=1)
    flags.DEFINE_string("out", "results/benchmarks/larger_models.json", "where to write")
    flags.DEFINE_string("worker", None, "for the command itself: what to measure in this process")
    commands.run(main)

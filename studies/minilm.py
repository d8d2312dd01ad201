"""Fine-tuning of a real pretrained network: all-MiniLM-L6-v2 on sentences of film reviews.

    pip install --group minilm
    python -m studies.minilm

22.6 million parameters and a new last layer learn whether a sentence praises. Of the 8,530 sentences, some
are kept for validation; a seed gives the last layer's start and the order of the others. Each run has a
process of its own, so that its peak memory can be read; Linux only. AdamW's rate for a linear decay is chosen
on one more seed, by the validation loss at the end. Lastly one process times the updates in turn.

Runs are files in a folder; one that is there is not made again. Prints Markdown tables and draws a picture.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import flags

from benchmarks.machine import machine, save
from benchmarks.update_memory import MIB, peak
from benchmarks.update_step import alternated
from rnnprop_tf import RNNprop, pretrained
from studies import losses, minilm_network, minilm_package
from trainer import commands

FLAGS = flags.FLAGS

POINTS = 10
"""Validations of a run, at equal distances; one more before it."""
SHOWN = (0, 1, 2, 5, 10)
"""Those whose losses the table shows."""
GRID = ("1e-5", "3e-5", "1e-4", "3e-4", "1e-3")
GRID_SEED = 1_000
ADAMW = "adamw"
ADAMW_DEFAULT = 0.001
AT_ONCE = 64
"""Sentences of one batch of the validation."""
TOLERANCE = 1e-5
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
SENTENCE = "An optimizer decides how far to move every weight."

Data = tuple[np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Way:
    """An optimizer and how it is used."""

    optimizer: str
    """`ADAMW`, or the name or folder of RNNprop weights."""
    rate: float
    decayed: bool = False
    """The rate falls to 0 along a line."""
    averaged: bool = False
    """`use_averaging`; validation is at the average."""

    @property
    def short(self) -> str:
        """The optimizer; of a folder only its own name."""
        return Path(self.optimizer).name

    @property
    def name(self) -> str:
        """For tables and files."""
        words = [self.short, f"{self.rate:g}"]
        words += ["decayed"] * self.decayed + ["averaged"] * self.averaged
        return ", ".join(words)

    def make(self, steps: int) -> keras.optimizers.Optimizer:
        """The optimizer of a run of so many steps."""
        rate: Any = self.rate
        if self.decayed:
            rate = keras.optimizers.schedules.PolynomialDecay(rate, steps, end_learning_rate=0.0)
        if self.optimizer == ADAMW:
            return keras.optimizers.AdamW(rate)
        return RNNprop.from_pretrained(self.optimizer, rate, use_averaging=self.averaged)


class Watch(keras.callbacks.Callback):
    """The seconds of each step."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self._begin = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.seconds.append(time.perf_counter() - self._begin)


def data() -> tuple[Data, Data]:
    """Tokens and labels to train and to validate with; which sentence is where depends on no seed."""
    sentences, positive = minilm_package.labelled_sentences()
    tokens = minilm_package.tokenize(sentences, FLAGS.length)
    order = np.random.default_rng(0).permutation(len(tokens))
    kept, others = order[: FLAGS.validation], order[FLAGS.validation :]
    return (tokens[others], positive[others]), (tokens[kept], positive[kept])


def make_model() -> keras.Model:
    """The pretrained encoder under a new last layer."""
    encoder = minilm_network.pretrained(FLAGS.length)
    return keras.Model(encoder.input, keras.layers.Dense(2, name="head")(encoder.output))


def batches(tokens: np.ndarray, labels: np.ndarray, seed: int) -> tf.data.Dataset:
    """Batches in an order of the seed's, anew for each pass."""
    everything = tf.data.Dataset.from_tensor_slices((tokens, labels))
    return everything.shuffle(len(labels), seed=seed).repeat().batch(FLAGS.batch)


def train(way: Way, seed: int) -> dict[str, Any]:
    """Fine-tunes once; the losses along the way and the costs."""
    training, validation = data()
    keras.utils.set_random_seed(seed)
    model = make_model()
    optimizer = way.make(FLAGS.steps)
    model.compile(optimizer, LOSS, metrics=["accuracy"])
    before = model.evaluate(*validation, batch_size=AT_ONCE, verbose=0, return_dict=True)
    watch = Watch()
    history = model.fit(
        batches(*training, seed),
        epochs=POINTS,
        steps_per_epoch=FLAGS.steps // POINTS,
        validation_data=validation,
        validation_batch_size=AT_ONCE,
        callbacks=[watch, *[keras.callbacks.SwapEMAWeights()] * way.averaged],
        shuffle=False,  # The batches are.
        verbose=0,
    ).history
    state = sum(v.value.shape.num_elements() * v.value.dtype.size for v in optimizer.variables)
    return {
        "way": dataclasses.asdict(way) | {"optimizer": way.short},
        "seed": seed,
        "settings": settings(),
        "steps": [k * FLAGS.steps // POINTS for k in range(POINTS + 1)],
        "validation_loss": [before["loss"], *history["val_loss"]],
        "validation_accuracy": [before["accuracy"], *history["val_accuracy"]],
        "peak_mib": peak() / MIB,
        "state_mib": state / MIB,
        "first_step_seconds": watch.seconds[0],
        "step_seconds": statistics.median(watch.seconds[1:]),
        "machine": machine(),
    }


def settings() -> dict[str, int]:
    """What runs must share to be compared."""
    return {
        "steps": FLAGS.steps,
        "batch": FLAGS.batch,
        "length": FLAGS.length,
        "validation": FLAGS.validation,
    }


def path_of(way: Way, seed: int) -> Path:
    """The file of a run."""
    return Path(FLAGS.folder) / f"{re.sub('[^a-z0-9.-]+', '-', way.name)}-seed{seed}.json"


def read(way: Way, seed: int) -> dict[str, Any] | None:
    """A run that was made before with the same settings, or None.

    Raises:
        ValueError: the file there is of a run with other settings.
    """
    path = path_of(way, seed)
    if not path.exists():
        return None
    run = json.loads(path.read_text())
    if run["settings"] != settings():
        raise ValueError(
            f"{path}: expected a run with {settings()}. Received: {run['settings']}. Take another --folder."
        )
    return run


def apart(**worker: Any) -> None:
    """Does a part of the work in a process of its own."""
    command = [sys.executable, "-m", "studies.minilm", *sys.argv[1:], f"--worker={json.dumps(worker)}"]
    subprocess.run(command, check=True)


def run(way: Way, seed: int) -> dict[str, Any]:
    """The run, made where it is not there yet."""
    if read(way, seed) is None:
        print(f"{way.name}, seed {seed}", file=sys.stderr, flush=True)
        apart(way=dataclasses.asdict(way), seed=seed)
    found = read(way, seed)
    assert found is not None
    return found


def best_decayed() -> Way:
    """AdamW with a linear decay, at the rate with the lowest loss at the end on `GRID_SEED`."""
    ways = [Way(optimizer=ADAMW, rate=float(rate), decayed=True) for rate in FLAGS.rates]
    found = [run(way, GRID_SEED)["validation_loss"][-1] for way in ways]
    losses.print_head("AdamW's rate, decayed", "validation loss")
    for way, loss in zip(ways, found, strict=True):
        losses.print_row(f"{way.rate:g}", f"{loss:.3f}")
    print()
    return ways[int(np.nanargmin(found))]


def of_weights(weights: str) -> list[Way]:
    """RNNprop at fractions of its own rate, and averaged at its own."""
    rate = pretrained.load(weights).learning_rate
    plain = [Way(optimizer=weights, rate=rate * float(fraction)) for fraction in FLAGS.fractions]
    return [*plain, Way(optimizer=weights, rate=rate, averaged=True)]


def time_updates(ways: list[Way]) -> None:
    """Writes the median seconds of a batch's gradients and of each optimizer's update with them."""
    (tokens, labels), _ = data()
    model = make_model()
    variables = model.trainable_variables
    x, y = tf.constant(tokens[: FLAGS.batch]), tf.constant(labels[: FLAGS.batch])

    @tf.function(autograph=False)
    def gradients() -> list[Any]:
        with tf.GradientTape() as tape:
            loss = LOSS(y, model(x, training=True))
        return tape.gradient(loss, [variable.value for variable in variables])

    found = gradients()

    def update(way: Way) -> Callable[[], Any]:
        optimizer = way.make(FLAGS.steps)
        optimizer.build(variables)
        apply = tf.function(lambda: optimizer.apply(found, variables), autograph=False)

        def run() -> Any:
            apply()
            return variables[-1].value  # To be read, which waits for the device.

        return run

    parts: dict[str, Callable[[], Any]] = {"gradients": lambda: gradients()[-1]}
    parts |= {way.short: update(way) for way in ways}
    alternated(parts, 1)  # Traces and compiles.
    seconds = alternated(parts, FLAGS.rounds)
    save({"machine": machine(), "settings": settings(), "seconds": seconds}, seconds_path())


def seconds_path() -> str:
    """The file of the timings."""
    return os.path.join(FLAGS.folder, "seconds.json")


def seconds_of(ways: list[Way]) -> dict[str, float]:
    """Median seconds of the gradients and of each optimizer's update; measured anew where one is missing.

    Args:
        ways: of each optimizer the first one is measured.
    """
    path = Path(seconds_path())
    found = json.loads(path.read_text())["seconds"] if path.exists() else {}
    firsts = {way.short: way for way in reversed(ways)}
    if not set(firsts) <= set(found):
        apart(timed=[dataclasses.asdict(way) for way in firsts.values()])
        found = json.loads(path.read_text())["seconds"]
    return found


def print_losses(runs: dict[Way, list[dict[str, Any]]]) -> None:
    """Mean validation losses along the way, the last one's standard deviation over seeds, the accuracy."""
    steps = [k * FLAGS.steps // POINTS for k in SHOWN]
    losses.print_head("optimizer", *(f"after {n}" for n in steps), "deviation", "lowest", "accuracy")
    for way, found in runs.items():
        curves = np.array([one["validation_loss"] for one in found])
        accuracy = np.mean([one["validation_accuracy"][-1] for one in found])
        cells = [*curves.mean(axis=0)[list(SHOWN)], curves[:, -1].std(), curves.min(axis=1).mean(), accuracy]
        losses.print_row(way.name, *(f"{cell:.3f}" for cell in cells))
    print()


def print_costs(runs: dict[Way, list[dict[str, Any]]], seconds: dict[str, float]) -> None:
    """Of a step, and the memory: the most of any seed."""
    losses.print_head("optimizer", "update, s", "times AdamW's", "step, s", "state, MiB", "peak memory, MiB")
    for way, found in runs.items():
        update = seconds[way.short]
        ratio, step = update / seconds[ADAMW], update + seconds["gradients"]
        state, most = (max(one[name] for one in found) for name in ("state_mib", "peak_mib"))
        cells = f"{update:.3f}", f"{ratio:.1f}", f"{step:.2f}", f"{state:.0f}", f"{most:.0f}"
        losses.print_row(way.name, *cells)


def draw(runs: dict[Way, list[dict[str, Any]]], seconds: dict[str, float], path: str) -> None:
    """Draws the mean validation losses by steps and by seconds as a PNG."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10, 4), sharey=True, layout="constrained")
    for way, found in runs.items():
        loss = np.mean([one["validation_loss"] for one in found], axis=0)
        steps = np.array(found[0]["steps"])
        axes[0].plot(steps, loss, label=way.name)
        axes[1].plot(steps * (seconds[way.short] + seconds["gradients"]), loss)
    axes[0].set(xlabel="step", ylabel="validation loss", ylim=(0.3, 1.0))
    axes[1].set(xlabel="seconds of the steps", xscale="log")
    axes[0].legend(fontsize="small")
    figure.savefig(path, dpi=90)


def check_embedding() -> None:
    """Compares the Keras layers with the model's own library on a sentence.

    Raises:
        ValueError: they differ.
    """
    ours = minilm_network.embeddings([SENTENCE], FLAGS.length)
    difference = float(np.abs(ours - minilm_package.own_embeddings([SENTENCE])).max())
    if difference > TOLERANCE:
        raise ValueError(f"Expected the package's own embedding within {TOLERANCE}. Received: {difference}.")
    print(f"The embedding of a sentence differs from the package's own by {difference:.1g} at most.\n")


def work(worker: dict[str, Any]) -> None:
    """What one process does."""
    if "timed" in worker:
        time_updates([Way(**way) for way in worker["timed"]])
        return
    way, seed = Way(**worker["way"]), worker["seed"]
    save(train(way, seed), str(path_of(way, seed)))


def main(_: list[str]) -> None:
    if missing := minilm_package.missing():
        raise SystemExit(
            f"Expected the packages {', '.join(missing)}, which are not installed. In the folder of"
            f" pyproject.toml: `{minilm_package.INSTALL}`"
        )
    if FLAGS.worker:
        work(json.loads(FLAGS.worker))
        return
    check_embedding()
    ways = [Way(optimizer=ADAMW, rate=ADAMW_DEFAULT), best_decayed()]
    for weights in FLAGS.weights:
        ways += of_weights(weights)
    runs = {way: [run(way, seed) for seed in range(FLAGS.runs)] for way in ways}
    print_losses(runs)
    seconds = seconds_of(ways)
    print_costs(runs, seconds)
    draw(runs, seconds, os.path.join(FLAGS.folder, "losses.png"))


if __name__ == "__main__":
    flags.DEFINE_list("weights", [pretrained.DEFAULT], "names or folders of RNNprop weights")
    flags.DEFINE_list("fractions", ["1", "0.1", "0.01", "0.001"], "of RNNprop's own rate")
    flags.DEFINE_list("rates", list(GRID), "AdamW's rates with a linear decay, to choose the best of")
    flags.DEFINE_integer("steps", 200, f"steps of a run, a multiple of {POINTS}", lower_bound=POINTS)
    flags.DEFINE_integer("batch", 16, "sentences of a step", lower_bound=1)
    flags.DEFINE_integer("length", 32, "tokens that a sentence is cut to", lower_bound=3)
    flags.DEFINE_integer("validation", 512, "sentences to validate with", lower_bound=1)
    flags.DEFINE_integer("runs", 3, "seeds 0, 1, ...", lower_bound=1)
    flags.DEFINE_integer("rounds", 7, "updates of each kind to time; medians count", lower_bound=1)
    flags.DEFINE_string("folder", "results/minilm", "where the runs are, and the picture")
    flags.DEFINE_string("worker", None, "for the command itself: what to do in this process")
    commands.run(main)

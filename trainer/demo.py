"""The main job in a few minutes: `python -m trainer.demo`.

Meta-trains RNNprop on scikit-learn's digits, exports the weights, and trains a Keras model that the weights
have not seen: with them, with the shipped ones, and with Adam at three learning rates.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import NamedTuple

import keras
import matplotlib as mpl
import numpy as np
import tensorflow as tf
from absl import flags

from rnnprop_tf import RNNprop, pretrained
from trainer import commands, datasets, export, meta_train
from trainer.config import MetaTrainConfig, preset

mpl.use("Agg")
from matplotlib import pyplot as plt

ADAM_RATES = (0.0001, 0.001, 0.01)
BATCH_SIZE = 64


class Fit(NamedTuple):
    """What one optimizer reached, mean over the runs."""

    optimizer: str
    losses: np.ndarray
    """[epochs], training loss."""
    test_loss: float
    test_accuracy: float
    seconds: float
    """Of one run's `fit`, compilation included."""


def unseen_model(image_shape: tuple[int, ...]) -> keras.Model:
    """A CNN with Keras's own initialisers; meta-training saw a sigmoid MLP that started from N(0, 0.1)."""
    return keras.Sequential(
        [
            keras.Input(image_shape),
            keras.layers.Conv2D(16, 3, padding="same", activation="relu"),
            keras.layers.MaxPooling2D(),
            keras.layers.Conv2D(32, 3, padding="same", activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(32, activation="relu"),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )


def fit(
    name: str, make_optimizer: Callable[[], keras.optimizers.Optimizer], epochs: int, seeds: range
) -> Fit:
    """Trains the unseen model once for each seed, which fixes its start and the order of the data."""
    train, test = (
        (np.asarray(images.value(images.pixels, tf.float32)), images.labels)
        for images in (datasets.load("digits", split) for split in ("train", "test"))
    )
    losses, scores, seconds = [], [], []
    for seed in seeds:
        keras.utils.set_random_seed(seed)
        model = unseen_model(train[0].shape[1:])
        model.compile(make_optimizer(), "sparse_categorical_crossentropy", metrics=["accuracy"])
        begin = time.perf_counter()
        history = model.fit(*train, batch_size=BATCH_SIZE, epochs=epochs, verbose=0)
        seconds.append(time.perf_counter() - begin)
        losses.append(history.history["loss"])
        scores.append(model.evaluate(*test, verbose=0))
    test_loss, test_accuracy = np.mean(scores, axis=0)
    return Fit(name, np.mean(losses, axis=0), test_loss, test_accuracy, float(np.mean(seconds)))


def plot(fits: list[Fit], path: str) -> None:
    """The training losses by epoch, as a PNG."""
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for k, result in enumerate(fits):
        learned = not result.optimizer.startswith("Adam")
        axes.plot(
            np.arange(1, len(result.losses) + 1),
            result.losses,
            label=result.optimizer,
            color=f"C{k}",
            linestyle="-" if learned else "--",
        )
    axes.set(yscale="log", xlabel="epoch", ylabel="training loss", title="A CNN on digits, nothing tuned")
    axes.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def run(config: MetaTrainConfig, folder: str, epochs: int, seeds: range) -> list[Fit]:
    """Meta-trains, exports, compares; writes the weights and the picture into the folder."""
    run_dir, weights = os.path.join(folder, "run"), os.path.join(folder, "weights")
    print(f"1. Meta-training on digits: {config.iterations} episodes of {config.steps} steps.")
    # A demo that was interrupted goes on; one that was finished keeps its weights.
    meta_train.train(config, run_dir, resume=True)
    chosen = export.export(run_dir, weights, recipe="make demo")
    print(f"2. Exported the checkpoint after {chosen.record['iteration']} episodes to {weights}.")
    print(
        f"3. A convolutional network that the weights have not seen, {epochs} epochs, {len(seeds)} runs each:"
    )
    entrants: dict[str, Callable[[], keras.optimizers.Optimizer]] = {
        "RNNprop, made just now": lambda: RNNprop.from_pretrained(weights),
        f"RNNprop, {pretrained.DEFAULT}": RNNprop.from_pretrained,
    }
    for rate in ADAM_RATES:
        entrants[f"Adam, {rate:g}"] = lambda rate=rate: keras.optimizers.Adam(rate)  # type: ignore[misc]
    header = (
        f"{'optimizer':32s} {'train loss':>10s} {'test loss':>10s} {'test accuracy':>14s} {'seconds':>8s}"
    )
    print(f"\n{header}\n{'-' * len(header)}")
    fits = []
    for name, make_optimizer in entrants.items():
        fits.append(result := fit(name, make_optimizer, epochs, seeds))
        print(
            f"{name:32s} {result.losses[-1]:10.4f} {result.test_loss:10.4f} {result.test_accuracy:14.4f} "
            f"{result.seconds:8.1f}"
        )
    plot(fits, os.path.join(folder, "losses.png"))
    return fits


NEXT = """
The loss curves are in {folder}/losses.png, the weights in {folder}/weights. What to try next:
  in your own code    model.compile(optimizer=rnnprop_tf.RNNprop.from_pretrained(), loss=...)
  these weights       rnnprop_tf.RNNprop.from_pretrained("{folder}/weights")
  train them longer   .venv/bin/python -m trainer.train --preset=demo --iterations=2000 --run_dir=runs/longer
  the paper's recipe  .venv/bin/python -m trainer.train --preset=paper-rnnprop --run_dir=runs/paper
"""

FLAGS = flags.FLAGS


def main(_: list[str]) -> None:
    folder = os.path.expanduser(FLAGS.folder)
    try:
        run(preset("demo"), folder, FLAGS.epochs, range(FLAGS.runs))
    except (ValueError, OSError) as error:
        raise SystemExit(str(error)) from error
    except KeyboardInterrupt as interrupt:
        raise SystemExit(str(interrupt) or "Interrupted. `make demo` goes on.") from None
    print(NEXT.format(folder=folder))


if __name__ == "__main__":
    flags.DEFINE_string("folder", "runs/demo", "where the run, the weights and the picture go")
    flags.DEFINE_integer("epochs", 20, "epochs of each fit", lower_bound=1)
    flags.DEFINE_integer("runs", 3, "fits of each optimizer, with seeds 0, 1, ...", lower_bound=1)
    commands.run(main)

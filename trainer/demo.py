"""The main job in a few minutes: `python -m trainer.demo`.

Meta-trains RNNprop on scikit-learn's digits, exports the weights, and trains a Keras model that the weights
have not seen: with them, with the shipped ones, and with Adam at three learning rates.
"""

from __future__ import annotations

import os
from functools import partial

import keras
import numpy as np
import tensorflow as tf
from absl import flags

from rnnprop_tf import RNNprop, pretrained
from trainer import commands, comparison, datasets, export, meta_train
from trainer.comparison import Columns, Fit, Optimizers
from trainer.config import MetaTrainConfig, preset

ADAM_RATES = (0.0001, 0.001, 0.01)

COLUMNS: Columns = {
    "training loss": lambda fit: f"{fit.last('loss'):.4f}",
    "test loss": lambda fit: f"{fit.last('val_loss'):.4f}",
    "test accuracy": lambda fit: f"{fit.last('val_accuracy'):.4f}",
    "seconds": lambda fit: f"{fit.seconds:.1f}",
}


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


def compare(weights: str, epochs: int, seeds: range) -> list[Fit]:
    """Trains the unseen model with a folder's weights, the shipped ones and Adam; prints a table."""
    (x, y), test = (
        (np.asarray(images.value(images.pixels, tf.float32)), images.labels)
        for images in (datasets.load("digits", split) for split in ("train", "test"))
    )

    def train(optimizer: keras.optimizers.Optimizer, seed: int) -> dict[str, list[float]]:
        keras.utils.set_random_seed(seed)
        model = unseen_model(x.shape[1:])
        model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
        return comparison.fit(model, x, y, batch_size=64, epochs=epochs, validation_data=test, verbose=0)

    optimizers: Optimizers = {
        "RNNprop, made just now": partial(RNNprop.from_pretrained, weights),
        f"RNNprop, {pretrained.DEFAULT}": RNNprop.from_pretrained,
        **comparison.adams(ADAM_RATES),
    }
    return comparison.print_table(COLUMNS, comparison.fits_of(train, optimizers, seeds))


def run(config: MetaTrainConfig, folder: str, epochs: int, seeds: range) -> list[Fit]:
    """Meta-trains, exports, compares; writes the weights and the picture into the folder."""
    run_dir, weights = os.path.join(folder, "run"), os.path.join(folder, "weights")
    print(f"1. Meta-training: RNNprop learns by training small networks, {config.iterations} times.")
    # A demo that was interrupted goes on; one that was finished keeps its weights.
    meta_train.train(config, run_dir, resume=True)
    chosen = export.export(run_dir, weights, recipe="make demo")
    print(f"2. The checkpoint after {chosen.record['iteration']} is chosen: its weights are in {weights}.")
    print("3. A convolutional network that RNNprop has not seen is trained with it, and with Adam:")
    print(f"   {epochs} epochs, {len(seeds)} times with each; means, and the seconds of one training.\n")
    fits = compare(weights, epochs, seeds)
    comparison.draw(fits, os.path.join(folder, "losses.png"), title="A CNN on digits, nothing tuned")
    return fits


NEXT = """
The losses by epoch are in {folder}/losses.png, the weights in {folder}/weights. What to try next:
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

"""Where RNNprop is a poor choice: pretrained starts, tiny batches.

    python -m studies.when_not

All on scikit-learn's digits, against Adam at its default rate and at the best of five, chosen for each row by
what the row reports. Means over seeds; prints Markdown tables.

- Fine-tuning: a small CNN is trained with Adam on the digits 0 to 4. It then learns 5 to 9, with a new last
  layer; or it goes on with 0 to 4, where the best is to stay. "Highest loss" is the highest training loss
  after any of the first 20 steps: how badly a pretrained network is shaken.
- Batches: the same CNN from its random start on all digits, as many steps for each batch size.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import keras
import numpy as np
from absl import flags
from keras import layers
from sklearn.datasets import load_digits

from rnnprop_tf import RNNprop, pretrained
from trainer import commands
from trainer.comparison import ADAM_DEFAULT, Columns, beside_adam, print_table

FLAGS = flags.FLAGS

RNNPROP_RATES = (0.1, 0.01)
"""The default, and a cautious one."""
ADAM_RATES = (0.0003, ADAM_DEFAULT, 0.003, 0.01, 0.03)
FIRST = 20
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
PRETRAINING_STEPS = 1000

Data = tuple[np.ndarray, np.ndarray]


COLUMNS: Columns = {
    "highest loss": lambda fit: f"{fit.last('highest_loss'):.2f}",
    "training loss": lambda fit: f"{fit.last('loss'):.4f}",
    "validation loss": lambda fit: f"{fit.last('val_loss'):.3f}",
    "validation accuracy": lambda fit: f"{fit.last('val_accuracy'):.3f}",
}


def digits(labels: range) -> tuple[Data, Data]:
    """Training and validation data of these digits, the last fifth for validation; labels from 0."""
    images, targets = load_digits(return_X_y=True)
    chosen = np.isin(targets, labels)
    x, y = np.float32(images[chosen] / 16.0).reshape(-1, 8, 8, 1), targets[chosen] - labels[0]
    split = len(x) * 4 // 5
    return (x[:split], y[:split]), (x[split:], y[split:])


def make_model(classes: int) -> keras.Model:
    """5,000 parameters."""
    convolutions = [layers.Conv2D(n, 3, padding="same", activation="relu") for n in (16, 32)]
    head = [layers.GlobalAveragePooling2D(), layers.Dense(classes)]
    return keras.Sequential(
        [keras.Input((8, 8, 1)), convolutions[0], layers.MaxPooling2D(), convolutions[1], *head]
    )


def score(model: keras.Model, x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Loss and accuracy, without a graph to trace."""
    logits = np.asarray(model(x))
    return float(LOSS(y, logits)), float(np.mean(logits.argmax(axis=-1) == y))


def train(
    model: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    data: tuple[Data, Data],
    batch: int,
    steps: int,
) -> dict[str, list[float]]:
    """Trains in place; the batches are drawn at random, from a seed of the caller's.

    Returns:
        Losses and accuracy after the last step, and "highest_loss": that on the training data after any of
        the first `FIRST` steps.
    """
    (x, y), validation = data
    model.compile(optimizer, LOSS)
    chosen = np.random.randint(0, len(x), steps * batch)
    losses: list[float] = []

    def watch(step: int, logs: dict[str, float] | None = None) -> None:
        if step < FIRST:
            losses.append(score(model, x, y)[0])

    callback = keras.callbacks.LambdaCallback(on_train_batch_end=watch)
    model.fit(x[chosen], y[chosen], batch_size=batch, shuffle=False, verbose=0, callbacks=[callback])
    loss, _ = score(model, x, y)
    val_loss, val_accuracy = score(model, *validation)
    return {
        "highest_loss": [max(losses)],
        "loss": [loss],
        "val_loss": [val_loss],
        "val_accuracy": [val_accuracy],
    }


def pretrained_model(seed: int) -> tuple[keras.Model, float]:
    """A network that knows 0 to 4, and its validation loss there."""
    keras.utils.set_random_seed(seed)
    model = make_model(5)
    history = train(model, keras.optimizers.Adam(0.003), digits(range(5)), 64, PRETRAINING_STEPS)
    return model, history["val_loss"][-1]


def with_new_head(source: keras.Model) -> keras.Model:
    """The same convolutions under a fresh last layer."""
    model = make_model(5)
    for new, old in zip(model.layers[:-1], source.layers[:-1], strict=True):
        new.set_weights(old.get_weights())
    return model


def copy(source: keras.Model) -> keras.Model:
    """With the same weights."""
    model = make_model(5)
    model.set_weights(source.get_weights())
    return model


def compare(title: str, start: Callable[[int], keras.Model], data: tuple[Data, Data], batch: int) -> None:
    """Prints a table of RNNprop at its rates, Adam as it comes, and the best Adam."""

    def train_from(optimizer: keras.optimizers.Optimizer, seed: int) -> dict[str, list[float]]:
        keras.utils.set_random_seed(seed)
        return train(start(seed), optimizer, data, batch, FLAGS.steps)

    ours = {
        f"RNNprop, {rate:g}": partial(RNNprop.from_pretrained, FLAGS.weights, rate) for rate in RNNPROP_RATES
    }
    print(f"\n{title}: {FLAGS.steps} steps, {FLAGS.runs} seeds, {FLAGS.weights}\n")
    print_table(COLUMNS, beside_adam(train_from, ours, range(FLAGS.runs), ADAM_RATES))


def fine_tuning() -> None:
    """New digits under a new last layer, the same without the pretraining, and the old digits again."""
    sources, reached = zip(*(pretrained_model(seed) for seed in range(FLAGS.runs)), strict=True)
    print(f"Pretrained on 0 to 4, validation loss {np.mean(reached):.3f}")
    compare("5 to 9, pretrained", lambda seed: with_new_head(sources[seed]), digits(range(5, 10)), 32)
    compare("5 to 9, from scratch", lambda _: make_model(5), digits(range(5, 10)), 32)
    compare("0 to 4, again", lambda seed: copy(sources[seed]), digits(range(5)), 32)


def batches() -> None:
    """All digits, from scratch."""
    for n in FLAGS.batch_sizes:
        compare(f"Batches of {n}", lambda _: make_model(10), digits(range(10)), int(n))


def main(_: list[str]) -> None:
    tables = {"fine-tuning": fine_tuning, "batches": batches}
    for name in FLAGS.tables:
        tables[name]()


if __name__ == "__main__":
    flags.DEFINE_string("weights", pretrained.DEFAULT, "name or folder of RNNprop weights")
    flags.DEFINE_integer("steps", 300, "steps of each training", lower_bound=1)
    flags.DEFINE_integer("runs", 3, "seeds 0, 1, ...", lower_bound=1)
    flags.DEFINE_list("batch_sizes", ["1", "8", "64"], "for the second table")
    flags.DEFINE_multi_enum("tables", ["fine-tuning", "batches"], ["fine-tuning", "batches"], "which to make")
    commands.run(main)

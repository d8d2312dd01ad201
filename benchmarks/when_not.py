"""Where RNNprop is a poor choice: pretrained starts, tiny batches.

    python -m benchmarks.when_not

All on scikit-learn's digits, against Adam at its default rate and at the best of five, chosen for each row by
what the row reports. Means over seeds; prints Markdown tables.

- Fine-tuning: a small CNN is trained with Adam on the digits 0 to 4. It then learns 5 to 9, with a new last
  layer; or it goes on with 0 to 4, where the best is to stay. "Highest loss" is the highest training loss
  after any of the first 20 steps: how badly a pretrained network is shaken.
- Batches: the same CNN from its random start on all digits, as many steps for each batch size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import keras
import numpy as np
from absl import app, flags
from keras import layers
from sklearn.datasets import load_digits

from rnnprop_tf import RNNprop, pretrained

FLAGS = flags.FLAGS
flags.DEFINE_string("weights", pretrained.DEFAULT, "name or folder of RNNprop weights")
flags.DEFINE_integer("steps", 300, "steps of each training", lower_bound=1)
flags.DEFINE_integer("runs", 3, "seeds 0, 1, ...", lower_bound=1)
flags.DEFINE_list("batch_sizes", ["1", "8", "64"], "for the second table")
flags.DEFINE_multi_enum("tables", ["fine-tuning", "batches"], ["fine-tuning", "batches"], "which to make")

RNNPROP_RATES = (0.1, 0.01)
"""The default, and a cautious one."""
ADAM_DEFAULT = 0.001
ADAM_RATES = (0.0003, ADAM_DEFAULT, 0.003, 0.01, 0.03)
FIRST = 20
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
PRETRAINING_STEPS = 1000

Data = tuple[np.ndarray, np.ndarray]
MakeOptimizer = Callable[[], keras.optimizers.Optimizer]


class Result(NamedTuple):
    """Of one training, or the mean of several."""

    highest_loss: float
    """On the training data, after any of the first `FIRST` steps."""
    train_loss: float
    validation_loss: float
    validation_accuracy: float


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
    model: keras.Model, make_optimizer: MakeOptimizer, data: tuple[Data, Data], batch: int, steps: int
) -> Result:
    """Trains in place; the batches are drawn at random, from a seed of the caller's."""
    (x, y), validation = data
    model.compile(make_optimizer(), LOSS)
    chosen = np.random.randint(0, len(x), steps * batch)
    losses: list[float] = []

    def watch(step: int, logs: dict[str, float] | None = None) -> None:
        if step < FIRST:
            losses.append(score(model, x, y)[0])

    callback = keras.callbacks.LambdaCallback(on_train_batch_end=watch)
    model.fit(x[chosen], y[chosen], batch_size=batch, shuffle=False, verbose=0, callbacks=[callback])
    return Result(max(losses), score(model, x, y)[0], *score(model, *validation))


def pretrained_model(seed: int) -> tuple[keras.Model, Result]:
    """A network that knows 0 to 4, and what it reaches there."""
    keras.utils.set_random_seed(seed)
    model = make_model(5)
    return model, train(model, lambda: keras.optimizers.Adam(0.003), digits(range(5)), 64, PRETRAINING_STEPS)


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


def compare(start: Callable[[int], keras.Model], data: tuple[Data, Data], batch: int) -> dict[str, Result]:
    """By optimizer: RNNprop at its rates, Adam as it comes, and the Adam of the lowest validation loss."""

    def mean(make_optimizer: MakeOptimizer) -> Result:
        results = []
        for seed in range(FLAGS.runs):
            keras.utils.set_random_seed(seed)
            results.append(train(start(seed), make_optimizer, data, batch, FLAGS.steps))
        return Result(*map(float, np.mean(results, axis=0)))

    found = {
        f"RNNprop, {rate:g}": mean(lambda rate=rate: RNNprop.from_pretrained(FLAGS.weights, rate))
        for rate in RNNPROP_RATES
    }
    adams = {rate: mean(lambda rate=rate: keras.optimizers.Adam(rate)) for rate in ADAM_RATES}
    best = min(ADAM_RATES, key=lambda rate: adams[rate].validation_loss)
    found[f"Adam, {ADAM_DEFAULT:g} (default)"] = adams[ADAM_DEFAULT]
    found[f"Adam, {best:g} (best of {len(ADAM_RATES)})"] = adams[best]
    return found


def print_table(title: str, rows: dict[str, dict[str, Result]]) -> None:
    """As Markdown."""
    print(f"\n{title}\n\n| | optimizer | highest loss | train loss | validation loss | accuracy |")
    print("|---|---|---|---|---|---|")
    for name, results in rows.items():
        for optimizer, r in results.items():
            losses = f"{r.highest_loss:.2f} | {r.train_loss:.4f} | {r.validation_loss:.3f}"
            print(f"| {name} | {optimizer} | {losses} | {r.validation_accuracy:.3f} |")


def fine_tuning() -> dict[str, dict[str, Result]]:
    """New digits under a new last layer, the same without the pretraining, and the old digits again."""
    sources, reached = zip(*(pretrained_model(seed) for seed in range(FLAGS.runs)), strict=True)
    print(f"Pretrained on 0 to 4, validation loss {np.mean([r.validation_loss for r in reached]):.3f}")
    return {
        "5 to 9, pretrained": compare(lambda s: with_new_head(sources[s]), digits(range(5, 10)), 32),
        "5 to 9, from scratch": compare(lambda _: make_model(5), digits(range(5, 10)), 32),
        "0 to 4, again": compare(lambda s: copy(sources[s]), digits(range(5)), 32),
    }


def batches() -> dict[str, dict[str, Result]]:
    """All digits, from scratch."""
    return {
        f"batch {n}": compare(lambda _: make_model(10), digits(range(10)), int(n)) for n in FLAGS.batch_sizes
    }


def main(_: list[str]) -> None:
    tables = {"fine-tuning": fine_tuning, "batches": batches}
    for name in FLAGS.tables:
        print_table(f"{name}, {FLAGS.steps} steps, {FLAGS.runs} seeds, {FLAGS.weights}", tables[name]())


if __name__ == "__main__":
    app.run(main)

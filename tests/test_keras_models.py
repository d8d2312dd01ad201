"""The Keras models to judge weights by: they build and fit their data, whose parts are apart."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainer import datasets
from trainer.keras_models import data, models
from trainer.keras_models.catalog import CLASSIFIED, HELD_BACK, KERAS_MODELS, TEST, VALIDATION


@pytest.fixture
def no_downloads(monkeypatch):
    """Noise in place of MNIST and CIFAR-10."""
    shapes = {"mnist": (28, 28, 1), "cifar10": (32, 32, 3)}
    load_digits = datasets._load_digits

    def load(name, split, data_dir):
        if name == "digits":
            return load_digits(split)
        count = {"train": 300, "test": 100}[split]
        rng = np.random.default_rng(count)
        pixels = rng.integers(0, 256, (count, *shapes[name]), dtype=np.uint8)
        return datasets.Images(pixels, rng.integers(0, 10, count, dtype=np.int32), 1 / 255)

    monkeypatch.setattr(datasets, "_load", load)


@pytest.mark.parametrize("name", KERAS_MODELS)
def test_a_model_fits_its_data(name, no_downloads):
    spec = KERAS_MODELS[name]
    (x, y), (held_out, targets) = spec.load(None)
    assert len(x) == len(y) >= spec.batch_size
    assert 0 < len(held_out) == len(targets) < len(x)
    for part in (x, held_out):
        assert np.isfinite(part).all()
    keras.utils.set_random_seed(0)
    model = spec.make()
    assert 1_000 < model.count_params() < (500_000 if name in HELD_BACK else 30_000)
    with tf.GradientTape() as tape:
        predicted = model(x[:64])
        loss = tf.reduce_mean(keras.losses.get(spec.loss)(y[:64], predicted))
    gradients = tape.gradient(loss, model.trainable_variables)
    assert all(gradient is not None for gradient in gradients)
    assert np.isfinite(loss)
    if spec.loss == CLASSIFIED:
        classes = predicted.shape[-1]
        assert {int(label) for label in (*y, *targets)} <= set(range(classes))
        # An untrained classifier guesses, more or less.
        assert 0.5 * math.log(classes) < loss < 2.5 * math.log(classes)
    else:
        assert predicted.shape[1:] == y.shape[1:]
    if spec.loss == "binary_crossentropy":
        assert set(np.unique(y)) == {0.0, 1.0}


def test_the_parts_share_no_data(no_downloads):
    parts = VALIDATION, TEST, HELD_BACK
    assert len(KERAS_MODELS) == sum(map(len, parts))
    first, second, third = ({one.load(None)[0][0][:50].tobytes() for one in part.values()} for part in parts)
    assert len(first) == len(VALIDATION) - 3  # four models of the digits
    assert len(second) == len(TEST) - 1  # two of MNIST
    assert len(third) == len(HELD_BACK)
    assert len(first | second | third) == len(first) + len(second) + len(third)


def test_those_held_back_are_unlike_the_others():
    tables = ("keras-wine", "keras-hastie", "keras-elevations")
    assert all(50_000 < HELD_BACK[name].make().count_params() < 500_000 for name in tables)
    assert HELD_BACK["keras-wine"].batch_size == 8


def test_the_last_images_are_not_the_first():
    images = datasets.load("digits")
    tail = datasets.last(images, 30)
    np.testing.assert_array_equal(tail.labels, images.labels[-30:])
    np.testing.assert_array_equal(tail.pixels, images.pixels[-30:])


def test_a_fine_tuned_model_starts_at_what_was_trained_and_a_new_last_layer():
    keras.utils.set_random_seed(1)
    first, other = (HELD_BACK["keras-lines-fine-tuned"].make().get_weights() for _ in range(2))
    for mine, theirs in zip(first[:-2], other[:-2], strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert np.abs(first[-2] - other[-2]).max() > 0.01
    # What was trained foretells words better than their frequencies do.
    (_, y), (x, targets) = data.next_words(models.PRETRAINING_TEXTS)(None)
    frequencies = (np.bincount(y, minlength=data.VOCABULARY) + 1) / (len(y) + data.VOCABULARY)
    guess = -np.mean(np.log(frequencies[targets[:1_000]]))
    assert models._word_model().evaluate(x[:1_000], targets[:1_000], verbose=0) < guess - 0.2


def test_the_data_are_the_same_at_every_call_and_the_parts_of_a_split_are_apart(no_downloads):
    for name in (
        "keras-friedman",
        "keras-ratings",
        "keras-lines-bag",
        "keras-characters-lstm",
        "keras-hastie",
        "keras-elevations",
        "keras-photo-unet",
        "keras-lorenz",
    ):
        once, again = KERAS_MODELS[name].load(None), KERAS_MODELS[name].load(None)
        tf.nest.map_structure(np.testing.assert_array_equal, once, again)
    (x, _), (held_out, _) = KERAS_MODELS["keras-friedman"].load(None)
    assert not {row.tobytes() for row in x} & {row.tobytes() for row in held_out}
    (x, y), _ = KERAS_MODELS["keras-characters-lstm"].load(None)
    np.testing.assert_array_equal(x[1:, -1], y[:-1])  # what is foretold is what comes next
    (x, y), _ = KERAS_MODELS["keras-next-word"].load(None)
    np.testing.assert_array_equal(x[1:, -1], y[:-1])
    (x, y), _ = KERAS_MODELS["keras-lorenz"].load(None)
    np.testing.assert_array_equal(x[10:, -1], y[:-10])  # ten samples after


def test_words_are_numbered_by_how_common_they_are(monkeypatch):
    texts = {"one": "b a a " * 16, "two": "a c c " * 16}
    monkeypatch.setattr(data, "_source", texts.__getitem__)
    monkeypatch.setattr(data, "WORDS", 3)  # the rare, and two words
    (x, y), (held_out, targets) = data.lines(("one", "two"))(None)
    every, labels = np.concatenate([x, held_out]), np.concatenate([y, targets])
    assert set(every[labels == 0].ravel()) == {1, 0}  # a is the most common, b the rarest
    assert set(every[labels == 1].ravel()) == {1, 2}

"""The Keras models with their data, by name: what weights are judged by besides the paper's tasks.

Three parts: `VALIDATION` to choose weights by, `TEST` and `HELD_BACK` to report, which no choice may rest on.
MNIST and CIFAR-10 serve in three of `TEST` and one of `HELD_BACK`; all other data need no download. The
digits and pooled MNIST are data that mixtures meta-train on too, with other models.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import keras

from trainer.keras_models import data, models
from trainer.keras_models.data import Load

CLASSIFIED = "sparse_categorical_crossentropy"
"""The loss of classifiers, whose last layer is a softmax."""


class KerasModel(NamedTuple):
    """A model, its data, and how it is trained."""

    make: Callable[[], keras.Model]
    """Makes the model anew, with random weights."""
    load: Load
    loss: str = CLASSIFIED
    """The name of a Keras loss. With `CLASSIFIED` accuracy is measured too."""
    batch_size: int = 64


VALIDATION: dict[str, KerasModel] = {
    "keras-digits-cnn": KerasModel(models.cnn_with_batch_norm, data.digits),
    "keras-digits-residual": KerasModel(models.residual_mlp, data.digits, batch_size=32),
    "keras-digits-autoencoder": KerasModel(
        models.autoencoder, data.reconstructed(data.digits), "mean_squared_error"
    ),
    "keras-digits-transformer": KerasModel(models.transformer((8, 8, 1)), data.digits),
    "keras-friedman": KerasModel(
        models.regression(10, "relu", False), data.friedman, "mean_squared_error", 32
    ),
    "keras-lines-bag": KerasModel(
        models.bag_of_words(4), data.lines(("argparse", "decimal", "inspect", "tarfile"))
    ),
    "keras-characters-lstm": KerasModel(models.character_lstm, data.characters),
}
"""Models to choose weights by."""

TEST: dict[str, KerasModel] = {
    "keras-cifar-residual": KerasModel(models.residual_cnn, data.images("cifar10", 4), batch_size=128),
    "keras-mnist-autoencoder": KerasModel(
        models.convolutional_autoencoder, data.reconstructed(data.images("mnist", 2)), "mean_squared_error"
    ),
    "keras-mnist-transformer": KerasModel(models.transformer((14, 14, 1)), data.images("mnist", 2)),
    "keras-diabetes": KerasModel(models.regression(10, "elu", True), data.diabetes, "mean_squared_error", 32),
    "keras-cancer": KerasModel(models.selu_classifier, data.breast_cancer, batch_size=16),
    "keras-lines-lstm": KerasModel(models.text_lstm(3), data.lines(("turtle", "doctest", "optparse"))),
    "keras-eeg-gru": KerasModel(models.series_gru, data.eeg, "mean_squared_error", 32),
    "keras-ratings": KerasModel(models.factorization, data.ratings, "mean_squared_error", 128),
}
"""Models to report: looked at once, when the weights are chosen."""

HELD_BACK: dict[str, KerasModel] = {
    "keras-wine": KerasModel(models.wide_classifier, data.wine, batch_size=8),
    "keras-hastie": KerasModel(models.wide_with_dropout, data.hastie, "binary_crossentropy"),
    "keras-elevations": KerasModel(models.map_of_heights, data.elevations, "mean_squared_error"),
    "keras-photo-unet": KerasModel(models.u_net, data.noisy_photo, "mean_squared_error", 32),
    "keras-cifar-separable": KerasModel(models.separable_cnn, data.images("cifar10", 2, last=True)),
    "keras-lorenz": KerasModel(models.dilated_convolutions, data.lorenz, "mean_squared_error", 32),
    "keras-next-word": KerasModel(models.next_word_cnn, data.next_words(("mailbox", "smtplib", "ftplib"))),
    "keras-lines-fine-tuned": KerasModel(
        models.fine_tuned_gru(3),
        data.lines(("calendar", "shutil", "difflib"), known=models.PRETRAINING_TEXTS),
        batch_size=32,
    ),
}
"""Models to report: looked at once, when all else is decided. Among them are three wide networks on small
tables, one of them with batches of 8, a U-Net, and a network that was trained before."""

KERAS_MODELS: dict[str, KerasModel] = VALIDATION | TEST | HELD_BACK

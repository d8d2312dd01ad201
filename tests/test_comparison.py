"""The comparison of optimizers: who is trained how often, what is averaged, and what is shown."""

import keras
import numpy as np
import pytest

from trainer import comparison
from trainer.comparison import ACCURACY, LOSSES, LOWEST, Fit, beside_adam, draw, fits_of, print_table


def validation_losses(optimizer, seed):
    """Falls and rises again; lower by the seed, lowest for the rate nearest to 0.01."""
    distance = abs(float(optimizer.learning_rate) - 0.01)
    return [3.0 - seed, 1.0 - seed + distance, 2.0 - seed]


def train(optimizer, seed):
    return {"loss": [2.0, 1.0, 0.5 + seed], "val_loss": validation_losses(optimizer, seed)}


def test_history_is_the_mean_over_the_seeds():
    (fit,) = fits_of(train, {"SGD": lambda: keras.optimizers.SGD(0.01)}, range(2))
    assert fit.optimizer == "SGD"
    np.testing.assert_allclose(fit.history["loss"], [2, 1, 1])
    np.testing.assert_allclose(fit.history["val_loss"], [2.5, 0.5, 1.5])
    assert fit.last("loss") == 1.0
    assert (fit.lowest_validation_loss, fit.best_epoch) == (pytest.approx(0.5), 2)
    assert fit.seconds > 0


def test_each_training_has_an_optimizer_of_its_own_and_every_optimizer_the_same_seeds():
    met = []

    def remember(optimizer, seed):
        met.append((optimizer, seed))
        return {"loss": [0.0]}

    list(fits_of(remember, comparison.adams([0.1, 0.2]), (seed for seed in (5, 6))))
    assert [seed for _, seed in met] == [5, 6, 5, 6]
    assert len({id(optimizer) for optimizer, _ in met}) == 4
    assert [float(optimizer.learning_rate) for optimizer, _ in met] == pytest.approx([0.1, 0.1, 0.2, 0.2])


def test_beside_adam_are_its_default_and_its_best_rate():
    fits = beside_adam(train, {"ours": lambda: keras.optimizers.SGD(0.5)}, range(1))
    assert [fit.optimizer for fit in fits] == ["ours", "Adam, 0.001 (default)", "Adam, 0.01 (best of 4)"]
    assert fits[2].lowest_validation_loss == pytest.approx(1.0)


@pytest.mark.parametrize("use_ema", [False, True])
def test_losses_of_an_optimizer_that_averages_are_those_of_what_fit_leaves(use_ema):
    x = np.linspace(-1, 1, 8, dtype="float32").reshape(8, 1)
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.2, use_ema=use_ema, ema_momentum=0.9), "mse")
    history = comparison.fit(model, x, 3 * x, epochs=3, validation_data=(x, 3 * x), verbose=0)
    left = model.evaluate(x, 3 * x, verbose=0)
    assert [len(values) for values in history.values()] == [3, 3]
    assert history["val_loss"][-1] == pytest.approx(left, rel=1e-5)
    assert (history["loss"][-1] == pytest.approx(left, rel=1e-5)) == use_ema


def test_a_run_that_diverged_is_not_the_best_where_it_was_finite_at_first():
    fit = Fit("diverged", {"val_loss": np.array([2.0, np.nan])}, 1.0)
    assert (fit.lowest_validation_loss, fit.best_epoch) == (2.0, 1)


def test_table_has_a_number_a_cell(capsys):
    history = {"loss": [1.0, 0.25], "val_loss": [0.5, 0.75], "val_accuracy": [0.0, 0.5]}
    fit = Fit("Adam, 0.1", {key: np.array(values) for key, values in history.items()}, 1.0)
    assert print_table(LOSSES | ACCURACY | LOWEST, iter([fit])) == [fit]
    assert capsys.readouterr().out.splitlines() == [
        "| optimizer | training loss | validation loss | validation accuracy | lowest validation loss"
        " | epoch of the lowest |",
        "|---|---|---|---|---|---|",
        "| Adam, 0.1 | 0.2500 | 0.750 | 0.500 | 0.500 | 1 |",
    ]


def test_picture_is_drawn(tmp_path):
    draw(beside_adam(train, {}, range(1)), tmp_path / "losses.png", title="Two Adams")
    assert (tmp_path / "losses.png").read_bytes().startswith(b"\x89PNG")

"""Keras models to judge weights by: they build, a run is what a plain loop makes, tables read it."""

import math
import threading
import time

import keras
import numpy as np
import pytest
import tensorflow as tf

from rnnprop_tf import RNNprop, pretrained
from trainer import datasets
from trainer.evaluation import baselines
from trainer.evaluation.competitors import competitor
from trainer.evaluation.evaluation import Evaluation
from trainer.evaluation.fit_runner import COLUMNS, POINTS, Cosine, FitRunner
from trainer.evaluation.results import TUNING_SEED, Cell, Results
from trainer.evaluation.tasks import check_task
from trainer.keras_models import data
from trainer.keras_models.catalog import CLASSIFIED, KERAS_MODELS, TEST, VALIDATION
from trainer.paper import experiments, keras_models_tables, plots

FAST = "keras-friedman"


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


# The models and their data.


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
    assert 1_000 < model.count_params() < 30_000
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


def test_the_two_parts_share_no_data(no_downloads):
    assert not set(VALIDATION) & set(TEST)
    first, second = (
        {one.load(None)[0][0][:50].tobytes() for one in part.values()} for part in (VALIDATION, TEST)
    )
    assert len(first) == len(VALIDATION) - 3  # four models of the digits
    assert len(second) == len(TEST) - 1  # two of MNIST
    assert not first & second


def test_the_data_are_the_same_at_every_call_and_the_parts_of_a_split_are_apart(no_downloads):
    for name in ("keras-friedman", "keras-ratings", "keras-lines-bag", "keras-characters-lstm"):
        once, again = KERAS_MODELS[name].load(None), KERAS_MODELS[name].load(None)
        tf.nest.map_structure(np.testing.assert_array_equal, once, again)
    (x, _), (held_out, _) = KERAS_MODELS["keras-friedman"].load(None)
    assert not {row.tobytes() for row in x} & {row.tobytes() for row in held_out}
    (x, y), _ = KERAS_MODELS["keras-characters-lstm"].load(None)
    np.testing.assert_array_equal(x[1:, -1], y[:-1])  # what is foretold is what comes next


def test_words_are_numbered_by_how_common_they_are(monkeypatch):
    texts = {"one": "b a a " * 16, "two": "a c c " * 16}
    monkeypatch.setattr(data, "_source", texts.__getitem__)
    monkeypatch.setattr(data, "WORDS", 3)  # the rare, and two words
    (x, y), (held_out, targets) = data.lines(("one", "two"))(None)
    every, labels = np.concatenate([x, held_out]), np.concatenate([y, targets])
    assert set(every[labels == 0].ravel()) == {1, 0}  # a is the most common, b the rarest
    assert set(every[labels == 1].ravel()) == {1, 2}


# Runs.


def adam(rate):
    return keras.optimizers.Adam(rate)


@pytest.fixture(scope="module")
def runner():
    return FitRunner(KERAS_MODELS[FAST], adam)


def test_a_run_is_a_plain_loop_s(runner):
    steps, seed = 20, 3
    run = runner.run(steps, seed, 0.01)
    keras.utils.set_random_seed(seed)
    spec = KERAS_MODELS[FAST]
    model, optimizer = spec.make(), adam(0.01)
    losses = []
    for k, (x, y) in zip(range(steps), runner._batches(steps, seed), strict=False):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((model(x, training=True) - y) ** 2)
        optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)
        if k % 2 == 1:
            losses.append([float(np.mean((model(x) - y) ** 2)) for x, y in spec.load(None)])
    assert tuple(run.curve) == COLUMNS
    found = np.stack([run.curve["loss"], run.curve["validation_loss"]], axis=1)
    np.testing.assert_allclose(found, losses, rtol=1e-4)
    np.testing.assert_array_equal(run.curve["step"], np.arange(2, 21, 2))
    assert run.final_loss == run.curve["loss"][-1]
    assert (np.diff(run.curve["seconds"]) > 0).all()
    assert np.isnan(run.curve["validation_accuracy"]).all()


def test_a_run_leaves_nothing_behind(runner):
    first, other, again = (runner.run(20, 0, rate) for rate in (0.01, 0.1, 0.01))
    next_seed = runner.run(20, 1, 0.01)
    for column in ("loss", "validation_loss"):
        np.testing.assert_allclose(first.curve[column], again.curve[column], rtol=1e-6)
    assert abs(first.final_loss - other.final_loss) > 1e-3
    assert abs(first.final_loss - next_seed.final_loss) > 1e-6


@pytest.mark.slow
def test_runs_side_by_side_are_those_made_alone(runner):
    alone = runner.run(20, 5, 0.01)
    stop = threading.Event()

    def make_models():
        other = FitRunner(KERAS_MODELS["keras-cancer"], adam)
        while not stop.is_set():
            other._begin(20, 7)

    beside = threading.Thread(target=make_models)
    beside.start()
    try:
        runs = [runner.run(20, 5, 0.01) for _ in range(3)]
    finally:
        stop.set()
        beside.join()
    for run in runs:
        np.testing.assert_allclose(run.curve["loss"], alone.curve["loss"], rtol=1e-6)


def test_the_clock_leaves_out_setting_up_and_measuring(runner):
    """Each `fit` takes tenths of a second before its first step."""
    slow = runner._measure
    runner._measure = lambda: (time.sleep(0.2), slow())[1]
    try:
        run = runner.run(200, 0, 0.01)
    finally:
        runner._measure = slow
    seconds = np.diff(run.curve["seconds"], prepend=0.0)
    assert run.curve["seconds"][-1] < 1.0  # ten times 0.2 would be 2
    assert seconds[0] < 3 * np.median(seconds)


def test_a_cosine_falls_from_the_rate_to_0_over_the_run():
    rate, steps = tf.Variable(0.4), tf.Variable(200.0)
    found = [float(Cosine(rate, steps)(step)) for step in (0, 50, 100, 200, 300)]
    np.testing.assert_allclose(found, [0.4, 0.2 * (1 + 0.5**0.5), 0.2, 0.0, 0.0], atol=1e-7)
    runner = FitRunner(KERAS_MODELS[FAST], keras.optimizers.AdamW, cosine=True)
    run = runner.run(40, 0, 0.05)
    moved = -np.diff(run.curve["loss"])
    assert abs(moved[-1]) < 0.2 * abs(moved[:3]).max()


def test_accuracy_is_measured_where_there_are_classes(no_downloads):
    runner = FitRunner(KERAS_MODELS["keras-cancer"], adam)
    run = runner.run(40, 0, 0.01)
    assert run.curve["validation_accuracy"][-1] > 0.85
    assert run.curve["loss"][-1] < run.curve["loss"][0]


def test_a_number_of_steps_that_cannot_be_measured_evenly_is_refused(runner):
    with pytest.raises(ValueError, match=f"steps: expected a multiple of {POINTS} for Keras models"):
        runner.run(25, 0, 0.01)


# Evaluation.


def test_evaluation_runs_them_like_any_task(tmp_path):
    results = Results(str(tmp_path), adding=True)
    evaluation = Evaluation(results, FAST, 20)
    for name in (pretrained.DEFAULT, "adam-default", "adam:0.01"):
        rate, losses = evaluation.losses(competitor(name), range(2), range(TUNING_SEED, TUNING_SEED + 1))
        assert len(losses) == 2
        assert rate == {pretrained.DEFAULT: 0.1, "adam-default": 0.001, "adam:0.01": 0.01}[name]
    read = Results(str(tmp_path))
    assert len(read.rows) == 6
    rows = [row for row in read.rows if row.optimizer == pretrained.DEFAULT]
    curves = read.curves(rows)
    assert {name: values.shape for name, values in curves.items()} == dict.fromkeys(COLUMNS, (2, POINTS))
    # What is run is the Keras class with the shipped weights, at their learning rate.
    runner = FitRunner(KERAS_MODELS[FAST], lambda _: RNNprop.from_pretrained())
    np.testing.assert_allclose(runner.run(20, 1, 0.1).final_loss, rows[1].final_loss, rtol=1e-5)


def test_tuning_searches_the_grid_of_the_schedule_s_rate(tmp_path, monkeypatch):
    monkeypatch.setitem(baselines.FIRST_GRID, baselines.ADAMW_COSINE, range(-12, -4))
    results = Results(str(tmp_path), adding=True)
    evaluation = Evaluation(results, FAST, 20)
    rate, _ = evaluation.losses(
        competitor(baselines.ADAMW_COSINE), range(1), range(TUNING_SEED, TUNING_SEED + 1), strides=(4,)
    )
    tried = {row.learning_rate: row.final_loss for row in results.rows if row.seed >= TUNING_SEED}
    assert len(tried) >= 2
    assert rate == min(tried, key=tried.get)


def test_what_cannot_be_run_is_refused(tmp_path):
    evaluation = Evaluation(Results(str(tmp_path)), "digits-nn-sigmoid-100")
    with pytest.raises(ValueError, match=r"adamw-cosine: expected Keras models as tasks. Received: digits"):
        evaluation.losses(competitor(baselines.ADAMW_COSINE), range(1), range(TUNING_SEED, TUNING_SEED + 1))
    with pytest.raises(ValueError, match="Expected adam-default without a learning rate"):
        competitor("adam-default:0.1")
    check_task(FAST, ["adamw-cosine"], 20)
    with pytest.raises(ValueError, match="steps: expected a multiple of 10 for Keras models"):
        check_task(FAST, [], 25)
    with pytest.raises(ValueError, match=r"No task named 'keras-nothing'. Expected one of mnist-.*, keras-"):
        check_task("keras-nothing")


# Tables and figures.


def test_tables_and_figures_read_what_was_run(tmp_path):
    results = Results(str(tmp_path))
    points = ([10, 20], [1.0, 0.6], [1.2, 0.8], [0.5, 0.75], [0.5, 1.0])
    curve = dict(zip(COLUMNS, map(np.array, points), strict=True))
    no_classes = curve | {"validation_accuracy": np.full(2, np.nan)}
    for name, loss in ((experiments.DEFAULT, 0.3), ("adam-default", 0.9), ("adam", 0.6)):
        cell = Cell("keras-cancer", name, "", 0.01, 200)
        results.add(cell, [0, 1], [loss, loss], [3.0, 3.0], [curve, curve])

    def row(quantity, optimizer_or_model, steps="200"):
        """The cells of a table's row, by the table's title."""
        text = keras_models_tables.test_models(results)
        [part] = [part for part in text.split("\n\n") if part.startswith(quantity)] or [""]
        table = text.split("\n\n")[text.split("\n\n").index(part) + 1]
        starts = f"| {optimizer_or_model} | {steps} | "
        [line] = [line for line in table.splitlines() if line.startswith(starts)]
        return line.removeprefix(starts).removesuffix(" |").split(" | ")

    mean, ratio, near = "Final training loss", "Ratio of the mean", "On how many models"
    assert row(mean, "keras-cancer")[2:] == ["0.9 [0.9, 0.9]", "0.6 [0.6, 0.6]", "not run"]
    assert row("Median", "keras-cancer")[2:] == ["0.9", "0.6", "not run"]
    assert row("Tuned learning rate", "keras-cancer") == ["0.01", "not run"]
    assert row(ratio, "keras-cancer") == ["0.500", "not run"]
    for quantity, value in (("Validation loss", "0.8"), ("Validation accuracy", "0.750"), ("Seconds", "1.0")):
        assert row(quantity, "keras-cancer").count(value) == 3
    assert "keras-eeg" not in keras_models_tables.test_models(results)
    results.add(Cell("keras-eeg-gru", "adam-default", "", 0.001, 200), [0], [0.9], [3.0], [no_classes])
    assert row(mean, "keras-eeg-gru") == ["not run", "not run", "0.9 [0.9, 0.9]", "not run", "not run"]
    assert row(ratio, "keras-eeg-gru") == ["not run", "not run"]
    accuracies = keras_models_tables.test_models(results).split("Validation accuracy")[1].split("Seconds")[0]
    assert "keras-eeg" not in accuracies
    cell = Cell("keras-cancer", experiments.SETTLING, "", 0.1, 200)
    results.add(cell, [0, 1], [0.7, 0.7], [3.0, 3.0], [curve, curve])
    assert row(ratio, "keras-cancer") == ["0.500", "1.167"]
    assert row(near, experiments.DEFAULT) == ["1 of 1", "1 of 1", "0 of 0"]
    assert row(near, experiments.SETTLING) == ["1 of 1", "0 of 1", "0 of 0"]
    assert row(near, experiments.SETTLING, "2,000") == ["0 of 0", "0 of 0", "0 of 0"]
    # A mean that is not finite is the worst.
    losses = {experiments.DEFAULT: 5.0, "adam": np.nan, "adamw-cosine": 4.6, experiments.SETTLING: np.nan}
    for name, loss in losses.items():
        results.add(Cell("keras-cancer", name, "", 0.01, 2_000), [0], [loss], [3.0], [curve])
    assert row(near, experiments.DEFAULT, "2,000") == ["0 of 0", "1 of 1", "1 of 1"]
    assert row(near, experiments.SETTLING, "2,000") == ["0 of 0", "0 of 1", "0 of 1"]
    figure = plots.test_models(results)
    [axes] = figure.axes
    assert axes.get_title() == "keras-cancer, 2,000 steps"
    np.testing.assert_allclose(
        axes.lines[0].get_xydata(), np.stack([curve["seconds"], curve["validation_loss"]], axis=1)
    )
    assert plots.png(figure).startswith(b"\x89PNG")

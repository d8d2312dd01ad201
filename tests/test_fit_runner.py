"""Runs under `fit`: what a plain loop makes, measured evenly, evaluated like any task."""

import threading
import time

import keras
import numpy as np
import pytest
import tensorflow as tf

from rnnprop_tf import RNNprop, pretrained
from rnnprop_tf.network import Architecture, initial_weights
from trainer.evaluation import baselines
from trainer.evaluation.competitors import competitor
from trainer.evaluation.evaluation import Evaluation
from trainer.evaluation.fit_runner import COLUMNS, POINTS, Cosine, FitRunner
from trainer.evaluation.results import TUNING_SEED, Results
from trainer.evaluation.tasks import check_task
from trainer.keras_models.catalog import KERAS_MODELS

FAST = "keras-friedman"


NETWORK = initial_weights(Architecture(2, (4,), (5, 3)), 0)


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


AVERAGING = {
    "ours": lambda rate: RNNprop(rate, network=NETWORK, use_averaging=True),
    "keras": lambda rate: keras.optimizers.SGD(rate, use_ema=True, ema_momentum=0.9),
}


@pytest.mark.parametrize("make", AVERAGING.values(), ids=AVERAGING)
def test_an_optimizer_that_averages_is_judged_at_what_fit_leaves(make):
    runner = FitRunner(KERAS_MODELS[FAST], make)
    run = runner.run(20, 3, 0.05)
    assert run.final_loss == pytest.approx(runner._measure()[0], rel=1e-6)
    # Measuring on the way leaves the iterates alone.
    rate = tf.Variable(0.05)
    keras.utils.set_random_seed(3)
    spec = KERAS_MODELS[FAST]
    model = spec.make()
    model.compile(make(lambda: rate.read_value()), spec.loss)
    model.fit(runner._batches(20, 3).take(20), shuffle=False, verbose=0)
    x, y = runner._train
    assert run.final_loss == pytest.approx(float(np.mean((model(x) - y) ** 2)), rel=1e-4)
    plain = [v.numpy() for v in model.trainable_variables]
    average = runner._optimizer._model_variables_moving_average
    for ours, theirs in zip(average, plain, strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-3, atol=1e-5)


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


def test_accuracy_is_measured_where_there_are_classes():
    runner = FitRunner(KERAS_MODELS["keras-cancer"], adam)
    run = runner.run(40, 0, 0.01)
    assert run.curve["validation_accuracy"][-1] > 0.85
    assert run.curve["loss"][-1] < run.curve["loss"][0]


def test_a_number_of_steps_that_cannot_be_measured_evenly_is_refused(runner):
    with pytest.raises(ValueError, match=f"steps: expected a multiple of {POINTS} for Keras models"):
        runner.run(25, 0, 0.01)


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


def test_competitors_with_averages_have_names_of_their_own():
    plain, averaged = competitor(pretrained.DEFAULT), competitor(f"{pretrained.DEFAULT}:averaged")
    assert [one.make(0.1).use_averaging for one in (plain, averaged)] == [False, True]
    assert plain.cell("task", 0.1, 10) == averaged.cell("task", 0.1, 10)._replace(optimizer=plain.name)
    adamw = competitor("adamw-averaged").make(0.1)
    assert isinstance(adamw, keras.optimizers.AdamW)
    assert adamw.use_ema
    for name in (averaged.name, *baselines.FOR_KERAS_MODELS):
        with pytest.raises(ValueError, match=f"{name}: expected Keras models as tasks. Received: digits"):
            check_task("digits-nn-sigmoid-100", [name])
        check_task(FAST, [name], 20)


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

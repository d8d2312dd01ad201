"""The replayed meta-gradient against the plain tape over the unroll."""

import dataclasses
import itertools

import numpy as np
import pytest
import tensorflow as tf

from rnnprop_tf import network as coordinatewise
from rnnprop_tf.network import Architecture
from rnnprop_tf.rule import DMRule, RNNpropRule, SettlingRule
from trainer import datasets, meta_gradient, unroll
from trainer.meta_gradient import Objective, PeriodStart
from trainer.problems.convex import Convex
from trainer.problems.mlp import MLP
from trainer.problems.tricks import Combination, RandomScaling, Tasks

ALPHA = 0.1
RULES = {
    "rnnprop": (RNNpropRule(), Architecture()),
    "dm": (DMRule(), Architecture(preprocess=())),
    "settling": (SettlingRule(beta_3=0.5), Architecture()),
}
PAPER_RULES = ("rnnprop", "dm")


def period_start(rule_name, objective, dtype, tasks=1):
    """What a second period starts from: the state is not zero and some coordinates have slept."""
    rule, architecture = RULES[rule_name]
    mlp = MLP(datasets.load("digits"), hidden=(4,), batch_size=8)
    problem = Combination(RandomScaling(mlp, 1.0), RandomScaling(Convex(3), 1.0))
    problem = Tasks(problem, tasks) if tasks > 1 else problem
    network = coordinatewise.initial_weights(architecture, 3)
    seed = tf.constant([5, 6])
    seeds = tf.random.split(seed, tasks) if tasks > 1 else seed
    batches = problem.batches(seeds, tf.constant(0), 3 + objective.batches)
    network, draw = tf.nest.map_structure(lambda x: tf.cast(x, dtype), (network, problem.draw(seeds)))
    cast = lambda b: tf.cast(b, dtype) if b.dtype.is_floating else b  # noqa: E731
    batches = tf.nest.map_structure(cast, batches)
    carry = unroll.start(rule, network, draw.params)
    carry, _ = unroll.unroll(problem, rule, network, ALPHA, carry, draw.constants, batches, 3)
    rest = tf.nest.map_structure(lambda b: b[3:], batches)
    return PeriodStart(problem, rule, network, ALPHA, objective, carry, draw.constants, rest)


def flat(gradient):
    return np.concatenate([np.ravel(g) for g in tf.nest.flatten(gradient)])


OBJECTIVES = [
    Objective(steps=6),
    Objective(steps=6, weights="mean"),
    Objective(steps=6, log=True, last_batches=3),
    Objective(steps=6, weights="mean", log=True),
]
LAST_AND_MEAN = [pytest.param(OBJECTIVES[0], marks=pytest.mark.slow), OBJECTIVES[1]]
QUICK_WITH_TASKS = ("rnnprop", OBJECTIVES[-1], 2)
EXACT = [
    case if case[-1] == 1 or case == QUICK_WITH_TASKS else pytest.param(*case, marks=pytest.mark.slow)
    for case in itertools.product(PAPER_RULES, OBJECTIVES, (1, 2))
]


@pytest.mark.parametrize(("rule_name", "objective", "tasks"), EXACT, ids=str)
def test_replaying_every_coordinate_is_the_exact_gradient(rule_name, objective, tasks):
    start = period_start(rule_name, objective, tf.float64, tasks)
    truth = meta_gradient.taped(start)
    replay = meta_gradient.replayed(start, sample=None, seed=tf.constant([0, 0]))
    assert np.abs(flat(truth.gradient)).max() > 1e-6
    np.testing.assert_allclose(flat(replay.gradient), flat(truth.gradient), rtol=1e-10, atol=1e-13)
    np.testing.assert_allclose(replay.losses, truth.losses, rtol=1e-12)
    np.testing.assert_allclose(replay.objective, truth.objective, rtol=1e-12)
    np.testing.assert_allclose(replay.carry.params, truth.carry.params, rtol=1e-12, atol=1e-14)


def test_the_multiplier_of_the_direction_is_replayed_too():
    start = period_start("settling", Objective(steps=6), tf.float64)
    _, recorded = meta_gradient.record(start)
    assert 0.0 < np.mean(recorded.observations.scale < 1.0) < 1.0
    truth = meta_gradient.taped(start)
    replay = meta_gradient.replayed(start, sample=None, seed=tf.constant([0, 0]))
    np.testing.assert_allclose(flat(replay.gradient), flat(truth.gradient), rtol=1e-10, atol=1e-13)


def window(start, period):
    """The window of `start`, made of periods of so many steps: its records, its end and the carry after."""
    steps = start.objective.steps
    part = start._replace(objective=dataclasses.replace(start.objective, steps=period))
    recorded = []
    for first in range(0, steps, period):
        batches = tf.nest.map_structure(lambda b: b[first : first + period], start.batches)  # noqa: B023
        carry, one = meta_gradient.record(part._replace(batches=batches))
        recorded.append(one)
        part = part._replace(carry=carry)
    last = tf.nest.map_structure(lambda b: b[steps:], start.batches)
    return recorded, meta_gradient.window_end(part._replace(batches=last)), part.carry


@pytest.mark.parametrize(
    ("rule_name", "tasks"),
    [("rnnprop", 1), ("rnnprop", 2), ("dm", 1), pytest.param("dm", 2, marks=pytest.mark.slow)],
)
@pytest.mark.parametrize("period", [2, 6])
def test_a_window_of_periods_is_one_long_period(rule_name, tasks, period):
    objective = Objective(steps=6, log=True, last_batches=2)
    start = period_start(rule_name, objective, tf.float64, tasks)
    truth = meta_gradient.taped(start)
    recorded, (value, sensitivity), carry = window(start, period)
    assert len(recorded) == 6 // period
    every = tf.range(start.problem.size)
    gradient = meta_gradient.replay_window(start.rule, start.network, recorded, every, sensitivity)
    np.testing.assert_allclose(flat(gradient), flat(truth.gradient), rtol=1e-10, atol=1e-13)
    np.testing.assert_allclose(value, truth.objective, rtol=1e-12)
    np.testing.assert_allclose(carry.params, truth.carry.params, rtol=1e-12, atol=1e-14)


@pytest.mark.slow
def test_a_sample_of_a_window_is_unbiased():
    start = period_start("rnnprop", Objective(steps=6), tf.float64)
    truth = flat(meta_gradient.taped(start).gradient)
    recorded, (_, sensitivity), _ = window(start, 2)
    draws = []
    for k in range(300):
        sample = meta_gradient.sample_window(recorded, sensitivity, 20, tf.constant([k, 7]))
        assert not np.isin(sample[0], np.flatnonzero(sensitivity.numpy() == 0)).any()
        draws.append(flat(meta_gradient.replay_window(start.rule, start.network, recorded, *sample)))
    along = np.stack(draws) @ truth / np.linalg.norm(truth)
    assert along.std() > 0
    z = (along.mean() - np.linalg.norm(truth)) / (along.std(ddof=1) / np.sqrt(len(draws)))
    assert abs(z) < 4


@pytest.mark.parametrize("objective", LAST_AND_MEAN, ids=str)
def test_exact_in_float32_too(objective):
    start = period_start("rnnprop", objective, tf.float32)
    truth = flat(meta_gradient.taped(start).gradient)
    replay = flat(meta_gradient.replayed(start, sample=None, seed=tf.constant([0, 0])).gradient)
    assert np.linalg.norm(replay - truth) < 1e-5 * np.linalg.norm(truth)


@pytest.mark.parametrize("objective", LAST_AND_MEAN, ids=str)
def test_a_sample_of_coordinates_is_unbiased(objective):
    start = period_start("rnnprop", objective, tf.float64)
    truth = flat(meta_gradient.taped(start).gradient)

    @tf.function
    def estimate(seed):
        return meta_gradient.replayed(start, sample=20, seed=seed).gradient

    draws = np.stack([flat(estimate(tf.constant([k, 7]))) for k in range(400)])
    error = draws.mean(0) - truth
    standard_error = draws.std(0, ddof=1) / np.sqrt(len(draws))
    # Along the gradient itself, and over all weights at once: z-scores of an unbiased estimate.
    along = draws @ truth / np.linalg.norm(truth)
    assert along.std() > 0
    z = (along.mean() - np.linalg.norm(truth)) / (along.std(ddof=1) / np.sqrt(len(draws)))
    assert abs(z) < 4
    active = standard_error > 0
    assert np.sqrt(np.mean((error[active] / standard_error[active]) ** 2)) < 2


def test_a_coordinate_that_sleeps_is_never_drawn_and_zero_weight_is_never_divided_by():
    sensitivity = tf.constant([[0.0, 2.0, 0.0, 1e-3]])
    chosen, weight = meta_gradient._sample(sensitivity, 64, tf.constant([1, 2]))
    assert set(chosen.numpy()) <= {1, 3}
    counts = np.bincount(chosen, weights=weight, minlength=4)
    np.testing.assert_allclose(counts, [0, 1, 0, 1], rtol=0.3)
    _, weight = meta_gradient._sample(tf.zeros([3, 4]), 8, tf.constant([1, 2]))
    np.testing.assert_array_equal(weight, np.zeros(8))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weights": "first"}, "'last' or 'mean'"),
        ({"steps": 0}, "at least 1 step"),
        ({"last_batches": 0}, "1 last"),
    ],
)
def test_an_impossible_objective_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Objective(**({"steps": 5} | settings))


def test_the_objectives_differ():
    values = [
        float(meta_gradient.taped(period_start("rnnprop", o, tf.float64)).objective) for o in OBJECTIVES
    ]
    assert all(abs(a - b) > 1e-9 for a, b in itertools.combinations(values, 2))

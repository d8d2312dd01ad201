"""The replayed meta-gradient against the plain tape over the unroll."""

import functools
import itertools

import numpy as np
import pytest
import tensorflow as tf

from rnnprop_tf import network as coordinatewise
from rnnprop_tf.network import Architecture
from rnnprop_tf.rule import DMRule, RNNpropRule, SettlingRule
from trainer import datasets, unroll
from trainer.estimators import replay
from trainer.estimators.base import Episode, Objective, Period
from trainer.estimators.replay import Replay
from trainer.estimators.tape import Tape
from trainer.problems.convex import Convex
from trainer.problems.mlp import MLP
from trainer.problems.tricks import Combination, RandomScaling, Tasks

ALPHA = 0.1
RULES = {
    "rnnprop": (RNNpropRule(), Architecture(preprocess=(5,), lstm=(6,))),
    "dm": (DMRule(), Architecture(preprocess=(), lstm=(6, 4))),
    "settling": (SettlingRule(beta_3=0.5), Architecture(preprocess=(5,), lstm=(6,))),
}
PAPER_RULES = ("rnnprop", "dm")


@functools.cache
def after_first_period(rule_name, dtype, tasks):
    """A problem, its seeds, a network and an episode after three steps."""
    rule, architecture = RULES[rule_name]
    mlp = MLP(datasets.load("digits"), hidden=(4,), batch_size=8)
    problem = Combination(RandomScaling(mlp, 1.0), RandomScaling(Convex(3), 1.0))
    problem = Tasks(problem, tasks) if tasks > 1 else problem
    network = coordinatewise.initial_weights(architecture, 3)
    draw_seed = tf.constant([5, 6])
    seeds = tf.random.split(draw_seed, tasks) if tasks > 1 else draw_seed
    network, draw = tf.nest.map_structure(lambda x: tf.cast(x, dtype), (network, problem.draw(seeds)))
    batches = batches_of(problem, seeds, 0, 3, dtype)
    carry = unroll.start(rule, network, draw.params)
    carry, _ = unroll.unroll(problem, rule, network, ALPHA, carry, draw.constants, batches, 3)
    return problem, seeds, network, Episode(carry, draw.constants, ())


def batches_of(problem, seeds, first, count, dtype):
    batches = problem.batches(seeds, tf.constant(first), count)
    return tf.nest.map_structure(lambda b: tf.cast(b, dtype) if b.dtype.is_floating else b, batches)


@functools.cache
def second_period(rule_name, objective, dtype, tasks=1):
    """An episode's second period: the state is not zero and some coordinates have slept."""
    problem, seeds, network, episode = after_first_period(rule_name, dtype, tasks)
    batches = batches_of(problem, seeds, 3, objective.batches, dtype)
    return Period(problem, network, episode, batches, tf.constant([0, 0]), tf.constant(0.0))


@functools.cache
def truth_of(rule_name, objective, dtype, tasks=1):
    """What the plain tape finds for that period."""
    tape = Tape(rule=RULES[rule_name][0], alpha=ALPHA, objective=objective)
    return tape.estimate(second_period(rule_name, objective, dtype, tasks))


def replayed(rule_name, objective, period, sample=1.0):
    estimator = Replay(rule=RULES[rule_name][0], alpha=ALPHA, objective=objective, sample=sample)
    return estimator.estimate(period)


def flat(gradient):
    return np.concatenate([np.ravel(g) for g in tf.nest.flatten(gradient)])


OBJECTIVES = [
    Objective(period=6),
    Objective(period=6, weights="mean"),
    Objective(period=6, last_batches=3),
    Objective(period=6, weights="mean", last_batches=2),
]
LAST_AND_MEAN = [pytest.param(OBJECTIVES[0], marks=pytest.mark.slow), OBJECTIVES[1]]
QUICK_WITH_TASKS = ("rnnprop", OBJECTIVES[-1], 2)
EXACT = [
    case if case[-1] == 1 or case == QUICK_WITH_TASKS else pytest.param(*case, marks=pytest.mark.slow)
    for case in itertools.product(PAPER_RULES, OBJECTIVES, (1, 2))
]


@pytest.mark.parametrize(("rule_name", "objective", "tasks"), EXACT, ids=str)
def test_replaying_every_coordinate_is_the_exact_gradient(rule_name, objective, tasks):
    period = second_period(rule_name, objective, tf.float64, tasks)
    truth = truth_of(rule_name, objective, tf.float64, tasks)
    found = replayed(rule_name, objective, period)
    assert np.abs(flat(truth.gradient)).max() > 1e-6
    np.testing.assert_allclose(flat(found.gradient), flat(truth.gradient), rtol=1e-10, atol=1e-13)
    np.testing.assert_allclose(found.objective, truth.objective, rtol=1e-12)
    ours, theirs = found.episode.carry, truth.episode.carry
    np.testing.assert_allclose(ours.params, theirs.params, rtol=1e-12, atol=1e-14)


def test_the_multiplier_of_a_settling_rule_is_replayed_too():
    objective = Objective(period=6)
    period = second_period("settling", objective, tf.float64)
    episode = period.episode
    _, met = unroll.unroll(
        period.problem, RULES["settling"][0], period.network, ALPHA, *episode[:2], period.batches, 6, True
    )
    assert 0.0 < np.mean(met.observations.scale < 1.0) < 1.0
    truth, found = truth_of("settling", objective, tf.float64), replayed("settling", objective, period)
    np.testing.assert_allclose(flat(found.gradient), flat(truth.gradient), rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("objective", LAST_AND_MEAN, ids=str)
def test_exact_in_float32_too(objective):
    period = second_period("rnnprop", objective, tf.float32)
    truth = flat(truth_of("rnnprop", objective, tf.float32).gradient)
    found = flat(replayed("rnnprop", objective, period).gradient)
    assert np.linalg.norm(found - truth) < 1e-5 * np.linalg.norm(truth)


@pytest.mark.parametrize("objective", LAST_AND_MEAN, ids=str)
def test_a_sample_of_coordinates_is_unbiased(objective):
    period = second_period("rnnprop", objective, tf.float64)
    truth = flat(truth_of("rnnprop", objective, tf.float64).gradient)
    share = 20 / period.problem.size

    @tf.function
    def estimate(seed):
        return replayed("rnnprop", objective, period._replace(seed=seed), share).gradient

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
    chosen, weight = replay.draw_sample(sensitivity, 64, tf.constant([1, 2]))
    assert set(chosen.numpy()) <= {1, 3}
    counts = np.bincount(chosen, weights=weight, minlength=4)
    np.testing.assert_allclose(counts, [0, 1, 0, 1], rtol=0.3)
    _, weight = replay.draw_sample(tf.zeros([3, 4]), 8, tf.constant([1, 2]))
    np.testing.assert_array_equal(weight, np.zeros(8))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weights": "first"}, "'last' or 'mean'"),
        ({"period": 0}, "at least 1 step"),
        ({"last_batches": 0}, "1 last"),
    ],
)
def test_an_impossible_objective_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Objective(**({"period": 5} | settings))


def test_the_objectives_differ():
    values = [float(truth_of("rnnprop", o, tf.float64).objective) for o in OBJECTIVES]
    assert all(abs(a - b) > 1e-9 for a, b in itertools.combinations(values, 2))


def test_an_estimator_that_keeps_nothing_refuses_what_another_one_kept():
    estimator = Tape(rule=RULES["rnnprop"][0], alpha=ALPHA, objective=Objective(period=6))
    assert estimator.tensors() == {}
    assert estimator.fingerprint is None
    estimator.restore({})
    with pytest.raises(ValueError, match=r"checkpoint of Tape, which keeps nothing .* one with buffer: name"):
        estimator.restore({"buffer": np.zeros(3)})

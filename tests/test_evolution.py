"""Evolution's estimates: against the exact derivative, over an episode, and in the outer loop."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from rnnprop_tf import network as coordinatewise
from rnnprop_tf.network import Architecture
from rnnprop_tf.rule import RNNpropRule
from trainer import checkpoint, datasets
from trainer.config import MetaTrainConfig
from trainer.estimators.base import Objective, Period
from trainer.estimators.evolution import FLOOR, LARGEST_DIFFERENCE, Evolution
from trainer.estimators.tape import Tape
from trainer.meta_train import MetaTrainer, train
from trainer.problems.mlp import MLP

NETWORK = coordinatewise.initial_weights(Architecture(2, (), (3,)), 3)
SEED = tf.constant([5, 6])
ONE_STEP = {"rule": RNNpropRule(), "alpha": 0.1, "objective": Objective(period=1)}
TINY = MetaTrainConfig(
    task="digits-nn-sigmoid-100",
    preprocess="",
    lstm="3",
    convex_dimension=0,
    episode_steps=8,
    period=4,
    evolution_pairs=2,
    outer_learning_rate=1e-3,
    iterations=4,
    checkpoint_every=2,
)


def first_period(estimator):
    """The period from the start of an episode."""
    problem = MLP(datasets.load("digits"), hidden=(4,), batch_size=8)
    network = tf.nest.map_structure(tf.constant, NETWORK)
    episode = estimator.begin(problem, network, problem.draw(SEED), SEED)
    batches = problem.batches(SEED, tf.constant(0), estimator.objective.batches)
    return Period(problem, network, episode, batches, SEED, tf.constant(0.0))


def flat(gradient):
    return np.concatenate([np.ravel(g) for g in tf.nest.flatten(gradient)])


def evolution(pairs=2, deviation=0.01, **settings):
    return Evolution(**(ONE_STEP | settings), pairs=pairs, deviation=deviation)


def test_after_one_step_it_is_the_exact_derivative_of_the_logarithm():
    estimator, tape = evolution(pairs=600), Tape(**ONE_STEP)
    found, truth = estimator.estimate(first_period(estimator)), tape.estimate(first_period(tape))
    exact = flat(truth.gradient) / (float(truth.objective) + FLOOR)
    estimate = flat(found.gradient)
    # 600 pairs for 76 weights: the error's length is about a third of the derivative's.
    assert 0.8 < estimate @ exact / (exact @ exact) < 1.2
    assert np.linalg.norm(estimate - exact) < 0.6 * np.linalg.norm(exact)
    np.testing.assert_allclose(found.objective, np.log(truth.objective + FLOOR), atol=1e-3)


def test_copies_start_alike_and_go_apart_and_the_perturbations_stay():
    estimator = evolution(objective=Objective(period=3))
    period = first_period(estimator)
    start = period.episode
    assert start.carry.params.shape == (4, period.problem.size)
    np.testing.assert_array_equal(start.carry.params, np.repeat(start.carry.params[:1], 4, axis=0))
    assert 0.005 < np.std(flat(start.memory)) < 0.02
    after = estimator.estimate(period).episode
    assert len(np.unique(after.carry.params, axis=0)) == 4
    np.testing.assert_array_equal(after.carry.step, np.full(4, 3.0))
    np.testing.assert_array_equal(flat(after.memory), flat(start.memory))
    again = estimator.estimate(period).episode
    np.testing.assert_array_equal(again.carry.params, after.carry.params)


def test_the_first_of_a_pair_has_the_perturbation_and_the_second_its_opposite():
    estimator = evolution(pairs=1, objective=Objective(period=3))
    period = first_period(estimator)
    noise = tf.nest.map_structure(lambda n: n[0], period.episode.memory)
    other = tf.nest.map_structure(tf.negative, period.episode.memory)
    swapped = period._replace(episode=period.episode._replace(memory=other))
    ours, theirs = estimator.estimate(period), estimator.estimate(swapped)
    np.testing.assert_array_equal(ours.episode.carry.params, theirs.episode.carry.params[::-1])
    # The opposite perturbation with the opposite difference: the same estimate.
    np.testing.assert_allclose(flat(ours.gradient), flat(theirs.gradient), rtol=1e-6)
    along = flat(ours.gradient) @ flat(noise)
    assert np.abs(along) == pytest.approx(np.linalg.norm(flat(ours.gradient)) * np.linalg.norm(flat(noise)))


def test_a_copy_that_is_not_finite_is_moved_away_from_and_no_difference_is_above_the_bound():
    estimator = evolution()
    memory = first_period(estimator).episode.memory
    limit = LARGEST_DIFFERENCE / (2 * estimator.deviation**2 * 2)
    first, second = (flat(tf.nest.map_structure(lambda n, k=k: n[k], memory)) for k in range(2))
    for logs, expected in [
        ([np.nan, 1.0, 0.0, 0.0], limit * first),
        ([0.0, 0.0, 1.0, np.inf], -limit * second),
        ([np.nan, np.nan, 7.0, 1.0], limit * second),
    ]:
        found = flat(estimator._gradient(tf.constant(logs), memory))
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_an_episode_makes_one_update_by_the_mean_of_its_estimates():
    trainer = MetaTrainer(TINY)
    gradients = []
    update = trainer._update
    trainer._update = lambda gradient: gradients.append(gradient) or update(gradient)
    before = trainer.weights()
    assert trainer.episodes.plan(0).periods == 2
    assert np.isfinite(trainer.train_episode())
    assert len(gradients) == 1
    assert int(trainer._outer.iterations) == 1
    moved = flat(trainer.weights()) - flat(before)
    # Adam's first step, against the gradient.
    np.testing.assert_allclose(moved, -1e-3 * np.sign(gradients[0]), rtol=0.02)


def test_it_is_resumed_exactly(tmp_path):
    train(TINY, str(tmp_path / "whole"))
    train(dataclasses.replace(TINY, iterations=2), str(tmp_path / "part"))
    train(TINY, str(tmp_path / "part"), resume=True)
    whole, part = (checkpoint.load(checkpoint.path_of(str(tmp_path / name), 4)) for name in ("whole", "part"))
    assert whole.record == part.record
    for name, tensor in whole.tensors.items():
        np.testing.assert_array_equal(tensor, part.tensors[name])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"evolution_pairs": -1}, "evolution_pairs: expected 0 or more"),
        ({"evolution_deviation": 1e-30}, "evolution_deviation: expected from 1e-6 to 1"),
        ({"plain_tape": True}, "evolution_pairs: expected 0 with a teacher, plain_tape, a meta_batch"),
        ({"teacher": "rnnprop-1"}, "evolution_pairs: expected 0 with a teacher"),
        ({"meta_batch_size": 2}, "evolution_pairs: expected 0 with"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TINY, **settings)

"""Imitation: a pupil that does as it is told is left alone, another one learns, warm-up included."""

import dataclasses
import functools

import numpy as np
import pytest
import tensorflow as tf

from rnnprop_tf import network as coordinatewise
from rnnprop_tf import pretrained
from rnnprop_tf.network import Architecture
from rnnprop_tf.rule import DMRule, RNNpropRule
from trainer import datasets, unroll
from trainer.config import MetaTrainConfig
from trainer.estimators.base import Objective, Period
from trainer.estimators.imitation import Imitation, LearnedTeacher, Teacher
from trainer.meta_train import MetaTrainer
from trainer.problems import base
from trainer.problems.mlp import MLP

STEPS = 6
CONFIG = MetaTrainConfig(
    task="digits-nn-sigmoid-100",
    teacher="rnnprop-quick",
    teacher_warmup=9,
    initial="rnnprop-quick",
    convex_dimension=0,
    episode_steps=STEPS,
    period=STEPS // 2,
    sample=0.5,
    iterations=12,
    outer_learning_rate=3e-3,
)


ALPHA = 0.1
RULE = RNNpropRule()


SIZES = Architecture(preprocess=(4,), lstm=(4,))


def weights(seed):
    """Weights of a small network, large enough for visible steps."""
    return tf.nest.map_structure(lambda w: tf.constant(3.0 * w), coordinatewise.initial_weights(SIZES, seed))


def learned(network):
    return LearnedTeacher(RULE, network, reads_pupil=True)


def imitation(teacher, warmup=0, sample=1.0, **settings):
    objective = Objective(period=STEPS)
    return Imitation(
        rule=RULE, objective=objective, teacher=teacher, warmup=warmup, sample=sample,
        **({"alpha": ALPHA} | settings),
    )  # fmt: skip


PROBLEM = MLP(datasets.load("digits"), hidden=(4,), batch_size=8)


def first_period(estimator, pupil, progress=0.0):
    problem, seed = PROBLEM, tf.constant([5, 6])
    episode = estimator.begin(problem, pupil, problem.draw(seed), tf.constant([1, 2]))
    batches = problem.batches(seed, tf.constant(0), STEPS + 1)
    return Period(problem, pupil, episode, batches, tf.constant([1, 2]), tf.constant(progress))


@functools.cache
def taught(warmup=9, sample=1.0, reads_pupil=True):
    """An estimator, and its estimate as a program that tests share."""
    estimator = imitation(LearnedTeacher(RULE, weights(7), reads_pupil=reads_pupil), warmup, sample)
    return estimator, tf.function(estimator.estimate, autograph=False)


def flat(gradient):
    return np.concatenate([np.ravel(g) for g in tf.nest.flatten(gradient)])


def by_hand(period, network, warmup, lstm):
    """The objective of a period step by step, the pupil's carry after it and the teacher's state."""
    carry, shares, error_sum, target_sum, awake_sum = period.episode.carry, [], 0.0, 0.0, 0
    for t in range(STEPS):
        batch = tf.nest.map_structure(lambda b: b[t], period.batches)  # noqa: B023
        constants = period.episode.constants
        _, gradient = base.loss_and_gradient(period.problem, carry.params, constants, batch)
        step = carry.step + 1.0
        seen, _ = RULE.observe(carry.state.accumulators, gradient, step)
        theirs, lstm = RULE.respond(network, seen, lstm)
        ours, state = RULE.update(period.network, carry.state, gradient, step)
        carry = unroll.Carry(carry.params + ALPHA * ours, state, step)
        target = theirs.numpy() * (min(1.0, float(step) / warmup) if warmup else 1.0)
        error, awake = ours.numpy() - target, np.count_nonzero(seen.awake)
        shares.append(np.sum(error**2) / (np.sum(target**2) + 1e-4 * awake))
        error_sum, target_sum, awake_sum = error_sum + error, target_sum + target, awake_sum + awake
    by_period = np.sum(error_sum**2) / (np.sum(target_sum**2) + 1e-4 * awake_sum)
    return np.log(np.mean(shares) + 1e-3) + np.log(by_period + 1e-3), carry, lstm


@pytest.mark.parametrize("reads_pupil", [True, False])
@pytest.mark.parametrize("warmup", [9, pytest.param(0, marks=pytest.mark.slow)])
def test_the_objective_is_how_far_the_pupil_is_from_the_teacher_period_after_period(warmup, reads_pupil):
    estimator, estimate = taught(warmup, reads_pupil=reads_pupil)
    period = first_period(estimator, weights(3))
    lstm = period.episode.carry.state.lstm
    for _ in range(2):
        expected, carry, lstm = by_hand(period, weights(7), warmup, lstm)
        found = estimate(period)
        np.testing.assert_allclose(found.objective, expected, rtol=1e-4)
        # The pupil's path.
        np.testing.assert_allclose(found.episode.carry.params, carry.params, rtol=1e-4, atol=1e-6)
        period = period._replace(episode=found.episode)


def test_the_gradient_is_the_objectives():
    """Along itself, against a finite difference on the same path: what was seen is constant."""
    # A step's bound of 1e-6, so that the path does not change with the weights.
    estimator = imitation(learned(weights(7)), 4, alpha=1e-6)
    period = first_period(estimator, weights(3))

    @tf.function(autograph=False)
    def found(network):
        estimate = estimator.estimate(period._replace(network=network))
        return estimate.objective, estimate.gradient

    _, gradient = found(period.network)
    slope = float(np.sum(flat(gradient) ** 2))
    assert slope > 0.01
    step = 1e-3 / np.sqrt(slope)
    ends = [
        float(found(tf.nest.map_structure(lambda w, g: w + by * g, period.network, gradient))[0])  # noqa: B023
        for by in (step, -step)
    ]
    np.testing.assert_allclose((ends[0] - ends[1]) / (2 * step), slope, rtol=0.02)


def test_who_does_as_the_teacher_is_left_alone():
    same = weights(3)
    estimator = imitation(learned(same))
    found = estimator.estimate(first_period(estimator, same))
    np.testing.assert_allclose(found.objective, 2 * np.log(1e-3), rtol=1e-6)
    np.testing.assert_allclose(flat(found.gradient), 0.0, atol=1e-6)


def test_a_sample_is_of_the_same_coordinates_in_all_periods():
    estimator, estimate = taught(sample=0.03)
    period = first_period(estimator, weights(3))
    lesson = period.episode.memory
    assert lesson.chosen.shape == (int(np.ceil(0.03 * period.problem.size)),)
    assert int(tf.reduce_max(lesson.chosen)) < period.problem.size
    found = estimate(period).episode.memory
    np.testing.assert_array_equal(found.chosen, lesson.chosen)
    whole, estimate_whole = taught()
    of_whole = estimate_whole(first_period(whole, weights(3))).episode.memory.state
    for sampled, of_all in zip(tf.nest.flatten(found.state), tf.nest.flatten(of_whole), strict=True):
        assert np.abs(sampled).max() > 1e-3
        np.testing.assert_allclose(sampled, tf.gather(of_all, lesson.chosen, axis=-1), rtol=1e-4, atol=1e-6)


class SignOfMomentum(Teacher):
    """An optimizer that is not learned and has a state of its own."""

    def initial_state(self, coordinates, dtype):
        return (tf.zeros([coordinates], dtype),)

    def update(self, state, gradient, observation, step):
        momentum = 0.9 * state[0] + gradient
        return -0.5 * tf.sign(momentum), (momentum,)


def test_any_optimizer_may_be_the_teacher():
    """A pupil that is taught for a while does more as it does; its state goes from period to period."""
    estimator = imitation(SignOfMomentum(), alpha=0.01)
    period = first_period(estimator, weights(3))
    estimate = tf.function(estimator.estimate, autograph=False)
    found = estimate(period)
    assert np.abs(found.episode.memory.state[0]).max() > 0
    slope = float(np.sum(flat(found.gradient) ** 2))
    network = tf.nest.map_structure(
        lambda w, g: w - 0.05 / np.sqrt(slope) * g, period.network, found.gradient
    )
    again = estimate(period._replace(network=network))
    # At least half of what the gradient promises.
    assert float(again.objective) < float(found.objective) - 0.5 * 0.05 * np.sqrt(slope)
    assert slope > 1e-4


def test_the_teacher_shares_in_the_steps_of_the_first_half():
    """The first step is the weighted mean of both, in which the teacher's weight falls to 0."""
    estimator = Imitation(
        rule=RULE, alpha=ALPHA, objective=Objective(period=1), teacher=SignOfMomentum(), sample=1.0,
        teacher_share=0.5,
    )  # fmt: skip
    period = first_period(estimator, weights(3))
    estimate = tf.function(estimator.estimate, autograph=False)
    carry, constants, _ = period.episode
    batch = tf.nest.map_structure(lambda b: b[0], period.batches)
    _, gradient = base.loss_and_gradient(period.problem, carry.params, constants, batch)
    ours, _ = RULE.update(period.network, carry.state, gradient, 1.0)
    for progress, weight in ((0.0, 1.0), (0.25, 0.5), (0.5, 0.0), (0.9, 0.0)):
        after = estimate(period._replace(progress=tf.constant(progress))).episode.carry
        expected = carry.params + ALPHA * (weight * -0.5 * tf.sign(gradient) + (1.0 - weight) * ours)
        np.testing.assert_allclose(after.params, expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(after.partner[0], gradient, rtol=1e-5, atol=1e-7)


def test_a_pupil_may_be_smaller_than_its_teacher():
    config = dataclasses.replace(CONFIG, initial="", preprocess="4", lstm="4", iterations=2)
    trainer = MetaTrainer(config)
    assert sum(np.size(w) for w in tf.nest.flatten(trainer.weights())) == 161
    before = trainer.weights()
    assert np.isfinite([trainer.train_episode() for _ in range(2)]).all()
    assert any(
        (a != b).any() for a, b in zip(*map(tf.nest.flatten, (before, trainer.weights())), strict=True)
    )


def test_meta_training_learns_the_warm_up_and_is_resumed_exactly():
    trainer = MetaTrainer(CONFIG)
    losses = [trainer.train_episode() for _ in range(10)]
    saved = trainer.checkpoint()
    losses += [trainer.train_episode() for _ in range(2)]
    assert np.mean(losses[-3:]) < np.mean(losses[:3]) - 0.5  # in logarithms
    expected = [w.numpy() for w in tf.nest.flatten(trainer.network)]
    trainer.restore(saved)
    assert [trainer.train_episode() for _ in range(2)] == losses[10:]
    for ours, theirs in zip(tf.nest.flatten(trainer.network), expected, strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs)


def test_a_run_that_a_teacher_shares_in_cannot_be_made_longer():
    """The teacher's weight in the steps falls with the share of all iterations that is done."""
    longer = dataclasses.replace(CONFIG, iterations=20)
    longer.check_continues(CONFIG.as_dict())
    shared = dataclasses.replace(CONFIG, teacher_share=0.5)
    shared.check_continues(shared.as_dict())
    with pytest.raises(ValueError, match=r"iterations: expected 12, as the teacher's share .* Received: 20"):
        dataclasses.replace(shared, iterations=20).check_continues(shared.as_dict())


def test_what_cannot_be_imitated_is_told():
    for setting in (
        {"plain_tape": True},
        {"last_batches": 4},
        {"convex_dimension": 3},
        {"meta_batch_size": 2},
    ):
        with pytest.raises(
            ValueError, match="teacher: expected none with plain_tape, convex_dimension, meta_b"
        ):
            dataclasses.replace(CONFIG, **setting)
    with pytest.raises(ValueError, match=r"; for one give --convex_dimension=0 --last_batches=1\. Received"):
        dataclasses.replace(CONFIG, convex_dimension=3, last_batches=4)
    with pytest.raises(ValueError, match="teacher_warmup: expected 0 without a teacher"):
        dataclasses.replace(CONFIG, teacher="")
    with pytest.raises(ValueError, match="teacher_share: expected 0 without a teacher"):
        dataclasses.replace(CONFIG, teacher="", teacher_warmup=0, teacher_share=0.5)
    with pytest.raises(ValueError, match="teacher_warmup: expected 0 or more"):
        dataclasses.replace(CONFIG, teacher_warmup=-1)
    with pytest.raises(ValueError, match="teacher_share: expected a share from 0 to 1"):
        dataclasses.replace(CONFIG, teacher_share=1.5)


def test_a_teacher_of_another_rule_and_learning_rate_sees_for_itself(tmp_path):
    """Its steps, not its directions, are what is imitated."""
    network = coordinatewise.initial_weights(Architecture(preprocess=(), lstm=(3,)), 0)
    pretrained.save(str(tmp_path / "dm"), network, DMRule(), 0.01, {})
    teacher = MetaTrainer(dataclasses.replace(CONFIG, teacher=str(tmp_path / "dm"))).estimator.teacher
    state, gradient = teacher.initial_state(5, "float32"), tf.constant([0.1, -2.0, 0.0, 3.0, 1e-7])
    direction, _ = teacher.update(state, gradient, None, tf.constant(1.0))
    expected, _ = DMRule().update(network, DMRule().initial_state(network, 5), gradient, 1.0)
    np.testing.assert_allclose(0.1 * direction, 0.01 * expected, rtol=1e-6)


def test_a_run_does_not_go_on_with_another_teacher(tmp_path):
    folder = str(tmp_path / "teacher")
    for seed in (0, 1):
        pretrained.save(folder, coordinatewise.initial_weights(Architecture(), seed), RNNpropRule(), 0.1, {})
        trainer = MetaTrainer(dataclasses.replace(CONFIG, teacher=folder))
        if seed == 0:
            saved = trainer.checkpoint()
            trainer.restore(saved)
    with pytest.raises(ValueError, match=r"teacher: .* holds other weights than when the run was started"):
        trainer.restore(saved)

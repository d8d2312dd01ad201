"""Imitation: a pupil that does as it is told is left alone, another one learns, warm-up included."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from rnnprop_tf import network as coordinatewise
from rnnprop_tf import pretrained
from rnnprop_tf.network import Architecture
from rnnprop_tf.rule import DMRule, RNNpropRule
from trainer import datasets, imitation, unroll
from trainer.config import MetaTrainConfig
from trainer.imitation import Teacher
from trainer.meta_gradient import Objective, PeriodStart
from trainer.meta_train import MetaTrainer
from trainer.problems.mlp import MLP

STEPS = 6
CONFIG = MetaTrainConfig(
    task="digits-nn-sigmoid-100",
    teacher="rnnprop-quick",
    teacher_warmup=9,
    initial="rnnprop-quick",
    convex_dimension=0,
    steps=STEPS,
    period=STEPS // 2,
    sample=0.5,
    iterations=12,
    learning_rate=3e-3,
)


def weights(seed):
    return tf.nest.map_structure(tf.constant, coordinatewise.initial_weights(Architecture(), seed))


def period_start(pupil):
    rule, problem = RNNpropRule(), MLP(datasets.load("digits"), hidden=(4,), batch_size=8)
    seed = tf.constant([5, 6])
    draw = problem.draw(seed)
    batches = problem.batches(seed, tf.constant(0), STEPS + 1)
    carry = unroll.start(rule, pupil, draw.params)
    return PeriodStart(problem, rule, pupil, 0.1, Objective(steps=STEPS), carry, draw.constants, batches)


def imitated(start, teacher, count=None):
    lesson = imitation.begin(start.problem, teacher, count, tf.constant([1, 2]))
    return imitation.imitated(start, teacher, lesson)


def flat(gradient):
    return np.concatenate([np.ravel(g) for g in tf.nest.flatten(gradient)])


def by_hand(start, teacher, lstm):
    """The objective of a period step by step, the pupil's carry after it and the teacher's state."""
    carry, shares, error_sum, target_sum, awake_sum = start.carry, [], 0.0, 0.0, 0
    for t in range(STEPS):
        batch = tf.nest.map_structure(lambda b: b[t], start.batches)  # noqa: B023
        _, gradient = unroll.loss_and_gradient(start.problem, carry.params, start.constants, batch)
        step = carry.step + 1.0
        seen, _ = start.rule.observe(carry.state.accumulators, gradient, step)
        theirs, lstm = start.rule.respond(teacher.network, seen, lstm)
        ours, state = start.rule.update(start.network, carry.state, gradient, step)
        carry = unroll.Carry(carry.params + 0.1 * ours, state, step)
        target = theirs.numpy() * (min(1.0, float(step) / teacher.warmup) if teacher.warmup else 1.0)
        error, awake = ours.numpy() - target, np.count_nonzero(seen.awake)
        shares.append(np.sum(error**2) / (np.sum(target**2) + 1e-4 * awake))
        error_sum, target_sum, awake_sum = error_sum + error, target_sum + target, awake_sum + awake
    by_period = np.sum(error_sum**2) / (np.sum(target_sum**2) + 1e-4 * awake_sum)
    return np.log(np.mean(shares) + 1e-3) + np.log(by_period + 1e-3), carry, lstm


@pytest.mark.parametrize("warmup", [9, pytest.param(0, marks=pytest.mark.slow)])
def test_the_objective_is_how_far_the_pupil_is_from_the_teacher_period_after_period(warmup):
    start, teacher = period_start(weights(3)), Teacher(weights(7), warmup)
    lesson, lstm = imitation.begin(start.problem, teacher, None, tf.constant([1, 2])), start.carry.state.lstm
    for _ in range(2):
        expected, carry, lstm = by_hand(start, teacher, lstm)
        period = imitation.imitated(start, teacher, lesson)
        np.testing.assert_allclose(period.objective, expected, rtol=1e-4)
        # The pupil's path.
        np.testing.assert_allclose(period.carry.params, carry.params, rtol=1e-4, atol=1e-6)
        start, lesson = start._replace(carry=period.carry), period.lesson


def test_the_gradient_is_the_objectives():
    """Along itself, against a finite difference on the same path: what was seen is constant."""
    teacher, start = Teacher(weights(7), 4), period_start(weights(3))

    @tf.function(autograph=False)
    def found(network):
        # A step's bound of 1e-6, so that the path does not change with the weights.
        period = imitated(start._replace(network=network, alpha=1e-6), teacher)
        return period.objective, period.gradient

    _, gradient = found(start.network)
    slope = float(np.sum(flat(gradient) ** 2))
    assert slope > 0.01
    step = 1e-3 / np.sqrt(slope)
    ends = [
        float(found(tf.nest.map_structure(lambda w, g: w + by * g, start.network, gradient))[0])  # noqa: B023
        for by in (step, -step)
    ]
    np.testing.assert_allclose((ends[0] - ends[1]) / (2 * step), slope, rtol=0.02)


def test_who_does_as_the_teacher_is_left_alone():
    same = weights(3)
    period = imitated(period_start(same), Teacher(same, 0))
    np.testing.assert_allclose(period.objective, 2 * np.log(1e-3), rtol=1e-6)
    np.testing.assert_allclose(flat(period.gradient), 0.0, atol=1e-6)


def test_a_sample_is_of_the_same_coordinates_in_all_periods():
    start, teacher = period_start(weights(3)), Teacher(weights(7), 4)
    lesson = imitation.begin(start.problem, teacher, 10, tf.constant([1, 2]))
    assert lesson.chosen.shape == (10,)
    assert int(tf.reduce_max(lesson.chosen)) < start.problem.size
    period = imitation.imitated(start, teacher, lesson)
    np.testing.assert_array_equal(period.lesson.chosen, lesson.chosen)
    whole = imitated(start, teacher)
    for sampled, of_all in zip(
        tf.nest.flatten(period.lesson.lstm), tf.nest.flatten(whole.lesson.lstm), strict=True
    ):
        assert np.abs(sampled).max() > 1e-3
        np.testing.assert_allclose(sampled, tf.gather(of_all, lesson.chosen, axis=-1), rtol=1e-4, atol=1e-6)


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


def test_what_cannot_be_imitated_is_told(tmp_path):
    for setting in ({"doubling": True}, {"plain_tape": True}, {"log_loss": True}, {"last_batches": 4}):
        with pytest.raises(ValueError, match="teacher: expected none with doubling, plain_tape, log_loss"):
            dataclasses.replace(CONFIG, **setting)
    for setting in ({"convex_dimension": 3}, {"tasks": 2}):
        with pytest.raises(ValueError, match=r"teacher: expected none with .*convex_dimension, tasks"):
            dataclasses.replace(CONFIG, **setting)
    with pytest.raises(ValueError, match="teacher_warmup: expected 0 without a teacher"):
        dataclasses.replace(CONFIG, teacher="")
    with pytest.raises(ValueError, match="teacher_warmup: expected 0 or more"):
        dataclasses.replace(CONFIG, teacher_warmup=-1)
    pretrained.save(
        str(tmp_path / "dm"),
        coordinatewise.initial_weights(Architecture(preprocess=()), 0),
        DMRule(),
        0.1,
        {},
    )
    with pytest.raises(ValueError, match="teacher: expected weights of a RNNpropRule"):
        MetaTrainer(dataclasses.replace(CONFIG, teacher=str(tmp_path / "dm")))
    slower = str(tmp_path / "slower")
    pretrained.save(slower, coordinatewise.initial_weights(Architecture(), 0), RNNpropRule(), 0.01, {})
    with pytest.raises(ValueError, match=r"with alpha 0.1. Received: .*slower, those of a .* with 0.01"):
        MetaTrainer(dataclasses.replace(CONFIG, teacher=slower))


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

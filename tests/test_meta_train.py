"""Meta-training: it learns, it can be stopped at any time, and nothing that is not finite gets in."""

import dataclasses
import functools
import itertools
import os
import random
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf
from absl import flags

from rnnprop_tf import network as coordinatewise
from rnnprop_tf import pretrained
from rnnprop_tf.network import Architecture
from rnnprop_tf.rule import DMRule
from trainer import checkpoint, commands, episodes, export, files, meta_train, train
from trainer.checkpoint import Checkpoint
from trainer.config import PRESETS, MetaTrainConfig, preset
from trainer.episodes import Episodes, Plan
from trainer.estimators.tape import Tape
from trainer.meta_train import MetaTrainer
from trainer.problems.tricks import Combination, RandomScaling, Tasks

TINY = MetaTrainConfig(
    task="digits-nn-sigmoid-100",
    convex_dimension=3,
    episode_steps=4,
    period=2,
    plain_tape=True,  # the quickest to compile at this length
    iterations=5,
    outer_learning_rate=1e-2,
    checkpoint_every=2,
)
REPLAY = dataclasses.replace(TINY, plain_tape=False, sample=0.1)
TINY_FLAGS = [
    f"--{name}={value}"
    for name, value in dataclasses.asdict(TINY).items()
    if value != getattr(PRESETS["demo"], name)
]


@functools.cache
def compiled(config):
    trainer = MetaTrainer(config)
    return trainer, trainer.checkpoint()


def fresh(config):
    """A trainer at its start; compiled once for each config, as the checkpoint is all of its state."""
    trainer, start = compiled(config)
    trainer.restore(start)
    return trainer


def compiled_trainers():
    """Has `meta_train.train` take `fresh` ones."""
    return mock.patch.object(meta_train, "MetaTrainer", lambda config, *_: fresh(config))


def tensors(trainer):
    return {name: np.copy(value) for name, value in trainer.checkpoint().tensors.items()}


def assert_same(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)


def last_checkpoint(folder):
    return files.read(checkpoint.path_of(str(folder), checkpoint.iterations(str(folder))[-1]))


@functools.cache
def uninterrupted(config=TINY):
    """The objectives, tensors and record of five iterations."""
    trainer = fresh(config)
    losses = [trainer.train_episode() for _ in range(5)]
    return losses, tensors(trainer), trainer.checkpoint().record


# It learns.


def test_a_short_meta_training_beats_its_own_start():
    """Seeded; the validation runs' data and starts are not the training's."""
    config = dataclasses.replace(
        PRESETS["demo"], preprocess="8", lstm="8", episode_steps=40, iterations=60, cosine_decay=False,
        sample=0.3, last_batches=1,
    )  # fmt: skip
    trainer = MetaTrainer(config)
    before = trainer.validation_loss()
    first = np.mean([trainer.train_episode() for _ in range(10)])
    for _ in range(40):
        trainer.train_episode()
    last = np.mean([trainer.train_episode() for _ in range(10)])
    assert last < 0.9 * first
    assert trainer.validation_loss() < 0.7 * before
    assert trainer.skipped_updates == 0


def test_dm_is_trained_and_validated(tmp_path):
    config = dataclasses.replace(
        preset("paper-dm"),
        task=TINY.task,
        episode_steps=4,
        period=2,
        plain_tape=True,
        iterations=2,
        checkpoint_every=1,
    )
    meta_train.train(config, str(tmp_path))
    saved = [checkpoint.load(checkpoint.path_of(str(tmp_path), k)) for k in (1, 2)]
    assert all(0 < s.record["validation_loss"] < 10 for s in saved)
    assert saved[0].record["validation_loss"] != saved[1].record["validation_loss"]
    assert sum(t.size for name, t in saved[0].tensors.items() if name.startswith("network.")) == 5_141


def test_validation_is_on_the_plain_task_and_changes_nothing():
    trainer = fresh(TINY)
    before = tensors(trainer)
    loss = trainer.validation_loss()
    assert trainer.validation_loss() == loss
    assert_same(tensors(trainer), before)
    assert trainer._validation._problem.size == 65 * 20 + 21 * 10  # no convex part


def test_the_tricks_are_those_of_the_config():
    [problem] = fresh(TINY).episodes.problems
    assert isinstance(problem, Combination)
    assert [(type(p), p._log_range) for p in (problem._f, problem._g)] == [
        (RandomScaling, 3.0),
        (RandomScaling, 1.0),
    ]
    plain = dataclasses.replace(TINY, scaling=0.0, convex_dimension=0)
    assert episodes.problem_of(plain, TINY.task, None, 1).size == problem.size - 3
    many = episodes.problem_of(TINY, TINY.task, None, 3)
    assert isinstance(many, Tasks)
    assert many.size == 3 * problem.size


def test_the_rules_have_the_paper_s_sizes():
    for recipe, size in (("paper-rnnprop", 6_641), ("paper-dm", 5_141)):
        trainer = MetaTrainer(dataclasses.replace(preset(recipe), task=TINY.task, plain_tape=True))
        assert sum(np.size(w) for w in tf.nest.flatten(trainer.weights())) == size


def test_several_tasks_an_update_are_so_many_episodes():
    config = dataclasses.replace(TINY, meta_batch_size=2)
    trainer = MetaTrainer(config)
    start = tensors(trainer)
    losses = [trainer.train_episode() for _ in range(2)]
    assert np.isfinite(losses).all()
    assert trainer.skipped_updates == 0
    assert any(not np.array_equal(start[name], value) for name, value in tensors(trainer).items())


def test_replaying_all_coordinates_trains_as_the_plain_tape_does():
    replay = MetaTrainer(dataclasses.replace(TINY, plain_tape=False, sample=1.0))
    replayed_losses = [replay.train_episode() for _ in range(5)]
    losses, expected, _ = uninterrupted()
    np.testing.assert_allclose(replayed_losses, losses, rtol=1e-4)
    start = compiled(TINY)[1].tensors
    for name, value in tensors(replay).items():
        if name.startswith("network."):
            moved = np.linalg.norm(expected[name] - start[name])
            assert np.linalg.norm(value - expected[name]) < 1e-2 * moved, name


def test_a_sampled_replay_is_another_estimate_and_as_good_a_start():
    exact, sampled = (uninterrupted(config)[0] for config in (TINY, REPLAY))
    np.testing.assert_allclose(sampled, exact, rtol=0.1)
    assert sampled != exact


def test_an_episode_makes_one_update_a_period():
    trainer = fresh(TINY)
    trainer.train_episode()
    assert int(trainer._outer.iterations.numpy()) == 2
    assert trainer.iteration == 1


def test_episodes_differ_and_seeds_differ():
    def start(trainer, iteration):
        [problem] = trainer.episodes.problems
        return trainer._begin(problem, tf.constant(iteration)).carry.params.numpy()

    starts = [start(fresh(TINY), k) for k in (0, 1)]
    starts.append(start(MetaTrainer(dataclasses.replace(TINY, seed=1)), 0))
    assert len({start.tobytes() for start in starts}) == 3


# Mixtures.

MIXED = dataclasses.replace(
    TINY,
    task="digits-nn-sigmoid-100,digits-nn-elu-b32-100",
    longest_episode=8,
    mixed_scaling=True,
    iterations=8,
    cosine_decay=True,
)


def test_an_episode_draws_its_problem_and_its_length():
    drawn = Episodes(dataclasses.replace(MIXED, episode_steps=100, period=50, longest_episode=1_600), None, 1)
    plans = [drawn.plan(iteration) for iteration in range(600)]
    shares = [np.mean([plan.problem is problem for plan in plans]) for problem in drawn.problems]
    np.testing.assert_allclose(shares, [0.5, 0.5], atol=0.07)
    periods = np.array([plan.periods for plan in plans])
    assert (periods.min(), periods.max()) == (2, 32)
    # Log-uniform: a quarter each for a factor of two.
    quarters = np.histogram(np.log2(periods), [1, 2, 3, 4, 5.01])[0] / 600
    np.testing.assert_allclose(quarters, [0.25] * 4, atol=0.07)


def test_a_task_may_be_named_twice_and_have_shorter_episodes():
    task = "digits-nn-sigmoid-100:400,digits-nn-sigmoid-100:400,digits-nn-elu-b32-100"
    config = dataclasses.replace(MIXED, task=task, episode_steps=100, period=50, longest_episode=1_600)
    assert config.entries == [("digits-nn-sigmoid-100", 400)] * 2 + [("digits-nn-elu-b32-100", 1_600)]
    drawn = Episodes(config, None, 1)
    twice, again, once = drawn.problems
    assert twice is again
    plans = [drawn.plan(iteration) for iteration in range(300)]
    lengths = {problem: [p.periods for p in plans if p.problem is problem] for problem in (twice, once)}
    assert 150 < len(lengths[twice]) < 250
    assert (min(lengths[twice]), max(lengths[twice])) == (2, 8)
    assert max(lengths[once]) > 24


def test_a_paper_s_episode_is_always_the_same_plan():
    drawn = fresh(TINY).episodes
    for iteration in range(20):
        assert drawn.plan(iteration) == Plan(drawn.problems[0], 2)


def test_a_mixture_is_resumed_exactly(tmp_path):
    whole = fresh(MIXED)
    for _ in range(3):
        whole.train_episode()
    checkpoint.save(str(tmp_path), whole.checkpoint())
    for _ in range(5):
        whole.train_episode()
    expected = tensors(whole)
    resumed = fresh(MIXED)
    resumed.restore(checkpoint.load(checkpoint.path_of(str(tmp_path), 3)))
    for _ in range(5):
        resumed.train_episode()
    assert_same(tensors(resumed), expected)


def test_the_learning_rate_falls_along_a_cosine_of_the_iterations():
    trainer = fresh(MIXED)
    rates = []
    for trainer.iteration in (0, 2, 4, 8):
        rates.append(trainer._outer_learning_rate())
    np.testing.assert_allclose(rates, np.array([1.0, 0.5 + 0.5**1.5, 0.5, 0.0]) * 1e-2, atol=1e-12)
    trainer.iteration = 4
    trainer.train_episode()
    np.testing.assert_allclose(trainer._outer.learning_rate, 5e-3, rtol=1e-6)


def test_training_begins_with_given_weights_of_the_same_rule(tmp_path):
    config = dataclasses.replace(TINY, initial="rnnprop-quick")
    tf.nest.map_structure(
        np.testing.assert_array_equal,
        MetaTrainer(config).weights(),
        pretrained.load("rnnprop-quick").network,
    )
    message = (
        r"initial: expected weights of a DMRule\(p=10.0\) with alpha 0.1\. Received: {}, those of a {}\("
    )
    with pytest.raises(ValueError, match=message.format("rnnprop-quick", "RNNpropRule")):
        MetaTrainer(dataclasses.replace(config, rule="dm"))
    with pytest.raises(
        ValueError, match=r"preprocess='20' and lstm='7'\. Received: .* --preprocess=20 --lstm=20,20"
    ):
        MetaTrainer(dataclasses.replace(config, lstm="7"))
    network = coordinatewise.initial_weights(Architecture(preprocess=(), lstm=(3,)), 0)
    pretrained.save(tmp_path / "p5", network, DMRule(p=5.0))
    with pytest.raises(ValueError, match=message.format(".*p5", "DMRule")):
        MetaTrainer(dataclasses.replace(config, rule="dm", initial=str(tmp_path / "p5")))


# The moving average.


def test_the_moving_average_is_of_means_of_100_with_decay_09():
    trainer = fresh(TINY)
    losses = np.random.default_rng(0).uniform(size=350)
    for k, loss in enumerate(losses):
        assert (trainer.average_loss is None) == (k < 100)
        trainer._average(loss)
    means = losses[:300].reshape(3, 100).mean(1)
    expected = 0.9 * (0.9 * means[0] + 0.1 * means[1]) + 0.1 * means[2]
    np.testing.assert_allclose(trainer.average_loss, expected, rtol=1e-12)
    np.testing.assert_array_equal(trainer.block_losses, losses[300:])


def test_a_loss_that_is_not_finite_does_not_poison_the_average():
    trainer = fresh(TINY)
    for loss in [1.0] * 60 + [float("nan"), float("inf")] + [2.0] * 40:
        trainer._average(loss)
    np.testing.assert_allclose(trainer.average_loss, 1.4)


# What is not finite.


@pytest.mark.parametrize("plain_tape", [True, False])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_meta_gradient_that_is_not_finite_changes_nothing_and_is_counted(plain_tape, bad):
    trainer = fresh(TINY if plain_tape else REPLAY)
    trainer.train_episode()
    before = tensors(trainer)
    begin = trainer._begin

    def poisoned(problem, iteration):
        episode = begin(problem, iteration)
        return episode._replace(carry=episode.carry._replace(params=episode.carry.params * bad))

    with mock.patch.object(trainer, "_begin", poisoned):
        assert not np.isfinite(trainer.train_episode())
    assert trainer.skipped_updates == 2
    assert_same(tensors(trainer), before)
    assert len(trainer.block_losses) == 1
    assert np.isfinite(trainer.train_episode())
    assert trainer.skipped_updates == 2
    assert any(not np.array_equal(before[name], value) for name, value in tensors(trainer).items())


@pytest.mark.parametrize("clipnorm", [0.0, 1.0])
def test_a_meta_gradient_whose_square_overflows_is_skipped_too(clipnorm):
    """Adam and clipping square it: one such update would leave NaN weights, and every later one skipped."""
    trainer = MetaTrainer(dataclasses.replace(TINY, clipnorm=clipnorm))
    before = tensors(trainer)
    estimate = Tape.estimate

    def huge(tape, period):
        found = estimate(tape, period)
        return found._replace(gradient=tf.nest.map_structure(lambda g: 0.0 * g + 1e20, found.gradient))

    with mock.patch.object(Tape, "estimate", huge):
        trainer.train_episode()
    assert trainer.skipped_updates == 2
    assert_same(tensors(trainer), before)


# Stopping and going on.


@pytest.mark.parametrize(("config", "stop"), [(TINY, 1), (REPLAY, 3)], ids=["plain tape", "replay"])
def test_a_checkpoint_holds_everything(tmp_path, config, stop):
    """Through a file into another trainer, whose own state was another one."""
    first = fresh(config)
    losses = [first.train_episode() for _ in range(stop)]
    checkpoint.save(str(tmp_path), first.checkpoint())
    second = MetaTrainer(config)
    second.train_episode()
    second.restore(checkpoint.load(checkpoint.path_of(str(tmp_path), stop)))
    losses += [second.train_episode() for _ in range(5 - stop)]
    expected_losses, expected, record = uninterrupted(config)
    assert losses == expected_losses
    assert_same(tensors(second), expected)
    assert second.checkpoint().record == record


@dataclasses.dataclass(frozen=True, kw_only=True)
class Counting(Tape):
    """Keeps how many periods it has seen, as an estimator with a buffer of its own would."""

    seen: tf.Variable

    def estimate(self, period):
        self.seen.assign_add(1)
        return super().estimate(period)

    def tensors(self):
        return {"seen": np.asarray(self.seen)}

    def restore(self, tensors):
        self.seen.assign(tensors["seen"])


def test_what_an_estimator_keeps_is_in_the_checkpoint(tmp_path):
    rule, alpha, objective = TINY.update_rule, TINY.alpha, TINY.objective
    trainers = []
    for _ in range(2):
        counting = Counting(rule=rule, alpha=alpha, objective=objective, seen=tf.Variable(0))
        with mock.patch.object(meta_train.estimators, "estimator", return_value=counting):
            trainers.append(MetaTrainer(TINY))
    for _ in range(2):
        trainers[0].train_episode()
    checkpoint.save(str(tmp_path), trainers[0].checkpoint())
    saved = checkpoint.load(checkpoint.path_of(str(tmp_path), 2))
    # One trace, but each period counts.
    assert saved.tensors["estimator.seen"] == 2 * TINY.episode_steps // TINY.period
    trainers[1].restore(saved)
    assert trainers[1].estimator.tensors() == trainers[0].estimator.tensors()
    with pytest.raises(ValueError, match=r"keeps nothing of its own\. Received one with seen"):
        fresh(TINY).restore(saved)


def test_averages_and_counts_are_restored():
    trainer = fresh(TINY)
    trainer.average_loss, trainer.block_losses, trainer.skipped_updates = 1.25, [0.1, 0.2], 7
    saved = trainer.checkpoint()
    fresh(TINY)
    assert (trainer.average_loss, trainer.block_losses, trainer.skipped_updates) == (None, [], 0)
    trainer.restore(saved)
    assert (trainer.average_loss, trainer.block_losses, trainer.skipped_updates) == (1.25, [0.1, 0.2], 7)


TWO_RUNS = """
import sys
from trainer import commands, train
*arguments, whole, killed = sys.argv
for folder in (whole, killed):
    sys.argv = [*arguments, f"--run_dir={folder}"]
    try:
        commands.run(train.main)
    except SystemExit as end:
        assert not end.code, end.code
"""


def test_a_killed_run_goes_on_to_the_same_bytes(tmp_path):
    """kill -9 between two checkpoints, then the real command with --resume.

    A process makes the whole run and, without starting again, the one that is killed: starting takes longer.
    """
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    settings = ["--preset=demo", *TINY_FLAGS, "--iterations=40", "--checkpoint_every=4"]
    process = subprocess.Popen(
        [sys.executable, "-c", TWO_RUNS, *settings, str(whole), str(killed)], stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while not checkpoint.iterations(str(killed)):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert checkpoint.iterations(str(killed))[-1] < 40
    resume = [sys.executable, "-m", "trainer.train", *settings, f"--run_dir={killed}", "--resume"]
    subprocess.run(resume, check=True, stderr=subprocess.DEVNULL)
    assert checkpoint.iterations(str(whole)) == list(range(4, 41, 4))
    assert checkpoint.iterations(str(killed)) == list(range(4, 41, 4))
    assert last_checkpoint(killed) == last_checkpoint(whole)
    assert any(name.startswith("events.out") for name in os.listdir(whole))


def test_the_library_call_trains_as_the_steps_do(tmp_path):
    """Checkpoints at their multiples and at the end; a finished run resumes to itself."""
    meta_train.train(TINY, str(tmp_path))
    assert checkpoint.iterations(str(tmp_path)) == [2, 4, 5]
    saved = checkpoint.load(checkpoint.path_of(str(tmp_path), 5))
    _, expected, record = uninterrupted()
    assert_same(dict(saved.tensors), expected)
    assert saved.record == record
    content = last_checkpoint(tmp_path)
    meta_train.train(TINY, str(tmp_path), resume=True)
    assert last_checkpoint(tmp_path) == content


def test_an_old_run_is_neither_overwritten_nor_mixed_up(tmp_path):
    folder = str(tmp_path)
    checkpoint.save(folder, fresh(TINY).checkpoint())
    content = last_checkpoint(folder)
    with pytest.raises(ValueError, match=f"{folder} holds a run already. Resume it with --resume"):
        meta_train.train(TINY, folder)
    other = dataclasses.replace(TINY, alpha=0.2, seed=4)
    expected = "another config: alpha was 0.1, is 0.2; seed was 0, is 4. Give the same settings"
    with pytest.raises(ValueError, match=re.escape(expected)):
        meta_train.train(other, folder, resume=True)
    assert last_checkpoint(folder) == content


def test_a_run_with_settings_of_another_version_is_refused(tmp_path):
    saved = fresh(TINY).checkpoint()
    saved.record["config"] |= {"annealed": True}
    checkpoint.save(str(tmp_path), saved)
    with pytest.raises(ValueError, match=r"this version does not know: annealed\. Use the version"):
        meta_train.train(TINY, str(tmp_path), resume=True)


VERSION_0_1 = {
    "tasks": 1,
    "steps": 4,
    "longest": 0,
    "learning_rate": 1e-2,
    "doubling": False,
    "log_loss": False,
}
GONE_SETTINGS = (*VERSION_0_1, "meta_batch_size", "episode_steps", "longest_episode", "outer_learning_rate")


def as_version_0_1_wrote_it(state):
    """The checkpoint with the settings of that version by their names then."""
    younger = (*GONE_SETTINGS, "preprocess", "lstm", "teacher_share")
    kept = {name: value for name, value in state.record["config"].items() if name not in younger}
    return Checkpoint(state.tensors, state.record | {"config": kept | VERSION_0_1})


def test_a_run_of_version_0_1_goes_on(tmp_path):
    checkpoint.save(str(tmp_path), as_version_0_1_wrote_it(fresh(TINY).checkpoint()))
    with compiled_trainers():
        meta_train.train(TINY, str(tmp_path), resume=True)
    _, expected, record = uninterrupted()
    saved = checkpoint.load(checkpoint.path_of(str(tmp_path), 5))
    assert_same(dict(saved.tensors), expected)
    assert saved.record == record
    assert MetaTrainConfig.from_dict({"rule": "dm"}).architecture == Architecture(preprocess=())


def test_a_run_with_a_setting_that_is_gone_is_read_but_does_not_go_on(tmp_path):
    saved = as_version_0_1_wrote_it(fresh(TINY).checkpoint())
    saved.record["config"]["doubling"] = True
    assert MetaTrainConfig.from_dict(saved.record["config"]) == TINY
    checkpoint.save(str(tmp_path), saved)
    with pytest.raises(
        ValueError, match=r"settings that this version does not have: doubling\. Use version 0.1"
    ):
        meta_train.train(TINY, str(tmp_path), resume=True)


def test_a_folder_that_cannot_be_written_is_named():
    with pytest.raises(OSError, match="Cannot write to /dev/null/run: "):
        meta_train.train(TINY, "/dev/null/run")


def test_a_finished_run_is_extended_to_more_iterations(tmp_path):
    folder = str(tmp_path)
    meta_train.train(dataclasses.replace(TINY, iterations=3), folder)
    with compiled_trainers():
        meta_train.train(TINY, folder, resume=True)
    assert checkpoint.iterations(folder) == [2, 3, 4, 5]
    saved = checkpoint.load(checkpoint.path_of(folder, 5))
    _, expected, record = uninterrupted()
    assert_same(dict(saved.tensors), expected)
    assert saved.record == record
    with pytest.raises(ValueError, match=r"another config: iterations was 5, is 4. Give the same settings"):
        meta_train.train(dataclasses.replace(TINY, iterations=4), folder, resume=True)


def test_a_run_whose_learning_rate_ends_with_it_cannot_be_extended(tmp_path):
    decaying = dataclasses.replace(TINY, cosine_decay=True)
    checkpoint.save(str(tmp_path), MetaTrainer(decaying).checkpoint())
    message = (
        "iterations: expected 5, as the cosine decay of this run's learning rate ended there. Received: 6"
    )
    with pytest.raises(ValueError, match=message):
        meta_train.train(dataclasses.replace(decaying, iterations=6), str(tmp_path), resume=True)


def interrupted_by(*signals):
    """Has them arrive in the third episode."""
    episode = MetaTrainer.train_episode

    def train_episode(trainer):
        if trainer.iteration == 2:
            for number in signals:
                signal.raise_signal(number)
        return episode(trainer)

    return mock.patch.object(MetaTrainer, "train_episode", train_episode)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_loses_nothing_and_leaves_no_trace(tmp_path, number):
    """The run goes on from between two checkpoints to the same bytes; the best one is chosen as ever."""
    config = dataclasses.replace(TINY, checkpoint_every=5, select="validation")
    folder, before = str(tmp_path), signal.getsignal(number)
    with mock.patch.object(MetaTrainer, "validation_loss", lambda trainer: float(trainer.iteration)):
        with (
            compiled_trainers(),
            interrupted_by(number),
            pytest.raises(KeyboardInterrupt, match="Interrupted after 3 episodes; a check"),
        ):
            meta_train.train(config, folder)
        assert signal.getsignal(number) == before
        assert checkpoint.iterations(folder) == [3]
        with pytest.raises(ValueError, match=r"No checkpoint in .* Name a checkpoint with --iteration"):
            export.best_checkpoint(folder)
        with compiled_trainers():
            meta_train.train(config, folder, resume=True)
    assert checkpoint.iterations(folder) == [3, 5]
    saved = checkpoint.load(checkpoint.path_of(folder, 5))
    _, expected, record = uninterrupted()
    assert_same(dict(saved.tensors), expected)
    assert saved.record == record | {"config": config.as_dict(), "validation_loss": 5.0}
    assert export.best_checkpoint(folder).record["iteration"] == 5


@pytest.fixture
def python_s_handler():
    """Which processes in the background do not have: their parents have them ignore Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("python_s_handler")
def test_a_second_interrupt_stops_at_once(tmp_path):
    interrupted = interrupted_by(signal.SIGINT, signal.SIGINT)
    with compiled_trainers(), interrupted, pytest.raises(KeyboardInterrupt) as stop:
        meta_train.train(TINY, str(tmp_path))
    assert str(stop.value) == ""
    assert checkpoint.iterations(str(tmp_path)) == [2]


def test_a_thread_trains_without_handlers(tmp_path):
    """Python sets signal handlers in the main thread only."""
    with compiled_trainers():
        thread = threading.Thread(target=meta_train.train, args=(TINY, str(tmp_path)))
        thread.start()
        thread.join()
    assert checkpoint.iterations(str(tmp_path)) == [2, 4, 5]


def test_a_full_disk_leaves_the_last_checkpoint_to_go_on_from(tmp_path):
    """A limit on the size of files stands for the disk."""
    folder = str(tmp_path)
    save = checkpoint.save

    def save_to_full_disk(folder, state):
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000 if state.record["iteration"] == 4 else soft, hard))
        try:
            save(folder, state)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    with compiled_trainers():
        with mock.patch.object(checkpoint, "save", save_to_full_disk), pytest.raises(OSError, match="annot"):
            meta_train.train(TINY, folder)
        assert [name for name in os.listdir(folder) if not name.startswith("events")] == [
            "checkpoint-00000002.safetensors"
        ]
        meta_train.train(TINY, folder, resume=True)
    assert_same(dict(checkpoint.load(checkpoint.path_of(folder, 5)).tensors), uninterrupted()[1])


def test_kill_9_during_a_checkpoint_leaves_whole_ones(tmp_path):
    folder, rng = str(tmp_path), random.Random(8)
    state = fresh(TINY).checkpoint()
    there = set()
    for _ in range(20):
        child = os.fork()
        if child == 0:
            try:
                for k in itertools.count(1):
                    checkpoint.save(folder, Checkpoint(state.tensors, state.record | {"iteration": k % 50}))
            finally:
                os._exit(1)
        time.sleep(rng.uniform(0.01, 0.1))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        for k in checkpoint.iterations(folder):
            saved = checkpoint.load(checkpoint.path_of(folder, k))
            assert saved.record["iteration"] == k
            assert_same(dict(saved.tensors), dict(state.tensors))
            there.add(k)
    assert len(there) > 3


def test_the_progress_bar_shows_an_average_once_there_is_one(tmp_path, capsys):
    with compiled_trainers(), mock.patch.object(meta_train, "AVERAGED_ITERATIONS", 15):
        meta_train.train(dataclasses.replace(TINY, iterations=21), str(tmp_path))
    shown = capsys.readouterr().err
    before, after = shown.split("average=", 1)
    assert "10/21" in before
    assert "None" not in shown
    assert re.match(r"\d\.\d{3}", after)


@pytest.mark.parametrize("kept", [0, 7, 100, 5_000, -1])
def test_a_truncated_checkpoint_is_named(tmp_path, kept):
    folder = str(tmp_path)
    checkpoint.save(folder, fresh(TINY).checkpoint())
    path = checkpoint.path_of(folder, 0)
    files.write_atomically(path, files.read(path)[:kept])
    message = f"{path} is not a whole checkpoint .*Remove it to go on from the one before"
    with pytest.raises(ValueError, match=message):
        meta_train.train(TINY, folder, resume=True)


def test_other_files_are_no_checkpoints(tmp_path):
    for name in ("checkpoint-1.safetensors", "checkpoint-00000002.safetensors.abc.tmp", "events"):
        (tmp_path / name).write_text("")
    assert checkpoint.iterations(str(tmp_path)) == []
    assert checkpoint.iterations(str(tmp_path / "nothing")) == []


# Configs.


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rule": "adam"}, "rule: expected one of rnnprop, rnnprop-annealing, dm. Received: 'adam'"),
        ({"task": "x"}, "No task named 'x'. Expected one of mnist-nn-sigmoid-100"),
        (
            {"task": "digits-nn-relu-100:x"},
            "task: expected NAME or NAME:STEPS, with commas between",
        ),
        ({"task": "digits-nn-relu-100:99"}, "task: expected NAME or NAME:STEPS with 100 steps or more. "),
        ({"select": "test"}, "select: expected train or validation. Received: 'test'"),
        ({"loss_weights": "first"}, "loss_weights: expected last or mean. Received: 'first'"),
        ({"lstm": ""}, "lstm: expected layers of 1 or more units, such as 20,20. Received: ''"),
        ({"lstm": "20;20"}, "lstm: expected layers of 1 or more units, such as 20,20. Received: '20;20'"),
        ({"preprocess": "0"}, "preprocess: expected layers of 1 or more units, such as 20,20, or nothing"),
        ({"longest_episode": 99}, "longest_episode: expected 0, or 100 or more. Received: 99"),
        ({"episode_steps": 30}, "episode_steps: expected a multiple of the period, 20. Received: 30"),
        ({"sample": 0.0}, "sample: expected a share above 0, up to 1. Received: 0.0"),
        ({"sample": 1.1}, "sample: expected a share above 0, up to 1. Received: 1.1"),
        ({"sample": float("nan")}, "sample: expected a share above 0, up to 1. Received: nan"),
        ({"seed": -1}, "seed: expected a number from 0 to 2^31 - 1. Received: -1"),
        ({"seed": 2**31}, "seed: expected a number from 0 to 2^31 - 1. Received: 2147483648"),
        *(
            ({name: 0}, f"{name}: expected at least 1. Received: 0")
            for name in ("meta_batch_size", "episode_steps", "period", "last_batches", "iterations")
        ),
        ({"checkpoint_every": 0}, "checkpoint_every: expected at least 1. Received: 0"),
        *(
            ({name: value}, f"{name}: expected 0 or more. Received: {value!r}")
            for name in ("scaling", "convex_scaling", "clipnorm")
            for value in (-0.5, float("nan"), float("inf"))
        ),
        *(
            ({name: -1}, f"{name}: expected 0 or more. Received: -1")
            for name in ("convex_dimension", "longest_episode")
        ),
        *(
            ({name: value}, f"{name}: expected a positive number. Received: {value!r}")
            for name in ("alpha", "outer_learning_rate")
            for value in (0.0, -1.0, float("nan"), float("inf"))
        ),
    ],
    ids=str,
)
def test_an_impossible_config_is_refused(settings, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        dataclasses.replace(preset("paper-rnnprop"), **settings)


def test_presets_are_the_paper_s_where_they_say_so():
    paper = preset("paper-rnnprop")
    assert (paper.episode_steps, paper.period, paper.outer_learning_rate, paper.clipnorm) == (
        100,
        20,
        1e-4,
        0,
    )
    assert (paper.scaling, paper.convex_dimension, paper.convex_scaling) == (3.0, 20, 1.0)
    assert (paper.objective.weights, paper.objective.batches) == ("last", 21)
    dm = preset("paper-dm")
    assert (dm.rule, dm.scaling, dm.convex_dimension, dm.loss_weights) == ("dm", 0, 0, "mean")
    assert dm.select == "validation"
    assert preset("paper-dm-tricks").select == "train"  # section 5.5: as RNNprop
    with pytest.raises(ValueError, match=r"No preset named 'mine'. Expected one of paper-rnnprop, "):
        preset("mine")


@pytest.fixture
def parse():
    """Sets the command's flags, and takes it back."""
    saved = flags.FLAGS.__dict__["__flags"]
    before = {name: (flag.value, flag.present) for name, flag in saved.items()}

    def parse(*arguments):
        commands.parse(["train", "--run_dir=x", *arguments], train.UNSETTABLE)
        return train.config_from_flags()

    yield parse
    for name, (value, present) in before.items():
        saved[name].value, saved[name].present = value, present


def test_flags_change_the_preset(parse):
    assert parse() == preset("paper-rnnprop")
    assert parse("--preset=demo", "--seed=3", "--nocosine_decay", "--sample=1") == dataclasses.replace(
        preset("demo"), seed=3, cosine_decay=False, sample=1.0
    )


def test_any_setting_of_a_preset_can_be_unset(parse):
    unset = parse(
        "--preset=rnnprop-1", "--initial=", "--teacher=", "--teacher_warmup=0", "--longest_episode=0",
        "--scaling=0", "--nomixed_scaling", "--preprocess=", "--clipnorm=0",
    )  # fmt: skip
    assert unset == dataclasses.replace(
        preset("rnnprop-1"), initial="", teacher="", teacher_warmup=0, longest_episode=0, scaling=0.0,
        mixed_scaling=False, preprocess="", clipnorm=0.0,
    )  # fmt: skip
    with pytest.raises(ValueError, match="No task named ''"):
        parse("--task=")


def test_sizes_of_the_network_are_flags(parse):
    small = parse("--preprocess=8", "--lstm=8,4")
    assert small.architecture == Architecture(preprocess=(8,), lstm=(8, 4))
    assert parse("--preprocess=").architecture.preprocess == ()


def test_every_setting_is_a_flag(parse):
    for field in dataclasses.fields(MetaTrainConfig):
        assert field.metadata["help"] in flags.FLAGS[field.name].help


def run_main(error=None):
    with (
        mock.patch("tensorflow.config.experimental.enable_op_determinism"),
        mock.patch.object(meta_train, "train", side_effect=error),
    ):
        train.main(["train"])


def test_resuming_nothing_says_that_it_starts(parse, tmp_path, capsys):
    """A scheduler gives the same command at the first start and after each interruption."""
    parse("--preset=demo", f"--run_dir={tmp_path}", "--resume")
    run_main()
    assert capsys.readouterr().err == f"No checkpoint in {tmp_path} yet: a new run starts.\n"
    checkpoint.save(str(tmp_path), fresh(TINY).checkpoint())
    run_main()
    assert capsys.readouterr().err == ""


GONE = "at CollectiveReduceV2\nCollective ops is aborted by: The following tasks are unhealthy\nand more"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (KeyboardInterrupt(), r"Interrupted. .* are lost; --resume goes on from there\.$"),
        (KeyboardInterrupt("Interrupted after 3"), "Interrupted after 3$"),
        (
            tf.errors.AbortedError(None, None, GONE),
            r"Another worker is gone .* again, with --resume\. \(The following tasks are unhealthy\)$",
        ),
        (tf.errors.UnavailableError(None, None, ""), r"Another worker is gone .* \(\)$"),
    ],
    ids=["at once", "saved", "worker gone", "no reason"],
)
def test_an_end_before_the_end_is_one_clear_line(parse, error, message):
    parse("--preset=demo")
    with pytest.raises(SystemExit, match=message) as stop:
        run_main(error)
    assert "\n" not in stop.value.code

"""The studies run to their end, at tiny size; what they compare and count is what they say."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rnnprop_tf.rule import RNNpropAccumulators
from studies import minilm_package, moving_targets, sleep_rule
from trainer import meta_train
from trainer.config import preset

ROOT = Path(__file__).parent.parent
TASK = "--tasks=digits-nn-relu-100"
TINY_RUN = dataclasses.replace(preset("demo"), iterations=2, episode_steps=4, period=2, checkpoint_every=1)

STUDIES = {
    "architectures": [TASK, "--runs=2", "--parameters=1000", "--out=runs"],
    "averaging": ["--models=keras-friedman", "--runs=1", "--steps=20"],
    "checkpoints": [TASK, "--runs=2", "--run_dir=run"],
    "coasting": [TASK, "--runs=1", "--steps=10", "--longest=1,5"],
    "dropped_models": ["--modes=own_loop_eager", "--models=5"],
    "long_and_large": ["--steps=500", "--parts=long"],
    "minilm": ["--runs=1", "--steps=10", "--rates=1e-4", "--batch=2", "--length=8", "--validation=16"],
    "moving_targets": ["--tasks=gan", "--steps=5", "--runs=1", "--optimizers=adam,rnnprop-1:0.01:averaging"],
    "settling": [f"{TASK},keras-friedman", "--runs=1", "--steps=10", "--settlings=0,2", "--annealings=5"],
    "sleep_rule": ["--problems=frequent words", "--runs=1", "--steps=5"],
    "state_dtype": [TASK, "--runs=2", "--out=state_dtype.json"],
    "warmup": [TASK, "--runs=1", "--warmups=1,10"],
    "when_not": ["--steps=5", "--runs=1", "--tables=batches", "--batch_sizes=8"],
}


def test_every_study_is_here():
    commands = {path.stem for path in (ROOT / "studies").glob("*.py") if "commands.run" in path.read_text()}
    assert commands == set(STUDIES)


@pytest.mark.slow
@pytest.mark.parametrize("study", STUDIES)
def test_study_prints_a_table_of_numbers(study, tmp_path):
    if study == "minilm" and (missing := minilm_package.missing()):
        pytest.skip(f"not installed: {', '.join(missing)}; {minilm_package.INSTALL}")
    if study == "checkpoints":
        meta_train.train(TINY_RUN, str(tmp_path / "run"))
    command = [sys.executable, "-m", f"studies.{study}", *STUDIES[study]]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    if study == "state_dtype":
        assert (tmp_path / "state_dtype.json").exists()
        return
    head, _, *rows = [line for line in done.stdout.splitlines() if line.startswith("|")]
    assert rows
    for row in rows:
        _, _, *cells, _ = row.split("|")
        assert len(cells) == head.count("|") - 2
        numbers = [float(cell) for cell in cells if cell.strip() != "-"]
        assert numbers
        assert np.isfinite(numbers).all()


# Coordinates: one with a gradient, one whose gradients ended just now, one long ago, one that never had any.
GRADIENT = np.float32([1, 0, 0, 0])
ACCUMULATORS = RNNpropAccumulators(np.float32([1, 1, 0.05, 0]), np.float32([1, 1, 1, 0]))
AWAKE = {
    "never asleep (paper)": [1, 1, 1, 1],
    "held while v = 0": [1, 1, 1, 0],
    "held at g = 0, m~ below 0.1": [1, 1, 0, 0],
    "held at g = 0, m~ below 0.5": [1, 1, 0, 0],
    "no step at g = 0, m, v decay": [1, 0, 0, 0],
    "all held at g = 0 (ours)": [1, 0, 0, 0],
}


@pytest.mark.parametrize("name", sleep_rule.RULES)
def test_rule_of_the_study_holds_the_coordinates_that_it_says(name):
    observation, new = sleep_rule.RULES[name]().observe(ACCUMULATORS, GRADIENT, np.float32(1_000))
    np.testing.assert_array_equal(observation.awake, np.bool_(AWAKE[name]))
    decays = name != "all held at g = 0 (ours)"
    assert (np.asarray(new.v)[1] < 1) == decays


def test_modes_hit_counts_gaussians_and_points_near_one():
    samples = [*moving_targets.MODES[[0, 0, 3]], [0.0, 0.0]]
    assert moving_targets.modes_hit(np.float32(samples)) == (2, 0.75)


def test_discounted_rewards_stop_where_a_game_ends():
    ended = np.array([[False, True], [False, False]])
    sums = moving_targets.discounted(np.ones((2, 2)), ended, np.array([10.0, 20.0]))
    gamma = moving_targets.DISCOUNT
    np.testing.assert_allclose(sums[1], [1 + 10 * gamma, 1 + 20 * gamma])
    np.testing.assert_allclose(sums[0], [1 + gamma + 10 * gamma**2, 1])


def test_pole_falls_to_the_left_of_a_cart_that_is_pushed_to_the_right_and_the_game_begins_anew():
    carts = moving_targets.CartPole(3, seed=0)
    ended = np.zeros(3, bool)
    step = 0
    while not ended.any():
        position, _, angle, _ = carts.state.T
        ended = carts.step(np.array([True, True, False]))
        step += 1
    assert 7 <= step <= 12
    assert (np.sign(angle) == [-1, -1, 1]).all()
    assert (np.sign(position) == [1, 1, -1]).all()
    assert (np.abs(carts.state[ended]) <= 0.05).all()
    assert (carts.age == np.where(ended, 0, step)).all()


def test_word_for_an_optimizer_names_weights_rate_and_arguments():
    optimizer = moving_targets.maker("rnnprop-1:0.01:averaging")()
    assert (float(optimizer.learning_rate), optimizer.use_averaging) == (np.float32(0.01), True)
    assert moving_targets.maker("adam:beta_1=0.5")().beta_1 == 0.5
    with pytest.raises(ValueError, match=r"Expected a learning rate, 'averaging' or an argument .* 'fast'"):
        moving_targets.maker("adam:fast")

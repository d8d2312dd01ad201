"""Every shipped weight folder: its behaviour is pinned, its card complete, and it optimizes."""

import dataclasses
import json
import pathlib

import numpy as np
import pytest
import tensorflow as tf

from rnnprop_tf import list_pretrained, pretrained
from rnnprop_tf.rule import SettlingRule
from trainer.evaluation import experiments
from trainer.evaluation.curves import LearnedRunner
from trainer.evaluation.results import short_digest
from trainer.problems import catalog

GOLDENS = json.loads((pathlib.Path(__file__).parent / "goldens.json").read_text())
"""By name of the weights: directions [8] after 12 steps on the gradients of `directions`."""

NAMES = list_pretrained()


def directions(loaded: pretrained.Pretrained) -> np.ndarray:
    """The last of 12 directions for 8 coordinates: gradients of very different sizes, one asleep at times."""
    network = tf.nest.map_structure(tf.constant, loaded.network)
    state = loaded.rule.initial_state(network, 8)
    scale = 10.0 ** np.arange(-6, 2)
    for step in range(1, 13):
        gradient = (scale * np.sin(step * np.arange(1, 9) * 0.7)).astype("float32")
        gradient[3] *= step % 3 != 0
        direction, state = loaded.rule.update(network, state, tf.constant(gradient), tf.constant(float(step)))
    return np.asarray(direction)


def test_the_default_ships():
    assert pretrained.DEFAULT in NAMES


@pytest.mark.parametrize("name", NAMES)
def test_behaviour_is_that_of_the_golden(name):
    np.testing.assert_allclose(directions(pretrained.load(name)), GOLDENS[name], rtol=1e-3, atol=1e-5)


def test_the_settling_weights_are_the_default_s_network_under_another_rule():
    """The golden's 12 steps are too few to tell them apart."""
    ours, plain = (pretrained.load(name) for name in experiments.OURS[::-1])
    tf.nest.map_structure(np.testing.assert_array_equal, ours.network, plain.network)
    assert ours.rule == SettlingRule(**dataclasses.asdict(plain.rule), settling=2.0, beta_3=0.9999)
    assert ours.learning_rate == plain.learning_rate
    # Their runs must not be taken for each other's.
    assert short_digest(ours.config) == f"{short_digest(plain.config)}-2-0.9999"


@pytest.mark.parametrize("name", NAMES)
def test_the_card_says_how_the_weights_were_made(name):
    card = pretrained.load(name).config["provenance"]
    for key in ("recipe", "meta_training", "seed", "iterations", "data", "licence", "results"):
        assert card[key] or key == "seed", key


@pytest.mark.parametrize("name", [n for n in NAMES if n.startswith("rnnprop")])
def test_an_unseen_problem_is_learned(name):
    loaded = pretrained.load(name)
    problem = catalog.task("digits-nn-relu-100").build(None)
    run = LearnedRunner(problem, loaded.rule, loaded.network, loaded.learning_rate).run(100, seed=0)
    assert run.final_loss < 0.2 * run.curve[0]

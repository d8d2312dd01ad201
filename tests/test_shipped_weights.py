"""Every weight folder that ships, and the controls: behaviour pinned, card complete, and it optimizes."""

import dataclasses
import json
import pathlib
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf

from rnnprop_tf import DMOptimizer, list_pretrained, pretrained
from rnnprop_tf.rule import AnnealingRule, SettlingRule
from trainer.evaluation import competitors, schedule
from trainer.evaluation.results import short_digest
from trainer.evaluation.unrolled_runner import LearnedRunner
from trainer.paper import experiments
from trainer.problems import catalog

GOLDENS = json.loads((pathlib.Path(__file__).parent / "goldens.json").read_text())
"""By name of the weights: directions [8] after 12 steps on the gradients of `directions`."""

ROOT = pathlib.Path(__file__).parent.parent
CONTROLS = {name: ROOT / pretrained.CONTROLS_FOLDER / name for name in pretrained.CONTROLS}
WEIGHTS = {name: name for name in list_pretrained()} | CONTROLS
"""What `from_pretrained` takes, by name."""


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
    assert pretrained.DEFAULT in list_pretrained()


@pytest.mark.parametrize("name", WEIGHTS)
def test_behaviour_is_that_of_the_golden(name):
    np.testing.assert_allclose(
        directions(pretrained.load(WEIGHTS[name])), GOLDENS[name], rtol=1e-3, atol=1e-5
    )


@pytest.mark.parametrize(
    ("name", "plain_name", "rule_class", "varied", "suffix"),
    [
        (
            experiments.SETTLING,
            experiments.LARGE,
            SettlingRule,
            {"settling": 2.0, "beta_3": 0.9999},
            "2-0.9999",
        ),
        (experiments.DEFAULT, experiments.SMALL, AnnealingRule, {"annealing": 1_500.0}, "1500"),
    ],
)
def test_weights_with_a_memory_are_another_s_network_under_another_rule(
    name, plain_name, rule_class, varied, suffix
):
    """The golden's 12 steps are too few to tell them apart."""
    ours, plain = pretrained.load(name), pretrained.load(plain_name)
    tf.nest.map_structure(np.testing.assert_array_equal, ours.network, plain.network)
    assert ours.rule == rule_class(**dataclasses.asdict(plain.rule), **varied)
    assert ours.learning_rate == plain.learning_rate
    assert ours.state_dtype == plain.state_dtype
    # Their runs must not be taken for each other's.
    assert short_digest(ours.config) == f"{short_digest(plain.config)}-{suffix}"


@pytest.mark.parametrize("name", WEIGHTS)
def test_the_card_says_how_the_weights_were_made(name):
    card = pretrained.load(WEIGHTS[name]).config["provenance"]
    for key in ("recipe", "meta_training", "seed", "iterations", "data", "licence", "results"):
        assert card[key] or key == "seed", key


@pytest.mark.parametrize("name", [n for n in WEIGHTS if n.startswith("rnnprop")])
def test_an_unseen_problem_is_learned(name):
    loaded = pretrained.load(WEIGHTS[name])
    problem = catalog.task("digits-nn-relu-100").build(None)
    run = LearnedRunner(problem, loaded.rule, loaded.network).run(100, 0, loaded.learning_rate)
    assert run.final_loss < 0.2 * run.curve["loss"][0]


def test_a_control_s_name_tells_its_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in CONTROLS:
        path = f"{pretrained.CONTROLS_FOLDER}/{name}"
        with pytest.raises(ValueError, match=rf"No pretrained weights named '{name}'\..* by path, {path}\.$"):
            pretrained.load(name)


def test_the_report_finds_the_controls_by_name_and_evaluate_by_path():
    found = schedule.find(experiments.LEARNED, [str(ROOT / pretrained.CONTROLS_FOLDER)])
    assert list(found) == list(experiments.LEARNED)
    for name, path in CONTROLS.items():
        by_path = competitors.competitor(str(path))
        assert by_path.weights.config == found[name].weights.config


def test_a_model_file_holds_the_control_that_it_was_saved_with(tmp_path):
    """Files from when the controls shipped are of this kind: there is no name of weights in them."""
    folder, file = tmp_path / "weights", str(tmp_path / "model.keras")
    shutil.copytree(CONTROLS["dm-paper"], folder)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile(DMOptimizer.from_pretrained(folder), "mse")
    model.fit(np.ones((4, 3)), np.ones(4), verbose=0)
    model.save(file)
    shutil.rmtree(folder)
    loaded = keras.models.load_model(file).optimizer
    assert loaded.get_config() == model.optimizer.get_config()
    expected = pretrained.load(CONTROLS["dm-paper"]).network
    tf.nest.map_structure(np.testing.assert_array_equal, loaded.network, expected)

"""RNNprop is made as Keras's own optimizers are: without arguments, by a string, by a dict; names differ."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from rnnprop_tf import DMOptimizer, RNNprop, list_pretrained, pretrained
from rnnprop_tf.rule import AnnealingRule, RNNpropRule, SettlingRule

CONFIG = {"learning_rate": 0.25, "clipnorm": 2.0}


def default_network():
    return pretrained.load(pretrained.DEFAULT).network


def assert_same_network(left, right):
    tf.nest.map_structure(np.testing.assert_array_equal, left, right)


def test_without_arguments_it_is_that_of_the_default_weights():
    plain, loaded = RNNprop(), RNNprop.from_pretrained()
    assert_same_network(plain.network, default_network())
    assert plain.get_config() | {"name": ""} == loaded.get_config() | {"name": ""}


def test_the_first_argument_is_the_learning_rate_as_adams_is():
    schedule = keras.optimizers.schedules.CosineDecay(0.1, 10)
    assert float(RNNprop(0.01).learning_rate) == float(keras.optimizers.Adam(0.01).learning_rate)
    assert RNNprop(schedule)._learning_rate is schedule
    assert DMOptimizer(0.01, network=default_network()).get_config()["learning_rate"] == pytest.approx(0.01)


@pytest.mark.parametrize(
    "identifier",
    [
        "rnnprop",
        "RNNprop",
        "rnnprop_tf>RNNprop",
        {"class_name": "rnnprop", "config": {}},
        {"class_name": "RNNprop", "config": {}},
        {"class_name": "RNNprop", "config": {}, "registered_name": "rnnprop_tf>RNNprop"},
    ],
    ids=str,
)
def test_keras_finds_it_by_its_name_and_by_an_empty_config(identifier):
    optimizer = keras.optimizers.get(identifier)
    assert type(optimizer) is RNNprop
    assert_same_network(optimizer.network, default_network())
    assert float(optimizer.learning_rate) == pytest.approx(0.1)


def test_a_part_of_a_config_is_enough():
    for more, rule in (
        ({}, pretrained.load(pretrained.DEFAULT).rule),
        ({"settling": 2.0}, SettlingRule(settling=2.0)),
        ({"annealing": 9.0}, AnnealingRule(annealing=9.0)),
    ):
        optimizer = keras.optimizers.deserialize({"class_name": "RNNprop", "config": CONFIG | more})
        assert (float(optimizer.learning_rate), optimizer.clipnorm) == (0.25, 2.0)
        assert optimizer.rule == rule


def test_without_arguments_it_is_what_from_pretrained_gives():
    ours, pretrained_ones = RNNprop().get_config(), RNNprop.from_pretrained().get_config()
    assert ours.pop("name") != pretrained_ones.pop("name")
    assert ours == pretrained_ones


@pytest.fixture
def annealed(tmp_path, monkeypatch):
    """A folder of weights with `annealing` and a narrow state, which are the default ones too."""
    folder = str(tmp_path / "weights")
    RNNprop.from_pretrained("rnnprop-1-small", annealing=700.0).save_pretrained(folder)
    monkeypatch.setattr(pretrained, "DEFAULT", folder)
    return folder


def test_the_default_is_all_that_the_default_weights_bring(annealed):
    optimizer = RNNprop()
    assert optimizer.rule == AnnealingRule(annealing=700.0)
    assert optimizer.state_dtype == "bfloat16"
    assert RNNprop(annealing=0.0).rule == RNNpropRule()
    assert RNNprop(settling=2.0).rule == SettlingRule(settling=2.0)
    assert RNNprop(state_dtype="float32").state_dtype == "float32"


def test_what_is_given_takes_the_place_of_what_weights_bring(annealed):
    for weights, arguments, rule in (
        (annealed, {"annealing": None, "state_dtype": None}, AnnealingRule(annealing=700.0)),
        (annealed, {"settling": 2.0}, SettlingRule(settling=2.0)),
        (annealed, {"settling": 0.0}, AnnealingRule(annealing=700.0)),
        ("rnnprop-1-settling", {"annealing": 9.0}, AnnealingRule(annealing=9.0)),
        ("rnnprop-1-settling", {"annealing": 0.0}, SettlingRule()),
        ("rnnprop-1-settling", {"settling": None}, SettlingRule()),
        ("rnnprop-1", {"settling": None}, RNNpropRule()),
        ("rnnprop-1", {"settling": 2.0}, SettlingRule(settling=2.0)),
    ):
        optimizer = RNNprop.from_pretrained(weights, **arguments)
        assert optimizer.rule == rule
        assert optimizer.state_dtype == pretrained.load(weights).state_dtype


def test_a_network_that_is_given_brings_no_more_than_itself(annealed):
    """A config of an earlier release has a network and need not have these."""
    optimizer = RNNprop(network=pretrained.load(annealed).network)
    assert optimizer.rule == RNNpropRule()
    assert optimizer.state_dtype == "float32"


def test_a_model_compiles_and_trains_with_the_string():
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile(optimizer="rnnprop", loss="mse")
    losses = model.fit(np.ones((4, 1)), np.ones((4, 1)), epochs=2, verbose=0).history["loss"]
    assert type(model.optimizer) is RNNprop
    assert losses[1] < losses[0]


def test_default_names_are_unique_and_others_stay():
    def names_of(make):
        keras.backend.clear_session()  # Counts from the start again.
        return [make().name for _ in range(3)]

    for make, name in (
        (keras.optimizers.Adam, "adam"),
        (RNNprop, "rnnprop"),
        (RNNprop.from_pretrained, "rnnprop"),
        (lambda: keras.optimizers.get("rnnprop"), "rnnprop"),
        (lambda: DMOptimizer(network=default_network()), "dm_optimizer"),
    ):
        assert names_of(make) == [name, f"{name}_1", f"{name}_2"]
    assert RNNprop(name="mine").name == "mine"
    second = RNNprop(name="rnnprop_1")
    assert RNNprop.from_config(json.loads(json.dumps(second.get_config()))).name == "rnnprop_1"


@pytest.mark.parametrize("weights", ["rnnprop-1", default_network()], ids=["name", "network"])
def test_weights_in_place_of_the_learning_rate_are_told_where_they_belong(weights):
    with pytest.raises(
        ValueError, match=r"`learning_rate` must be.*`network=`, or .*`RNNprop.from_pret"
    ) as told:
        RNNprop(weights)
    assert len(str(told.value)) < 400


def test_no_weights_of_dm_optimizer_ship_and_it_says_so():
    assert not any(
        isinstance(pretrained.load(name).rule, DMOptimizer.rule_class) for name in list_pretrained()
    )
    with pytest.raises(
        TypeError, match=r'`network` must be.*DMOptimizer.from_pretrained\("path/to/weights"\)'
    ):
        DMOptimizer(0.1)

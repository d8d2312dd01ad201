"""The config of an optimizer holds its weights: by name where they ship, whole where they do not."""

import base64
import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from rnnprop_tf import LossScaleOptimizer, RNNprop, list_pretrained, network_config, pretrained
from rnnprop_tf.network import Architecture, initial_weights, to_tensors

PAPERS = Architecture()
TINY = Architecture(2, (), (4,))
ROOT = Path(__file__).parent.parent


SMALL = {"rnnprop-1-small", "rnnprop-2"}
"""Shipped weights of so few bytes that they stand in a config themselves."""


def shipped(name="rnnprop-1"):
    return pretrained.load(name).network


def assert_same_network(left, right):
    tf.nest.map_structure(np.testing.assert_array_equal, left, right)


def roundtrip(network, learning_rate=0.1):
    config = json.loads(json.dumps(network_config.to_config(network, learning_rate)))
    return network_config.from_config(config)


def embedded(network, learning_rate=0.1):
    """The form of earlier releases, for all weights."""
    content = b"".join(tensor.astype("<f4").tobytes() for tensor in to_tensors(network).values())
    return {
        "architecture": {"inputs": 2, "preprocess": [20], "lstm": [20, 20]},
        "weights": base64.b64encode(content).decode(),
        "learning_rate": learning_rate,
    }


@pytest.mark.parametrize("name", sorted(set(list_pretrained()) - SMALL))
def test_shipped_weights_stand_there_by_name_and_digest(name):
    config = RNNprop.from_pretrained(name).get_config()
    assert len(json.dumps(config)) < 1_000
    assert config["network"]["digest"] == pretrained.LASTING[config["network"]["name"]]
    assert_same_network(shipped(config["network"]["name"]), shipped(name))


@pytest.mark.parametrize("name", sorted(SMALL))
def test_small_shipped_weights_stand_there_themselves(name):
    config = RNNprop.from_pretrained(name).get_config()
    assert len(json.dumps(config)) < 2_000
    assert "name" not in config["network"]
    assert_same_network(network_config.from_config(config["network"])[0], shipped(name))


@pytest.mark.parametrize("name", pretrained.LASTING)
def test_lasting_weights_ship_unchanged(name):
    """If this fails, model files of users no longer load: weights that changed need a new name."""
    assert network_config.to_config(shipped(name), 0.1)["name"] == name


def test_weights_are_found_by_their_numbers_wherever_they_come_from(tmp_path):
    shipping = RNNprop.from_pretrained("rnnprop-1")
    shipping.save_pretrained(str(tmp_path))
    for optimizer in (shipping, RNNprop.from_pretrained(str(tmp_path)), RNNprop(network=shipped())):
        assert optimizer.get_config()["network"]["name"] == "rnnprop-1"
    changed = shipped()
    changed.output.bias[:] += 1e-6
    assert "name" not in network_config.to_config(changed, 0.1)


@pytest.mark.parametrize(
    "network", [shipped(), initial_weights(PAPERS, 0), initial_weights(TINY, 0)], ids=["named", "own", "tiny"]
)
def test_weights_and_their_learning_rate_come_back(network):
    found, learning_rate = roundtrip(network, 0.01)
    assert_same_network(found, network)
    assert learning_rate == 0.01


def test_weights_of_up_to_2_kilobytes_stay_in_the_config(monkeypatch):
    tiny = initial_weights(TINY, 0)
    digest = pretrained.digest_of(network_config._bytes_of(tiny))
    monkeypatch.setitem(pretrained.LASTING, "tiny", digest)
    config = network_config.to_config(tiny, 0.1)
    assert "name" not in config
    assert len(json.dumps(config)) < 4 / 3 * network_config.EMBEDDED_BYTES + 200
    monkeypatch.setattr(network_config, "EMBEDDED_BYTES", 100)
    assert network_config.to_config(tiny, 0.1)["name"] == "tiny"


def test_configs_of_earlier_releases_load():
    config = RNNprop().get_config() | {"network": embedded(shipped("rnnprop-quick"), 0.05)}
    optimizer = RNNprop.from_config(config)
    assert_same_network(optimizer.network, shipped("rnnprop-quick"))
    assert optimizer.get_config()["network"]["name"] == "rnnprop-quick"
    assert optimizer.get_config()["network"]["learning_rate"] == 0.05


@pytest.mark.parametrize("name", ["rnnprop-7", "results/weights/dm-paper", "hf://org/name", "/etc"])
def test_names_beyond_the_table_are_refused_and_nothing_is_read(name, monkeypatch):
    monkeypatch.setattr(pretrained, "load", None)
    config = {"name": name, "digest": "sha256:0", "learning_rate": 0.1}
    with pytest.raises(ValueError, match=rf"does not have: expected one of .*later release.*'{name}'"):
        network_config.from_config(config)


def test_other_numbers_under_the_name_are_refused(monkeypatch):
    config = RNNprop.from_pretrained("rnnprop-1").get_config()
    other = pretrained.load("rnnprop-quick")
    monkeypatch.setattr(pretrained, "load", lambda name: other)
    ours, theirs = pretrained.LASTING["rnnprop-1"], pretrained.LASTING["rnnprop-quick"]
    with pytest.raises(
        ValueError,
        match=rf"'rnnprop-1' of this .* expected {ours}, received {theirs}.*install rnnprop_tf anew",
    ):
        RNNprop.from_config(config)


LOAD = """
import sys, keras
for path in sys.argv[1:]:
    try:
        keras.models.load_model(path)
    except Exception as error:
        print(type(error).__name__, str(error))
        print("---")
"""


def test_the_message_of_a_missing_import_fits_a_screen_and_says_what_to_import(tmp_path):
    optimizers = {
        "plain": RNNprop(),
        "scaled": LossScaleOptimizer(RNNprop(use_ema=True, network=shipped(), settling=2.0)),
    }
    optimizers["own"] = RNNprop(network=initial_weights(PAPERS, 0))
    for name, optimizer in optimizers.items():
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        model.compile(optimizer, "mse")
        model.save(tmp_path / f"{name}.keras")
    files = [str(tmp_path / f"{name}.keras") for name in optimizers]
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [sys.executable, "-c", LOAD, *files], cwd=tmp_path, env=environment, text=True, capture_output=True
    )
    plain, scaled, own, _ = done.stdout.split("---\n")
    for message in (plain, scaled):
        assert "rnnprop_tf>" in message, done.stderr
        assert "'needs': 'import rnnprop_tf'" in message
        assert len(message) < 2_000
    # Where the weights must be embedded, what to do stands below them.
    assert "import rnnprop_tf" in own[-200:]

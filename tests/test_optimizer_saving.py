"""Nothing is lost between saving and loading: learned weights, state, position in training."""

import copy
import json
import pickle

import keras
import numpy as np
import pytest
import tensorflow as tf

import rnnprop_tf
from rnnprop_tf import DMOptimizer, RNNprop, state_types
from rnnprop_tf.network import Architecture, initial_weights, to_tensors

X, Y = np.random.default_rng(0).normal(size=(16, 3)), np.ones(16)


def trained(optimizer):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2), keras.layers.Dense(1)])
    model.compile(optimizer, "mse")
    model.fit(X, Y, batch_size=4, verbose=0)
    return model


def random_network(seed=0):
    return tf.nest.map_structure(lambda w: 3.0 * w, initial_weights(Architecture(2, (4,), (5, 3)), seed))


def assert_same(left, right):
    for one, two in zip(left, right, strict=True):
        np.testing.assert_array_equal(one, two)


def assert_same_network(left, right):
    assert_same(to_tensors(left).values(), to_tensors(right).values())


def through_json(optimizer):
    config = json.loads(json.dumps(optimizer.get_config()))
    return type(optimizer).from_config(config)


def through_keras(optimizer):
    return keras.optimizers.deserialize(json.loads(json.dumps(keras.optimizers.serialize(optimizer))))


def through_pickle(optimizer):
    return pickle.loads(pickle.dumps(optimizer))


@pytest.mark.parametrize("revive", [through_json, through_keras, through_pickle, copy.deepcopy])
@pytest.mark.parametrize(
    "optimizer",
    [
        RNNprop(
            0.02, 0.8, 0.85, 1e-7, network=random_network(1), skip_nonfinite=False, name="mine", clipvalue=2.0
        ),
        RNNprop(keras.optimizers.schedules.CosineDecay(0.1, 10), network=random_network(1), use_ema=True),
        DMOptimizer(network=random_network(2), p=4.0, weight_decay=0.1, gradient_accumulation_steps=3),
    ],
    ids=["mine", "rnnprop", "dm_optimizer"],
)
def test_learned_weights_and_arguments_survive(optimizer, revive):
    revived = revive(optimizer)
    assert type(revived) is type(optimizer)
    assert_same_network(revived.network, optimizer.network)
    assert revived.rule == optimizer.rule
    assert revived.get_config() == optimizer.get_config()
    assert dir(revived) == dir(optimizer)


@pytest.mark.parametrize(
    "make",
    [
        lambda n: RNNprop(n(0.5), network=random_network(), beta_1=n(0.5), beta_2=n(0.5), epsilon=n(0.5)),
        lambda n: DMOptimizer(
            n(0.5), network=random_network(), p=n(0.5), weight_decay=n(0.5), clipnorm=n(0.5)
        ),
        lambda n: RNNprop(
            network=random_network(), use_ema=np.bool_(True), ema_momentum=n(0.5), clipvalue=n(0.5)
        ),
        lambda n: RNNprop(network=random_network(), loss_scale_factor=n(0.5), skip_nonfinite=np.bool_(False)),
        lambda n: RNNprop(
            network=random_network(), gradient_accumulation_steps=np.int64(2), global_clipnorm=n(0.5)
        ),
    ],
)
def test_numpys_numbers_are_arguments_like_pythons(make):
    numpys, pythons = (json.dumps(make(kind).get_config() | {"name": ""}) for kind in (np.float32, float))
    assert numpys == pythons


def test_config_takes_35_kilobytes_for_the_papers_network():
    config = RNNprop(network=initial_weights(Architecture(), 0)).get_config()
    assert len(json.dumps(config)) < 36_000


def test_optimizer_keeps_its_own_copy_of_the_weights():
    network = random_network()
    optimizer = RNNprop(network=network)
    before = optimizer.get_config()
    network.output.kernel[:] = 7.0
    assert optimizer.get_config() == before


def test_damaged_config_is_refused():
    config = RNNprop(network=random_network()).get_config()
    config["network"]["weights"] = config["network"]["weights"][:-8]
    with pytest.raises(ValueError, match=r"`network` is damaged: expected \d+ bytes .* Received: \d+ bytes"):
        RNNprop.from_config(config)


def test_pretrained_folder_round_trip(tmp_path):
    folder = str(tmp_path / "weights")
    RNNprop(0.3, network=random_network(), beta_1=0.8, beta_2=0.9, epsilon=1e-7).save_pretrained(
        folder, learning_rate=0.2, provenance={"recipe": "by hand"}
    )
    optimizer = RNNprop.from_pretrained(folder, learning_rate=0.3, clipnorm=1.0, name="mine")
    assert_same_network(optimizer.network, random_network())
    config = optimizer.get_config()
    expected = {"beta_1": 0.8, "beta_2": 0.9, "epsilon": 1e-7, "clipnorm": 1.0, "name": "mine"}
    assert {key: config[key] for key in expected} == expected
    assert config["learning_rate"] == pytest.approx(0.3)
    loaded = rnnprop_tf.pretrained.load(folder)
    assert loaded.learning_rate == pytest.approx(0.2)
    assert loaded.config["provenance"] == {"recipe": "by hand"}


def test_a_folder_s_learning_rate_is_saved_again(tmp_path):
    first, second = (str(tmp_path / name) for name in ("first", "second"))
    RNNprop(network=random_network()).save_pretrained(first, learning_rate=0.01)
    RNNprop.from_pretrained(first, learning_rate=0.5).save_pretrained(second)
    assert rnnprop_tf.pretrained.load(second).learning_rate == 0.01
    copied = copy.deepcopy(RNNprop.from_pretrained(first))
    copied.save_pretrained(second)
    assert rnnprop_tf.pretrained.load(second).learning_rate == 0.01


def test_the_learning_rate_in_use_is_not_that_of_the_pretrained_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    RNNprop(0.0, network=random_network()).save_pretrained("~/weights")
    assert rnnprop_tf.pretrained.load("~/weights").learning_rate == 0.1
    assert (tmp_path / "weights").is_dir()


@pytest.mark.parametrize(("cls", "other"), [(RNNprop, DMOptimizer), (DMOptimizer, RNNprop)])
def test_weights_of_the_other_rule_name_the_class_to_use(cls, other, tmp_path):
    folder = str(tmp_path)
    cls(network=random_network()).save_pretrained(folder)
    with pytest.raises(ValueError, match=rf"another update rule.*Use `{cls.__name__}.from_pretrained\("):
        other.from_pretrained(folder)


def test_the_state_type_comes_with_the_weights(tmp_path):
    assert RNNprop.from_pretrained("rnnprop-1").state_dtype == "float32"
    small = RNNprop.from_pretrained("rnnprop-1-small")
    assert small.state_dtype == "bfloat16"
    small.save_pretrained(str(tmp_path))
    assert RNNprop.from_pretrained(str(tmp_path)).state_dtype == "bfloat16"
    assert RNNprop.from_pretrained(str(tmp_path), state_dtype="float32").state_dtype == "float32"


@pytest.mark.parametrize("state_dtype", ["float32", "bfloat16", "int8"])
def test_a_model_file_keeps_its_state_type(state_dtype, tmp_path):
    """Whatever the folder of its weights names: files from before it named any are float32."""
    model = trained(RNNprop.from_pretrained("rnnprop-1-small", state_dtype=state_dtype))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.optimizer.state_dtype == state_dtype
    for one in (model, loaded):
        one.fit(X, Y, batch_size=4, shuffle=False, verbose=0)
    for found, expected in zip(loaded.optimizer.variables, model.optimizer.variables, strict=True):
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)


def test_state_of_other_weights_is_not_read(tmp_path):
    """Both have six slots a variable, of other shapes; Keras alone would read some of them and fail."""
    path = tmp_path / "model.weights.h5"
    before = trained(RNNprop.from_pretrained("rnnprop-1"))
    before.save_weights(path)
    model = trained(RNNprop())
    state = [v.numpy() for v in model.optimizer.variables]
    with pytest.warns(UserWarning, match=r"state of optimizer .* the default of 0.1 was `RNNprop"):
        model.load_weights(path)
    for found, expected in zip(model.optimizer.variables, state, strict=True):
        np.testing.assert_array_equal(found, expected)
    for found, expected in zip(model.weights, before.weights, strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("there", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("here", ["float32", "bfloat16", "int8"])
def test_state_of_another_type_is_converted(here, there, tmp_path):
    path = tmp_path / "model.weights.h5"
    before, model = trained(RNNprop(state_dtype=there)), trained(RNNprop(state_dtype=here))
    before.save_weights(path)
    model.load_weights(path)
    for found, expected in zip(model.optimizer._slots, before.optimizer._slots, strict=True):
        [new], [old] = (state_types.exact(slots.lstm, "float32") for slots in (found, expected))
        assert np.abs(old.h).max() > 0.05
        np.testing.assert_allclose(new.h, old.h, atol=0.01)
        np.testing.assert_allclose(new.c, old.c, rtol=0.05, atol=0.01)
    assert int(model.optimizer._step) == 4


@pytest.mark.parametrize("state_dtype", ["float32", "bfloat16", "int8"])
def test_a_part_need_not_be_larger_than_the_largest_slot(state_dtype, tmp_path):
    """As large as `docs/usage.md` says: the LSTM's units times the model's largest variable."""
    size, units = {"float32": 4, "bfloat16": 2, "int8": 1}[state_dtype], 5
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(16)])
    model.compile(RNNprop(network=random_network(), state_dtype=state_dtype), "mse")
    model.fit(np.ones((4, 8)), np.ones((4, 16)), verbose=0)
    limit = units * size * 8 * 16
    with pytest.raises(ValueError, match="exceeds the maximum shard size"):
        model.save_weights(tmp_path / "model.weights.json", max_shard_size=(limit - 1) / 2**30)
    model.save_weights(tmp_path / "model.weights.json", max_shard_size=limit / 2**30)
    before = [variable.numpy() for variable in (*model.variables, *model.optimizer.variables)]
    for variable in (*model.variables, *model.optimizer.variables):
        variable.assign(tf.zeros_like(variable.value))
    model.load_weights(tmp_path / "model.weights.json")
    assert_same(before, [variable.numpy() for variable in (*model.variables, *model.optimizer.variables)])
    assert len(list(tmp_path.glob("model_*.h5"))) > 5

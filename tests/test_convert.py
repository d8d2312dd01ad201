"""Weights of another system, converted, make the updates that they made there."""

import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import keras
import l2o_reference
import numpy as np
import pytest
from l2o_reference import Arrays

from rnnprop_tf import DMOptimizer, RNNprop, pretrained
from rnnprop_tf.rule import DMRule, RNNpropRule
from trainer import convert

ROOT = Path(__file__).parent.parent
PEERS = ROOT.parent / "shared" / "peers"
OPTIMIZERS = {"rnnprop": RNNprop, "dm": DMOptimizer}


def keras_updates(kind: str, folder: Path, gradients: np.ndarray) -> np.ndarray:
    """What the Keras class adds to the parameters, [steps, N]."""
    optimizer = OPTIMIZERS[kind].from_pretrained(str(folder))
    variable = keras.Variable(np.zeros(gradients.shape[1], "float32"))
    found = []
    for gradient in gradients:
        variable.assign(np.zeros(gradients.shape[1], "float32"))
        optimizer.apply([keras.ops.convert_to_tensor(gradient)], [variable])
        found.append(variable.numpy())
    return np.array(found)


@pytest.mark.parametrize("kind", l2o_reference.KINDS)
def test_recorded_updates_are_made_again(tmp_path: Path, kind: str) -> None:
    weights, gradients, updates = l2o_reference.load(kind)
    np.testing.assert_allclose(l2o_reference.updates(weights, gradients), updates, rtol=1e-9)
    np.savez(tmp_path / "theirs.npz", **weights)
    convert.convert(str(tmp_path / "theirs.npz"), str(tmp_path / "ours"))
    assert np.ptp(updates, axis=0).min() > 1e-3, "updates that hardly change show little"
    np.testing.assert_allclose(
        keras_updates(kind, tmp_path / "ours", gradients), updates, rtol=1e-4, atol=1e-7
    )


@pytest.mark.skipif(not PEERS.is_dir(), reason=f"the published weights are not in {PEERS}")
@pytest.mark.parametrize("name", ["vita_rnnprop", "vita_rnnprop_cl_il", "vita_dm", "vita_dm_cl_il"])
def test_published_weights_make_their_updates(tmp_path: Path, name: str) -> None:
    kind = name.split("_")[1]
    path = PEERS / f"{name}.npz"
    convert.convert(str(path), str(tmp_path))
    gradients = l2o_reference.made_up_gradients(steps=40)
    with np.load(path, allow_pickle=False) as arrays:
        updates = l2o_reference.updates(dict(arrays), gradients)
    scale = np.abs(updates).max()
    np.testing.assert_allclose(keras_updates(kind, tmp_path, gradients), updates, atol=1e-4 * scale)


def test_the_folder_s_learning_rate_is_used_unless_another_is_given(tmp_path: Path) -> None:
    np.savez(tmp_path / "theirs.npz", **l2o_reference.made_up_weights("rnnprop"))
    convert.convert(str(tmp_path / "theirs.npz"), str(tmp_path / "ours"))
    for arguments, expected in (({}, 0.01), ({"learning_rate": 0.1}, 0.1)):
        optimizer = RNNprop.from_pretrained(str(tmp_path / "ours"), **arguments)
        assert optimizer.learning_rate.numpy() == np.float32(expected)


def test_the_command_writes_a_folder_and_says_how_to_use_it(tmp_path: Path) -> None:
    weights = tmp_path / "theirs.npz"
    np.savez(weights, **l2o_reference.made_up_weights("dm"))
    command = [sys.executable, "-m", "trainer.convert", f"--weights={weights}", f"--out={tmp_path}/ours"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert f"rnnprop_tf.DMOptimizer.from_pretrained('{tmp_path}/ours')" in done.stdout
    found = pretrained.load(tmp_path / "ours")
    assert (found.rule, found.learning_rate) == (DMRule(p=5.0), 0.01)
    provenance = found.config["provenance"]
    assert provenance["source"] == "https://github.com/VITA-Group/L2O-Training-Techniques"
    assert (provenance["licence"], provenance["file"]) == ("MIT", "theirs.npz")


def test_what_is_not_there_is_named() -> None:
    with pytest.raises(OSError, match=r"Cannot read no\.npz: "):
        convert.convert("no.npz", "x")


def test_source_and_licence_of_other_weights_are_theirs(tmp_path: Path) -> None:
    np.savez(tmp_path / "theirs.npz", **l2o_reference.made_up_weights("rnnprop"))
    rule = convert.convert(str(tmp_path / "theirs.npz"), str(tmp_path / "ours"), "a friend", "CC0-1.0")
    assert rule == RNNpropRule()
    provenance = json.loads((tmp_path / "ours" / "config.json").read_text())["provenance"]
    assert (provenance["source"], provenance["licence"]) == ("a friend", "CC0-1.0")


def change(name: str, new: Callable[[np.ndarray], np.ndarray | None]) -> Callable[[Arrays], None]:
    def changed(arrays: Arrays) -> None:
        value = new(arrays.pop(name, np.zeros(())))
        if value is not None:
            arrays[name] = value

    return changed


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (change("linear.b", lambda _: None), r"the arrays \['input_projection\.b', .*\]"),
        (change("lstm_1.w_gates", lambda _: None), "the arrays"),
        (change("lstm_2.b_gates", lambda _: None), "the arrays"),
        (change("input_projection.w", lambda _: None), "the arrays"),
        (change("lstm_3.b_gates", lambda _: np.zeros(8, "float32")), "the arrays .*'lstm_3.w_gates'"),
        (change("extra", lambda a: a), "the arrays"),
        (
            change("lstm_1.w_gates", np.transpose),
            r"lstm_1\.w_gates to be of type float32 and shape \(7, 16\)",
        ),
        (change("lstm_1.b_gates", lambda a: a[:-4]), r"lstm_1\.w_gates to be .* shape \(6, 12\)"),
        (change("linear.w", lambda a: a.astype("float64")), r"linear\.w .* Received: type float64"),
        (change("linear.w", lambda a: a.astype("U9")), r"linear\.w .* Received: type <U9"),
        (change("linear.w", lambda a: a * np.nan), r"linear\.w to be finite"),
        (change("lstm_1.b_gates", lambda a: a[:0]), "shape"),
    ],
)
def test_other_arrays_are_refused(tmp_path: Path, spoil: Callable[[Arrays], None], expected: str) -> None:
    arrays = l2o_reference.made_up_weights("rnnprop")
    spoil(arrays)
    np.savez(tmp_path / "theirs.npz", **arrays)
    with pytest.raises(ValueError, match=rf"Cannot convert .*theirs\.npz\. Expected .*{expected}"):
        convert.convert(str(tmp_path / "theirs.npz"), str(tmp_path / "ours"))
    assert not (tmp_path / "ours").exists()


class Trap:
    """Unpickled, it would end the test with an error of its own."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return exec, ("raise AssertionError('code was run')",)


def test_files_that_are_no_arrays_are_refused_unopened(tmp_path: Path) -> None:
    arrays = l2o_reference.made_up_weights("dm")
    np.savez(tmp_path / "pickled.npz", **arrays | {"linear.b": np.array([Trap()], object)})
    (tmp_path / "pickle.npz").write_bytes(pickle.dumps({"linear": Trap()}))
    np.savez_compressed(tmp_path / "bomb.npz", **arrays | {"linear.b": np.zeros(2**25, "float32")})
    np.savez(tmp_path / "cut.npz", **arrays)
    (tmp_path / "cut.npz").write_bytes((tmp_path / "cut.npz").read_bytes()[:-50])
    np.save(tmp_path / "one.npy", arrays["linear.b"])
    for name in ("pickled.npz", "pickle.npz", "bomb.npz", "cut.npz", "one.npy"):
        with pytest.raises(ValueError, match=rf"{name}\. Expected an \.npz file of arrays, without pickles"):
            convert.convert(str(tmp_path / name), str(tmp_path / "ours"))

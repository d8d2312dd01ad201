"""Weight folders: what is written comes back; what is damaged is refused; what is interrupted stays whole."""

import errno
import hashlib
import json
import os
import random
import re
import resource
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import safetensors.numpy
import tensorflow as tf
from numpy.testing import assert_array_equal

from rnnprop_tf import network as coordinatewise
from rnnprop_tf import pretrained
from rnnprop_tf.network import Architecture, Network
from rnnprop_tf.rule import AnnealingRule, DMRule, RNNpropRule, Rule, SettlingRule

SMALL = Architecture(preprocess=(3,), lstm=(4, 2))


def save_version(folder: Path | str, version: int) -> None:
    """Versions differ in everything, sizes included; only equal parity has equal sizes."""
    architecture = Architecture(2, (3,) * (version % 2), (4, 2))
    network = coordinatewise.initial_weights(architecture, seed=version)
    pretrained.save(folder, network, RNNpropRule(beta_1=0.5 + version / 100), 0.1 * version, {"is": version})


def loaded_version(folder: Path | str) -> int:
    """The version in this folder, found to be whole."""
    found = pretrained.load(folder)
    version = found.config["provenance"]["is"]
    assert found.rule == RNNpropRule(beta_1=0.5 + version / 100)
    assert found.learning_rate == 0.1 * version
    architecture = Architecture(2, (3,) * (version % 2), (4, 2))
    assert coordinatewise.architecture_of(found.network) == architecture
    assert_same_weights(found.network, coordinatewise.initial_weights(architecture, seed=version))
    return version


def assert_same_weights(found: Network, expected: Network) -> None:
    for name, array in coordinatewise.to_tensors(expected).items():
        assert_array_equal(coordinatewise.to_tensors(found)[name], array)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "weights"
    network = coordinatewise.initial_weights(SMALL, seed=1)
    pretrained.save(path, network, RNNpropRule(), provenance={"recipe": "none", "seed": 1})
    return path


def seal(config: dict[str, Any]) -> dict[str, Any]:
    """With the digest that a hostile or careless writer would give it."""
    rest = {key: value for key, value in config.items() if key != "config_digest"}
    content = json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()
    return config | {"config_digest": "sha256:" + hashlib.sha256(content).hexdigest()}


def read_config(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())


def write_config(folder: Path, config: dict[str, Any]) -> None:
    (folder / "config.json").write_text(json.dumps(config))


def write_model(folder: Path, content: bytes) -> None:
    """With a digest that fits."""
    (folder / "model.safetensors").write_bytes(content)
    digest = "sha256:" + hashlib.sha256(content).hexdigest()
    write_config(folder, seal(read_config(folder) | {"digest": digest}))


def assert_refused(folder: Path, file: str, expected: str, received: str) -> None:
    with pytest.raises(ValueError, match="Unusable weights") as refusal:
        pretrained.load(folder)
    message = str(refusal.value)
    assert re.search(rf"{file}\. Expected .*{expected}.*\. Received: .*{received}", message, re.S), message
    assert message.endswith("write it again with `save_pretrained`, or fetch it anew.")


# What is written comes back.


@pytest.mark.parametrize(
    ("rule", "architecture"),
    [
        (RNNpropRule(0.9, 0.999, 1e-7), Architecture()),
        (SettlingRule(0.9, 0.999, 1e-7, 0.99, 0.5), Architecture()),
        (AnnealingRule(0.9, 0.999, 1e-7, 70.0), Architecture()),
        (DMRule(p=7), Architecture(preprocess=())),
        (RNNpropRule(), Architecture(2, (512,) * 2, (1,) * 8)),
    ],
)
def test_round_trip(tmp_path: Path, rule: Rule, architecture: Architecture) -> None:
    network = coordinatewise.initial_weights(architecture, seed=2)
    pretrained.save(tmp_path / "new" / "folder", network, rule, 0.03, {"results": [1, 2.5, {"a": None}]})
    found = pretrained.load(tmp_path / "new" / "folder")
    assert (found.rule, found.learning_rate) == (rule, 0.03)
    assert found.config["provenance"] == {"results": [1, 2.5, {"a": None}]}
    assert_same_weights(found.network, network)
    for array in coordinatewise.to_tensors(found.network).values():
        assert isinstance(array, np.ndarray)
        assert array.dtype == "float32"
        assert array.flags.writeable
    assert sorted(os.listdir(tmp_path / "new" / "folder")) == ["config.json", "model.safetensors"]


def test_files_are_as_documented(folder: Path) -> None:
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    assert {name: t.shape for name, t in tensors.items()} == coordinatewise.tensor_shapes(SMALL)
    digest = "sha256:" + hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    config = read_config(folder)
    assert config == seal(config)
    del config["config_digest"]
    assert config == {
        "format_version": 1,
        "rule": "rnnprop",
        "hyperparameters": {"beta_1": 0.95, "beta_2": 0.95, "epsilon": 1e-8},
        "architecture": {"inputs": 2, "preprocess": [3], "lstm": [4, 2]},
        "learning_rate": 0.1,
        "provenance": {"recipe": "none", "seed": 1},
        "digest": digest,
    }


def test_a_state_type_is_the_second_version_and_float32_the_first(folder: Path, tmp_path: Path) -> None:
    found = pretrained.load(folder)
    assert found.state_dtype == "float32"
    first = read_config(folder)
    pretrained.save(
        tmp_path / "narrow", found.network, found.rule, provenance=first["provenance"], state_dtype="int8"
    )
    narrow = pretrained.load(tmp_path / "narrow")
    assert narrow.state_dtype == "int8"
    second = read_config(tmp_path / "narrow")
    assert second == seal(first | {"format_version": 2, "state_dtype": "int8"})
    for config, expected in (
        (first | {"state_dtype": "int8"}, "keys to be exactly"),
        (first | {"format_version": 2}, "keys to be exactly .*'state_dtype'"),
        *((second | {"state_dtype": value}, "state_dtype to be one of") for value in JUNK),
    ):
        write_config(folder, seal(config))
        assert_refused(folder, "config.json", expected, "")


def test_same_weights_give_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    found = pretrained.load(folder)
    pretrained.save(tmp_path / "again", found.network, found.rule, provenance=found.config["provenance"])
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()


def test_variables_tensors_and_wider_types_are_stored_as_float32(tmp_path: Path) -> None:
    network = coordinatewise.initial_weights(SMALL, seed=3)
    for k, convert in enumerate((tf.Variable, tf.constant, lambda a: a.astype("float64"), np.asfortranarray)):
        tensors = {name: convert(array) for name, array in coordinatewise.to_tensors(network).items()}
        pretrained.save(tmp_path / str(k), coordinatewise.from_tensors(tensors, SMALL), RNNpropRule())
        assert_same_weights(pretrained.load(tmp_path / str(k)).network, network)


def test_other_file_systems_are_reached_through_gfile() -> None:
    save_version("ram://weights/one", 1)
    save_version("ram://weights/one", 2)
    assert loaded_version("ram://weights/one") == 2
    assert sorted(tf.io.gfile.listdir("ram://weights/one")) == ["config.json", "model.safetensors"]


def test_names_are_the_shipped_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: Path) -> None:
    shutil.copytree(folder, tmp_path / "shipped" / "zeta")
    shutil.copytree(folder, tmp_path / "shipped" / "alpha")
    (tmp_path / "shipped" / "empty").mkdir()
    monkeypatch.setattr(pretrained, "_SHIPPED", tmp_path / "shipped")
    assert pretrained.list_pretrained() == ["alpha", "zeta"]
    assert_same_weights(pretrained.load("zeta").network, pretrained.load(folder).network)


@pytest.mark.parametrize("name", pretrained.list_pretrained())
def test_shipped_weights_load(name: str) -> None:
    assert pretrained.load(name).config["provenance"]["licence"]


# What is not there, or not ours.


@pytest.mark.parametrize("name", ["no-such-name", "/nowhere", "nofs://a/b", "a\0b", "", __file__])
def test_unknown_name_is_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(pretrained, "list_pretrained", lambda: ["first", "second"])
    expected = (
        f"No pretrained weights named {name!r}. Expected one of ['first', 'second'], or a folder written by "
        "`save_pretrained`. Received neither"
    )
    with pytest.raises(ValueError, match=re.escape(expected)):
        pretrained.load(name)


@pytest.mark.parametrize("name", [None, 3, b"bytes", ["list"]])
def test_name_of_another_type_is_refused(name: Any) -> None:
    with pytest.raises(ValueError, match=re.escape(f"written by `save_pretrained`. Received: {name!r}")):
        pretrained.load(name)


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_missing_file_is_refused(folder: Path, file: str) -> None:
    (folder / file).unlink()
    assert_refused(folder, file, "a readable file", "No such file")


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_empty_file_pipe_and_folder_are_refused(folder: Path, file: str) -> None:
    (folder / file).write_bytes(b"")
    assert_refused(folder, file, "bytes", "0 bytes")
    (folder / file).unlink()
    os.mkfifo(folder / file)
    assert_refused(folder, file, "bytes", "0 bytes")
    (folder / file).unlink()
    (folder / file).symlink_to("/dev/zero")
    assert_refused(folder, file, "bytes", "0 bytes")
    (folder / file).unlink()
    (folder / file).mkdir()
    assert_refused(folder, file, "", "")


# Sizes, before anything is read.


@pytest.mark.parametrize(
    ("file", "expected"),
    [("config.json", "1 to 1048576 bytes"), ("model.safetensors", "a header and 784 bytes of weights")],
)
def test_huge_file_is_not_read(
    folder: Path, file: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Watched(tf.io.gfile.GFile):
        def read(self, n: int = -1) -> bytes:
            assert 0 <= n <= pretrained.MAX_CONFIG_BYTES
            return super().read(n)

    monkeypatch.setattr(tf.io.gfile, "GFile", Watched)
    pretrained.load(folder)
    os.truncate(folder / file, 10 * 2**30)
    assert_refused(folder, file, expected, f"{10 * 2**30} bytes")


def test_weights_of_another_size_are_refused(folder: Path) -> None:
    model = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(model[:100])
    assert_refused(folder, "model.safetensors", "a header and 784 bytes of weights, as the arch", "100 bytes")
    for content in (model[:-1], model + b"\0"):
        (folder / "model.safetensors").write_bytes(content)
        expected = f"{len(model)} bytes, as header and architecture imply"
        assert_refused(folder, "model.safetensors", expected, f"{len(content)} bytes")


def test_header_of_absurd_length_is_refused(folder: Path) -> None:
    model = (folder / "model.safetensors").read_bytes()
    write_model(folder, (2**60).to_bytes(8, "little") + model[8:])
    assert_refused(folder, "model.safetensors", f"{2**60 + 792} bytes", f"{len(model)} bytes")


# Content.


def test_damaged_weights_are_refused(folder: Path) -> None:
    model = bytearray((folder / "model.safetensors").read_bytes())
    digest = read_config(folder)["digest"]
    model[-7] ^= 1
    (folder / "model.safetensors").write_bytes(model)
    assert_refused(folder, "model.safetensors", f"the digest {digest} that config.json names", "sha256:")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_refused(folder: Path, value: float) -> None:
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    tensors["lstm.1.kernel"][3, 2] = value
    write_model(folder, safetensors.numpy.save(tensors))
    assert_refused(folder, "model.safetensors", "lstm.1.kernel to be finite", "a NaN or an infinity")


def change_dtype(tensors: dict[str, np.ndarray]) -> None:
    tensors["lstm.0.bias"] = tensors["lstm.0.bias"].view("int32")


def change_shape(tensors: dict[str, np.ndarray]) -> None:
    tensors["lstm.0.kernel"] = np.ascontiguousarray(tensors["lstm.0.kernel"].T)


def change_name(tensors: dict[str, np.ndarray]) -> None:
    tensors["lstm.2.bias"] = tensors.pop("lstm.1.bias")


def add_empty(tensors: dict[str, np.ndarray]) -> None:
    tensors["extra"] = np.zeros((0, 4), "float32")


@pytest.mark.parametrize(
    ("change", "expected", "received"),
    [
        (change_dtype, r"lstm.0.bias to be F32 \[16\]", r"I32 \[16\]"),
        (change_shape, r"lstm.0.kernel to be F32 \[16, 7\]", r"F32 \[7, 16\]"),
        (change_name, r"the tensors \['lstm.0.bias', .*\]", r"'lstm.2.bias'"),
        (add_empty, r"the tensors \['lstm.0.bias', .*\]", r"'extra'"),
    ],
)
def test_other_tensors_are_refused(
    folder: Path, change: Callable[[dict[str, np.ndarray]], None], expected: str, received: str
) -> None:
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    change(tensors)
    write_model(folder, safetensors.numpy.save(tensors))
    assert_refused(folder, "model.safetensors", expected, received)


@pytest.mark.parametrize(
    "header",
    [b"[" * 500, b"{}", b'{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 784]}}', b"\xff" * 9],
)
def test_header_that_is_not_one_is_refused(folder: Path, header: bytes) -> None:
    write_model(folder, len(header).to_bytes(8, "little") + header + bytes(784))
    assert_refused(folder, "model.safetensors", "a safetensors file", "")


@pytest.mark.parametrize(
    ("text", "expected", "received"),
    [
        ("", "1 to 1048576 bytes", "0 bytes"),
        ("{", "valid JSON", "line 1 column 2"),
        ("\xff", "valid JSON", "codec can't decode"),
        ("[" * 200_000, "JSON of a few levels", "deeply nested"),
        ('{"a": ' * 50_000 + "1" + "}" * 50_000, "JSON of a few levels", "deeply nested"),
        ('{"format_version": 1, "format_version": 1}', "unique keys", "the same key twice"),
        ('{"format_version": NaN}', "finite numbers", "the number 'NaN'"),
        ('{"format_version": -Infinity}', "finite numbers", "the number '-Infinity'"),
        ('{"format_version": 1e999}', "finite numbers", "the number '1e999'"),
        ('{"format_version": 1' + "0" * 9999 + "}", "valid JSON", "4300 digits"),
        ("[1, 2]", "a JSON object", r"\[1, 2\]"),
        ('"' + "x" * 10**6 + '"', "a JSON object", "xxx"),
        ("{}", "format_version 1 or 2", "None"),
        ('{"format_version": true}', "format_version 1", "True"),
        ('{"format_version": 1.0}', "format_version 1", r"1\.0"),
        ('{"format_version": 3}', "format_version 1 or 2, .*a later one: upgrade", "3"),
        ('{"format_version": 1}', r"keys to be exactly \['architecture'.*\]", r"\['format_version'\]"),
    ],
)
def test_config_that_is_not_one_is_refused(folder: Path, text: str, expected: str, received: str) -> None:
    (folder / "config.json").write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match="Unusable weights") as refusal:
        pretrained.load(folder)
    assert len(str(refusal.value)) < 1000
    assert_refused(folder, "config.json", expected, received)


JUNK = [None, True, "1", [], {}, [0.5], {"a": [[]]}, "x" * 10**5]
NUMBERS = {
    "learning_rate": [0, 0.0, -0.1, 1e39, 1e-60, 10**400],
    "hyperparameters.beta_1": [-0.1, 1, 1.0, 0.99999999999, 10**400],
    "hyperparameters.beta_2": [-1e-9, 2],
    "hyperparameters.epsilon": [0, -1e-8, 1e-60, 2],
}
SIZES = {
    "architecture.inputs": [0, 1, 3, -2, 2.0, 10**400],
    "architecture.preprocess": [3, [0], [3.0], [True], ["3"], [513], [1] * 9, [[3]], [-1], [10**400]],
    "architecture.lstm": [[], 4, [4, 0], [4, 2.0], [1] * 9, [2**40], [None]],
}


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        *(
            (key, v, f"{key.split('.')[-1]} to be a number")
            for key, vs in NUMBERS.items()
            for v in [*vs, *JUNK]
        ),
        *(
            (key, v, f"{key} to be")
            for key, vs in SIZES.items()
            for v in [*vs, *JUNK]
            if v != [] or "lstm" in key
        ),
        *(
            ("rule", v, r"rule to be one of \['dm', 'rnnprop', 'rnnprop-annealing', 'rnnprop-settling'\]")
            for v in [*JUNK, 1, "RNNprop", "__class__"]
        ),
        *(("provenance", v, "provenance to be a JSON object") for v in JUNK if not isinstance(v, dict)),
        *(("digest", v, "digest to be sha256: and 64 hex") for v in [*JUNK, "sha256:" + "A" * 64, "md5:0"]),
        *(("hyperparameters", v, "hyperparameters to be") for v in [*JUNK, {"p": 10.0}]),
        *(("architecture", v, "architecture to be") for v in [*JUNK, {"lstm": [4, 2]}]),
        ("rule", "dm", "hyperparameters to be exactly"),
        ("hyperparameters.gamma", 0.5, "hyperparameters to be exactly"),
        ("architecture.gru", [], "architecture to be exactly"),
        ("surprise", 1, "keys to be exactly"),
    ],
)
def test_config_with_a_wrong_value_is_refused(folder: Path, key: str, value: Any, expected: str) -> None:
    config = read_config(folder)
    *path, last = key.split(".")
    target = config[path[0]] if path else config
    target[last] = value
    write_config(folder, seal(config))
    assert_refused(folder, "config.json", expected, "")


@pytest.mark.parametrize("key", ["rule", "learning_rate", "digest", "config_digest", "provenance"])
def test_config_without_a_key_is_refused(folder: Path, key: str) -> None:
    config = read_config(folder)
    del config[key]
    write_config(folder, seal(config) if key != "config_digest" else config)
    assert_refused(folder, "config.json", f"keys to be exactly .*'{key}'", "")


def test_changed_digit_in_the_config_is_refused(folder: Path) -> None:
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text.replace("0.95", "0.85"))
    assert_refused(folder, "config.json", "the config_digest sha256:.*, that of the other keys", "sha256:")


# What `save` refuses, and leaves alone.


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"learning_rate": -1.0}, "learning_rate to be a number positive"),
        ({"learning_rate": float("nan")}, "numbers, texts, lists and dicts that JSON can hold"),
        ({"rule": object()}, r"a rule of \['AnnealingRule', 'DMRule', 'RNNpropRule', 'SettlingRule'\]"),
        ({"provenance": {"loss": float("inf")}}, "JSON can hold"),
        ({"provenance": {"what": object()}}, "JSON can hold"),
        ({"provenance": {"long": "x" * 2**20}}, "a provenance of less than 1048576 bytes"),
        ({"provenance": []}, "provenance to be a JSON object"),
        ({"state_dtype": "float16"}, r"state_dtype to be one of \['bfloat16', 'float32', 'int8'\]"),
        ({"network": coordinatewise.initial_weights(Architecture(lstm=(513,)), 1)}, "1 to 512 units"),
        (
            {"network": coordinatewise.initial_weights(Architecture(inputs=3), 1)},
            "architecture.inputs to be 2",
        ),
    ],
)
def test_save_refuses_what_load_would(folder: Path, changes: dict[str, Any], expected: str) -> None:
    arguments = {"network": coordinatewise.initial_weights(SMALL, 9), "rule": RNNpropRule()} | changes
    before = pretrained.load(folder).config
    with pytest.raises(ValueError, match=rf"config\.json\. Expected .*{expected}"):
        pretrained.save(folder, **arguments)
    assert pretrained.load(folder).config == before


def test_save_refuses_weights_that_are_not_finite_or_do_not_fit(folder: Path) -> None:
    for name, value, expected in [
        ("lstm.0.bias", np.full(16, np.nan), r"lstm.0.bias to be finite"),
        ("lstm.0.bias", np.zeros(15), r"lstm.0.bias to be F32 \[16\]"),
    ]:
        tensors = coordinatewise.to_tensors(coordinatewise.initial_weights(SMALL, 9)) | {name: value}
        with pytest.raises(ValueError, match=rf"model\.safetensors\. Expected {expected}"):
            pretrained.save(folder, coordinatewise.from_tensors(tensors, SMALL), RNNpropRule())


def test_save_says_where_it_cannot_write(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"Cannot write weights to .*file/weights\. Expected a folder that can"):
        save_version(tmp_path / "file" / "weights", 1)


# Interrupted saves.


class Killed(BaseException):
    """Nothing in the program may catch this, as nothing survives kill -9."""


def stop() -> NoReturn:
    raise Killed


def kill_9() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def find_the_disk_full() -> NoReturn:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class Doom:
    """Ends the program at the n-th of the steps that `save` is made of; half of a write is done by then."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.left = 0
        self.end: Callable[[], None] = stop
        doom = self
        rename, fsync, makedirs = tf.io.gfile.rename, os.fsync, tf.io.gfile.makedirs

        class File(tf.io.gfile.GFile):
            def write(self, content: bytes) -> None:
                if doom.strikes():
                    super().write(content[: len(content) // 2])
                    super().flush()
                    doom.end()
                super().write(content)

        def doomed(function: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any, **kwargs: Any) -> Any:
                if doom.strikes():
                    doom.end()
                return function(*args, **kwargs)

            return call

        monkeypatch.setattr(tf.io.gfile, "GFile", File)
        monkeypatch.setattr(tf.io.gfile, "rename", doomed(rename))
        monkeypatch.setattr(tf.io.gfile, "makedirs", doomed(makedirs))
        monkeypatch.setattr(os, "fsync", doomed(fsync))

    def strikes(self) -> bool:
        self.left -= 1
        return self.left == 0

    def save(self, folder: Path, version: int, at: int) -> bool:
        """Whether the save came to its end."""
        self.left = at
        try:
            save_version(folder, version)
        except Killed:
            return False
        finally:
            self.left = 0
        return True


@pytest.fixture
def doom(monkeypatch: pytest.MonkeyPatch) -> Iterator[Doom]:
    return Doom(monkeypatch)


# A save's steps: makedirs, two writes with two fsyncs each, two renames with one each: 11. The first rename,
# number 8, decides.


def test_first_save_killed_anywhere_leaves_all_or_nothing(tmp_path: Path, doom: Doom) -> None:
    finished = []
    for at in range(1, 13):
        folder = tmp_path / str(at)
        finished.append(doom.save(folder, 1, at))
        try:
            whole = loaded_version(folder) == 1
        except ValueError:
            whole = False
        assert whole == (at > 8)
        save_version(folder, 2)
        assert loaded_version(folder) == 2
    assert finished == [False] * 11 + [True]


@pytest.mark.parametrize("second", [2, 3], ids=["other-size", "same-size"])
def test_two_saves_killed_anywhere_leave_old_or_new(tmp_path: Path, doom: Doom, second: int) -> None:
    """The second save begins in each state that the first can leave."""
    for first_at in range(1, 13):
        for second_at in range(1, 15):
            folder = tmp_path / f"{first_at}-{second_at}"
            save_version(folder, 1)
            doom.save(folder, second, first_at)
            old = loaded_version(folder)
            assert old == (second if first_at > 8 else 1)
            finished = doom.save(folder, 4, second_at)
            new = loaded_version(folder)
            assert new == 4 if finished else new in (old, 4)
        assert finished
        assert sorted(os.listdir(folder)) == ["config.json", "model.safetensors"]


def test_kill_9_at_every_step_leaves_old_or_new(tmp_path: Path, doom: Doom) -> None:
    doom.end = kill_9
    for at in range(1, 13):
        folder = tmp_path / str(at)
        save_version(folder, 1)
        with in_a_child(lambda folder=folder, at=at: doom.save(folder, 2, at)) as child:
            _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status) == (at < 12)
        assert loaded_version(folder) == (2 if at > 8 else 1)
        save_version(folder, 3)
        assert loaded_version(folder) == 3
        assert sorted(os.listdir(folder)) == ["config.json", "model.safetensors"]


def test_disk_full_at_every_step_leaves_old_or_new(tmp_path: Path, doom: Doom) -> None:
    doom.end = find_the_disk_full
    for at in range(1, 12):
        folder = tmp_path / str(at)
        save_version(folder, 1)
        with pytest.raises(OSError, match=r"Cannot write weights to .*Received: .*No space left on device"):
            doom.save(folder, 2, at)
        assert loaded_version(folder) == (2 if at > 8 else 1)
        save_version(folder, 3)
        assert loaded_version(folder) == 3


@pytest.mark.parametrize("version", [2, 3], ids=["other-size", "same-size"])
def test_disk_full_at_any_byte_leaves_the_old_version(tmp_path: Path, version: int) -> None:
    """A limit on the size of files stands for the disk; each of the two files fails in its turn."""
    folder = tmp_path / "weights"
    save_version(folder, version)
    longest = max((folder / name).stat().st_size for name in os.listdir(folder))
    save_version(folder, 1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in [*range(0, longest, 29), longest - 1]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            with pytest.raises(OSError, match=r"space left\. Received: .*What was there before is whole"):
                save_version(folder, version)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert loaded_version(folder) == 1
    save_version(folder, version)
    assert loaded_version(folder) == version


@contextmanager
def in_a_child(work: Callable[[], object]) -> Iterator[int]:
    """The process in which the work is done."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    yield child


@pytest.mark.parametrize("kills", [20, pytest.param(300, marks=pytest.mark.slow)])
def test_kill_9_at_any_time_leaves_a_whole_version(tmp_path: Path, kills: int) -> None:
    folder = tmp_path / "weights"
    save_version(folder, 1)
    rng = random.Random(8)
    found = set()
    for _ in range(kills):
        progress, saved = os.pipe()

        def save_on_and_on(first: int = rng.randrange(40), saved: int = saved) -> None:
            for version in range(first, 10_000):
                save_version(folder, 1 + version % 40)
                os.write(saved, b".")

        with in_a_child(save_on_and_on) as child:
            assert os.read(progress, 1) == b"."
            time.sleep(rng.uniform(0.0, 0.02))
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        os.close(progress)
        os.close(saved)
        found.add(loaded_version(folder))
    assert len(found) > 3

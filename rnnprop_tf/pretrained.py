"""Weight folders: validated before use, written whole.

A weight folder holds two files.

`config.json`
    - `format_version`: 1, or 2 where there is a `state_dtype`.
    - `rule`: `"rnnprop"`, `"rnnprop-settling"`, `"rnnprop-annealing"` or `"dm"`.
    - `hyperparameters`: the rule's; `beta_1`, `beta_2` and `epsilon`, with `beta_3` and `settling`, or
      `annealing`; or `p`.
    - `architecture`: `inputs` (the rule's number of inputs), `preprocess` and `lstm` (units per layer, bottom
      first).
    - `learning_rate`: the alpha that the weights were meta-trained with.
    - `state_dtype`, from version 2 on: what `from_pretrained` stores the LSTM's h and c as, see
      `rnnprop_tf.state_types`. `save` leaves it out for float32, which earlier releases can read.
    - `provenance`: anything of JSON: recipe, seed, iterations, data, results, licence.
    - `digest`: `"sha256:..."` of the bytes of `model.safetensors`.
    - `config_digest`: `"sha256:..."` of all the other keys, as sorted JSON without white space. It finds a
      damaged digit in a hyperparameter, which the first digest cannot.

`model.safetensors`
    float32 tensors, named and shaped as `rnnprop_tf.network.tensor_shapes` says.

Digests find damage, not forgery: who can write a folder can write its digests.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import re
import reprlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
import safetensors
import safetensors.numpy
from keras import ops

from rnnprop_tf import files, hub
from rnnprop_tf import network as coordinatewise
from rnnprop_tf.network import Architecture, Network
from rnnprop_tf.rule import AnnealingRule, DMRule, RNNpropRule, Rule, SettlingRule, checked
from rnnprop_tf.state_types import STATE_DTYPES

DEFAULT = "rnnprop-2"
"""The name of the weights to use when none is asked for."""

LASTING = {
    "rnnprop-1": "sha256:0d535f699c3aa72b803979cb9669cf64115e11440e527edda0be160b8a3db530",
    "rnnprop-paper": "sha256:70e8e380fea89cb833212e0f0aa9f4710856e98e1ce223a72e5d5467786c9981",
    "rnnprop-quick": "sha256:db6fb307cc911c61b65226853ae35c3157f03a7d2b15f479ddd22bd8fe713d84",
}
"""Networks that every later release ships under the same names, with the SHA-256 of their numbers.

Model files and configs of users name them, see `rnnprop_tf.network_config`. So never remove one, and give
changed weights a new name. `rnnprop-1-settling` has the network of `rnnprop-1`.
"""

FORMAT_VERSIONS = (1, 2)
"""Those that can be read."""
CONFIG_FILE = "config.json"
MODEL_FILE = "model.safetensors"
NEXT = ".next"
"""Suffix of a file that `save` has written but not yet put in place."""

RULES: dict[str, type[Rule]] = {
    "rnnprop": RNNpropRule,
    "rnnprop-settling": SettlingRule,
    "rnnprop-annealing": AnnealingRule,
    "dm": DMRule,
}

MAX_CONFIG_BYTES = 2**20
MAX_HEADER_BYTES = 2**16
MAX_LAYERS = 8
MAX_UNITS = 512
_LARGEST = Architecture(preprocess=(MAX_UNITS,) * MAX_LAYERS, lstm=(MAX_UNITS,) * MAX_LAYERS)
MAX_MODEL_BYTES = (
    8 + MAX_HEADER_BYTES + 4 * sum(map(math.prod, coordinatewise.tensor_shapes(_LARGEST).values()))
)

_CONFIG_KEYS = ["format_version", "rule", "hyperparameters", "architecture", "learning_rate", "provenance"]
_CONFIG_KEYS += ["digest", "config_digest"]
_DEFAULT_STATE_DTYPE = STATE_DTYPES[0]
_SHIPPED = Path(__file__).parent / "weights"

CONTROLS = ("dm-paper", "dm-paper-tricks", "rnnprop-paper-no-convex", "rnnprop-paper-no-scaling")
"""Weights that the paper's experiments compare with. They are no part of the package."""
CONTROLS_FOLDER = "results/weights"
"""Folder of the controls in the repository."""

_reprlib = reprlib.Repr()
_reprlib.maxlist = _reprlib.maxtuple = 40
_reprlib.maxstring = _reprlib.maxother = 100
_shown = _reprlib.repr


class Pretrained(NamedTuple):
    """The content of a weight folder."""

    network: Network
    """float32 NumPy arrays."""
    rule: Rule
    learning_rate: float
    """alpha during meta-training: the step bound that the weights know."""
    config: dict[str, Any]
    """All of `config.json`, provenance included."""

    @property
    def state_dtype(self) -> str:
        """What `from_pretrained` stores the LSTM's h and c as, unless told otherwise."""
        return self.config.get("state_dtype", _DEFAULT_STATE_DTYPE)


def list_pretrained() -> list[str]:
    """The names of the weights that ship with this package.

    Returns:
        Names for `from_pretrained`, sorted.

    Example:

    >>> rnnprop_tf.list_pretrained()
    ['rnnprop-1', 'rnnprop-1-settling', 'rnnprop-1-small', 'rnnprop-2', 'rnnprop-paper', 'rnnprop-quick']
    """
    return sorted(path.parent.name for path in _SHIPPED.glob(f"*/{CONFIG_FILE}"))


def load(name_or_path: str | os.PathLike[str]) -> Pretrained:
    """The weights of that name, or in that folder.

    Nothing is read before its size is known to be what it should be, and nothing is executed.

    Args:
        name_or_path: a name from `list_pretrained`, which needs no network; a folder written by `save`, as a
            local path or any URL that `tf.io.gfile` opens; or an address on the Hugging Face Hub, see
            `rnnprop_tf.hub`. A name wins over a folder of the same name; write `"./name"` for the folder.

    Returns:
        The network, the rule, the learning rate and the whole config.

    Raises:
        ValueError: there is no such name, folder or repository, or a file in it is missing, unreadable,
            damaged or of another format.
        ImportError: an address on the hub without `huggingface_hub`.
    """
    folder = _find(name_or_path)
    # An interrupted `save` leaves the valid config in the second file. The last attempt is the one that
    # raises; it also serves a reader that came between the steps of a running `save`.
    for config_file in (CONFIG_FILE, CONFIG_FILE + NEXT):
        with suppress(ValueError):
            return _read(folder, config_file)
    try:
        return _read(folder, CONFIG_FILE)
    except ValueError as error:
        raise ValueError(
            f"{error} The folder is damaged, incomplete or not a weight folder: write it again with "
            "`save_pretrained`, or fetch it anew."
        ) from error


def save(
    folder: str | os.PathLike[str],
    network: Network,
    rule: Rule,
    learning_rate: float = 0.1,
    provenance: dict[str, Any] | None = None,
    state_dtype: str = _DEFAULT_STATE_DTYPE,
) -> None:
    """Writes a weight folder, atomically: whatever happens, `load` finds the old or the new version whole.

    Two files cannot be replaced at once, so one rename must decide. Each config holds the digest of its
    model, which makes the model's rename that one:

    1. write `config.json.next` and `model.safetensors.next`: the old pair is untouched;
    2. rename the model into place: from here on the config that matches it is `config.json.next`;
    3. rename the config into place.

    `load` takes `config.json` if it matches the model, else `config.json.next`; a `save` that finds the state
    between 2 and 3 first finishes that step, because it is about to overwrite `config.json.next`. Other files
    of the folder are left alone.

    On a local path each step is on the disk before the next begins. Through `tf.io.gfile` the order is the
    same and the guarantee is that of the file system's rename. One process at a time may save to a folder;
    readers need not wait.

    Args:
        folder: created if missing; a local path or any URL that `tf.io.gfile` opens.
        network: arrays, tensors or variables; stored as float32.
        rule: an instance of one of `RULES`.
        learning_rate: alpha during meta-training.
        provenance: what JSON can hold.
        state_dtype: what `from_pretrained` is to store the LSTM's h and c as, see `rnnprop_tf.state_types`.

    Raises:
        ValueError: a weight is not finite, or something else that `load` would refuse.
        OSError: writing failed.
    """
    folder = os.path.expanduser(os.fspath(folder))
    model = _model_bytes(folder, network)
    config = _config_bytes(folder, network, rule, learning_rate, provenance, state_dtype, model)
    with _writing(folder):
        files.system(folder).makedirs(folder)
        _finish_interrupted_save(folder)
        _write(folder, CONFIG_FILE + NEXT, config)
        _write(folder, MODEL_FILE + NEXT, model)
        _put_in_place(folder, MODEL_FILE)
        _put_in_place(folder, CONFIG_FILE)


def _find(name_or_path: str | os.PathLike[str]) -> str:
    if not isinstance(name_or_path, str | os.PathLike):
        raise ValueError(
            f"Expected the name of pretrained weights, one of {list_pretrained()}, or the path of a folder "
            f"written by `save_pretrained`. Received: {_shown(name_or_path)}"
        )
    if name_or_path in list_pretrained():
        return str(_SHIPPED / name_or_path)
    folder = os.path.expanduser(os.fspath(name_or_path))
    if folder.startswith(hub.PREFIX):
        return hub.fetch(folder, {CONFIG_FILE: MAX_CONFIG_BYTES, MODEL_FILE: MAX_MODEL_BYTES})
    with _reading(folder):
        if folder and files.system(folder).isdir(folder):
            return folder
    where = ""
    if folder in CONTROLS:
        where = f" This control is in the repository: load it by path, {CONTROLS_FOLDER}/{folder}."
    raise ValueError(
        f"No pretrained weights named {folder!r}. Expected one of {list_pretrained()}, or a folder written "
        f"by `save_pretrained`. Received neither: there is no such folder.{where}"
    )


def _read(folder: str, config_file: str) -> Pretrained:
    config_path = _join(folder, config_file)
    config = _parse_json(config_path, _read_file(config_path, MAX_CONFIG_BYTES))
    rule, architecture = _check_config(config_path, config)
    model_path = _join(folder, MODEL_FILE)
    shapes = coordinatewise.tensor_shapes(architecture)
    model = _read_model(model_path, 4 * sum(math.prod(shape) for shape in shapes.values()))
    if digest_of(model) != config["digest"]:
        _refuse(model_path, f"the digest {config['digest']} that {config_file} names", digest_of(model))
    network = coordinatewise.from_tensors(_parse_tensors(model_path, model, shapes), architecture)
    return Pretrained(network, rule, float(config["learning_rate"]), config)


# Checks. Each refuses with the file, what was expected and what was received.


def _refuse(path: str, expected: str, received: str) -> NoReturn:
    raise ValueError(f"Unusable weights, {path}. Expected {expected}. Received: {received}.")


def _parse_json(path: str, content: bytes) -> dict[str, Any]:
    def finite(text: str) -> float:
        value = float(text)
        if not math.isfinite(value):
            raise ValueError(f"the number {_shown(text)}")
        return value

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(keys := dict(pairs)) != len(pairs):
            raise ValueError("the same key twice")
        return keys

    try:
        value = json.loads(
            content.decode(), parse_float=finite, parse_constant=finite, object_pairs_hook=unique
        )
        _canonical(value)
    except RecursionError:
        _refuse(path, "JSON of a few levels", "deeply nested JSON")
    except ValueError as error:
        _refuse(path, "valid JSON with finite numbers and unique keys", str(error))
    if not isinstance(value, dict):
        _refuse(path, "a JSON object", _shown(value))
    return value


def _check_config(path: str, config: dict[str, Any]) -> tuple[Rule, Architecture]:
    # The version first: the other checks are those of this version.
    version = config.get("format_version")
    if type(version) is not int or version not in FORMAT_VERSIONS:
        known = " or ".join(map(str, FORMAT_VERSIONS))
        expected = f"format_version {known}, which this rnnprop_tf knows (a later one: upgrade)"
        _refuse(path, expected, _shown(version))
    _check_keys(path, "keys", config, _CONFIG_KEYS + ["state_dtype"] * (version > 1))
    if config["config_digest"] != _config_digest(config):
        expected = f"the config_digest {_config_digest(config)}, that of the other keys' content"
        _refuse(path, expected, _shown(config["config_digest"]))
    name = config["rule"]
    if not isinstance(name, str) or name not in RULES:
        _refuse(path, f"rule to be one of {sorted(RULES)}", _shown(name))
    if not isinstance(config["provenance"], dict):
        _refuse(path, "provenance to be a JSON object", _shown(config["provenance"]))
    state_dtype = config.get("state_dtype", _DEFAULT_STATE_DTYPE)
    if not isinstance(state_dtype, str) or state_dtype not in STATE_DTYPES:
        _refuse(path, f"state_dtype to be one of {sorted(STATE_DTYPES)}", _shown(state_dtype))
    digest = config["digest"]
    if not isinstance(digest, str) or not re.fullmatch("sha256:[0-9a-f]{64}", digest):
        _refuse(path, "digest to be sha256: and 64 hexadecimal digits", _shown(digest))
    rule_class = RULES[name]
    hyperparameters = config["hyperparameters"]
    _check_keys(path, "hyperparameters", hyperparameters, [f.name for f in dataclasses.fields(rule_class)])
    try:
        checked("learning_rate", config["learning_rate"])
        rule = rule_class(**hyperparameters)
    except ValueError as error:
        raise ValueError(f"Unusable weights, {path}. {error}") from None
    return rule, _check_architecture(path, config["architecture"], rule.inputs_size)


def _check_architecture(path: str, architecture: Any, inputs: int) -> Architecture:
    _check_keys(path, "architecture", architecture, list(Architecture._fields))
    if type(architecture["inputs"]) is not int or architecture["inputs"] != inputs:
        _refuse(
            path, f"architecture.inputs to be {inputs}, as the rule has it", _shown(architecture["inputs"])
        )
    for key, fewest in (("preprocess", 0), ("lstm", 1)):
        units = architecture[key]
        if (
            not isinstance(units, list)
            or not fewest <= len(units) <= MAX_LAYERS
            or not all(type(u) is int and 1 <= u <= MAX_UNITS for u in units)
        ):
            expected = f"architecture.{key} to be {fewest} to {MAX_LAYERS} layers of 1 to {MAX_UNITS} units"
            _refuse(path, expected, _shown(units))
    return Architecture(inputs, tuple(architecture["preprocess"]), tuple(architecture["lstm"]))


def _check_keys(path: str, what: str, value: Any, keys: list[str]) -> None:
    if not isinstance(value, dict):
        _refuse(path, f"{what} to be a JSON object with {sorted(keys)}", _shown(value))
    if sorted(value) != sorted(keys):
        _refuse(path, f"{what} to be exactly {sorted(keys)}", _shown(sorted(value)))


def _parse_tensors(path: str, model: bytes, shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    try:
        found = dict(safetensors.deserialize(model))
    except safetensors.SafetensorError as error:
        _refuse(path, "a safetensors file", str(error))
    if found.keys() != shapes.keys():
        _refuse(path, f"the tensors {sorted(shapes)}", _shown(sorted(found)))
    tensors = {}
    for name, shape in shapes.items():
        dtype = found[name]["dtype"]
        if dtype != "F32" or tuple(found[name]["shape"]) != shape:
            _refuse(path, f"{name} to be F32 {list(shape)}", f"{dtype} {found[name]['shape']}")
        tensors[name] = np.frombuffer(found[name]["data"], "<f4").astype("float32").reshape(shape)
        if not np.isfinite(tensors[name]).all():
            _refuse(path, f"{name} to be finite", "a NaN or an infinity")
    return tensors


# Content of the files that `save` writes.


def _model_bytes(folder: str, network: Network) -> bytes:
    tensors = {
        name: np.array(ops.convert_to_numpy(value), "float32", order="C")
        for name, value in coordinatewise.to_tensors(network).items()
    }
    model = safetensors.numpy.save(tensors)
    shapes = coordinatewise.tensor_shapes(coordinatewise.architecture_of(network))
    _parse_tensors(_join(folder, MODEL_FILE), model, shapes)
    return model


def _config_bytes(
    folder: str,
    network: Network,
    rule: Rule,
    learning_rate: float,
    provenance: dict[str, Any] | None,
    state_dtype: str,
    model: bytes,
) -> bytes:
    path = _join(folder, CONFIG_FILE)
    rule_name = next((name for name, known in RULES.items() if type(rule) is known), None)
    if rule_name is None:
        _refuse(path, f"a rule of {sorted(known.__name__ for known in RULES.values())}", _shown(rule))
    later = {} if state_dtype == _DEFAULT_STATE_DTYPE else {"state_dtype": state_dtype}
    config: dict[str, Any] = {
        "format_version": 2 if later else 1,
        "rule": rule_name,
        "hyperparameters": dataclasses.asdict(rule),
        "architecture": coordinatewise.architecture_of(network)._asdict(),
        "learning_rate": learning_rate,
        **later,
        "provenance": {} if provenance is None else provenance,
        "digest": digest_of(model),
    }
    try:
        config["config_digest"] = _config_digest(config)
        content = (json.dumps(config, indent=2, allow_nan=False) + "\n").encode()
    except (TypeError, ValueError, RecursionError) as error:
        _refuse(path, "numbers, texts, lists and dicts that JSON can hold", str(error))
    if len(content) > MAX_CONFIG_BYTES:
        _refuse(path, f"a provenance of less than {MAX_CONFIG_BYTES} bytes", f"{len(content)} bytes")
    _check_config(path, _parse_json(path, content))
    return content


def digest_of(content: bytes) -> str:
    """The digest of some bytes, as cards and configs write it.

    Args:
        content: the bytes.

    Returns:
        `"sha256:"` and 64 hexadecimal digits.
    """
    return "sha256:" + hashlib.sha256(content).hexdigest()


def _config_digest(config: dict[str, Any]) -> str:
    return digest_of(_canonical({key: value for key, value in config.items() if key != "config_digest"}))


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


# Files.


def _join(folder: str, name: str) -> str:
    return files.system(folder).join(folder, name)


@contextmanager
def _reading(path: str) -> Iterator[None]:
    try:
        yield
    except files.error_types() as error:
        _refuse(path, "a readable file or folder", str(error))


@contextmanager
def _writing(folder: str) -> Iterator[None]:
    try:
        yield
    except files.error_types() as error:
        raise OSError(
            f"Cannot write weights to {folder}. Expected a folder that can be created and written, with "
            f"space left. Received: {error}. What was there before is whole: make room or choose another "
            "folder."
        ) from error


def _size(path: str) -> int:
    with _reading(path):
        return files.system(path).stat(path).length


def _read_file(path: str, limit: int) -> bytes:
    # Devices and pipes, which could be read for ever, have size 0.
    if not 0 < _size(path) <= limit:
        _refuse(path, f"1 to {limit} bytes", f"{_size(path)} bytes")
    with _reading(path), files.system(path).GFile(path, "rb") as file:
        return file.read(limit)


def _read_model(path: str, data_bytes: int) -> bytes:
    """The file's content, after its size was found to be 8 + header + `data_bytes`."""
    size = _size(path)
    if not 8 < size - data_bytes <= 8 + MAX_HEADER_BYTES:
        expected = f"a header and {data_bytes} bytes of weights, as the architecture implies"
        _refuse(path, expected, f"{size} bytes")
    with _reading(path), files.system(path).GFile(path, "rb") as file:
        start = file.read(8)
        expected_size = 8 + int.from_bytes(start, "little") + data_bytes
        if size != expected_size:
            _refuse(path, f"{expected_size} bytes, as header and architecture imply", f"{size} bytes")
        return start + file.read(size - 8)


def _write(folder: str, name: str, content: bytes) -> None:
    path = _join(folder, name)
    with files.system(path).GFile(path, "wb") as file:
        file.write(content)
    _sync(path)
    _sync(folder)


def _put_in_place(folder: str, name: str) -> None:
    files.system(folder).rename(_join(folder, name + NEXT), _join(folder, name), overwrite=True)
    _sync(folder)


def _finish_interrupted_save(folder: str) -> None:
    with suppress(ValueError):
        _read(folder, CONFIG_FILE)
        return
    with suppress(ValueError):
        _read(folder, CONFIG_FILE + NEXT)
        _put_in_place(folder, CONFIG_FILE)


def _sync(path: str) -> None:
    """Waits until a local file or folder is on the disk; `tf.io.gfile` only empties its own buffers."""
    if "://" in path:
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

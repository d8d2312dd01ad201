"""A thousand spoilt weight folders, a fifth of them in the fast tests: each is refused in words or loads as
what it was.

Watched at each load: the time it takes, the memory it asks for, the files it opens, and that no code
comes in.
"""

import hashlib
import json
import os
import random
import re
import resource
import shutil
import signal
import struct
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf
from numpy.testing import assert_array_equal
from watch import audit_events

from rnnprop_tf import network as coordinatewise
from rnnprop_tf import pretrained
from rnnprop_tf.network import Architecture
from rnnprop_tf.rule import RNNpropRule

SECONDS = 5.0
"""Of the processor, for a load; the clock may show ten times as many, on a busy machine."""
MEMORY = 2**25
CONFIG, MODEL = "config.json", "model.safetensors"

SEALS = {"digest": None, "config_digest": None}
Spoiler = Callable[[random.Random, Path], None]

CODE = (
    "compile",
    "exec",
    "import",
    "marshal.",
    "pickle.",
    "os.exec",
    "os.system",
    "os.posix_spawn",
    "subprocess.",
)
"""Beginnings of the names of audit events with which code would come in."""


# What may happen to a folder. Each spoiler leaves something behind that a hostile writer could have written;
# `seal` makes the digests right again, so that the checks behind them are reached.


def digest(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


def seal(config: dict[str, Any]) -> dict[str, Any]:
    rest = {key: value for key, value in config.items() if key != "config_digest"}
    return rest | {"config_digest": digest(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode())}


def read_config(folder: Path) -> dict[str, Any]:
    return json.loads((folder / CONFIG).read_text())


def write_model(folder: Path, content: bytes) -> None:
    (folder / MODEL).write_bytes(content)
    (folder / CONFIG).write_text(json.dumps(seal(read_config(folder) | {"digest": digest(content)})))


def damage(rng: random.Random, folder: Path) -> None:
    """What disks and networks do."""
    path = folder / rng.choice([CONFIG, MODEL])
    content = bytearray(path.read_bytes())
    position = rng.randrange(len(content))
    kind = rng.choice(["flip", "cut", "insert", "repeat", "zeros"])
    if kind == "flip":
        content[position] ^= 1 << rng.randrange(8)
    elif kind == "cut":
        del content[position:]
    elif kind == "insert":
        content[position:position] = rng.randbytes(rng.randrange(1, 9))
    elif kind == "repeat":
        content[position:position] = content[position : position + rng.randrange(1, 99)]
    else:
        content[position : position + 8] = bytes(len(content[position : position + 8]))
    path.write_bytes(content)


JUNK: list[Any] = [
    None,
    True,
    False,
    [],
    {},
    "",
    "0.95",
    "x" * 10**5,
    "\x00",
    "../../../../etc/passwd",
    "/dev/zero",
]
JUNK += [0, -1, 1, 2**31, 2**63, 10**400, 0.5, -0.0, 1e-320, 1.7e308, "__import__('os').system('id')"]
JUNK += [[[]], [0.5], [3, 4], [10**6], [2**40], [1] * 10**5, [{}] * 9]
JUNK += [{"": None}, {"a": [[]]}, {"__class__": "Rule"}, "!!python/object:os.system"]


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """All (container, key) of nested lists and dicts."""
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
        yield value, key
        if isinstance(inner, dict | list):
            yield from places(inner)


def other_values(rng: random.Random, folder: Path) -> None:
    """Wrong types and sizes, missing and unknown keys, in a config whose digest is right."""
    config = read_config(folder)
    for _ in range(rng.choice([1, 1, 1, 2, 5])):
        container, key = rng.choice(list(places(config)))
        kind = rng.choice(["replace", "replace", "remove", "add"])
        if kind == "replace":
            container[key] = rng.choice(JUNK)
        elif kind == "remove":
            del container[key]
        elif isinstance(container, dict):
            container[rng.choice(["", "gru", "__class__", "path", "digest ", "x" * 1000])] = rng.choice(JUNK)
        else:
            container.append(rng.choice(JUNK))
    (folder / CONFIG).write_text(json.dumps(seal(config) if rng.random() < 0.9 else config))


def other_text(rng: random.Random, folder: Path) -> None:
    """JSON that is deep, long, ambiguous, or none."""
    n = rng.choice([10, 900, 1100, 10_000, 300_000])
    text = (folder / CONFIG).read_text()
    value = rng.choice(
        [
            "[" * n,
            "[" * n + "]" * n,
            '{"a":' * n + "1" + "}" * n,
            "9" * n,
            "1e" + "9" * n,
            "-Infinity",
            "NaN",
            '"' + "\\ud800" * n + '"',
            "[" + "[]," * n + "[]]",
            "{" + ",".join(f'"{k}":{{}}' for k in range(n // 20)) + "}",
        ]
    )
    key = rng.choice(list(read_config(folder)))
    start = text.index(f'"{key}": ')
    spoilt = [value, text[:start] + f'"{key}": {value}, ' + text[start:], text[:start] + value + text[start:]]
    (folder / CONFIG).write_text(rng.choice(spoilt))


def other_header(rng: random.Random, folder: Path) -> None:
    """A header of the weight file that lies, in a folder whose digests are right."""
    content = (folder / MODEL).read_bytes()
    length = int.from_bytes(content[:8], "little")
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    entry = header[rng.choice(list(header))]
    size = rng.choice([-1, 0, 1, 3, 2**20, 2**31, 2**62, 2**64 - 1, 2**64, 10**30, 0.5, "4", None, [4]])
    kind = rng.choice(
        ["dtype", "shape", "shape", "offset", "offset", "rename", "extra", "metadata", "length", "text"]
    )
    if kind == "dtype":
        entry["dtype"] = rng.choice(
            ["F64", "F16", "BF16", "I32", "U8", "BOOL", "F8_E4M3", "F4", "O", "", None, 7]
        )
    elif kind == "shape":
        entry["shape"] = rng.choice(
            [[], [size], [size, size], [size] * 70, [0, size], entry["shape"][::-1], size]
        )
    elif kind == "offset":
        entry["data_offsets"] = rng.choice([[size, 4], [0, size], [size, size], [4], [], size, {"0": 4}])
    elif kind == "rename":
        name = rng.choice(list(header))
        header[rng.choice(["", "../x", "/etc/passwd", "a" * 10**4, "__metadata__"])] = header.pop(name)
    elif kind == "extra":
        end = len(data)
        header["extra"] = {"dtype": "F32", "shape": [0, size], "data_offsets": [end, end]}
    elif kind == "metadata":
        header["__metadata__"] = rng.choice([{}, {"a": "b"}, {"a": 1}, {"a": "x" * 10**4}, [], None, size])
    text = json.dumps(header).encode()
    if kind == "text":
        text = rng.choice(
            [b"", b"{}", b"[" * 1000, b"\xff" * 9, text[:-1], text + b"}", text + b" " * 70_000]
        )
    length = len(text)
    if kind == "length":
        length = rng.choice([0, 1, length - 1, length + 1, 2**16, 2**31, 2**63, 2**64 - 1])
    write_model(folder, struct.pack("<Q", length) + text + data)


def other_file(rng: random.Random, folder: Path) -> None:
    """Something else where a file should be, or a file of absurd size."""
    path = folder / rng.choice([CONFIG, MODEL])
    kind = rng.choice(
        ["missing", "folder", "pipe", "empty", "sparse", "dangling", "loop", "device", "shifted"]
    )
    if kind == "sparse":
        os.truncate(path, 2 ** rng.randrange(10, 42))
        return
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "empty":
        path.touch()
    elif kind == "dangling":
        path.symlink_to(folder / "nothing")
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "device":
        path.symlink_to(rng.choice(["/dev/zero", "/dev/urandom", "/dev/tty", "/proc/self/mem"]))
    elif kind == "shifted":
        shutil.copy(folder / rng.choice(os.listdir(folder)), path)


def other_next(rng: random.Random, folder: Path) -> None:
    """Remains of interrupted saves that are none."""
    original = (folder / CONFIG).read_bytes()
    spoil = rng.choice([damage, other_values, other_text, other_header])
    spoil(rng, folder)
    (folder / CONFIG).rename(folder / (CONFIG + pretrained.NEXT))
    if rng.random() < 0.5:
        (folder / CONFIG).write_bytes(original)


SPOILERS: list[Spoiler] = [
    damage, other_values, other_text, other_header, other_file, other_next,
]  # fmt: skip


@contextmanager
def guarded(folder: Path, opened: list[str]) -> Iterator[None]:
    """Fails if the block takes long, takes much memory, opens a file elsewhere or loads code."""

    def too_long(*_: Any) -> None:
        raise TimeoutError(f"no answer after {10 * SECONDS} seconds")

    opened.clear()
    previous = signal.signal(signal.SIGALRM, too_long)
    signal.setitimer(signal.ITIMER_REAL, 10 * SECONDS)
    tracemalloc.reset_peak()
    before, _ = tracemalloc.get_traced_memory()
    start = time.process_time()
    try:
        with audit_events() as events:
            yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, previous)
    _, peak = tracemalloc.get_traced_memory()
    assert time.process_time() - start < SECONDS
    assert peak - before < MEMORY
    opened += [str(arguments[0]) for event, arguments in events if event == "open"]
    assert {os.path.dirname(path) for path in opened} <= {str(folder)}
    assert not [event for event, _ in events if event.startswith((*CODE, "socket."))]


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Paths that TensorFlow opens, which the interpreter does not see."""
    paths: list[str] = []

    class Watched(tf.io.gfile.GFile):
        def __init__(self, name: str, mode: str = "r") -> None:
            paths.append(name)
            super().__init__(name, mode)

    monkeypatch.setattr(tf.io.gfile, "GFile", Watched)
    return paths


@pytest.mark.parametrize(
    "seeds", [range(200), pytest.param(range(200, 1000), marks=pytest.mark.slow)], ids=["fast", "rest"]
)
def test_spoilt_folders_are_refused_or_load_unchanged(
    tmp_path: Path, opened: list[str], seeds: range
) -> None:
    whole = tmp_path / "whole"
    network = coordinatewise.initial_weights(Architecture(preprocess=(3,), lstm=(4, 2)), seed=1)
    pretrained.save(whole, network, RNNpropRule(), provenance={"recipe": "none", "results": [1, {"a": 0.5}]})
    expected = pretrained.load(whole)
    with pytest.raises(ValueError, match="Unusable"):
        pretrained.load(tmp_path)  # From here on all that is ever needed is imported.

    folder = tmp_path / "spoilt"
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    outcomes = Counter[tuple[str, str]]()
    tracemalloc.start()
    try:
        for seed in seeds:
            rng = random.Random(seed)
            spoil = SPOILERS[seed % len(SPOILERS)]
            shutil.copytree(whole, folder)
            spoil(rng, folder)
            try:
                with guarded(folder, opened):
                    found = pretrained.load(folder)
            except ValueError as error:
                message = str(error)
            except Exception as error:
                raise AssertionError(f"seed {seed}, {spoil.__name__}") from error
            else:
                message = ""
                assert_is_what_it_was(found, expected, spoil, seed)
            if message:
                assert re.search(r"Unusable weights, .* Expected .* Received: ", message, re.DOTALL), (
                    seed,
                    message,
                )
                assert len(message) < 2_000, (seed, message)
            outcomes[spoil.__name__, "refused" if message else "loaded"] += 1
            shutil.rmtree(folder)
    finally:
        tracemalloc.stop()
    grown = (
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory
    )  # KiB, what tracemalloc takes included
    assert grown < 4 * MEMORY // 1024
    for spoil in SPOILERS:
        assert outcomes[spoil.__name__, "refused"] > len(seeds) // len(SPOILERS) // 3, outcomes


def assert_is_what_it_was(
    found: pretrained.Pretrained, expected: pretrained.Pretrained, spoil: Spoiler, seed: int
) -> None:
    """The weights are the same. The rest is, too, unless the config was changed and sealed again."""
    for name, array in coordinatewise.to_tensors(expected.network).items():
        assert_array_equal(coordinatewise.to_tensors(found.network)[name], array, err_msg=str(seed))
    if spoil not in (other_values, other_next):
        assert {**found.config, **SEALS} == {**expected.config, **SEALS}, seed
    assert found.config == seal(found.config), seed
    assert found.rule == RNNpropRule(**found.config["hyperparameters"]), seed
    assert found.learning_rate == found.config["learning_rate"], seed

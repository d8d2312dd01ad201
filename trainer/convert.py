"""Turns weights of github.com/VITA-Group/L2O-Training-Techniques into a weight folder.

    python -m trainer.convert --weights=vita_rnnprop_cl_il.npz --out=weights/vita

That system (Chen et al. 2020) keeps its weights as a Python pickle, which nothing here opens. What this
command reads is an `.npz` file with the same float32 arrays, named `module.variable`:

| array | shape | |
|---|---|---|
| `input_projection.w`, `.b` | [2, P], [P] | RNNprop only |
| `lstm_1.w_gates`, `.b_gates`, then `lstm_2`, ... | [inputs + H, 4H], [4H] | inputs first, then h |
| `linear.w`, `.b` | [H, 1], [1] | |

With `input_projection` it is RNNprop: inputs [m~, g~], ELU after the projection, 0.01 tanh(output) is added.
Without, it is DMoptimizer with p = 5, and 0.01 output is added. The gates are in our order, i, j, f, o. What
differs: kernels are transposed, and the forget gate's +1 is added in their cell, in our bias.

The same weights then make the same updates, but for coordinates whose gradient is exactly zero, which sleep
here (see `rnnprop_tf.rule`), and for the 1.2e-7 that their DMoptimizer adds to |g|, at most 4e-6 of an input.
"""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
import zlib
from typing import NoReturn

import numpy as np
from absl import flags

from rnnprop_tf import network as coordinatewise
from rnnprop_tf import pretrained
from rnnprop_tf.network import Architecture, Network
from rnnprop_tf.rule import DMRule, RNNpropRule, Rule
from trainer import commands, files

SOURCE = "https://github.com/VITA-Group/L2O-Training-Techniques"
LICENCE = "MIT"
SCALE = 0.01
"""Factor of the output in their update, our learning rate."""
MAX_BYTES = pretrained.MAX_MODEL_BYTES

Arrays = dict[str, np.ndarray]


def convert(weights: str, out: str, source: str = SOURCE, licence: str = LICENCE) -> Rule:
    """Writes the weight folder. Returns the rule that the weights are for.

    Args:
        weights: the `.npz` file.
        out: the weight folder.
        source: where the weights come from, for the card.
        licence: theirs, for the card.

    Raises:
        ValueError: the file holds other arrays.
        OSError: the file cannot be read or the folder cannot be written.
    """
    content = files.read(weights)
    rule, network = from_arrays(_read_arrays(weights, content), weights)
    provenance = {
        "recipe": "Converted by trainer.convert; meta-trained elsewhere, see source.",
        "source": source,
        "file": os.path.basename(weights),
        "file_digest": "sha256:" + hashlib.sha256(content).hexdigest(),
        "licence": licence,
        "results": {},
    }
    pretrained.save(out, network, rule, SCALE, provenance)
    return rule


def from_arrays(arrays: Arrays, path: str) -> tuple[Rule, Network]:
    """Their arrays as our rule and network.

    Raises:
        ValueError: arrays are missing, unknown, of another type or shape, or not finite; `path` is named.
    """
    rule, architecture = _rule_of(arrays, path)
    tensors = {}
    for name, shape in coordinatewise.tensor_shapes(architecture).items():
        theirs = _their_name(name)
        array = arrays[theirs]
        # Kernels are [inputs, outputs] there and [outputs, inputs] here.
        if array.dtype != "float32" or array.shape != shape[::-1]:
            expected = f"{theirs} to be of type float32 and shape {shape[::-1]}"
            _refuse(path, expected, f"type {array.dtype} and shape {array.shape}")
        if not np.isfinite(array).all():
            _refuse(path, f"{theirs} to be finite", "a NaN or an infinity")
        tensors[name] = array.T.copy()
    for k, units in enumerate(architecture.lstm):
        tensors[f"lstm.{k}.bias"][2 * units : 3 * units] += 1.0
    return rule, coordinatewise.from_tensors(tensors, architecture)


def _rule_of(arrays: Arrays, path: str) -> tuple[Rule, Architecture]:
    layers = max(1, sum(name.endswith(".b_gates") for name in arrays))
    is_rnnprop = "input_projection.b" in arrays
    expected = [f"lstm_{k}.{part}_gates" for k in range(1, layers + 1) for part in "wb"]
    expected += ["linear.w", "linear.b"]
    if is_rnnprop:
        expected += ["input_projection.w", "input_projection.b"]
    if sorted(arrays) != sorted(expected):
        _refuse(path, f"the arrays {sorted(expected)}", str(sorted(arrays)))
    units = tuple(arrays[f"lstm_{k}.b_gates"].size // 4 for k in range(1, layers + 1))
    if is_rnnprop:
        return RNNpropRule(), Architecture(preprocess=(arrays["input_projection.b"].size,), lstm=units)
    return DMRule(p=5.0), Architecture(preprocess=(), lstm=units)


def _their_name(name: str) -> str:
    """Their name of the weight that `rnnprop_tf.network.tensor_shapes` calls `name`."""
    layer, *number, part = name.split(".")
    letter = {"kernel": "w", "bias": "b"}[part]
    if layer == "lstm":
        return f"lstm_{int(number[0]) + 1}.{letter}_gates"
    module = {"preprocess": "input_projection", "output": "linear"}[layer]
    return f"{module}.{letter}"


def _read_arrays(path: str, content: bytes) -> Arrays:
    try:
        # Without `allow_pickle` an array is numbers or texts, and reading it runs no code.
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            size = sum(member.file_size for member in archive.infolist())
        if size > MAX_BYTES:
            raise ValueError(f"{size} bytes when unpacked, more than {MAX_BYTES}")
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            return dict(arrays)
    except (ValueError, OSError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        _refuse(path, "an .npz file of arrays, without pickles", str(error))


def _refuse(path: str, expected: str, received: str) -> NoReturn:
    raise ValueError(f"Cannot convert {path}. Expected {expected}. Received: {received}.")


def main(_: list[str]) -> None:
    try:
        rule = convert(
            os.path.expanduser(FLAGS.weights), os.path.expanduser(FLAGS.out), FLAGS.source, FLAGS.licence
        )
    except (ValueError, OSError) as error:
        raise SystemExit(str(error)) from error
    optimizer = {RNNpropRule: "RNNprop", DMRule: "DMOptimizer"}[type(rule)]
    print(f"Wrote {FLAGS.out}. Use it: rnnprop_tf.{optimizer}.from_pretrained({FLAGS.out!r})")


FLAGS = flags.FLAGS
if __name__ == "__main__":
    flags.DEFINE_string("weights", None, "the .npz file to convert", required=True)
    flags.DEFINE_string("out", None, "the weight folder to write", required=True)
    flags.DEFINE_string("source", SOURCE, "where the weights come from, for the card")
    flags.DEFINE_string("licence", LICENCE, "licence of the weights, for the card")
    commands.run(main)

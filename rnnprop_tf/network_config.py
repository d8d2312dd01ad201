"""Learned weights in the config of an optimizer: enough by themselves, and readable where they can be.

An optimizer is made again from its config alone: when a model is cloned, and before anything else of a model
file is read. So its `network` is a dict that holds the weights, in one of two forms.

- `name`, `digest`: weights of this package that every later release keeps, `pretrained.LASTING`. They are
  found by their numbers, whatever the optimizer was made from.
- `architecture`, `weights`: all others, and whatever takes up to `EMBEDDED_BYTES`. The weights are float32 in
  base64: 35 KB for the paper's network, where lists of numbers would take 139.

Both have `learning_rate`, the one that the weights were meta-trained with, and `needs`. Nothing reads the
latter but people: Keras shows the whole config when it does not find the class, and it comes last.
"""

from __future__ import annotations

import base64
from typing import Any

import numpy as np

from rnnprop_tf import network as coordinatewise
from rnnprop_tf import pretrained
from rnnprop_tf.network import Architecture, Network

EMBEDDED_BYTES = 2_048
"""The most bytes that stand in a config though they have a name."""

NEEDS = "import rnnprop_tf"
"""What to do when Keras does not find the class."""


def to_config(network: Network, learning_rate: float) -> dict[str, Any]:
    """The `network` of a config.

    Args:
        network: float32 NumPy arrays.
        learning_rate: alpha during meta-training.

    Returns:
        A dict for `from_config`, of what JSON can hold.
    """
    content = _bytes_of(network)
    digest = pretrained.digest_of(content)
    name = next((name for name, lasting in pretrained.LASTING.items() if lasting == digest), None)
    weights: dict[str, Any]
    if name is not None and len(content) > EMBEDDED_BYTES:
        weights = {"name": name, "digest": digest}
    else:
        weights = {
            "architecture": coordinatewise.architecture_of(network)._asdict(),
            "weights": base64.b64encode(content).decode(),
        }
    return weights | {"learning_rate": learning_rate, "needs": NEEDS}


def from_config(config: dict[str, Any]) -> tuple[Network, float]:
    """The inverse of `to_config`.

    Args:
        config: From `to_config`, of this release or an earlier one.

    Returns:
        The network, float32 NumPy arrays, and the learning rate.

    Raises:
        ValueError: If the weights are damaged, have a name that this release does not know, or differ from
            those that this installation has under the name.
    """
    network = _named(config["name"], config["digest"]) if "name" in config else _embedded(config)
    return network, config["learning_rate"]


def _named(name: str, digest: str) -> Network:
    # Nothing but names of the table: a config must not choose a folder or an address to load from.
    if name not in pretrained.LASTING:
        raise ValueError(
            f"The config names weights that this release of rnnprop_tf does not have: expected one of "
            f"{sorted(pretrained.LASTING)}. Install a later release, such as the one that wrote the config. "
            f"Received: {name!r}"
        )
    network = pretrained.load(name).network
    if (found := pretrained.digest_of(_bytes_of(network))) != digest:
        raise ValueError(
            f"The weights {name!r} of this installation are not those of the config: expected {digest}, "
            f"received {found}. Every release has the same weights under this name, so one of the two is "
            "damaged: install rnnprop_tf anew, or load the model or the optimizer from a good copy."
        )
    return network


def _embedded(config: dict[str, Any]) -> Network:
    sizes = config["architecture"]
    architecture = Architecture(sizes["inputs"], tuple(sizes["preprocess"]), tuple(sizes["lstm"]))
    shapes = coordinatewise.tensor_shapes(architecture)
    content = base64.b64decode(config["weights"])
    ends = np.cumsum([np.prod(shape, dtype=int) for shape in shapes.values()])
    if len(content) != 4 * ends[-1]:
        raise ValueError(
            f"The config's `network` is damaged: expected {4 * ends[-1]} bytes for {architecture}. Load the "
            f"model or the optimizer again from a good copy. Received: {len(content)} bytes."
        )
    parts = np.split(np.frombuffer(content, "<f4"), ends[:-1])
    tensors = {name: part.reshape(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}
    return coordinatewise.from_tensors(tensors, architecture)


def _bytes_of(network: Network) -> bytes:
    return b"".join(t.astype("<f4").tobytes() for t in coordinatewise.to_tensors(network).values())

"""all-MiniLM-L6-v2 in Keras layers: a BERT encoder and its weights.

The model is by sentence-transformers, Apache License 2.0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import keras
import numpy as np
import safetensors.numpy
from keras import layers, ops

from studies.minilm_package import PAD, archive, tokenize

EPSILON = 1e-12
"""Of the layer normalisations."""


class Sizes(NamedTuple):
    """Sizes of a BERT encoder."""

    vocabulary: int
    positions: int
    width: int
    blocks: int
    heads: int
    inner: int


MINILM = Sizes(vocabulary=30_522, positions=512, width=384, blocks=6, heads=12, inner=1_536)


BLOCK = {
    "attention": (
        "attention.self.query",
        "attention.self.key",
        "attention.self.value",
        "attention.output.dense",
    ),
    "attention_norm": ("attention.output.LayerNorm",),
    "inner": ("intermediate.dense",),
    "outer": ("output.dense",),
    "outer_norm": ("output.LayerNorm",),
}
"""Layers of a block, and what the checkpoint calls their parts, each with a weight and a bias."""


def encoder(length: int, sizes: Sizes = MINILM) -> keras.Model:
    """The encoder, with random weights. It has no dropout.

    Args:
        length: tokens of a sentence, at most `sizes.positions`.
        sizes: of the network.

    Returns:
        A model from tokens, [B, length] of int32, to the mean of the last block's outputs over the tokens
        that are not `PAD`, [B, width].
    """
    tokens = keras.Input((length,), dtype="int32")
    real = ops.not_equal(tokens, PAD)
    # The checkpoint's embedding of the segment is the same everywhere, as there is one: `load` adds it here.
    positions = ops.cumsum(ops.ones_like(tokens), axis=1) - 1
    x = layers.Embedding(sizes.vocabulary, sizes.width, name="tokens")(tokens)
    x = x + layers.Embedding(sizes.positions, sizes.width, name="positions")(positions)
    x = layers.LayerNormalization(epsilon=EPSILON, name="embedding_norm")(x)
    for k in range(sizes.blocks):
        x = _block(x, real, sizes, k)
    counted = ops.expand_dims(ops.cast(real, x.dtype), -1)
    return keras.Model(tokens, ops.sum(x * counted, axis=1) / ops.sum(counted, axis=1))


def _block(x: keras.KerasTensor, real: keras.KerasTensor, sizes: Sizes, k: int) -> keras.KerasTensor:
    """Attention to the real tokens, then two dense layers, each with a sum and a normalisation after it."""

    def norm(name: str) -> layers.Layer:
        return layers.LayerNormalization(epsilon=EPSILON, name=f"{name}_{k}")

    attention = layers.MultiHeadAttention(sizes.heads, sizes.width // sizes.heads, name=f"attention_{k}")
    x = norm("attention_norm")(x + attention(x, x, attention_mask=ops.expand_dims(real, 1)))
    inner = layers.Dense(sizes.inner, name=f"inner_{k}")(x)
    outer = layers.Dense(sizes.width, name=f"outer_{k}")(ops.gelu(inner, approximate=False))
    return norm("outer_norm")(x + outer)


def load(model: keras.Model, tensors: Mapping[str, np.ndarray], blocks: int = MINILM.blocks) -> None:
    """Puts a checkpoint's weights into the encoder.

    Args:
        model: an `encoder`.
        tensors: by the names of a BERT checkpoint; kernels are [outputs, inputs].
        blocks: blocks of the encoder.

    Raises:
        KeyError: a tensor is missing.
        ValueError: a tensor has another number of elements than its variable.
    """

    def parts(*names: str) -> list[np.ndarray]:
        # Keras has kernels the other way round, and those of attention cut into heads.
        return [tensors[f"{name}.{part}"].T for name in names for part in ("weight", "bias")]

    embeddings = "embeddings.{}_embeddings.weight"
    segment = tensors[embeddings.format("token_type")][0]
    found = {
        "tokens": [tensors[embeddings.format("word")]],
        "positions": [tensors[embeddings.format("position")] + segment],
        "embedding_norm": parts("embeddings.LayerNorm"),
    }
    for k in range(blocks):
        for layer, names in BLOCK.items():
            found[f"{layer}_{k}"] = parts(*(f"encoder.layer.{k}.{name}" for name in names))
    for name, values in found.items():
        for variable, value in zip(model.get_layer(name).weights, values, strict=True):
            variable.assign(value.reshape(variable.shape))


def pretrained(length: int) -> keras.Model:
    """The encoder with its weights, for sentences of so many tokens."""
    model = encoder(length)
    with archive() as files:
        load(model, safetensors.numpy.load(files.read("model.safetensors")))
    return model


def embeddings(sentences: Sequence[str], length: int = 32) -> np.ndarray:
    """Embeddings by the Keras layers, [N, width], each of norm 1."""
    pooled = np.asarray(pretrained(length)(tokenize(sentences, length)))
    return pooled / np.linalg.norm(pooled, axis=1, keepdims=True)

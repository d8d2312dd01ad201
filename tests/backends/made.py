"""What one backend of Keras computes, written to files that the other backends' tests compare with.

KERAS_BACKEND=jax python -m tests.backends.made FOLDER
"""

import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

import rnnprop_tf

BACKEND = keras.backend.backend()
STEPS = 100
SHAPES = ((30, 20), (20,), (), (150, 120))
"""Small variables, which are updated together, and a large one, which is alone, in chunks on PyTorch."""

X = np.random.default_rng(0).normal(size=(24, 3)).astype("float32")
Y = X.sum(axis=1, keepdims=True)
FIT: dict[str, Any] = {"batch_size": 8, "shuffle": False, "verbose": 0}

STEPPING: dict[str, dict[str, Any]] = {
    **{name: {"name_or_path": name} for name in rnnprop_tf.list_pretrained()},
    # With the defaults 100 steps are too few to settle in.
    "annealed": {"name_or_path": "rnnprop-1-small", "annealing": 30.0},
    "settled": {"name_or_path": "rnnprop-1-settling", "beta_3": 0.99},
}
"""Optimizers whose steps are compared."""

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "averaging": {"use_averaging": True, "weight_decay": 0.1, "clipnorm": 1.0},
    "accumulation": {"gradient_accumulation_steps": 2, "use_ema": True, "ema_momentum": 0.75},
    "bfloat16": {"state_dtype": "bfloat16"},
    "int8": {"state_dtype": "int8"},
    # It settles from the first steps on.
    "settling": {"name_or_path": "rnnprop-1-settling", "settling": 10.0, "beta_3": 0.9},
}
"""Arguments of optimizers whose model files are exchanged."""


def steps(name_or_path: str, **arguments: Any) -> np.ndarray:
    """The steps of `STEPS` calls of `apply`, [steps, coordinates]: seeded gradients of very different sizes.

    One coordinate in ten sleeps in a step, and one in five but for every ninth; the variables are put back to
    zero before each.
    """
    rng = np.random.default_rng(0)
    variables = [keras.Variable(np.zeros(shape, "float32")) for shape in SHAPES]
    # Where results differ in the last digit, a narrow state may be rounded to another number.
    optimizer = rnnprop_tf.RNNprop.from_pretrained(name_or_path, **{"state_dtype": "float32", **arguments})
    scales = [10.0 ** rng.uniform(-4, 1, shape) for shape in SHAPES]
    means = [rng.normal(size=shape) for shape in SHAPES]
    rare = [rng.uniform(size=shape) < 0.2 for shape in SHAPES]
    result = []
    for step in range(STEPS):
        for variable in variables:
            variable.assign(np.zeros(variable.shape, "float32"))
        gradients = [
            scale
            * (mean + rng.normal(size=scale.shape))
            * (rng.uniform(size=scale.shape) > 0.1)
            * (step % 9 == 0 or ~rarely)
            for scale, mean, rarely in zip(scales, means, rare, strict=True)
        ]
        optimizer.apply([ops.convert_to_tensor(g, "float32") for g in gradients], variables)
        result.append(np.concatenate([ops.convert_to_numpy(v).ravel() for v in variables]))
    return np.array(result)


def values(model: keras.Model) -> list[np.ndarray]:
    """The model's variables and the optimizer's; bfloat16, which files of NumPy cannot hold, as float32."""
    found = [ops.convert_to_numpy(v) for v in (*model.variables, *model.optimizer.variables)]
    return [value.astype("float32") if value.dtype.name == "bfloat16" else value for value in found]


def make_model(variant: str) -> keras.Model:
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(4, "tanh", name="hidden"), keras.layers.Dense(1, name="out")]
    model = keras.Sequential([keras.Input((3,)), *layers], name="model")
    model.set_weights([np.random.default_rng(1).normal(size=w.shape) for w in model.get_weights()])
    model.compile(rnnprop_tf.RNNprop.from_pretrained(**VARIANTS[variant]), "mse")
    return model


def main(folder: Path) -> None:
    """Writes all of it."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, arguments in STEPPING.items():
        np.save(folder / f"steps-{name}.npy", steps(**arguments))
    for variant in VARIANTS:
        model = make_model(variant)
        model.fit(X, Y, **FIT)  # Three batches: with accumulation, to the middle of a step.
        model.save(folder / f"{variant}.keras")
        np.savez(folder / f"{variant}-saved.npz", *values(model))
        model.fit(X, Y, epochs=2, **FIT)
        np.savez(folder / f"{variant}-after.npz", *values(model))


if __name__ == "__main__":
    main(Path(sys.argv[1]) / BACKEND)

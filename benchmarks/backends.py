"""How long a training step takes on the backend that Keras runs on, with RNNprop and with Adam.

    KERAS_BACKEND=jax python -m benchmarks.backends

The step is the one that `fit` runs, compiled as `fit` does by default. Models: 15,910 parameters in
4 variables, and 943,978 in 10. The optimizers take turns, a step each, so that a drift of the machine meets
both alike; the medians are printed, in milliseconds. On a busy machine PyTorch needs `OMP_NUM_THREADS=1`: its
threads wait for each other.
"""

from __future__ import annotations

import time

import keras
import numpy as np

import rnnprop_tf

STEPS = 15
SIZES = {"mlp": (784, (20,), 10), "million": (784, (512, 512, 512, 32), 10)}
OPTIMIZERS = {"rnnprop": rnnprop_tf.RNNprop, "adam": keras.optimizers.Adam}


def make_model(inputs: int, hidden: tuple[int, ...], outputs: int) -> keras.Model:
    """A multilayer perceptron with logits."""
    layers = [keras.layers.Dense(units, "sigmoid") for units in hidden]
    return keras.Sequential([keras.Input((inputs,)), *layers, keras.layers.Dense(outputs)])


def main() -> None:
    """Prints the medians."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(128, 784)).astype("float32"), rng.integers(0, 10, 128)
    for name, sizes in SIZES.items():
        models = {key: make_model(*sizes) for key in OPTIMIZERS}
        times: dict[str, list[float]] = {key: [] for key in OPTIMIZERS}
        for key, model in models.items():
            model.compile(OPTIMIZERS[key](), loss)
            model.train_on_batch(x, y)  # Traces and compiles.
        for _ in range(STEPS):
            for key, model in models.items():
                start = time.perf_counter()
                model.train_on_batch(x, y)
                times[key].append(1e3 * (time.perf_counter() - start))
        medians = "".join(f"{key:>10} {np.median(times[key]):8.2f} ms" for key in OPTIMIZERS)
        parameters = models["adam"].count_params()
        print(f"{keras.backend.backend():12}{name:10}{parameters:>9,} parameters{medians}", flush=True)


if __name__ == "__main__":
    main()

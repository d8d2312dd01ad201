"""The optimizers of github.com/VITA-Group/L2O-Training-Techniques as slow NumPy.

Written from the format of their weights, with nothing of ours. `python tests/l2o_reference.py` records
`l2o_rnnprop.npz` and `l2o_dm.npz` beside this file: made-up weights in that format under `weights/`,
gradients, and the updates that they lead to.
"""

from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
KINDS = ("rnnprop", "dm")

Arrays = dict[str, np.ndarray]


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-x))


def lstm(
    x: np.ndarray, h: np.ndarray, c: np.ndarray, w: np.ndarray, b: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """One step for all coordinates: x [N, inputs], h and c [N, H]; the next h and c."""
    i, j, f, o = np.split(np.concatenate([x, h], axis=1) @ w + b, 4, axis=1)
    c = sigmoid(f + 1.0) * c + sigmoid(i) * np.tanh(j)
    return sigmoid(o) * np.tanh(c), c


def updates(weights: Arrays, gradients: np.ndarray) -> np.ndarray:
    """What is added to N parameters in each step, [steps, N], for gradients [steps, N]."""
    weights = {name: array.astype("float64") for name, array in weights.items()}
    is_rnnprop = "input_projection.w" in weights
    layers = [name.removesuffix(".w_gates") for name in sorted(weights) if name.endswith(".w_gates")]
    n = gradients.shape[1]
    states = {layer: (np.zeros((n, weights[f"{layer}.b_gates"].size // 4)),) * 2 for layer in layers}
    m = v = np.zeros(n)
    result = []
    for t, g in enumerate(gradients.astype("float64"), start=1):
        if is_rnnprop:
            m = 0.95 * m + 0.05 * g
            v = 0.95 * v + 0.05 * g**2
            root = np.sqrt(v / (1.0 - 0.95**t)) + 1e-8
            x = np.stack([m / (1.0 - 0.95**t) / root, g / root], axis=1)
            x = x @ weights["input_projection.w"] + weights["input_projection.b"]
            x = np.where(x > 0.0, x, np.expm1(np.minimum(x, 0.0)))
        else:
            log = np.log(np.abs(g) + np.finfo("float32").eps) / 5.0
            x = np.stack([np.maximum(log, -1.0), np.clip(g * np.exp(5.0), -1.0, 1.0)], axis=1)
        for layer in layers:
            h, c = states[layer]
            states[layer] = lstm(x, h, c, weights[f"{layer}.w_gates"], weights[f"{layer}.b_gates"])
            x = states[layer][0]
        output = (x @ weights["linear.w"] + weights["linear.b"])[:, 0]
        result.append(0.01 * (np.tanh(output) if is_rnnprop else output))
    return np.array(result)


def made_up_weights(kind: str) -> Arrays:
    """float32 arrays in their format, of 3 projected inputs and LSTM layers of 4 and 5 units."""
    shapes = {"input_projection.w": (2, 3), "input_projection.b": (3,)} if kind == "rnnprop" else {}
    inputs = 3 if kind == "rnnprop" else 2
    for k, units in ((1, 4), (2, 5)):
        shapes |= {f"lstm_{k}.w_gates": (inputs + units, 4 * units), f"lstm_{k}.b_gates": (4 * units,)}
        inputs = units
    shapes |= {"linear.w": (inputs, 1), "linear.b": (1,)}
    rng = np.random.default_rng(KINDS.index(kind))
    return {name: rng.normal(0.0, 0.7, shape).astype("float32") for name, shape in shapes.items()}


def made_up_gradients(steps: int = 12, coordinates: int = 6) -> np.ndarray:
    """Coordinates from 1e-7 to 1e3, none of them zero, with changing signs."""
    rng = np.random.default_rng(2)
    sizes = np.logspace(-7, 3, coordinates)
    return (sizes * rng.normal(0.3, 1.0, (steps, coordinates))).astype("float32")


def load(kind: str) -> tuple[Arrays, np.ndarray, np.ndarray]:
    """The recorded weights, gradients and updates."""
    with np.load(HERE / f"l2o_{kind}.npz", allow_pickle=False) as recorded:
        prefix = "weights/"
        weights = {k.removeprefix(prefix): recorded[k] for k in recorded if k.startswith(prefix)}
        return weights, recorded["gradients"], recorded["updates"]


if __name__ == "__main__":
    for kind in KINDS:
        weights, gradients = made_up_weights(kind), made_up_gradients()
        named = {f"weights/{name}": array for name, array in weights.items()}
        np.savez_compressed(
            HERE / f"l2o_{kind}.npz", **named, gradients=gradients, updates=updates(weights, gradients)
        )

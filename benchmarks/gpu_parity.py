"""Whether RNNprop's steps on a GPU are those on a CPU, from the same gradients. For `benchmarks.gpu`.

With a float32 state both devices run freely. With a bfloat16 state the GPU begins each step with the CPU's
state, and the stored h and c are compared too: where two float32 results lie on either side of a border
between two bfloat16 numbers, states drift apart from there, those of two programs on one CPU as well.

The CPU's steps come from a process that sees no GPU, as users without one have it. It sends them through a
pipe; run as a module, this is that process.
"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from rnnprop_tf import LossScaleOptimizer, RNNprop, pretrained

TOLERANCE = 1e-4
"""The most that steps may differ: root mean square, as a share of their own."""

STATE_TOLERANCE = 1e-3
"""The same for stored h and c. Rounding to bfloat16 by itself changes them by about this much."""

BAD_STEP = 5
"""The step with an infinite gradient, which is skipped."""

LOSS_SCALE = 2.0**15

Shapes = Sequence[tuple[int, ...]]


class Case(NamedTuple):
    """What steps are made with."""

    weights: str
    state_dtype: str
    loss_scaling: bool = False
    """As under `mixed_float16`: gradients that were float16, scaled, and a `LossScaleOptimizer`."""
    large: bool = False
    """With a variable so large that it is updated chunk by chunk on a GPU too."""


CASES = (
    Case(pretrained.DEFAULT, "float32", large=True),
    Case(pretrained.DEFAULT, "bfloat16"),
    Case("rnnprop-paper", "float32"),
    Case("rnnprop-paper", "bfloat16"),
    Case(pretrained.DEFAULT, "float32", loss_scaling=True),
)


class Point(NamedTuple):
    """What a step did."""

    step: np.ndarray
    """Of all variables, in one vector."""
    state: list[np.ndarray]
    """The optimizer's variables after it; none with a float32 state, which is large and not needed."""


class Runner:
    """RNNprop on variables of these shapes, on TensorFlow's default device, a step at a time."""

    def __init__(self, case: Case, shapes: Shapes, jit_compile: bool) -> None:
        self.case, self.shapes = case, shapes
        variables = [keras.Variable(tf.zeros(shape), name=f"v{i}") for i, shape in enumerate(shapes)]
        optimizer: Any = RNNprop.from_pretrained(case.weights, state_dtype=case.state_dtype)
        if case.loss_scaling:
            optimizer = LossScaleOptimizer(optimizer, initial_scale=LOSS_SCALE)
        optimizer.build(variables)
        self.optimizer = optimizer

        @tf.function(jit_compile=jit_compile, autograph=False)
        def apply(gradients: list[tf.Tensor]) -> tf.Tensor:
            # From zero, so that no digit of a step is lost in a large variable.
            for variable in variables:
                variable.assign(tf.zeros(variable.shape))
            optimizer.apply(gradients, variables)
            return tf.concat([tf.reshape(variable.value, [-1]) for variable in variables], axis=0)

        self._apply = apply

    def step(self, number: int) -> Point:
        """Makes step `number`, counted from 0."""
        found = gradients(self.shapes, number, self.case.loss_scaling)
        step = self._apply([tf.constant(gradient) for gradient in found]).numpy()
        stored = self.optimizer.variables if self.case.state_dtype == "bfloat16" else []
        return Point(step, [variable.numpy() for variable in stored])

    def go_on_from(self, state: list[np.ndarray]) -> None:
        """Replaces the state, if there is one to replace it by."""
        if state:
            for variable, value in zip(self.optimizer.variables, state, strict=True):
                variable.assign(value)


def gradients(shapes: Shapes, number: int, loss_scaling: bool) -> list[np.ndarray]:
    """The gradients of a step: of sizes from 1e-7 to 0.1, a tenth of them zero."""
    drawn, sizes_drawn = np.random.default_rng(number + 1), np.random.default_rng(0)
    found = []
    for shape in shapes:
        sizes = 10.0 ** sizes_drawn.uniform(-7, -1, shape)
        awake = drawn.uniform(size=shape) > 0.1
        found.append((awake * sizes * (0.3 + drawn.normal(size=shape))).astype("float32"))
    if loss_scaling:
        found = [(LOSS_SCALE * gradient).astype("float16").astype("float32") for gradient in found]
    if number == BAD_STEP:
        found[-1][...] = np.inf
    return found


def points(case: Case, shapes: Shapes, steps: int) -> Iterator[Point]:
    """The reference: what each step does on the default device, uncompiled."""
    runner = Runner(case, shapes, jit_compile=False)
    return (runner.step(number) for number in range(steps))


@contextmanager
def points_of_a_cpu(case: Case, shapes: Shapes, steps: int) -> Iterator[Iterator[Point]]:
    """`points` in a process that sees no GPU."""
    command = [sys.executable, "-m", "benchmarks.gpu_parity", json.dumps([case, shapes, steps])]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "-1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        stream = process.stdout
        try:
            yield (Point(*pickle.load(stream)) for _ in range(steps))
        finally:
            process.kill()  # Where the comparison failed, it waits to be read.


def compare(case: Case, shapes: Shapes, reference: Iterator[Point]) -> list[dict[str, Any]]:
    """How far the default device's steps are from the reference's: uncompiled, then compiled.

    Returns:
        For each way the worst of all steps: `steps_differ` and, of the stored h and c, `state_differs`, root
        mean square as a share of their own; `largest` difference of a coordinate in the same unit; `agrees`.
    """
    runners = {jit_compile: Runner(case, shapes, jit_compile) for jit_compile in (False, True)}
    found: dict[bool, list[tuple[float, float, float]]] = {jit_compile: [] for jit_compile in runners}
    before: list[np.ndarray] = []
    for number, expected in enumerate(reference):
        for jit_compile, runner in runners.items():
            runner.go_on_from(before)
            found[jit_compile].append(distances(expected, runner.step(number)))
        before = expected.state
    return [
        verdict(case, jit_compile, np.max(distances, axis=0), len(distances))
        for jit_compile, distances in found.items()
    ]


def distances(expected: Point, received: Point) -> tuple[float, float, float]:
    """Between the steps and between the stored h and c, by root mean square; the largest between steps."""
    step, largest = difference(expected.step, received.step)
    state, _ = difference(_lstm(expected.state), _lstm(received.state))
    return step, state, largest


def difference(expected: np.ndarray, received: np.ndarray) -> tuple[float, float]:
    """Root mean square of the difference, and its largest, as shares of the expected's root mean square."""
    if not expected.size:
        return 0.0, 0.0
    size = rms(expected) or 1.0  # A skipped step is zero, and must be so on both.
    return rms(received - expected) / size, float(np.max(np.abs(received - expected))) / size


def rms(values: np.ndarray) -> float:
    """Root mean square."""
    return float(np.sqrt(np.mean(np.square(values, dtype="float64"))))


def _lstm(state: list[np.ndarray]) -> np.ndarray:
    """What is stored as bfloat16, in one vector."""
    stored = [np.ravel(value) for value in state if value.dtype == tf.bfloat16.as_numpy_dtype]
    return np.concatenate([np.zeros(0), *stored]).astype("float32")


def verdict(case: Case, jit_compile: bool, worst: np.ndarray, steps: int) -> dict[str, Any]:
    """An entry of the results."""
    step, state, largest = map(float, worst)
    return {
        **case._asdict(),
        "jit_compile": jit_compile,
        "steps": steps,
        "steps_differ": step,
        "state_differs": state if case.state_dtype == "bfloat16" else None,
        "largest": largest,
        "agrees": step <= TOLERANCE and state <= STATE_TOLERANCE,  # A NaN does not.
    }


if __name__ == "__main__":
    _case, _shapes, _steps = json.loads(sys.argv[1])
    for point in points(Case(*_case), [tuple(shape) for shape in _shapes], _steps):
        pickle.dump(
            tuple(point), sys.stdout.buffer
        )  # `Point` is of `__main__` here, and of no use elsewhere.
        sys.stdout.buffer.flush()

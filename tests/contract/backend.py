"""What the contract's tests need of the backend that Keras runs on."""

from collections.abc import Callable, MutableMapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import keras
import numpy as np
import pytest
from keras import ops

BACKEND = keras.backend.backend()

slow = pytest.mark.slow


def only_on_tensorflow(why: str) -> pytest.MarkDecorator:
    """Marks a test of what no other backend has."""
    return pytest.mark.skipif(BACKEND != "tensorflow", reason=f"only TensorFlow has {why}")


MODES = pytest.mark.parametrize(
    "mode",
    {
        "tensorflow": ["eager", "graph", pytest.param("jit", marks=slow)],
        "jax": ["eager", "stateless"],
        "torch": ["eager"],
    }[BACKEND],
)
"""Ways to run a step in a loop of one's own."""

LOOP = {"tensorflow": "graph", "jax": "stateless", "torch": "eager"}[BACKEND]
"""The usual one of them."""

JIT = pytest.mark.parametrize(
    "jit_compile",
    # PyTorch's compiler takes a minute for a model.
    [False] if BACKEND == "torch" else [False, pytest.param(True, marks=slow)],
    ids=["graph"] if BACKEND == "torch" else ["graph", "jit"],
)

COMPILED = {
    "eager": {"run_eagerly": True},
    "graph": {"jit_compile": False},
    "jit": {"jit_compile": True},
    "auto": {"jit_compile": "auto"},
    "two steps an execution": {"steps_per_execution": 2, "jit_compile": False},
    "two steps an execution, jit": {"steps_per_execution": 2, "jit_compile": True},
}
"""Ways to run `fit`."""
if BACKEND == "torch":  # Keras takes one step an execution there.
    COMPILED = {name: COMPILED[name] for name in ("eager", "graph", "auto")}

tensor = ops.convert_to_tensor
numpy = ops.convert_to_numpy


def traced(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function as one program, where its operations one by one take longer."""
    if BACKEND == "tensorflow":
        import tensorflow as tf

        return tf.function(function, autograph=False)
    if BACKEND == "jax":
        import jax

        return jax.jit(function)
    return function


def stepper(
    optimizer: keras.optimizers.Optimizer, variables: Sequence[Any], mode: str, entry: str = "apply"
) -> Callable[..., None]:
    """A step on these variables as a function of the gradients, tensors or `None`."""

    def apply(*gradients: Any) -> None:
        if entry == "apply":
            optimizer.apply(gradients, variables)
        else:
            optimizer.apply_gradients(zip(gradients, variables, strict=True))

    if mode == "eager":
        return apply
    if mode == "stateless":
        return lambda *gradients: stateless(optimizer, variables, gradients)
    import tensorflow as tf

    return tf.function(apply, jit_compile=mode == "jit")


STEPS: MutableMapping[keras.optimizers.Optimizer, Callable[..., Any]] = WeakKeyDictionary()
"""JAX's compiled steps."""


def stateless(
    optimizer: keras.optimizers.Optimizer, variables: Sequence[Any], gradients: Sequence[Any]
) -> None:
    """A step in JAX's way: values in, values out, compiled."""
    import jax

    if not optimizer.built:
        optimizer.build(list(variables))
    known = optimizer._trainable_variables
    index = {id(variable): i for i, variable in enumerate(known)}
    ordered = [None] * len(known)
    for variable, gradient in zip(variables, gradients, strict=True):
        if id(variable) not in index:
            raise ValueError(f"Unknown variable: {variable}")
        ordered[index[id(variable)]] = gradient
    state = [v.value for v in optimizer.variables], ordered, [v.value for v in known]
    if optimizer not in STEPS:
        STEPS[optimizer] = jax.jit(optimizer.stateless_apply)
    values, state = STEPS[optimizer](*state)
    for variable, value in zip([*known, *optimizer.variables], [*values, *state], strict=True):
        variable.assign(value)


def gradients_of(model: keras.Model, loss: Callable[[Any], Any]) -> list[np.ndarray]:
    """Gradients of the trainable variables.

    Args:
        model: The model; moving statistics change as in training.
        loss: The loss as a function of the model, called once.
    """
    weights = model.trainable_variables
    if BACKEND == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            value = loss(model)
        return [tf.convert_to_tensor(g).numpy() for g in tape.gradient(value, weights)]
    if BACKEND == "torch":
        model.zero_grad()
        loss(model).backward()
        return [numpy(weight.value.grad) for weight in weights]
    import jax

    others = model.non_trainable_variables

    def stateless_loss(values: list[Any]) -> Any:
        with keras.StatelessScope(list(zip(weights, values, strict=True))) as scope:
            value = loss(model)
        current = (scope.get_current_value(other) for other in others)
        return value, [old.value if new is None else new for new, old in zip(current, others, strict=True)]

    found, after = jax.grad(stateless_loss, has_aux=True)([weight.value for weight in weights])
    for other, new in zip(others, after, strict=True):
        other.assign(new)
    return [np.asarray(gradient) for gradient in found]

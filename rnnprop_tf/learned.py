"""The part of RNNprop and DMOptimizer that is the same on every backend of Keras.

Keras calls the class; it reads variables, runs the rule and writes variables, in `keras.ops`. The mathematics
is in `rule` and `network`. How a step over all variables is run is the backend's, a subclass in `backends`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import numbers
import reprlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Self, TypeAlias, TypedDict, Unpack

import keras
import numpy as np
from keras import ops
from keras.backend import standardize_dtype
from keras.src.utils.naming import auto_name
from keras.src.utils.tracking import no_automatic_dependency_tracking

from rnnprop_tf import averaging, environment, network_config, pretrained, state_types
from rnnprop_tf import network as coordinatewise
from rnnprop_tf.network import LSTMState, Network, Tensor
from rnnprop_tf.rule import DMRule, Rule, RuleState
from rnnprop_tf.state_types import STATE_DTYPES

OVERFLOWING = 2.0**64
"""The smallest number whose square is infinite in float32."""

LearningRate: TypeAlias = float | keras.optimizers.schedules.LearningRateSchedule | Callable[[], Tensor]


class KerasArguments(TypedDict, total=False):
    """The arguments that every Keras optimizer has; see `keras.optimizers.Optimizer`."""

    weight_decay: float | None
    clipnorm: float | None
    clipvalue: float | None
    global_clipnorm: float | None
    use_ema: bool
    ema_momentum: float
    ema_overwrite_frequency: int | None
    loss_scale_factor: float | None
    gradient_accumulation_steps: int | None


class Step(NamedTuple):
    """What all variables of a step have in common."""

    taken: Tensor
    """Boolean scalar: whether anything may change."""
    number: Tensor
    """Counting from 1, a float32 scalar; steps not taken are not counted."""
    learning_rate: Tensor
    """Float32 scalar."""
    decay: Tensor
    """Float32 scalar: the share that weight decay takes from a variable; 0 if the step is not taken."""


class LearnedOptimizer(keras.optimizers.Optimizer):
    """Base class of RNNprop and DMOptimizer: state, updates, saving. Abstract; use one of the two.

    A backend's subclass adds `_changes`, and what its own ways of training need.

    Attributes:
        network: the learned weights, float32 NumPy arrays.
        rule: the update rule with its hyperparameters.
        skip_nonfinite: whether a step with a non-finite gradient is skipped.
        state_dtype: the type in which h and c are stored.
        use_averaging: whether it keeps the average of the iterates.
        jit_compile: whether XLA compiles the update.
        skipped_steps: integer variable, how many steps were.
    """

    rule_class: ClassVar[type[Rule]]
    default_name: ClassVar[str]

    def __init__(
        self,
        learning_rate: LearningRate,
        rule: Rule,
        skip_nonfinite: bool,
        state_dtype: str,
        use_averaging: bool,
        jit_compile: bool | str,
        network: Network | None,
        name: str | None,
        **kwargs: Unpack[KerasArguments],
    ) -> None:
        environment.check()
        if jit_compile not in (True, False, "auto"):
            raise ValueError(
                f"`jit_compile` must be True, False or 'auto'. Received: jit_compile={jit_compile!r}"
            )
        if state_dtype not in STATE_DTYPES:
            raise ValueError(
                f"`state_dtype` must be one of {', '.join(map(repr, STATE_DTYPES))}. "
                f"Received: state_dtype={state_dtype!r}"
            )
        if isinstance(learning_rate, numbers.Real):
            learning_rate = float(learning_rate)  # Keras refuses 1 and NumPy's scalars.
            _check_rate("learning_rate", learning_rate)
        elif not callable(learning_rate):
            raise _not_a_learning_rate(learning_rate, type(self).__name__)
        if (weight_decay := kwargs.get("weight_decay")) is not None:
            _check_rate("weight_decay", weight_decay)
        if use_averaging:
            averaging.check_arguments(kwargs)
        network = _checked_network(network, rule, type(self).__name__)
        name = auto_name(self.default_name) if name is None else name
        super().__init__(learning_rate=learning_rate, name=name, **_without_numpy(kwargs))
        self.use_averaging = bool(use_averaging)
        # What Keras and its callbacks do with an average they do with this one; only its weights differ.
        self.use_ema = bool(use_averaging or kwargs.get("use_ema"))
        self.rule = rule
        self.network = network
        self.skip_nonfinite = bool(skip_nonfinite)
        self.state_dtype = state_dtype
        self.jit_compile = jit_compile
        self._trained_with = 0.1
        # Not `iterations`: that one counts skipped steps and micro-batches too, and bias correction must not.
        self._step = self._add_counter("step")
        self.skipped_steps = self._add_counter("skipped_steps")
        self._slots: tuple[RuleState | None, ...] = ()

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str = pretrained.DEFAULT,
        learning_rate: LearningRate | None = None,
        **kwargs: Any,
    ) -> Self:
        """An optimizer with meta-trained weights.

        Args:
            name_or_path: One of `rnnprop_tf.list_pretrained()`, for which no network is touched; or a folder
                written by `save_pretrained`, as a path, as a URL that `tf.io.gfile` opens, or on the Hugging
                Face Hub as `"hf://org/name"` or `"hf://org/name@revision"`. The hub needs
                `pip install 'rnnprop-tf[hub]'`; what was downloaded once is found without a network.
            learning_rate: A float, a `keras.optimizers.schedules.LearningRateSchedule`, or a callable without
                arguments. Defaults to what the weights were meta-trained with: `0.1` for all that ship with
                the package.
            **kwargs: Further arguments of the class. The rule's hyperparameters come with the weights, which
                were trained for them; so does `state_dtype`, `"bfloat16"` for the default weights. Of
                `settling` and `annealing`, one that is given takes the place of one that comes with the
                weights.

        Returns:
            The optimizer.

        Raises:
            ValueError: If there are no such weights, if they cannot be fetched, if their files are damaged,
                or if they belong to the other class.
            ImportError: If `hf://` is asked for without `huggingface_hub`.

        Example:

        >>> optimizer = rnnprop_tf.RNNprop.from_pretrained("rnnprop-2", weight_decay=1e-4)
        """
        found = pretrained.load(name_or_path)
        if not isinstance(found.rule, cls.rule_class):
            fitting = "DMOptimizer" if isinstance(found.rule, DMRule) else "RNNprop"
            raise ValueError(
                f"The weights {str(name_or_path)!r} are for another update rule: expected weights of a "
                f"{cls.rule_class.__name__}, received those of a {type(found.rule).__name__}. "
                f"Use `{fitting}.from_pretrained({str(name_or_path)!r})`."
            )
        if learning_rate is None:
            learning_rate = found.learning_rate
        brought = dataclasses.asdict(found.rule) | {"state_dtype": found.state_dtype}
        given = {key: value for key, value in kwargs.items() if value is not None or key not in brought}
        for one, other in (("settling", "annealing"), ("annealing", "settling")):
            if given.get(one):
                brought.pop(other, None)
        optimizer = cls(network=found.network, learning_rate=learning_rate, **(brought | given))
        optimizer._trained_with = found.learning_rate
        return optimizer

    def save_pretrained(
        self, folder: str, learning_rate: float | None = None, provenance: dict[str, Any] | None = None
    ) -> None:
        """Writes the learned weights, the rule's hyperparameters and `state_dtype` for `from_pretrained`.

        This is the optimizer as a product, without the state of the training in progress; that is saved with
        the model.

        Args:
            folder: Where to write; created if it is not there.
            learning_rate: The one that the weights were meta-trained with, which `from_pretrained` will use.
                Defaults to that of the weights that this optimizer was made from by `from_pretrained`, else
                to `0.1`; the one in use may be anything by now.
            provenance: How the weights were made, for the card: what JSON can hold. Optional.

        Raises:
            ValueError: If `provenance` is not what JSON can hold.
            OSError: If writing failed.

        Example:

        >>> optimizer.save_pretrained("my-weights")
        >>> same = rnnprop_tf.RNNprop.from_pretrained("my-weights")
        """
        rate = self._trained_with if learning_rate is None else learning_rate
        pretrained.save(folder, self.network, self.rule, rate, provenance, self.state_dtype)

    @no_automatic_dependency_tracking
    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Creates the state for these variables.

        Args:
            variables: The trainable variables, of type float16, bfloat16, float32 or float64.

        Raises:
            ValueError: If a variable is of another type.
        """
        if self.built:
            return
        for variable in variables:
            _check_dtype(variable)
        super().build(variables)
        self._slots = tuple(
            None if self._overwrite_variable_with_gradient(variable) else self._add_slots(variable)
            for variable in variables
        )

    def apply(
        self, grads: Sequence[Tensor | None], trainable_variables: Sequence[keras.Variable] | None = None
    ) -> None:
        """One step.

        Args:
            grads: A gradient per variable, or `None` for a variable to leave alone.
            trainable_variables: The variables; defaults to those the optimizer was built with.
        """
        steps_before = ops.copy(self._step)
        super().apply(grads, trainable_variables)
        if self.use_averaging:
            self._move_averages(averaging.newest_weight(steps_before, ops.copy(self._step)))

    def update_step(self, gradient: Tensor, variable: Any, learning_rate: Tensor) -> None:
        """A whole step for one variable, without clipping and the like.

        Args:
            gradient: The gradient.
            variable: One of those that the optimizer was built with.
            learning_rate: A scalar.
        """
        self._update([ops.cast(gradient, "float32")], [variable], learning_rate)

    def get_config(self) -> dict[str, Any]:
        """The arguments, the learned weights included, in JSON's types; not the state.

        Returns:
            A dict for `from_config`. Its `network` is described in `rnnprop_tf.network_config`.
        """
        return {
            **super().get_config(),
            **dataclasses.asdict(self.rule),
            "skip_nonfinite": self.skip_nonfinite,
            "state_dtype": self.state_dtype,
            "use_averaging": self.use_averaging,
            "use_ema": self.use_ema and not self.use_averaging,
            "jit_compile": self.jit_compile,
            "network": network_config.to_config(self.network, self._trained_with),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None) -> Self:
        """The inverse of `get_config`.

        Args:
            config: From `get_config`, or a part of it: what is missing has the default of the class.
            custom_objects: Classes that a schedule in it needs, by name. Optional.

        Returns:
            An optimizer without state.

        Raises:
            ValueError: If the weights in it are damaged, or named and not those of this installation.
        """
        if "network" not in config:
            return super().from_config(config, custom_objects)
        network, trained_with = network_config.from_config(config["network"])
        optimizer = super().from_config({**config, "network": network}, custom_objects)
        optimizer._trained_with = trained_with
        return optimizer

    def load_own_variables(self, store: Any) -> None:
        """Reads the state, as Keras does when it loads a file.

        A state of another `state_dtype` is converted. One of other weights is not read, with a warning.

        Args:
            store: The state by number, in the order of `variables`.
        """
        if len(store.keys()) != len(self.variables):
            super().load_own_variables(store)  # Warns, and reads nothing.
            return
        if any(np.shape(store[str(i)]) != tuple(v.shape) for i, v in enumerate(self.variables)):
            warnings.warn(
                f"Skipping the state of optimizer '{self.name}': the file has that of another network, or "
                "of a model of other shapes. To go on from it, make the optimizer with the weights that it "
                "was written with: the default of 0.1 was `RNNprop.from_pretrained('rnnprop-1')`.",
                stacklevel=2,
            )
            return
        lstm = [state for slots in self._slots if slots is not None for state in slots.lstm]
        parts = {id(slot): part for state in lstm for part, slot in state._asdict().items()}
        for i, variable in enumerate(self.variables):
            value, part = store[str(i)], parts.get(id(variable))
            if part and standardize_dtype(value.dtype) != variable.dtype:
                value = ops.convert_to_tensor(np.asarray(value))
                value = state_types.converted(value, part, variable.dtype)
            variable.assign(value)

    def _add_counter(self, name: str) -> keras.Variable:
        # As `iterations`: int64 on TensorFlow, int32 elsewhere.
        return self.add_variable((), dtype="int", aggregation="only_first_replica", name=name)

    def _add_slots(self, variable: keras.Variable) -> RuleState:
        """The state of one variable. The order of creation is the checkpoint's format."""

        def add(name: str, dtype: str, *features: int) -> keras.Variable:
            return self.add_variable(
                (*features, *variable.shape), dtype=dtype, name=f"{_slot_prefix(variable)}_{name}"
            )

        def add_lstm(name: str, units: int) -> LSTMState:
            return LSTMState(*(add(f"{name}_{part}", self.state_dtype, units) for part in "hc"))

        units = coordinatewise.architecture_of(self.network).lstm
        accumulators = self.rule.accumulators_class
        with self._beside(variable):
            return RuleState(
                accumulators=accumulators._make(add(name, "float32") for name in accumulators._fields),
                lstm=tuple(add_lstm(f"lstm{k}", size) for k, size in enumerate(units, start=1)),
            )

    def _beside(self, variable: Any) -> contextlib.AbstractContextManager[Any]:
        """Where the state of this variable is created."""
        return contextlib.nullcontext()

    def _clip_gradients(self, grads: list[Tensor]) -> list[Tensor]:
        # float16 cannot hold the square of 256.
        values = [ops.cast(gradient, "float32") for gradient in grads]
        clipped = super()._clip_gradients(values)
        by_norm = self.clipnorm is not None or self.global_clipnorm is not None
        if not self.skip_nonfinite or not (by_norm or self.clipvalue is not None):
            return clipped
        # Clipping would turn what is not to be used into a number and hide it from `_update`. By a norm that
        # overflows it would turn all into zeros.
        usable = ops.isfinite(sum(ops.sum(ops.square(value)) for value in values)) if by_norm else True
        return [
            ops.where(ops.logical_and(usable, _usable(value)), c, OVERFLOWING)
            for value, c in zip(values, clipped, strict=True)
        ]

    def _apply_weight_decay(self, variables: Sequence[keras.Variable]) -> None:
        """Nothing: Keras calls this before the step is known to be taken. `_update` decays."""

    def _update_model_variables_moving_average(self, trainable_variables: Sequence[keras.Variable]) -> None:
        """Keras's average; with `use_averaging` nothing, as `apply` sees to it after the constraints."""
        if not self.use_averaging:
            super()._update_model_variables_moving_average(trainable_variables)

    def _move_averages(self, weight: Tensor) -> None:
        """Moves the averages of `use_averaging` to the variables, by this weight."""
        pairs = zip(self._model_variables_moving_average, self._trainable_variables, strict=True)
        for average, variable in pairs:
            if average is not None:
                average.assign(averaging.moved(average, variable, weight))

    def _backend_update_step(
        self, grads: Sequence[Tensor], trainable_variables: Sequence[keras.Variable], learning_rate: Tensor
    ) -> None:
        """All variables in one update."""
        self._update(grads, trainable_variables, learning_rate)

    def _update(self, gradients: Sequence[Any], variables: Sequence[Any], learning_rate: Tensor) -> None:
        """A step, but for what Keras does before and after it. The gradients are float32."""
        taken = self._are_usable(gradients) if self.skip_nonfinite else ops.convert_to_tensor(True)
        learning_rate = ops.cast(learning_rate, "float32")
        decay = learning_rate * (self.weight_decay or 0.0) * ops.cast(taken, "float32")
        number = ops.cast(ops.add(self._step, 1), "float32")
        self._update_variables(gradients, variables, Step(taken, number, learning_rate, decay))
        if self.rule.counts_sleep:
            self._rest_variables(gradients, variables, taken)
        self.assign_add(self._step, ops.cast(taken, self._step.dtype))
        self.assign_add(self.skipped_steps, ops.cast(ops.logical_not(taken), self._step.dtype))

    def _rest_variables(self, gradients: Sequence[Any], variables: Sequence[Any], taken: Tensor) -> None:
        """For the variables that have no gradient at all the step is no sleep: others may have their turn."""
        rest = dict.fromkeys(range(len(self._slots)), ops.cast(taken, "float32"))
        # Together, as a model may have hundreds of variables: each operation takes its time to trace.
        resting = ops.cast(ops.logical_and(taken, self._are_zero(gradients)), "float32")
        for rests, variable in zip(ops.unstack(resting, len(variables)), variables, strict=True):
            rest[self._get_variable_index(variable)] = rests
        pairs = [(slots, rest[i]) for i, slots in enumerate(self._slots) if slots is not None]
        self._rest(*zip(*pairs, strict=True))

    def _rest(self, slots: Sequence[RuleState], resting: Sequence[Tensor]) -> None:
        """Has the rule forget the step for the variables that rest.

        Args:
            slots: one per variable.
            resting: float32 scalars, 1 for a variable that rests, else 0.
        """
        for state, rests in zip(slots, resting, strict=True):
            new = self.rule.rested(state.accumulators, rests)
            for slot, value in zip(state.accumulators, new, strict=True):
                if value is not slot:  # The rule has changed it.
                    slot.assign(value)

    def _are_zero(self, gradients: Sequence[Any]) -> Tensor:
        """For each whether all of it is zero, or so small that its squares are."""
        return ops.equal(ops.stack([ops.sum(ops.square(gradient)) for gradient in gradients]), 0.0)

    def _are_usable(self, gradients: Sequence[Tensor]) -> Tensor:
        return ops.all(ops.stack([ops.all(_usable(gradient)) for gradient in gradients]))

    def _update_variables(self, gradients: Sequence[Tensor], variables: Sequence[Any], step: Step) -> None:
        changes = self._changes([self._slots_of(v) for v in variables], gradients, step)
        for variable, change in zip(variables, changes, strict=True):
            change = ops.cast(change, variable.dtype)
            if self._decays(variable):
                change -= variable * ops.cast(step.decay, variable.dtype)
            self.assign_add(variable, change)

    def _changes(
        self, slots: Sequence[RuleState], gradients: Sequence[Tensor], step: Step
    ) -> Sequence[Tensor]:
        """Runs the rule for several variables and writes their slots.

        Args:
            slots: one per variable.
            gradients: one per variable, float32.
            step: the step. If it is not taken, no slot changes and the results are zero.

        Returns:
            The directions times the learning rate, float32, each of its variable's shape.
        """
        raise NotImplementedError("A backend of Keras has its own subclass, see `rnnprop_tf.backends`.")

    def _slots_of(self, variable: Any) -> RuleState:
        slots = self._slots[self._get_variable_index(variable)]
        assert slots is not None  # Keras has overwritten those variables with their gradients before.
        return slots

    def _decays(self, variable: Any) -> bool:
        return self.weight_decay is not None and self._use_weight_decay(variable)


def _without_numpy(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The same with Python's numbers for NumPy's, which JSON cannot hold."""
    return {key: value.item() if isinstance(value, np.generic) else value for key, value in arguments.items()}


def _check_rate(name: str, value: float) -> None:
    # Keras takes any. A NaN would reach the variables, where no gradient gives it away.
    if not 0.0 <= value < math.inf:
        raise ValueError(f"`{name}` must be a finite number of 0 or more. Received: {name}={value}")


def _not_a_learning_rate(value: Any, class_name: str) -> ValueError:
    given = "a Network" if isinstance(value, Network) else reprlib.repr(value)
    return ValueError(
        "`learning_rate` must be a float, a `LearningRateSchedule` or a callable without arguments. Weights "
        f"are given as `network=`, or by name or path to `{class_name}.from_pretrained`. "
        f"Received: learning_rate={given} of type {type(value).__name__}"
    )


def _usable(gradient: Tensor) -> Tensor:
    """Mask of gradients whose square is finite in float32; an infinite one would stay in the running mean."""
    # No infinity on the way, which `tf.debugging.enable_check_numerics` would report. NaN is not below.
    return ops.abs(gradient) < OVERFLOWING


def _slot_prefix(variable: Any) -> str:
    """The variable's part of its slots' names, as in Keras's optimizers."""
    path = variable.path if hasattr(variable, "path") else variable.name
    return path.replace("/", "_").replace(":", "_")


def _check_dtype(variable: keras.Variable) -> None:
    # Left to Keras, a complex gradient would lose its imaginary part and an integer never move, silently.
    dtype = keras.backend.standardize_dtype(variable.dtype)
    if not dtype.startswith(("float", "bfloat")):
        raise ValueError(
            "Only real floating-point variables can be optimized: expected a dtype among float16, bfloat16, "
            f"float32 and float64. Make the variable `{_slot_prefix(variable)}` non-trainable or change its "
            f"dtype. Received: dtype={dtype}"
        )


def _checked_network(network: Network | None, rule: Rule, class_name: str) -> Network:
    """A copy of the weights as float32 NumPy arrays."""
    if not isinstance(network, Network):
        folder = '"path/to/weights"' if isinstance(rule, DMRule) else ""  # None of those ship.
        raise TypeError(
            "`network` must be a `rnnprop_tf.network.Network`, the learned weights. For meta-trained ones "
            f"use `{class_name}.from_pretrained({folder})`. Received: network={reprlib.repr(network)} of "
            f"type {type(network).__name__}"
        )
    architecture = coordinatewise.architecture_of(network)
    if architecture.inputs != rule.inputs_size:
        raise ValueError(
            f"`network` must read the {rule.inputs_size} inputs of a {type(rule).__name__}. Use weights that "
            f"were trained for it. Received: a network of {architecture.inputs} inputs."
        )
    tensors = {n: np.array(value, "float32") for n, value in coordinatewise.to_tensors(network).items()}
    for name, shape in coordinatewise.tensor_shapes(architecture).items():
        if tensors[name].shape != shape or not np.isfinite(tensors[name]).all():
            raise ValueError(
                f"The weight `{name}` of `network` must be finite and of shape {shape}. Load the weights "
                f"again from a good copy. Received: shape {tensors[name].shape}, "
                f"{np.count_nonzero(~np.isfinite(tensors[name]))} non-finite numbers."
            )
    return coordinatewise.from_tensors(tensors, architecture)

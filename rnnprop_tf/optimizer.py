"""RNNprop and DMOptimizer as Keras optimizers.

The classes read variables, run the rule and write variables; the mathematics is in `rule` and `network`,
how it is run over many variables in `compute`.
"""

from __future__ import annotations

import dataclasses
import math
import numbers
import reprlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Self, TypeAlias, TypedDict, Unpack

import keras
import numpy as np
import tensorflow as tf
from keras.src.utils.naming import auto_name
from keras.src.utils.tracking import no_automatic_dependency_tracking
from tensorflow.python.ops import control_flow_util

from rnnprop_tf import averaging, compute, environment, network_config, pretrained
from rnnprop_tf import network as coordinatewise
from rnnprop_tf.network import LSTMState, Network, Tensor
from rnnprop_tf.rows import Rows, rows_of
from rnnprop_tf.rule import DMRule, RNNpropRule, Rule, RuleState, SettlingRule

STATE_DTYPES = ("float32", "bfloat16")
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


class LearnedOptimizer(keras.optimizers.Optimizer):
    """Base class of RNNprop and DMOptimizer: state, updates, saving. Abstract; use one of the two.

    Attributes:
        network: the learned weights, float32 NumPy arrays.
        rule: the update rule with its hyperparameters.
        skip_nonfinite: whether a step with a non-finite gradient is skipped.
        state_dtype: the type in which h and c are stored.
        use_averaging: whether it keeps the average of the iterates.
        jit_compile: whether XLA compiles the update.
        skipped_steps: int64 variable, how many steps were.
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
                were trained for them.

        Returns:
            The optimizer.

        Raises:
            ValueError: If there are no such weights, if they cannot be fetched, if their files are damaged,
                or if they belong to the other class.
            ImportError: If `hf://` is asked for without `huggingface_hub`.

        Example:

        >>> optimizer = rnnprop_tf.RNNprop.from_pretrained("rnnprop-1", weight_decay=1e-4)
        """
        found = pretrained.load(name_or_path)
        if not isinstance(found.rule, cls.rule_class):
            fitting = next(c for c in (RNNprop, DMOptimizer) if isinstance(found.rule, c.rule_class))
            raise ValueError(
                f"The weights {str(name_or_path)!r} are for another update rule: expected weights of a "
                f"{cls.rule_class.__name__}, received those of a {type(found.rule).__name__}. "
                f"Use `{fitting.__name__}.from_pretrained({str(name_or_path)!r})`."
            )
        if learning_rate is None:
            learning_rate = found.learning_rate
        hyperparameters = dataclasses.asdict(found.rule)
        optimizer = cls(network=found.network, learning_rate=learning_rate, **(hyperparameters | kwargs))
        optimizer._trained_with = found.learning_rate
        return optimizer

    def save_pretrained(
        self, folder: str, learning_rate: float | None = None, provenance: dict[str, Any] | None = None
    ) -> None:
        """Writes the learned weights and the rule's hyperparameters for `from_pretrained`.

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
        pretrained.save(folder, self.network, self.rule, rate, provenance)

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

    def add_variable(self, *args: Any, **kwargs: Any) -> keras.Variable:
        """See `keras.optimizers.Optimizer`."""
        # A distributed loop in a tf.function may build on its first call; without this Keras fails there.
        with tf.init_scope():
            return super().add_variable(*args, **kwargs)

    @tf.autograph.experimental.do_not_convert  # AutoGraph would take most of the tracing time.
    def apply(
        self, grads: Sequence[Tensor | None], trainable_variables: Sequence[keras.Variable] | None = None
    ) -> None:
        """One step.

        Args:
            grads: A gradient per variable, or `None` for a variable to leave alone.
            trainable_variables: The variables; defaults to those the optimizer was built with.
        """
        # With data of unknown length Keras calls the step once more at the end of an epoch; the iterator
        # fails there, but whatever does not wait for the gradients would run.
        with tf.control_dependencies([g for g in grads if isinstance(g, tf.Tensor | tf.IndexedSlices)]):
            gradients_are_there = tf.no_op()
        with tf.control_dependencies([gradients_are_there]):
            steps_before = tf.identity(self._step.value)
            super().apply(grads, trainable_variables)
            if self.use_averaging:
                self._update_averages(steps_before)

    def update_step(self, gradient: Tensor, variable: tf.Variable, learning_rate: Tensor) -> None:
        """A whole step for one variable, without clipping and the like.

        Args:
            gradient: The gradient.
            variable: One of those that the optimizer was built with.
            learning_rate: A scalar.
        """
        self._update([gradient], [variable], learning_rate)

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

    def _add_counter(self, name: str) -> keras.Variable:
        return self.add_variable((), dtype="int64", aggregation="only_first_replica", name=name)

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
        reference = variable.value if isinstance(variable, keras.Variable) else variable
        with self._distribution_strategy.extended.colocate_vars_with(reference):
            return RuleState(
                accumulators=accumulators._make(add(name, "float32") for name in accumulators._fields),
                lstm=tuple(add_lstm(f"lstm{k}", size) for k, size in enumerate(units, start=1)),
            )

    def _filter_empty_gradients(
        self, grads: Sequence[Tensor | None], vars: Sequence[keras.Variable]
    ) -> tuple[list[Tensor], list[keras.Variable]]:
        grads, variables = super()._filter_empty_gradients(grads, vars)
        # What `apply` does first. What Keras does next, it does to dense gradients.
        touches_all_rows = (
            self.gradient_accumulation_steps is not None
            or self.loss_scale_factor is not None
            or _replicas() > 1
            # XLA copies the whole state for each row that a loop writes.
            or control_flow_util.GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph())
        )
        return [
            g if isinstance(g, tf.IndexedSlices) and not touches_all_rows and _sparse(g, v) else _dense(g, v)
            for g, v in zip(grads, variables, strict=True)
        ], variables

    def _clip_gradients(self, grads: list[Tensor]) -> list[Tensor | Rows]:
        # Their sum over the replicas is clipped, as on one device; Keras clips each replica's part.
        replica = tf.distribute.get_replica_context()
        if _replicas() > 1:
            grads = replica.merge_call(_summed, args=grads)
        gradients = [rows_of(g) if isinstance(g, tf.IndexedSlices) else g for g in grads]
        # float16 cannot hold the square of 256.
        values = [tf.cast(_values(gradient), "float32") for gradient in gradients]
        clipped = super()._clip_gradients(values)
        by_norm = self.clipnorm is not None or self.global_clipnorm is not None
        if self.skip_nonfinite and (by_norm or self.clipvalue is not None):
            # Clipping would turn what is not to be used into a number and hide it from `_update`. By a norm
            # that overflows it would turn all into zeros.
            usable = tf.math.is_finite(tf.linalg.global_norm(values)) if by_norm else tf.constant(True)
            clipped = [
                tf.where(tf.logical_and(usable, _usable(value)), c, OVERFLOWING)
                for value, c in zip(values, clipped, strict=True)
            ]
        return [_with_values(g, c) for g, c in zip(gradients, clipped, strict=True)]

    def _all_reduce_sum_gradients(
        self, grads_and_vars: list[tuple[Tensor, tf.Variable]]
    ) -> list[tuple[Tensor, tf.Variable]]:
        """Nothing: `_clip_gradients` has summed them."""
        return grads_and_vars

    def _apply_weight_decay(self, variables: Sequence[keras.Variable]) -> None:
        """Nothing: Keras calls this before the step is known to be taken. `_update` decays."""

    def _update_model_variables_moving_average(self, trainable_variables: Sequence[keras.Variable]) -> None:
        """Keras's average; with `use_averaging` nothing, as `apply` sees to it after the constraints."""
        if not self.use_averaging:
            super()._update_model_variables_moving_average(trainable_variables)

    def _update_averages(self, steps_before: Tensor) -> None:
        weight = averaging.newest_weight(steps_before, tf.identity(self._step.value))
        averaging.update(
            self._distribution_strategy,
            self._model_variables_moving_average,
            self._trainable_variables,
            weight,
        )

    def _distributed_tf_update_step(
        self,
        distribution: tf.distribute.Strategy,
        grads_and_vars: Sequence[tuple[Tensor, tf.Variable]],
        learning_rate: Tensor,
    ) -> None:
        """All variables in one update. The gradients are the replicas' sums by now, alike on each."""
        gradients, variables = zip(*grads_and_vars, strict=True)

        def update(_: tf.Variable, gradients: Sequence[Tensor], learning_rate: Tensor) -> None:
            self._update(gradients, variables, learning_rate)

        distribution.extended.update(variables[0], update, args=(gradients, learning_rate), group=False)

    def _update(
        self,
        gradients: Sequence[Tensor | Rows],
        variables: Sequence[tf.Variable],
        learning_rate: Tensor,
    ) -> None:
        gradients = [_with_values(g, tf.cast(_values(g), "float32")) for g in gradients]
        taken = tf.constant(True)
        if self.skip_nonfinite:
            taken = _all_usable([_values(gradient) for gradient in gradients])
        learning_rate = tf.cast(learning_rate, "float32")
        decay = learning_rate * (self.weight_decay or 0.0) * tf.cast(taken, "float32")
        slots = [self._slots[self._get_variable_index(variable)] for variable in variables]
        slots = tf.nest.map_structure(lambda slot: slot.value, slots)
        step = tf.cast(self._step.value + 1, "float32")
        jit_compile = compute.compiles() if self.jit_compile == "auto" else bool(self.jit_compile)

        def decayed(variable: tf.Variable) -> bool:
            return self.weight_decay is not None and self._use_weight_decay(variable)

        dense = [i for i, gradient in enumerate(gradients) if not isinstance(gradient, Rows)]
        directions = compute.update(
            self.rule,
            self.network,
            [slots[i] for i in dense],
            [tf.ensure_shape(gradients[i], variables[i].shape) for i in dense],
            taken,
            step,
            jit_compile,
        )
        for i, direction in zip(dense, directions, strict=True):
            variable = variables[i]
            change = tf.cast(learning_rate * direction, variable.dtype)
            if decayed(variable):
                change -= variable * tf.cast(decay, variable.dtype)
            variable.assign_add(change)
        for gradient, variable, slot in zip(gradients, variables, slots, strict=True):
            if not isinstance(gradient, Rows):
                continue
            if decayed(variable):
                variable.assign_sub(variable * tf.cast(decay, variable.dtype))

            def move(indices: Tensor, direction: Tensor, variable: tf.Variable = variable) -> None:
                change = tf.cast(learning_rate * direction, variable.dtype)
                variable.scatter_add(tf.IndexedSlices(change, indices))

            compute.update_rows(self.rule, self.network, slot, gradient, move, taken, step, jit_compile)
        self._step.value.assign_add(tf.cast(taken, "int64"))
        self.skipped_steps.value.assign_add(tf.cast(tf.logical_not(taken), "int64"))


@keras.saving.register_keras_serializable(package="rnnprop_tf")
class RNNprop(LearnedOptimizer):
    """RNNprop: an optimizer learned by gradient descent (Lv, Jiang, Li 2017).

    A small recurrent network, trained beforehand on other problems and the same for every coordinate, reads
    each coordinate's gradient relative to its recent size and returns a direction in [-1, 1]; the coordinate
    moves by `learning_rate` times that.

    `RNNprop()` has the default weights, `"rnnprop-1"`; `RNNprop.from_pretrained` takes others. Once the
    package is imported, Keras knows the string `"rnnprop"` too, as in `compile(optimizer="rnnprop")`.

    Two behaviours go beyond the paper:

    - A coordinate whose gradient is exactly zero is left alone, with all its state. Rows of an embedding
      that a batch does not use stay where they are, save for weight decay, which works as in Keras.
    - With `skip_nonfinite`, a step in whose gradients (summed over replicas) there is a NaN, an infinity or
      a number whose square is infinite in float32, changes no variable, no slot and not `step`; it adds 1 to
      `skipped_steps`. `iterations` counts it, so that schedules end where they were planned to; the average
      of `use_ema` takes the unchanged variables in once more; Keras applies constraints as ever. With
      `gradient_accumulation_steps` one bad micro-batch costs the whole accumulated step, and the next starts
      from empty accumulators. Under `LossScaleOptimizer` (mixed_float16) that one skips first: such steps do
      not get here and are not counted.

    State, in the order of `variables` after Keras's own `iteration` and `learning_rate` (no such variable
    with a schedule): `step` and `skipped_steps` (int64); Keras's averages and gradient accumulators, if
    asked for; then for each trainable variable `{variable}_m` and `{variable}_v` of its shape and, for each
    LSTM layer k from 1, `{variable}_lstm{k}_h` and `{variable}_lstm{k}_c` of shape `[units, *shape]`. The
    slots are float32 whatever the variable's type (h and c of `state_dtype`), and so is the arithmetic. With
    the paper's network that is 82 numbers for each number of the model: 328 bytes, 168 with bfloat16. With
    `settling` there is `{variable}_u` too, after `{variable}_v`.

    Args:
        learning_rate: A float, a `keras.optimizers.schedules.LearningRateSchedule`, or a callable without
            arguments. The paper's alpha: the most a coordinate moves in one step. Defaults to `0.1`.
        beta_1: A float in [0, 1), the decay of the running mean of gradients. Defaults to `0.95`.
        beta_2: A float in [0, 1), the decay of the running mean of squared gradients. Defaults to `0.95`.
        epsilon: A float in (0, 1], added to the root of the latter. Defaults to `1e-8`.
        settling: A float in [0, 10]. Above 0, steps become smaller once gradients have become smaller, see
            `rnnprop_tf.rule.SettlingRule`, which is not in the paper; the weights `"rnnprop-1-settling"` have
            `2.0`. Defaults to `0.0`.
        beta_3: A float in [0, 1), with `settling` the decay of the longer running mean of squared gradients.
            Defaults to `0.9999`.
        skip_nonfinite: Whether to skip steps with a non-finite gradient. Defaults to `True`.
        state_dtype: `"float32"` or `"bfloat16"`, how the LSTM's h and c are stored between steps; the
            arithmetic is float32. `"bfloat16"` halves the state. Defaults to `"float32"`.
        use_averaging: Whether to keep an average of the iterates, the values of the variables after each
            step, which is what `fit` leaves in the model. The newest iterate's weight in it is
            `9 / (t + 9)`, where `t` steps were taken before: about the last tenth of the training counts,
            without a length to choose. Skipped steps, and batches within an accumulated step, do not count.
            All that Keras does with `use_ema=True` it does with this average: `finalize_variable_values`,
            `keras.callbacks.SwapEMAWeights`, saving. It takes the place of Keras's own, so it does not go
            with `use_ema`, `ema_momentum` or `ema_overwrite_frequency`. A model with BatchNormalization
            needs `rnnprop_tf.recalibrate_batch_norm` after `fit`. Defaults to `False`.
        jit_compile: Whether XLA compiles the update, whatever `compile` says of the model. `"auto"`: where
            XLA can; otherwise, and under `tf.debugging.enable_check_numerics`, the update runs as
            TensorFlow's own operations, after a warning. Defaults to `"auto"`.
        network: The learned weights, a `rnnprop_tf.network.Network`. Defaults to those of `"rnnprop-1"`, for
            which the hyperparameters have their defaults.
        name: String. The name of the optimizer. Defaults to `"rnnprop"`, the next ones to `"rnnprop_1"` and
            so on.
        **kwargs: Keras's own arguments: `weight_decay`, `clipnorm`, `clipvalue`, `global_clipnorm`,
            `use_ema`, `ema_momentum`, `ema_overwrite_frequency`, `loss_scale_factor`,
            `gradient_accumulation_steps`; see `keras.optimizers.Optimizer`.

    Raises:
        TypeError: If `network` is not a `Network`.
        ValueError: If a weight or hyperparameter is out of its range or shape, or if two averages are asked
            for.
        RuntimeError: If Keras runs on another backend than TensorFlow, or `tf.keras` is Keras 2.

    Example:

    >>> model.compile(optimizer=rnnprop_tf.RNNprop(), loss="sparse_categorical_crossentropy")
    >>> model.fit(x, y)

    Reference:

    - [Lv, Jiang, Li, 2017](https://arxiv.org/abs/1703.03633)
    """

    rule_class = RNNpropRule
    default_name = "rnnprop"

    def __init__(
        self,
        learning_rate: LearningRate = 0.1,
        beta_1: float = 0.95,
        beta_2: float = 0.95,
        epsilon: float = 1e-8,
        settling: float = 0.0,
        beta_3: float = 0.9999,
        skip_nonfinite: bool = True,
        state_dtype: str = "float32",
        use_averaging: bool = False,
        jit_compile: bool | str = "auto",
        network: Network | None = None,
        name: str | None = None,
        **kwargs: Unpack[KerasArguments],
    ) -> None:
        # Checked with or without settling.
        rule: RNNpropRule = SettlingRule(beta_1, beta_2, epsilon, beta_3, settling)
        if settling == 0.0:
            rule = RNNpropRule(beta_1, beta_2, epsilon)
        if network is None:
            network = pretrained.load(pretrained.DEFAULT).network
        super().__init__(
            learning_rate,
            rule,
            skip_nonfinite,
            state_dtype,
            use_averaging,
            jit_compile,
            network,
            name,
            **kwargs,
        )


# As Keras's own optimizers, by name and by the name in lower case: `compile(optimizer="rnnprop")`.
keras.saving.get_custom_objects().update({"rnnprop": RNNprop, "RNNprop": RNNprop})


@keras.saving.register_keras_serializable(package="rnnprop_tf")
class DMOptimizer(LearnedOptimizer):
    """DMoptimizer: learning to learn by gradient descent (Andrychowicz et al. 2016), the paper's baseline.

    As `RNNprop`, but the network reads the gradient itself, on a logarithmic scale, and its output is not
    bounded. Non-finite and zero gradients, state and arguments are as there, without `{variable}_m` and
    `{variable}_v`. No weights of this kind ship with the package, so there is no default for them.

    Args:
        learning_rate: A float, a `keras.optimizers.schedules.LearningRateSchedule`, or a callable without
            arguments. The factor of the network's output. Defaults to `0.1`.
        p: A float in (0, 80]; gradients below `exp(-p)` count as small. Defaults to `10.0`.
        skip_nonfinite: Whether to skip steps with a non-finite gradient. Defaults to `True`.
        state_dtype: `"float32"` or `"bfloat16"`, how the LSTM's h and c are stored between steps; the
            arithmetic is float32. `"bfloat16"` halves the state. Defaults to `"float32"`.
        use_averaging: Whether to keep an average of the iterates, as for `RNNprop`. Defaults to `False`.
        jit_compile: Whether XLA compiles the update, whatever `compile` says of the model. `"auto"`: where
            XLA can; otherwise, and under `tf.debugging.enable_check_numerics`, the update runs as
            TensorFlow's own operations, after a warning. Defaults to `"auto"`.
        network: The learned weights, a `rnnprop_tf.network.Network`. Required.
        name: String. The name of the optimizer. Defaults to `"dm_optimizer"`, the next ones to
            `"dm_optimizer_1"` and so on.
        **kwargs: Keras's own arguments, as for `RNNprop`.

    Raises:
        TypeError: If `network` is not a `Network`.
        ValueError: If a weight or hyperparameter is out of its range or shape, or if two averages are asked
            for.
        RuntimeError: If Keras runs on another backend than TensorFlow, or `tf.keras` is Keras 2.

    Example:

    >>> optimizer = rnnprop_tf.DMOptimizer.from_pretrained("path/to/weights")

    Reference:

    - [Andrychowicz et al., 2016](https://arxiv.org/abs/1606.04474)
    """

    rule_class = DMRule
    default_name = "dm_optimizer"

    def __init__(
        self,
        learning_rate: LearningRate = 0.1,
        p: float = 10.0,
        skip_nonfinite: bool = True,
        state_dtype: str = "float32",
        use_averaging: bool = False,
        jit_compile: bool | str = "auto",
        network: Network | None = None,
        name: str | None = None,
        **kwargs: Unpack[KerasArguments],
    ) -> None:
        super().__init__(
            learning_rate,
            DMRule(p),
            skip_nonfinite,
            state_dtype,
            use_averaging,
            jit_compile,
            network,
            name,
            **kwargs,
        )


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
    return tf.abs(gradient) < OVERFLOWING


def _all_usable(gradients: Sequence[Tensor]) -> Tensor:
    """Whether all are `_usable`."""
    # A finite sum of all squares tells it in one pass over each gradient, a third of the exact test's time.
    total = tf.add_n([tf.nn.l2_loss(gradient) for gradient in gradients])
    return tf.cond(
        total < OVERFLOWING,
        lambda: tf.constant(True),
        lambda: tf.reduce_all([tf.reduce_all(_usable(gradient)) for gradient in gradients]),
    )


def _replicas() -> int:
    """The number of replicas that this step runs on."""
    replica = tf.distribute.get_replica_context()
    return replica.num_replicas_in_sync if replica else 1


def _values(gradient: Tensor | Rows) -> Tensor:
    return gradient.values if isinstance(gradient, Rows) else gradient


def _with_values(gradient: Tensor | Rows, values: Tensor) -> Tensor | Rows:
    return gradient._replace(values=values) if isinstance(gradient, Rows) else values


def _sparse(gradient: tf.IndexedSlices, variable: keras.Variable) -> bool:
    """Whether rows are worth gathering: they fit a page, and are fewer than those of the variable."""
    rows, *row = variable.shape
    given = gradient.values.shape[0]
    return 0 < math.prod(row) <= compute.PAGES[-1] and (given is None or given < rows)


def _summed(strategy: tf.distribute.Strategy, *values: Any) -> list[Any]:
    """The sums over the replicas, for `merge_call`."""
    # What `replica.all_reduce` does, save that in a graph it makes a custom gradient, whose registry keeps
    # the graph, and with it all slots, as long as the process lives.
    pairs = [(value, value.device if isinstance(value, tf.Tensor) else value) for value in values]
    return strategy.extended.batch_reduce_to(tf.distribute.ReduceOp.SUM, pairs)


def _slot_prefix(variable: keras.Variable | tf.Variable) -> str:
    """The variable's part of its slots' names, as in Keras's optimizers."""
    path = variable.path if hasattr(variable, "path") else variable.name
    return path.replace("/", "_").replace(":", "_")


def _dense(gradient: Tensor, variable: keras.Variable) -> Tensor:
    if not isinstance(gradient, tf.IndexedSlices):
        return gradient
    return tf.convert_to_tensor(tf.IndexedSlices(gradient.values, gradient.indices, variable.shape))


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

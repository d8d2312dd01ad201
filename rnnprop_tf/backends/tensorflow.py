"""Learned optimizers on TensorFlow: graphs, replicas, gradients of some rows of a table, XLA."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf
from tensorflow.python.ops import control_flow_util
from tensorflow.python.ops.resource_variable_ops import default_variable_creator_v2

from rnnprop_tf import averaging, compute, layout
from rnnprop_tf.compute import temporary_bytes
from rnnprop_tf.learned import OVERFLOWING, LearnedOptimizer, Step
from rnnprop_tf.network import Tensor
from rnnprop_tf.rows import Rows, rows_of
from rnnprop_tf.rule import RuleState

__all__ = ["BackendOptimizer", "forward", "repeated_step", "temporary_bytes"]


class BackendOptimizer(LearnedOptimizer):
    """A learned optimizer whose steps TensorFlow runs, by the programs of `compute`."""

    def add_variable(self, *args: Any, **kwargs: Any) -> keras.Variable:
        """See `keras.optimizers.Optimizer`."""
        # A distributed loop in a tf.function may build on its first call; without this Keras fails there.
        traced = tf.inside_function()
        creator = tf.variable_creator_scope(_created_at_once) if traced else contextlib.nullcontext()
        with tf.init_scope(), creator:
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
        # The values of sparse ones, as TensorFlow cannot wait for slices that an eager tape has made.
        values = [g.values if isinstance(g, tf.IndexedSlices) else g for g in grads]
        with tf.control_dependencies([value for value in values if isinstance(value, tf.Tensor)]):
            gradients_are_there = tf.no_op()
        with tf.control_dependencies([gradients_are_there]):
            super().apply(grads, trainable_variables)

    def _beside(self, variable: keras.Variable | tf.Variable) -> contextlib.AbstractContextManager[Any]:
        reference = variable.value if isinstance(variable, keras.Variable) else variable
        return self._distribution_strategy.extended.colocate_vars_with(reference)

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
        clipped = super()._clip_gradients([_values(gradient) for gradient in gradients])
        return [_with_values(g, c) for g, c in zip(gradients, clipped, strict=True)]

    def _all_reduce_sum_gradients(
        self, grads_and_vars: list[tuple[Tensor, tf.Variable]]
    ) -> list[tuple[Tensor, tf.Variable]]:
        """Nothing: `_clip_gradients` has summed them."""
        return grads_and_vars

    def _move_averages(self, weight: Tensor) -> None:
        def move(average: tf.Variable, variable: tf.Variable, weight: Tensor) -> None:
            average.assign(averaging.moved(average, variable, weight))

        def move_all(strategy: tf.distribute.Strategy, weight: Tensor) -> None:
            pairs = zip(self._model_variables_moving_average, self._trainable_variables, strict=True)
            for average, variable in pairs:
                if average is not None:
                    new = variable.value if isinstance(variable, keras.Variable) else variable
                    strategy.extended.update(average.value, move, args=(new, weight), group=False)

        tf.__internal__.distribute.interim.maybe_merge_call(move_all, self._distribution_strategy, weight)

    def _backend_update_step(
        self, grads: Sequence[Tensor], trainable_variables: Sequence[keras.Variable], learning_rate: Tensor
    ) -> None:
        """Keras's, which leaves the replicas' contexts and calls the next method."""
        super(LearnedOptimizer, self)._backend_update_step(grads, trainable_variables, learning_rate)

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

    def _are_usable(self, gradients: Sequence[Tensor | Rows]) -> Tensor:
        values = [_values(gradient) for gradient in gradients]
        # A finite sum of all squares tells it in one pass over each gradient, a third of the exact
        # test's time.
        total = tf.add_n([tf.nn.l2_loss(value) for value in values])
        exact = super()._are_usable
        return tf.cond(total < OVERFLOWING, lambda: tf.constant(True), lambda: exact(values))

    def _rest(self, slots: Sequence[RuleState], resting: Sequence[Tensor]) -> None:
        # It reads and writes slots: only where a variable rests, and of a large one only if it does.
        rest = super()._rest

        def rest_those() -> None:
            pairs = list(zip(slots, resting, strict=True))
            large = [math.prod(state.accumulators[0].shape) > compute.PAGES[-1] for state in slots]
            for (state, rests), alone in zip(pairs, large, strict=True):
                if alone:
                    tf.cond(rests > 0.0, functools.partial(rest, [state], [rests]), lambda: None)
                else:
                    rest([state], [rests])

        tf.cond(tf.reduce_any(tf.stack(resting) > 0.0), rest_those, lambda: None)

    def _are_zero(self, gradients: Sequence[Tensor | Rows]) -> Tensor:
        # As in `_are_usable`, so that a graph has it once.
        return tf.equal(tf.stack([tf.nn.l2_loss(_values(gradient)) for gradient in gradients]), 0.0)

    def _update_variables(
        self, gradients: Sequence[Tensor | Rows], variables: Sequence[tf.Variable], step: Step
    ) -> None:
        pairs = list(zip(gradients, variables, strict=True))
        dense = [(_of_shape(g, v.shape), v) for g, v in pairs if not isinstance(g, Rows)]
        if dense:
            super()._update_variables([g for g, _ in dense], [v for _, v in dense], step)
        for gradient, variable in pairs:
            if isinstance(gradient, Rows):
                self._update_rows(gradient, variable, step)

    def _update_rows(self, gradient: Rows, variable: tf.Variable, step: Step) -> None:
        if self._decays(variable):
            variable.assign_sub(variable * tf.cast(step.decay, variable.dtype))

        def move(indices: Tensor, change: Tensor) -> None:
            variable.scatter_add(tf.IndexedSlices(tf.cast(change, variable.dtype), indices))

        slots = layout.mapped(lambda slot: slot.value, self._slots_of(variable))
        compute.update_rows(self.rule, self.network, slots, gradient, move, _scalars(step), self._compiles())

    def _changes(
        self, slots: Sequence[RuleState], gradients: Sequence[Tensor], step: Step
    ) -> Sequence[Tensor]:
        slots = [layout.mapped(lambda slot: slot.value, slot) for slot in slots]
        return compute.update(self.rule, self.network, slots, gradients, _scalars(step), self._compiles())

    def _compiles(self) -> bool:
        return compute.compiles() if self.jit_compile == "auto" else bool(self.jit_compile)


def _created_at_once(next_creator: Callable[..., tf.Variable], **kwargs: Any) -> tf.Variable:
    """Creates a variable without telling the tf.function that is being traced, nor other creators.

    It would trace all of the step a second time, the model too: the first step is the one that creates slots.
    """
    if tf.distribute.has_strategy():  # Its variables are not of this kind.
        return next_creator(**kwargs)
    return default_variable_creator_v2(None, **kwargs)


def forward(model: keras.Model) -> Callable[[Any], None]:
    """The model's forward pass in training, for its effects."""

    @tf.function(autograph=False, reduce_retracing=True)
    def run(x: Any) -> None:
        model(x, training=True)

    return run


def repeated_step(
    optimizer: keras.optimizers.Optimizer, gradients: Sequence[Tensor], variables: Sequence[keras.Variable]
) -> Callable[[], None]:
    """A step with these gradients, as `fit` runs it; returns when it is done."""
    # Compiled on a GPU only, as `fit` does by default.
    compiled = bool(tf.config.list_logical_devices("GPU"))
    step = tf.function(lambda: optimizer.apply(gradients, variables), jit_compile=compiled, autograph=False)

    def run() -> None:
        step()
        variables[-1].numpy()  # Waits for the device.

    return run


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


def _scalars(step: Step) -> compute.Scalars:
    # A learning rate may be a variable still. A program would remember it, for models to come too.
    return compute.Scalars(step.taken, step.number, tf.convert_to_tensor(step.learning_rate))


def _of_shape(gradient: Tensor, shape: tf.TensorShape) -> Tensor:
    """The gradient, whose shape TensorFlow may not have known."""
    return gradient if gradient.shape == shape else tf.ensure_shape(gradient, shape)


def _summed(strategy: tf.distribute.Strategy, *values: Any) -> list[Any]:
    """The sums over the replicas, for `merge_call`."""
    # What `replica.all_reduce` does, save that in a graph it makes a custom gradient, whose registry keeps
    # the graph, and with it all slots, as long as the process lives.
    pairs = [(value, value.device if isinstance(value, tf.Tensor) else value) for value in values]
    return strategy.extended.batch_reduce_to(tf.distribute.ReduceOp.SUM, pairs)


def _dense(gradient: Tensor, variable: keras.Variable) -> Tensor:
    if not isinstance(gradient, tf.IndexedSlices):
        return gradient
    return tf.convert_to_tensor(tf.IndexedSlices(gradient.values, gradient.indices, variable.shape))

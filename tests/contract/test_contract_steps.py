"""The contract of a step: `apply` on variables, against the pure rule, in every mode that Keras offers."""

import json

import keras
import numpy as np
import pytest
from backend import BACKEND, LOOP, MODES, numpy, only_on_tensorflow, stepper, tensor
from keras import ops
from subjects import NETWORK, RATE, Expected, assert_same, for_each_average, for_each_subject

from rnnprop_tf import RNNprop

SHAPES = {"kernel": (4, 3), "bias": (3,), "scalar": ()}
ALL_SHAPES = tuple(SHAPES.values())


def make_variables(dtype="float32"):
    return [
        keras.Variable(np.linspace(-1.0, 1.0, int(np.prod(shape))).reshape(shape), dtype=dtype, name=name)
        for name, shape in SHAPES.items()
    ]


def make_gradients(steps, shapes=ALL_SHAPES):
    """Of sizes from 0.01 to 10, a list of arrays for each step."""
    rng = np.random.default_rng(7)
    return [
        [(rng.normal(size=s) * 10.0 ** rng.integers(-2, 2)).astype("float32") for s in shapes]
        for _ in range(steps)
    ]


def take_steps(optimizer, variables, gradients, mode="eager"):
    step = stepper(optimizer, variables, mode)
    for arrays in gradients:
        step(*(None if array is None else tensor(array) for array in arrays))


def state(optimizer):
    return [v.numpy() for v in optimizer.variables]


# Loops of one's own


@for_each_subject()
@MODES
@pytest.mark.parametrize("entry", ["apply", "apply_gradients"])
def test_a_step_is_the_rule(subject, mode, entry):
    variables, optimizer = make_variables(), subject.make()
    expected = Expected(subject, [v.numpy() for v in variables])
    step = stepper(optimizer, variables, mode, entry)
    for gradients in make_gradients(12):
        step(*map(tensor, gradients))
        expected.step(gradients)
    expected.check(variables)
    assert int(optimizer.iterations) == 12
    for variable, start in zip(variables, make_variables(), strict=True):
        assert np.abs(variable.numpy() - start.numpy()).max() > RATE / 10


@for_each_subject()
def test_eager_and_traced_steps_may_alternate(subject):
    variables, optimizer = make_variables(), subject.make()
    expected = Expected(subject, [v.numpy() for v in variables])
    steps = [stepper(optimizer, variables, mode) for mode in (LOOP, "eager")]
    for i, gradients in enumerate(make_gradients(6)):
        steps[i % 2](*map(tensor, gradients))
        expected.step(gradients)
    expected.check(variables)


@for_each_subject()
@MODES
@pytest.mark.filterwarnings("ignore:Gradients do not exist")
def test_variables_without_gradient_wait(subject, mode):
    variables, optimizer = make_variables(), subject.make(weight_decay=0.1)
    expected = Expected(subject, [v.numpy() for v in variables])
    for i, gradients in enumerate(make_gradients(6)):
        if i % 2:
            gradients[i // 2] = None
        take_steps(optimizer, variables, [gradients], mode)
        expected.step(gradients, decay=[0.1] * 3)
    expected.check(variables)


@for_each_subject()
def test_no_gradient_at_all_is_an_error(subject):
    with pytest.raises(ValueError, match="No gradients provided for any variable"):
        subject.make().apply([None], [keras.Variable([1.0])])


@for_each_subject()
@MODES
def test_some_of_the_variables_may_step(subject, mode):
    variables, optimizer = make_variables(), subject.make()
    optimizer.build(variables)
    expected = Expected(subject, [v.numpy() for v in variables])
    for i, gradients in enumerate(make_gradients(6)):
        chosen = [1, 0, 2][i % 3 :]  # In another order than at the build.
        take_steps(optimizer, [variables[k] for k in chosen], [[gradients[k] for k in chosen]], mode)
        expected.step([g if k in chosen else None for k, g in enumerate(gradients)])
    expected.check(variables)


@for_each_subject()
def test_variables_of_another_model_are_refused(subject):
    optimizer = subject.make()
    optimizer.apply([ops.ones(1)], [keras.Variable([1.0])])
    with pytest.raises(ValueError, match="Unknown variable"):
        optimizer.apply([ops.ones(1)], [keras.Variable([1.0])])


@for_each_subject()
@MODES
def test_empty_variables_take_steps(subject, mode):
    empty, full = keras.Variable(np.zeros((0, 3), "float32")), keras.Variable([1.0, 2.0])
    optimizer = subject.make()
    expected = Expected(subject, [empty.numpy(), full.numpy()])
    gradients = make_gradients(3, [(0, 3), (2,)])
    for arrays in gradients:
        expected.step(arrays)
    take_steps(optimizer, [empty, full], gradients, mode)
    take_steps(optimizer, [empty], [[np.zeros((0, 3), "float32")]], mode)
    expected.check([empty, full])


SPARSE = only_on_tensorflow("sparse gradients of Keras's layers")


@SPARSE
@for_each_subject(adam_fails="Keras's Adam squares repeated rows one by one and does not add them up before")
@MODES
@pytest.mark.parametrize("clipnorm", [None, 1.0])
def test_repeated_rows_of_sparse_gradients_are_added_up_first(subject, mode, clipnorm):
    check_sparse_gradients(subject, mode, clipnorm)


@SPARSE
@for_each_subject()
@MODES
def test_sparse_gradients_are_accumulated_like_dense_ones(subject, mode):
    check_sparse_gradients(subject, mode, clipnorm=1.0, gradient_accumulation_steps=2)


def check_sparse_gradients(subject, mode, clipnorm=None, gradient_accumulation_steps=None):
    import tensorflow as tf

    table, bias = keras.Variable(np.ones((4, 3), "float32")), keras.Variable([1.0, 2.0])
    optimizer = subject.make(clipnorm=clipnorm, gradient_accumulation_steps=gradient_accumulation_steps)
    expected = Expected(subject, [table.numpy(), bias.numpy()])
    rows = np.array([1, 3, 1, 0, 2])  # All rows, as Adam moves those without gradient too.

    def apply(values, bias_gradient):
        slices = tf.IndexedSlices(values, tensor(rows), (4, 3))
        optimizer.apply([slices, bias_gradient], [table, bias])

    step = apply if mode == "eager" else tf.function(apply, jit_compile=mode == "jit")
    for values, bias_gradient in make_gradients(5, [(5, 3), (2,)]):
        for _ in range(gradient_accumulation_steps or 1):
            step(tensor(values), tensor(bias_gradient))
        dense = np.zeros((4, 3), "float32")
        np.add.at(dense, rows, values)
        gradients = [dense, bias_gradient]
        expected.step(gradients if clipnorm is None else by_norm(gradients, clipnorm))
    expected.check([table, bias])


@MODES
@pytest.mark.parametrize("rest", ["zero", "none"])
def test_the_steps_in_which_a_variable_rests_are_no_sleep(mode, rest):
    """With `annealing`, after a sleep steps are longer. Others may have their turn, or a loss may be zero."""
    variables, optimizer = make_variables(), RNNprop(RATE, network=NETWORK, annealing=9.0)
    [full] = make_gradients(1)
    resting = [np.zeros_like(full[0]) if rest == "zero" else None, *full[1:]]
    partly = [np.where(np.arange(3) < 1, full[0], 0.0).astype("float32"), *full[1:]]
    skipped = [full[0], np.full_like(full[1], np.nan), full[2]]
    take_steps(optimizer, variables, [full, *[resting] * 7, skipped, partly, partly], mode)
    last = next(numpy(v) for v in optimizer.variables if v.name == "kernel_last")
    np.testing.assert_array_equal(last, np.tile([10.0, 8.0, 8.0], (4, 1)))
    before = numpy(variables[0])
    take_steps(optimizer, variables, [full], mode)
    assert (numpy(variables[0]) != before).all()


@for_each_subject(adam_fails="Keras's Adam computes in the variable's type, which cannot hold beta_2 = 0.999")
@MODES
@pytest.mark.parametrize(("dtype", "precision"), [("float16", 5e-3), ("bfloat16", 4e-2)])
def test_variables_of_half_precision(subject, mode, dtype, precision):
    check_variables_of(subject, mode, dtype, precision)


@for_each_subject()
@MODES
def test_variables_of_double_precision(subject, mode):
    check_variables_of(subject, mode, "float64", precision=1e-5)


def check_variables_of(subject, mode, dtype, precision):
    gradients = make_gradients(4)
    variables, optimizer = make_variables(dtype), subject.make()
    expected = Expected(subject, [v.numpy() for v in variables])
    step = stepper(optimizer, variables, mode)
    for arrays in gradients:
        arrays = [ops.cast(array, dtype) for array in arrays]
        step(*arrays)
        expected.step([numpy(ops.cast(array, "float32")) for array in arrays])
    assert {v.dtype for v in variables} == {dtype}
    expected.check(variables, precision)


# Keras's own arguments


def by_norm(gradients, limit):
    return [g * min(1.0, limit / np.linalg.norm(g)) for g in gradients]


def by_global_norm(gradients, limit):
    norm = np.sqrt(sum(np.sum(g**2) for g in gradients))
    return [g * min(1.0, limit / norm) for g in gradients]


CLIPPINGS = {
    "clipnorm": by_norm,
    "clipvalue": lambda gradients, limit: [np.clip(g, -limit, limit) for g in gradients],
    "global_clipnorm": by_global_norm,
}


@for_each_subject()
@pytest.mark.parametrize("argument", CLIPPINGS)
def test_clipping(subject, argument):
    variables, optimizer = make_variables(), subject.make(**{argument: 0.5})
    expected = Expected(subject, [v.numpy() for v in variables])
    gradients = make_gradients(8)
    for arrays in gradients:
        expected.step(CLIPPINGS[argument](arrays, 0.5))
    take_steps(optimizer, variables, gradients, LOOP)
    expected.check(variables)
    unclipped = make_variables()
    take_steps(subject.make(), unclipped, gradients)
    assert any(np.abs(v.numpy() - u.numpy()).max() > 1e-3 for v, u in zip(variables, unclipped, strict=True))


@for_each_subject()
@MODES
@pytest.mark.parametrize("by", ["name", "variable"])
def test_weight_decay_spares_what_is_excluded(subject, mode, by):
    variables, optimizer = make_variables(), subject.make(weight_decay=0.3)
    expected = Expected(subject, [v.numpy() for v in variables])
    if by == "name":
        optimizer.exclude_from_weight_decay(var_names=["bias"])
    else:
        optimizer.exclude_from_weight_decay(var_list=[variables[1]])
    gradients = make_gradients(5)
    for arrays in gradients:
        expected.step(arrays, decay=[0.3, 0.0, 0.3])
    take_steps(optimizer, variables, gradients, mode)
    expected.check(variables)


@for_each_subject()
@MODES
def test_accumulated_gradients_are_averaged(subject, mode):
    variables, optimizer = make_variables(), subject.make(gradient_accumulation_steps=3, clipnorm=1.0)
    expected = Expected(subject, [v.numpy() for v in variables])
    gradients = make_gradients(9)
    for i in range(0, 9, 3):
        mean = [np.mean(parts, axis=0) for parts in zip(*gradients[i : i + 3], strict=True)]
        expected.step(by_norm(mean, 1.0))
    step = stepper(optimizer, variables, mode)
    for arrays in gradients:
        step(*map(tensor, arrays))
    expected.check(variables)
    assert int(optimizer.iterations) == 3


@for_each_average()
@MODES
def test_averages_are_those_of_the_iterates(subject, average, mode):
    variables, optimizer = make_variables(), subject.make(**average.arguments)
    step = stepper(optimizer, variables, mode)
    iterates = []
    for gradients in make_gradients(7):
        step(*map(tensor, gradients))
        iterates.append([v.numpy() for v in variables])
    optimizer.finalize_variable_values(variables)
    for variable, value in zip(variables, average.of(iterates), strict=True):
        np.testing.assert_allclose(variable.numpy(), value, rtol=1e-5, atol=1e-5)


@for_each_subject()
@MODES
def test_averages_are_kept_and_written_over_the_variables(subject, mode):
    variables = make_variables()
    optimizer = subject.make(use_ema=True, ema_momentum=0.75, ema_overwrite_frequency=3)
    expected = Expected(subject, [v.numpy() for v in variables])
    averages = []
    for i, gradients in enumerate(make_gradients(7)):
        expected.step(gradients)
        momentum = 0.75 if i else 0.0
        averages = [
            momentum * a + (1.0 - momentum) * v
            for a, v in zip(averages or expected.values, expected.values, strict=True)
        ]
        if (i + 1) % 3 == 0:
            expected.values = list(averages)
    step = stepper(optimizer, variables, mode)
    for gradients in make_gradients(7):
        step(*map(tensor, gradients))
    expected.check(variables)
    optimizer.finalize_variable_values(variables)
    for variable, average in zip(variables, averages, strict=True):
        np.testing.assert_allclose(variable.numpy(), average, rtol=1e-4, atol=1e-4)


@for_each_subject()
@MODES
def test_constraints_hold_after_each_step(subject, mode):
    variables, optimizer = make_variables(), subject.make()
    variables[0].constraint = keras.constraints.NonNeg()
    expected = Expected(subject, [v.numpy() for v in variables])
    gradients = make_gradients(5)
    for arrays in gradients:
        expected.step(arrays)
        expected.values[0] = np.maximum(expected.values[0], 0.0)
    take_steps(optimizer, variables, gradients, mode)
    expected.check(variables)
    assert (variables[0].numpy() >= 0.0).all()


@for_each_subject()
@MODES
def test_schedules_set_the_rate_of_each_step(subject, mode):
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([1, 3], [0.1, 0.02, 0.5])
    variables, optimizer = make_variables(), subject.make(schedule)
    expected = Expected(subject, [v.numpy() for v in variables])
    step = stepper(optimizer, variables, mode)
    for rate, gradients in zip((0.1, 0.1, 0.02, 0.02, 0.5), make_gradients(5), strict=True):
        step(*map(tensor, gradients))
        expected.step(gradients, rate)
    expected.check(variables)


@for_each_subject()
def test_the_rate_may_be_a_callable_and_may_be_set(subject):
    variables, optimizer = make_variables(), subject.make()
    expected = Expected(subject, [v.numpy() for v in variables])
    step = stepper(optimizer, variables, LOOP)
    first, second = make_gradients(2)
    step(*map(tensor, first))
    optimizer.learning_rate = 0.3
    step(*map(tensor, second))
    expected.step(first)
    expected.step(second, 0.3)
    expected.check(variables)

    variables, optimizer = make_variables(), subject.make(lambda: tensor(0.3))
    expected = Expected(subject, [v.numpy() for v in variables])
    take_steps(optimizer, variables, [first], LOOP)
    expected.step(first, 0.3)
    expected.check(variables)


@for_each_subject()
def test_a_fixed_loss_scale_is_taken_out(subject):
    variables, optimizer = make_variables(), subject.make(loss_scale_factor=1024.0)
    expected = Expected(subject, [v.numpy() for v in variables])
    gradients = make_gradients(4)
    for arrays in gradients:
        expected.step(arrays)
    take_steps(optimizer, variables, [[1024.0 * g for g in arrays] for arrays in gradients], LOOP)
    expected.check(variables)
    assert optimizer.scale_loss(2.0) == 2048.0


@for_each_subject()
@pytest.mark.parametrize("mode", ["eager", LOOP][BACKEND == "jax" :] if BACKEND != "torch" else ["eager"])
def test_dynamic_loss_scaling_skips_what_overflows(subject, mode):
    variables, inner = make_variables(), subject.make()
    optimizer = keras.optimizers.LossScaleOptimizer(inner, initial_scale=8.0)
    expected = Expected(subject, [v.numpy() for v in variables])
    first, bad, second = make_gradients(3)
    bad[1][0] = np.inf
    take_steps(optimizer, variables, [[8.0 * g for g in first], bad, [4.0 * g for g in second]], mode)
    expected.step(first)
    expected.step(second)
    expected.check(variables)
    assert optimizer.dynamic_scale.numpy() == 4.0


@for_each_subject()
@MODES
def test_variables_may_be_shared_out_among_optimizers(subject, mode):
    ours, sgd = subject.make(), keras.optimizers.SGD(0.5)
    optimizer = keras.optimizers.MultiOptimizer(keras.optimizers.OptimizerMap(sgd, {"kernel": ours}))
    variables = make_variables()
    expected = Expected(subject, [variables[0].numpy()])
    plain = [v.numpy() for v in variables[1:]]
    for gradients in make_gradients(4):
        take_steps(optimizer, variables, [gradients], mode)
        expected.step(gradients[:1])
        plain = [value - 0.5 * g for value, g in zip(plain, gradients[1:], strict=True)]
    expected.check(variables[:1])
    for variable, value in zip(variables[1:], plain, strict=True):
        np.testing.assert_allclose(variable.numpy(), value, rtol=1e-5, atol=1e-5)


# Copies

ALL_ARGUMENTS = {
    "plain": {},
    "average and decay": {"use_ema": True, "ema_momentum": 0.75, "weight_decay": 0.1, "clipnorm": 1.0},
    "accumulation": {"gradient_accumulation_steps": 2},
    "schedule": {"learning_rate": keras.optimizers.schedules.ExponentialDecay(0.1, 2, 0.5)},
}


@for_each_average()
def test_a_clone_goes_on_with_the_same_average(subject, average):
    check_clone(subject, average.arguments)


@for_each_subject()
@pytest.mark.parametrize("arguments", ALL_ARGUMENTS.values(), ids=ALL_ARGUMENTS)
def test_a_clone_with_the_same_weights_goes_on_alike(subject, arguments):
    check_clone(subject, arguments)


def check_clone(subject, arguments):
    gradients = make_gradients(5)
    variables, optimizer = make_variables(), subject.make(**arguments)
    take_steps(optimizer, variables, gradients[:3])

    clone = type(optimizer).from_config(json.loads(json.dumps(optimizer.get_config())))
    others = make_variables()
    for one, two in zip(others, variables, strict=True):
        one.assign(two)
    clone.build(others)
    clone.set_weights([tensor(value) for value in state(optimizer)])
    for o, vs in ((optimizer, variables), (clone, others)):
        take_steps(o, vs, gradients[3:])
    assert_same([v.numpy() for v in others], [v.numpy() for v in variables])
    assert_same(state(clone), state(optimizer))


@for_each_subject()
def test_set_weights_asks_for_a_built_optimizer_and_fitting_shapes(subject):
    optimizer = subject.make()
    with pytest.raises(ValueError, match="has not yet been built"):
        optimizer.set_weights([])
    optimizer.build(make_variables())
    with pytest.raises(ValueError, match=r"has shape .* not compatible"):
        optimizer.set_weights([np.zeros(99)] * len(optimizer.variables))

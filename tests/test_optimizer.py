"""The Keras classes run the pure rule: on every kind of variable and step, and on nothing else."""

import functools
import gc
import math
import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.framework.kernels import get_registered_kernels_for_op

from rnnprop_tf import DMOptimizer, RNNprop, compute
from rnnprop_tf.network import Architecture, Dense, LSTMLayer, LSTMState, Network, initial_weights
from rnnprop_tf.rule import AnnealingRule, DMRule, RNNpropRule, SettlingRule

CLASSES = (RNNprop, DMOptimizer)
MODES = ("eager", "graph", "jit")


TWO_LAYERS = (5, 3)


def random_network(seed=0, lstm=(4,)):
    """A small network with weights large enough for visible steps.

    One LSTM layer, as a program of two takes half as long again to compile; TWO_LAYERS where they matter.
    """
    return tf.nest.map_structure(lambda w: 3.0 * w, initial_weights(Architecture(2, (4,), lstm), seed))


def constant_network(output=0.5):
    """A network whose state and output do not depend on the gradient; see `constant_state`."""
    bias = np.array([0.3, 0.7, -0.2, 0.4], "float32")
    return Network(
        preprocess=(),
        lstm=(LSTMLayer(np.zeros((4, 3), "float32"), bias),),
        output=Dense(np.zeros((1, 1), "float32"), np.array([output], "float32")),
    )


def make_variables():
    return [
        keras.Variable(np.linspace(-1.0, 1.0, math.prod(shape)).reshape(shape), dtype="float32", name=name)
        for name, shape in (("kernel", (4, 3)), ("bias", (3,)), ("scalar", ()))
    ]


def make_gradients(seed, variables):
    rng = np.random.default_rng(seed)
    return [tf.constant(rng.normal(size=v.shape) * 10.0 ** rng.integers(-3, 3), "float32") for v in variables]


def stepper(optimizer, variables, mode):
    """`optimizer.apply` on these variables as a function of the gradients."""

    def apply(*gradients):
        optimizer.apply(gradients, variables)

    return apply if mode == "eager" else tf.function(apply, jit_compile=mode == "jit")


def slots(optimizer):
    """Name after the variable's -> value, of everything that the optimizer keeps for variables."""
    kept = [v for v in optimizer.variables if v.shape.rank > 0 or "scalar" in v.path]
    return {v.path.removeprefix(f"{optimizer.name}/"): v.numpy() for v in kept}


def own_variable(optimizer, name):
    return next(v for v in optimizer.variables if v.path.endswith(f"{optimizer.name}/{name}")).numpy()


def assert_same(left, right):
    """Bit for bit."""
    assert list(left) == list(right)
    for key in left:
        np.testing.assert_array_equal(left[key], right[key], err_msg=key)


# State


def test_slots_of_rnnprop_are_named_shaped_and_ordered_as_documented():
    variables = [keras.Variable(np.zeros((2, 3)), name="kernel"), keras.Variable(0.0, name="bias")]
    optimizer = RNNprop(network=initial_weights(Architecture(), 0))
    optimizer.build(variables)
    found = [(v.path, tuple(v.shape), v.dtype) for v in optimizer.variables]
    expected = [("iteration", (), "int64"), ("learning_rate", (), "float32")]
    expected += [("step", (), "int64"), ("skipped_steps", (), "int64")]
    for name, shape in (("kernel", (2, 3)), ("bias", ())):
        expected += [(f"{name}_m", shape, "float32"), (f"{name}_v", shape, "float32")]
        for layer in ("lstm1", "lstm2"):
            expected += [(f"{name}_{layer}_{part}", (20, *shape), "float32") for part in "hc"]
    assert found == [(f"{optimizer.name}/{path}", shape, dtype) for path, shape, dtype in expected]
    assert sum(v.numpy().size for v in optimizer.variables[4:]) == 82 * (6 + 1)


def test_slots_of_dm_optimizer_are_those_of_the_lstm_after_keras_own():
    network = random_network(lstm=TWO_LAYERS)
    optimizer = DMOptimizer(network=network, use_ema=True, gradient_accumulation_steps=2)
    optimizer.build([keras.Variable(np.zeros((2, 3)), name="kernel")])
    assert [v.path.removeprefix(f"{optimizer.name}/") for v in optimizer.variables] == [
        "iteration",
        "learning_rate",
        "step",
        "skipped_steps",
        "kernel_average",
        "kernel_gradient_accumulator",
        "kernel_lstm1_h",
        "kernel_lstm1_c",
        "kernel_lstm2_h",
        "kernel_lstm2_c",
    ]
    assert [tuple(v.shape) for v in optimizer.variables[-4:]] == [(5, 2, 3)] * 2 + [(3, 2, 3)] * 2


def test_slots_are_named_after_the_layer_as_adams_are():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, name="out")], name="model")
    ours, adam = RNNprop(network=constant_network()), keras.optimizers.Adam(name="adam")
    for optimizer in (ours, adam):
        optimizer.build(model.trainable_variables)
    assert ours.variables[4].path == adam.variables[2].path.replace("adam/", f"{ours.name}/").replace(
        "momentum", "m"
    )


def test_first_step_by_hand():
    variable = keras.Variable([1.0, -2.0], name="x")
    optimizer = RNNprop(network=constant_network(0.5), learning_rate=0.1)
    optimizer.apply([tf.constant([4.0, -0.5])], [variable])

    def sigmoid(x):
        return 1.0 / (1.0 + math.exp(-x))

    c = sigmoid(0.3) * math.tanh(0.7)
    h = sigmoid(0.4) * math.tanh(c)
    np.testing.assert_allclose(variable.numpy(), np.array([1.0, -2.0]) + 0.1 * math.tanh(0.5), rtol=1e-6)
    expected = {"m": [0.2, -0.025], "v": [0.8, 0.0125], "lstm1_h": [[h, h]], "lstm1_c": [[c, c]]}
    for name, value in expected.items():
        np.testing.assert_allclose(own_variable(optimizer, f"x_{name}"), value, rtol=1e-5, err_msg=name)
    assert (own_variable(optimizer, "step"), own_variable(optimizer, "skipped_steps")) == (1, 0)


def test_build_inside_a_trace_equals_build_before_it():
    results = []
    for build_first in (True, False):
        variables = make_variables()
        optimizer = RNNprop(network=random_network())
        if build_first:
            optimizer.build(variables)
        step = stepper(optimizer, variables, "graph")
        for seed in range(3):
            step(*make_gradients(seed, variables))
        results.append(slots(optimizer) | {v.name: v.numpy() for v in variables})
    assert_same(*results)


# Class against rule


def rule_by_hand(rule, network, steps, rate):
    """The pure rule over gradients of several variables: how far each comes, flat, and its states."""
    sizes = [math.prod(gradient.shape) for gradient in steps[0]]
    moved = [np.zeros(size, "float32") for size in sizes]
    states = [rule.initial_state(network, size) for size in sizes]
    for t, gradients in enumerate(steps, start=1):
        for i, gradient in enumerate(gradients):
            direction, states[i] = rule.update(
                network, states[i], tf.reshape(gradient, [-1]), tf.constant(float(t))
            )
            moved[i] = moved[i] + rate * direction.numpy()
    return moved, states


@functools.cache
def random_steps(rule):
    """Gradients, and what the rule makes of them: the same for each mode."""
    steps = [make_gradients(t, make_variables()) for t in range(1, 13)]
    return steps, *rule_by_hand(rule, random_network(lstm=TWO_LAYERS), steps, 0.05)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("cls", "rule"),
    [
        (RNNprop, RNNpropRule(0.9, 0.99, 1e-6)),
        (RNNprop, SettlingRule(0.9, 0.95, 1e-6, 0.9, 1.5)),
        (DMOptimizer, DMRule(5.0)),
    ],
)
def test_class_equals_rule_over_random_steps(cls, rule, mode, monkeypatch):
    monkeypatch.setattr(compute, "PAGES", (10,))  # The kernel runs alone, the other two together.
    variables = make_variables()
    optimizer = cls(network=random_network(lstm=TWO_LAYERS), learning_rate=0.05, **rule.__dict__)
    step = stepper(optimizer, variables, mode)
    steps, moved, states = random_steps(rule)
    for gradients in steps:
        step(*gradients)
    for variable, start, by in zip(variables, make_variables(), moved, strict=True):
        found, start = variable.numpy().ravel(), start.numpy().ravel()
        np.testing.assert_allclose(found, start + by, rtol=1e-4, atol=1e-5)
        assert np.abs(found - start).max() > 0.05
    found = list(slots(optimizer).values())
    for value, slot in zip(tf.nest.flatten(states), found, strict=True):
        np.testing.assert_allclose(slot.reshape(value.shape), value.numpy(), rtol=1e-4, atol=1e-5)


def test_annealing_survives_config_and_weight_folder(tmp_path):
    optimizer = RNNprop(network=random_network(), annealing=70.0)
    optimizer.save_pretrained(tmp_path / "weights")
    for same in (
        RNNprop.from_config(optimizer.get_config()),
        RNNprop.from_pretrained(tmp_path / "weights"),
        RNNprop.from_pretrained("rnnprop-quick", annealing=70.0),
    ):
        assert same.rule == AnnealingRule(annealing=70.0)
    for bad in (-1.0, 0.5, float("nan")):
        with pytest.raises(ValueError, match="Expected annealing to be a number of at least 1"):
            RNNprop(network=random_network(), annealing=bad)
    with pytest.raises(ValueError, match="one of settling and annealing"):
        RNNprop(network=random_network(), annealing=70.0, settling=1.0)


def test_settling_survives_config_and_weight_folder(tmp_path):
    optimizer = RNNprop(network=random_network(), settling=1.5, beta_3=0.99)
    optimizer.save_pretrained(tmp_path / "weights")
    for same in (
        RNNprop.from_config(optimizer.get_config()),
        RNNprop.from_pretrained(tmp_path / "weights"),
        RNNprop.from_pretrained("rnnprop-quick", settling=1.5, beta_3=0.99),
    ):
        assert same.rule == SettlingRule(beta_3=0.99, settling=1.5)
    assert type(RNNprop(network=random_network()).rule) is RNNpropRule
    with pytest.raises(ValueError, match="Expected settling to be a number"):
        RNNprop(network=random_network(), settling="2")
    with pytest.raises(ValueError, match="Expected beta_3 to be a number"):
        RNNprop(network=random_network(), beta_3=1.0)  # without settling too


def test_features_are_adams_and_rmsprops_updates():
    beta_1, beta_2 = 0.9, 0.95
    rule = RNNpropRule(beta_1, beta_2, 1e-12)
    adam = keras.optimizers.Adam(1.0, beta_1=beta_1, beta_2=beta_2, epsilon=1e-12)
    rmsprop = keras.optimizers.RMSprop(1.0, rho=beta_2, epsilon=1e-24)
    variables = {optimizer: keras.Variable(np.zeros(5, "float32")) for optimizer in (adam, rmsprop)}
    accumulators = rule.accumulators_class(tf.zeros(5), tf.zeros(5))
    for t in range(1, 13):
        gradient = tf.constant(np.random.default_rng(t).normal(size=5), "float32")
        accumulators = rule.accumulate(accumulators, gradient, tf.constant(float(t)))
        inputs = rule.inputs(accumulators, gradient, tf.constant(float(t)))
        for optimizer, variable in variables.items():
            variable.assign(tf.zeros(5))
            optimizer.apply([gradient], [variable])
        np.testing.assert_allclose(inputs[0], -variables[adam].numpy(), rtol=1e-4)
        # Keras's RMSprop does not correct the bias of v.
        np.testing.assert_allclose(
            inputs[1], -variables[rmsprop].numpy() * (1.0 - beta_2**t) ** 0.5, rtol=1e-4
        )


def test_update_step_is_a_whole_step_for_one_variable():
    one, all_at_once = keras.Variable([1.0, 2.0], name="x"), keras.Variable([1.0, 2.0], name="x")
    gradient = tf.constant([0.3, -4.0])
    optimizers = [RNNprop(network=random_network()), RNNprop(network=random_network())]
    optimizers[0].build([one])
    optimizers[0].update_step(gradient, one, 0.1)
    optimizers[1].apply([gradient], [all_at_once])
    np.testing.assert_array_equal(one.numpy(), all_at_once.numpy())
    assert_same(slots(optimizers[0]), slots(optimizers[1]))
    assert own_variable(optimizers[0], "step") == 1


def test_groups_join_small_variables_up_to_the_limit(monkeypatch):
    monkeypatch.setattr(compute, "PAGES", (4, 12))
    assert compute.groups([3, 9, 10, 1, 13, 0]) == [[0, 1], [2, 3, 5], [4]]
    assert compute.groups([]) == []


def programs():
    """The number of programs that were ever made."""
    return compute._program.cache_info().misses


def test_second_step_traces_and_compiles_nothing():
    variables = make_variables()
    optimizer = RNNprop(network=random_network(), beta_1=0.123)
    step = stepper(optimizer, variables, "graph")
    counts = []
    for seed in range(3):
        step(*make_gradients(seed, variables))
        counts.append((step.experimental_get_tracing_count(), programs()))
    assert counts[0] == counts[1] == counts[2]


@pytest.mark.parametrize("build_first", [True, False])
def test_fit_traces_a_training_step_once(build_first):
    steps = []

    class Watched(keras.Model):
        def train_step(self, data):
            steps.append(data)
            return super().train_step(data)

    inputs = keras.Input((3,))
    model = Watched(inputs, keras.layers.Dense(1)(inputs))
    optimizer = RNNprop(network=random_network())
    if build_first:
        optimizer.build(model.trainable_variables)
    model.compile(optimizer, "mse")
    model.fit(np.ones((4, 3)), np.ones((4, 1)), batch_size=2, epochs=2, verbose=0)
    assert len(steps) == 1
    assert int(optimizer.iterations) == 4


def test_variables_of_one_shape_and_networks_of_one_size_share_a_program(monkeypatch):
    monkeypatch.setattr(compute, "PAGES", (0,))
    before = programs()
    for seed in range(2):  # The first optimizer and its variables are gone when the second needs the program.
        optimizer = RNNprop(network=random_network(seed), beta_1=0.321)
        variables = [keras.Variable(np.ones((2, 3))), keras.Variable(np.ones(6)), keras.Variable(np.ones(6))]
        optimizer.apply(make_gradients(0, variables), variables)
        assert programs() - before == 2


def test_a_program_does_not_remember_the_variable_of_a_learning_rate(monkeypatch):
    for size in ("WHOLE", "CHUNK"):  # A loop would.
        monkeypatch.setattr(compute, size, 7)
    monkeypatch.setattr(compute, "PAGES", (0,))

    def moved(number):
        rate, variable = tf.Variable(number), keras.Variable(np.ones((2, 5), "float32"))
        optimizer = RNNprop(lambda: rate, network=random_network(), beta_1=0.322)
        stepper(optimizer, [variable], "graph")(tf.ones((2, 5)))
        return variable.numpy() - 1.0

    first = moved(0.25)
    gc.collect()
    np.testing.assert_allclose(moved(0.5), 2.0 * first, rtol=1e-6)
    assert first.any()


@pytest.mark.filterwarnings("error", "ignore:Gradients do not exist")
def test_another_set_of_variables_compiles_nothing_and_nothing_warns(caplog):
    """Heads that take turns: which variables have a gradient changes with each step."""
    variables = [keras.Variable(tf.ones(n)) for n in range(1, 13)]
    optimizer = RNNprop(network=random_network(), beta_1=0.124)
    gradients = make_gradients(0, variables)
    optimizer.apply(gradients, variables)
    before = programs()
    for alone in range(len(variables)):
        optimizer.apply([g if i >= alone else None for i, g in enumerate(gradients)], variables)
    assert programs() == before
    assert not caplog.records  # TensorFlow logs that it traces one function again and again.


CHUNKED = {
    "a chunk": ((7,),),
    "a coordinate more": ((8,),),
    "two chunks, and odd": ((7, 2), (1, 103)),
    "convolution": ((3, 3, 2, 4),),
    "mixed": ((3, 11), (), (0, 3), (2,), (5, 5), (1,)),
}
# No other test's rule: a program does not know that the sizes of chunks have changed since it was traced.
CHUNKED_RULE = RNNpropRule(beta_1=0.93)


@functools.cache
def chunked_steps(shapes):
    """Gradients with idle coordinates and idle chunks, and what the rule makes of them."""
    steps = []
    for t in range(1, 4):
        gradients = make_gradients(t, [tf.ones(shape) for shape in shapes])
        gradients = [tf.where(abs(g) > 0.5 * tf.reduce_mean(abs(g)), g, 0.0) for g in gradients]
        if t == 2:
            first = tf.range(math.prod(shapes[0]))
            gradients[0] *= tf.cast(tf.reshape(first >= 14, shapes[0]), "float32")
        steps.append(gradients)
    return steps, *rule_by_hand(CHUNKED_RULE, random_network(), steps, 1.0)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("shapes", "joined"),
    [
        pytest.param(shapes, joined, id=f"{name}-{'joined' if joined else 'alone'}")
        for name, shapes in CHUNKED.items()
        for joined in (True, False)
        if len(shapes) > 1 or not joined  # A variable without others runs alone, small or not.
    ],
)
def test_chunks_are_the_rule_on_all_coordinates(shapes, joined, mode, monkeypatch):
    monkeypatch.setattr(compute, "CHUNK", 7)
    monkeypatch.setattr(compute, "WHOLE", 7)
    monkeypatch.setattr(compute, "PAGES", (256 if joined else 0,))
    variables = [keras.Variable(tf.ones(shape)) for shape in shapes]
    optimizer = RNNprop(1.0, network=random_network(), beta_1=CHUNKED_RULE.beta_1)
    step = stepper(optimizer, variables, mode)
    steps, moved, states = chunked_steps(shapes)
    for gradients in steps:
        step(*gradients)
    for variable, by in zip(variables, moved, strict=True):
        np.testing.assert_allclose(variable.numpy().ravel(), 1.0 + by, rtol=1e-5, atol=1e-5)
    found = [v.numpy() for v in optimizer.variables[4:]]
    for slot, value in zip(found, tf.nest.flatten(states), strict=True):
        np.testing.assert_allclose(slot.reshape(value.shape), value.numpy(), rtol=1e-5, atol=1e-5)


def operations(graph):
    """The types of all operations of a graph and the functions it calls."""
    definition = graph.as_graph_def()
    bodies = [definition.node, *(function.node_def for function in definition.library.function)]
    return {node.op for body in bodies for node in body}


def test_step_has_static_shapes_and_never_calls_the_host():
    variables = [*make_variables(), keras.Variable(tf.zeros(30_000)), keras.Variable(tf.zeros(70_000))]
    optimizer = RNNprop(network=random_network())
    optimizer.build(variables)
    graph = stepper(optimizer, variables, "graph").get_concrete_function(*make_gradients(0, variables)).graph
    host = {"PyFunc", "EagerPyFunc", "PyFuncStateless", "NumpyFunction", "Print", "PrintV2", "Assert"}
    # Their output shapes depend on values.
    dynamic = {"Where", "Unique", "UniqueV2", "BooleanMask", "DynamicPartition", "ListDiff"}
    assert not operations(graph) & (host | dynamic)
    for operation in graph.get_operations():
        assert all(output.shape.is_fully_defined() for output in operation.outputs), operation


@pytest.mark.skipif(
    not any(kernel.device_type == "GPU" for kernel in get_registered_kernels_for_op("MatMul").kernel),
    reason="this TensorFlow was built without GPU kernels",
)
def test_every_operation_of_the_plain_step_has_a_gpu_kernel():
    variables = [*make_variables(), keras.Variable(tf.zeros(30_000))]
    optimizer = RNNprop(network=random_network(), state_dtype="bfloat16", weight_decay=0.1, clipnorm=1.0)
    optimizer.build(variables)
    graph = stepper(optimizer, variables, "graph").get_concrete_function(*make_gradients(0, variables)).graph
    # Those that run as they are; what is in the compiled functions is XLA's to translate.
    for name in {operation.type for operation in graph.get_operations()} - {"Placeholder"}:
        devices = {kernel.device_type for kernel in get_registered_kernels_for_op(name).kernel}
        assert devices & {"GPU", "DEFAULT"}, name


def test_compiled_step_never_calls_the_host():
    variables = [keras.Variable(tf.zeros(70_000)), keras.Variable(tf.zeros(3))]
    optimizer = RNNprop(network=random_network())
    optimizer.build(variables)
    step = stepper(optimizer, variables, "jit")
    program = step.experimental_get_compiler_ir(*make_gradients(0, variables))(stage="hlo")
    calls = {"outfeed", "infeed", "send(", "recv(", "xla_python", "callback"}
    assert not [call for call in calls if call in program]


# Coordinates without a gradient


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("cls", CLASSES)
def test_rows_of_an_embedding_rest_while_unused(cls, mode):
    table = keras.Variable(np.linspace(-1.0, 1.0, 12).reshape(4, 3), dtype="float32", name="table")
    optimizer = cls(0.1, network=random_network())

    def apply(rows):
        values = tf.ones((2, 3)) * tf.cast(rows[:, None] + 1, "float32")
        optimizer.apply([tf.IndexedSlices(values, rows, (4, 3))], [table])

    step = apply if mode == "eager" else tf.function(apply, jit_compile=mode == "jit")
    start = table.numpy()
    step(tf.constant([0, 1]))
    after_first = table.numpy(), slots(optimizer)
    for _ in range(5):
        step(tf.constant([0, 0]))
    np.testing.assert_array_equal(table.numpy()[2:], start[2:], err_msg="never used")
    np.testing.assert_array_equal(table.numpy()[1:], after_first[0][1:], err_msg="used once")
    assert np.all(table.numpy()[0] != after_first[0][0])
    assert np.all(after_first[0][:2] != start[:2])
    for name, slot in slots(optimizer).items():
        np.testing.assert_array_equal(slot[..., 1:, :], after_first[1][name][..., 1:, :], err_msg=name)
        assert np.all(slot[..., 2:, :] == 0.0)
        assert np.all(slot[..., 1, :] != 0.0)


SPARSE = {
    "plain": {},
    "clipnorm": {"clipnorm": 1.0},
    "global_clipnorm": {"global_clipnorm": 1.0},
    "clipvalue": {"clipvalue": 0.5},
    "weight_decay": {"weight_decay": 0.01},
    "average": {"use_ema": True, "ema_momentum": 0.9},
    "accumulation": {"gradient_accumulation_steps": 2},
    "scaled": {"loss_scale_factor": 2.0},
    "settling": {"settling": 2.0},
    "annealing": {"annealing": 2.0},
    "bfloat16": {"state_dtype": "bfloat16"},
    "int8": {"state_dtype": "int8"},
}


def trained_on_rows(arguments, sparse):
    """Repeated rows, beside a dense variable; a step with a NaN. Returns all values by path."""
    table = keras.Variable(np.linspace(-1.0, 1.0, 640).reshape(40, 4, 4), dtype="float32", name="table")
    variables = [table, keras.Variable(tf.ones(3), name="bias")]
    optimizer = RNNprop(0.1, network=random_network(), name="rnnprop", **arguments)

    @tf.function
    def step(slices, gradient):
        optimizer.apply([slices if sparse else tf.convert_to_tensor(slices), gradient], variables)

    for t in range(6):
        rng = np.random.default_rng(t)
        rows = tf.constant([*rng.choice(40, 14, replace=False), 7, 7])
        values = tf.constant(rng.normal(size=(16, 4, 4)) * (np.nan if t == 4 else 1.0), "float32")
        gradient = tf.constant(rng.normal(size=3), "float32")
        step(tf.IndexedSlices(values, rows, tf.constant([40, 4, 4])), gradient)
    assert own_variable(optimizer, "skipped_steps") == 1
    return {v.path: v.numpy().astype("float64") for v in [*variables, *optimizer.variables]}


@pytest.mark.parametrize("arguments", SPARSE.values(), ids=SPARSE)
def test_a_sparse_gradient_is_the_dense_one(arguments, monkeypatch):
    monkeypatch.setattr(compute, "ROWS_PAGE", 64)  # Several pages.
    found, expected = (trained_on_rows(arguments, sparse) for sparse in (True, False))
    for name, value in expected.items():
        assert np.all(np.isfinite(value))
        np.testing.assert_allclose(found[name], value, rtol=1e-6, atol=1e-6, err_msg=name)


def test_a_sparse_step_makes_nothing_of_the_size_of_its_table():
    table = keras.Variable(tf.zeros((1_000, 2)))
    optimizer = RNNprop(network=random_network(lstm=(2,)))
    optimizer.build([table])

    @tf.function
    def step():
        optimizer.apply([tf.IndexedSlices(tf.ones((8, 2)), tf.range(8), (1_000, 2))], [table])

    graph = step.get_concrete_function().graph
    graphs = [
        graph,
        *(function.graph for function in graph._functions.values() if hasattr(function, "graph")),
    ]
    sizes = {
        output.shape.num_elements()
        for inside in graphs
        for operation in inside.get_operations()
        for output in operation.outputs
        if output.shape.rank is not None
    }
    assert len(graphs) > 1
    assert max(size for size in sizes if size) <= compute.ROWS_PAGE * 4


def test_a_function_may_hold_slices_of_an_eager_tape():
    table, optimizer = keras.Variable(np.ones((4, 2))), RNNprop()
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.gather(table.value, [1, 3]))
    [gradient] = tape.gradient(loss, [table.value])
    assert isinstance(gradient, tf.IndexedSlices)
    optimizer.build([table])
    tf.function(lambda: optimizer.apply([gradient], [table]), autograph=False)()
    np.testing.assert_array_equal(table.numpy()[[0, 2]], 1.0)
    assert (table.numpy()[[1, 3]] < 1.0).all()


@pytest.mark.filterwarnings("error")
def test_another_number_of_rows_compiles_nothing():
    table = keras.Variable(tf.zeros((1_000, 2)))
    optimizer = RNNprop(network=random_network(), beta_1=0.125)

    @tf.function
    def step(rows):
        optimizer.apply([tf.IndexedSlices(tf.ones((tf.shape(rows)[0], 2)), rows, (1_000, 2))], [table])

    step = step.get_concrete_function(tf.TensorSpec([None], "int64"))
    step(tf.range(5, dtype="int64"))
    before = programs()
    for number in (0, 1, 77, 300):
        step(tf.range(number, dtype="int64"))
    assert programs() == before
    assert np.count_nonzero(table.numpy()) == 600


# Without XLA


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_without_xla_the_numbers_are_the_same(mode, monkeypatch):
    monkeypatch.setattr(compute, "PAGES", (16,))
    monkeypatch.setattr(compute, "CHUNK", 7)
    monkeypatch.setattr(compute, "WHOLE", 20)
    results = []
    for jit_compile in (True, False):
        variables = [*make_variables(), keras.Variable(tf.ones(31))]
        optimizer = RNNprop(network=random_network(), beta_1=0.126, jit_compile=jit_compile)
        step = stepper(optimizer, variables, mode)
        for seed in range(3):
            step(*make_gradients(seed, variables))
        results.append([v.numpy() for v in [*variables, *optimizer.variables]])
    for compiled, plain in zip(*results, strict=True):
        np.testing.assert_allclose(plain, compiled, rtol=1e-5, atol=1e-6)


def test_where_xla_compiles_is_an_argument():
    optimizer = RNNprop.from_config(RNNprop(network=random_network(), jit_compile=False).get_config())
    assert optimizer.jit_compile is False
    assert RNNprop(network=random_network()).jit_compile == "auto"
    with pytest.raises(ValueError, match="`jit_compile` must be True, False or 'auto'"):
        RNNprop(network=random_network(), jit_compile="never")


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_check_numerics_finds_nothing_in_a_healthy_step(cls, mode):
    tf.debugging.enable_check_numerics()
    try:
        for skip in (True, False):
            variables = make_variables()
            optimizer = cls(0.1, network=random_network(), skip_nonfinite=skip)
            step = stepper(optimizer, variables, mode)
            compute._compiles.cache_clear()
            with pytest.warns(UserWarning, match="XLA cannot compile the optimizer's update here") as caught:
                step(*(tf.zeros_like(v) for v in variables))
            assert len(caught) == 1
            step(*make_gradients(0, variables))
            assert own_variable(optimizer, "step") == 2
    finally:
        tf.debugging.disable_check_numerics()
        compute._compiles.cache_clear()


# Non-finite gradients


@pytest.mark.parametrize(
    ("mode", "bad"),
    [("eager", np.nan), ("eager", np.inf), ("eager", -np.inf), ("graph", np.nan), ("jit", np.inf)],
)
def test_nonfinite_step_changes_nothing_and_is_counted(mode, bad):
    results = []
    for poisoned in (True, False):
        variables = make_variables()
        optimizer = RNNprop(0.1, network=random_network(), weight_decay=0.01)
        step = stepper(optimizer, variables, mode)
        for seed in range(3):
            step(*make_gradients(seed, variables))
        if poisoned:
            before = slots(optimizer) | {v.name: v.numpy() for v in variables}
            gradients = make_gradients(9, variables)
            gradients[1] = tf.constant([1.0, bad, 2.0])
            step(*gradients)
            assert_same(slots(optimizer) | {v.name: v.numpy() for v in variables}, before)
            assert own_variable(optimizer, "step") == 3
            assert optimizer.skipped_steps.numpy() == 1
            assert optimizer.iterations.numpy() == 4
        step(*make_gradients(5, variables))
        results.append(slots(optimizer) | {v.name: v.numpy() for v in variables})
    assert_same(*results)  # Training goes on as if the step had not been.


@pytest.mark.parametrize("clip", ["clipvalue", "clipnorm", "global_clipnorm"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30])
def test_clipping_does_not_hide_a_gradient_that_is_not_to_be_used(clip, bad):
    variable = keras.Variable([1.0, 2.0])
    optimizer = RNNprop(network=random_network(), **{clip: 0.5})
    optimizer.apply([tf.constant([1.0, bad])], [variable])
    np.testing.assert_array_equal(variable.numpy(), [1.0, 2.0])
    assert optimizer.skipped_steps.numpy() == 1


@pytest.mark.parametrize("clip", ["clipnorm", "global_clipnorm"])
def test_a_norm_that_overflows_skips_the_step(clip):
    variable = keras.Variable(np.ones(8, "float32"))
    optimizer = RNNprop(network=random_network(), **{clip: 1.0})
    optimizer.apply([tf.fill([8], 1.5e19)], [variable])
    np.testing.assert_array_equal(variable.numpy(), np.ones(8))
    assert (own_variable(optimizer, "step"), optimizer.skipped_steps.numpy()) == (0, 1)


def test_clipping_by_norm_is_in_float32_whatever_the_variable():
    """The square of 300 is infinite in float16."""
    variable = keras.Variable([1.0, 1.0], dtype="float16", name="x")
    optimizer = RNNprop(network=random_network(), clipnorm=1.0)
    optimizer.apply([tf.constant([300.0, 400.0], "float16")], [variable])
    np.testing.assert_allclose(own_variable(optimizer, "x_m"), [0.05 * 0.6, 0.05 * 0.8], rtol=1e-3)


def test_skipping_can_be_turned_off():
    variable = keras.Variable([1.0, 2.0], name="x")
    optimizer = RNNprop(network=random_network(), skip_nonfinite=False)
    optimizer.apply([tf.constant([1.0, np.nan])], [variable])
    assert np.isfinite(variable.numpy()).tolist() == [True, False]
    assert (own_variable(optimizer, "step"), own_variable(optimizer, "skipped_steps")) == (1, 0)


def test_bad_micro_batch_costs_its_accumulated_step_only():
    variable = keras.Variable([1.0, 2.0], name="x")
    optimizer = RNNprop(network=random_network(), gradient_accumulation_steps=2)
    for gradient in ([1.0, np.nan], [1.0, 1.0]):
        optimizer.apply([tf.constant(gradient)], [variable])
    np.testing.assert_array_equal(variable.numpy(), [1.0, 2.0])
    assert (own_variable(optimizer, "step"), own_variable(optimizer, "skipped_steps")) == (0, 1)
    for gradient in ([1.0, 3.0], [3.0, 1.0]):
        optimizer.apply([tf.constant(gradient)], [variable])
    np.testing.assert_allclose(own_variable(optimizer, "x_m"), [0.1, 0.1], rtol=1e-6)
    assert (own_variable(optimizer, "step"), own_variable(optimizer, "skipped_steps")) == (1, 1)


def test_average_takes_in_the_unchanged_variables_on_a_skipped_step():
    variable = keras.Variable([1.0], name="x")
    optimizer = RNNprop(0.5, network=random_network(), use_ema=True, ema_momentum=0.75)
    optimizer.apply([tf.constant([2.0])], [variable])
    optimizer.apply([tf.constant([2.0])], [variable])
    average = own_variable(optimizer, "x_average")
    assert average != variable.numpy()
    optimizer.apply([tf.constant([np.nan])], [variable])
    expected = 0.75 * average + 0.25 * variable.numpy()
    np.testing.assert_allclose(own_variable(optimizer, "x_average"), expected, rtol=1e-6)


def test_loss_scaling_skips_before_and_counts_for_itself():
    variable = keras.Variable([1.0], name="x")
    inner = RNNprop(network=random_network())
    optimizer = keras.optimizers.LossScaleOptimizer(inner, initial_scale=8.0)
    for gradient in (np.inf, 16.0):
        optimizer.apply([tf.constant([gradient])], [variable])
    assert (own_variable(inner, "step"), own_variable(inner, "skipped_steps")) == (1, 0)
    np.testing.assert_allclose(own_variable(inner, "x_m"), [0.05 * 16.0 / 4.0], rtol=1e-6)


# Steps


def test_schedules_callables_and_whole_numbers_are_learning_rates():
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([0, 1], [1.0, 0.5, 0.25])
    for rate, expected in ((schedule, 1.75), (lambda: tf.constant(0.5), 1.5), (1, 3.0), (np.float32(1), 3.0)):
        variable = keras.Variable([0.0])
        optimizer = RNNprop(network=constant_network(0.5), learning_rate=rate)
        for _ in range(3):
            optimizer.apply([tf.constant([1.0])], [variable])
        np.testing.assert_allclose(variable.numpy(), [expected * math.tanh(0.5)], rtol=1e-6)


def test_weight_decay_is_keras_own_and_honours_exclusions():
    kernel, bias = keras.Variable([2.0, 2.0], name="kernel"), keras.Variable([2.0], name="bias")
    optimizer = RNNprop(0.1, network=constant_network(0.5), weight_decay=0.2)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    optimizer.apply([tf.constant([1.0, 0.0]), tf.constant([1.0])], [kernel, bias])
    moved = 0.1 * math.tanh(0.5)
    np.testing.assert_allclose(kernel.numpy(), [1.96 + moved, 1.96], rtol=1e-6)
    np.testing.assert_allclose(bias.numpy(), [2.0 + moved], rtol=1e-6)


@pytest.mark.filterwarnings("ignore:Gradients do not exist")
def test_variable_without_gradient_is_left_alone():
    variables = make_variables()
    optimizer = RNNprop(network=random_network(), weight_decay=0.1)
    optimizer.apply(make_gradients(0, variables), variables)
    before = slots(optimizer), variables[0].numpy(), variables[1].numpy()
    optimizer.apply([None, *make_gradients(1, variables)[1:]], variables)
    np.testing.assert_array_equal(variables[0].numpy(), before[1])
    assert np.any(variables[1].numpy() != before[2])
    for name, slot in slots(optimizer).items():
        changed = np.any(slot != before[0][name])
        assert changed == ("kernel" not in name), name


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
@pytest.mark.parametrize("mode", ["graph", "jit"])
def test_other_floats_are_computed_in_float32(dtype, mode):
    start, gradient = [1.0, -0.5, 0.25], tf.constant([0.5, -2.0, 0.0])
    variable = keras.Variable(start, dtype=dtype, name="x")
    reference = keras.Variable(start, dtype="float32", name="x")
    results = []
    for v in (variable, reference):
        optimizer = RNNprop(0.5, network=random_network(), weight_decay=0.125)
        step = stepper(optimizer, [v], mode)
        for _ in range(2):
            step(tf.cast(gradient, v.dtype))
        results.append(slots(optimizer))
    assert_same(*results)
    assert all(slot.dtype == "float32" for slot in results[0].values())
    assert variable.dtype == dtype
    precision = {"float16": 2e-3, "bfloat16": 2e-2, "float64": 1e-6}[dtype]
    np.testing.assert_allclose(variable.numpy().astype("float64"), reference.numpy(), rtol=precision)


def rounded(lstm, dtype):
    """What is left of h and c, by NumPy."""
    if dtype == "bfloat16":
        return tf.nest.map_structure(lambda s: tf.cast(tf.cast(s, "bfloat16"), "float32"), lstm)

    def layer(h, c):
        u = np.round(128 * c.numpy() / (1 + np.abs(c))) / 128
        return LSTMState(np.round(127 * h.numpy()) / np.float32(127), u / (1 - np.abs(u)))

    return tuple(layer(h, c) for h, c in lstm)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("small", [0, 16], ids=["alone", "joined"])
@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_a_narrow_lstm_state_is_rounded_state(dtype, mode, small, monkeypatch):
    monkeypatch.setattr(compute, "PAGES", (small,))
    network, rule = random_network(), RNNpropRule()
    variables = [keras.Variable(tf.ones(3), name="x"), keras.Variable(tf.ones((2, 2)), name="y")]
    optimizer = RNNprop(1.0, network=network, state_dtype=dtype)
    step = stepper(optimizer, variables, mode)
    state, expected = rule.initial_state(network, 3), np.ones(3, "float32")
    for t in range(1, 6):
        gradients = make_gradients(t, variables)
        step(*gradients)
        direction, state = rule.update(network, state, gradients[0], tf.constant(float(t)))
        state = state._replace(lstm=rounded(state.lstm, dtype))
        expected = expected + direction.numpy()
    assert [v.dtype for v in optimizer.variables[4:]] == (["float32"] * 2 + [dtype] * 2) * 2
    np.testing.assert_allclose(variables[0].numpy(), expected, rtol=0.02, atol=0.02)
    before = slots(optimizer)
    step(*(tf.zeros_like(g) for g in gradients))
    assert_same(slots(optimizer), before)


@pytest.mark.parametrize(("dtype", "size"), [("bfloat16", 168), ("int8", 88)])
def test_a_narrow_state_is_small_and_comes_back_from_the_config(dtype, size):
    network = initial_weights(Architecture(), 0)
    optimizer = RNNprop.from_config(RNNprop(network=network, state_dtype=dtype).get_config())
    optimizer.build([keras.Variable(tf.zeros(10))])
    assert optimizer.get_config()["state_dtype"] == dtype
    assert sum(v.value.dtype.size * v.shape.num_elements() for v in optimizer.variables[4:]) == 10 * size


@pytest.mark.parametrize("dtype", ["complex64", "int32", "bool"])
def test_other_types_are_refused(dtype):
    variable = tf.Variable(tf.zeros(2, dtype), name="count")
    with pytest.raises(ValueError, match=rf"Only real floating-point.*`count_0`.*Received: dtype={dtype}"):
        RNNprop(network=random_network()).build([variable])


# Arguments


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: RNNprop(network="weights"),
            TypeError,
            r"`RNNprop.from_pretrained\(\)`.*'weights' of type str",
        ),
        (
            lambda: RNNprop(network=random_network(), beta_1=1.0),
            ValueError,
            r"beta_1 to be a number in \[0, 1\)",
        ),
        (
            lambda: RNNprop(network=random_network(), epsilon=np.inf),
            ValueError,
            r"epsilon to be .*Received: inf",
        ),
        (
            lambda: RNNprop(network=random_network(), state_dtype="float16"),
            ValueError,
            r"`state_dtype` must be one of 'float32', 'bfloat16', 'int8'.*'float16'",
        ),
        (lambda: DMOptimizer(network=random_network(), p=100), ValueError, r"p to be a number in \(0, 80\]"),
        (
            lambda: RNNprop(np.nan, network=random_network()),
            ValueError,
            "`learning_rate` must be .*Received: .*nan",
        ),
        (
            lambda: RNNprop(-1, network=random_network()),
            ValueError,
            "`learning_rate` must be a finite number of 0 or",
        ),
        (
            lambda: RNNprop(network=random_network(), weight_decay=np.nan),
            ValueError,
            "`weight_decay` must be .*nan",
        ),
        (
            lambda: RNNprop(network=random_network(), momentum=1),
            ValueError,
            r"not recognized: \{'momentum': 1\}",
        ),
        (
            lambda: RNNprop(network=initial_weights(Architecture(3), 0)),
            ValueError,
            r"2 inputs of a RNNpropRule.*Received: a network of 3 inputs",
        ),
        (
            lambda: RNNprop(network=constant_network(np.nan)),
            ValueError,
            r"`output.bias` of `network` must be finite.*1 non-finite",
        ),
        (
            lambda: RNNprop(network=constant_network()._replace(output=Dense(np.zeros((1, 7)), np.zeros(1)))),
            ValueError,
            r"`output.kernel`.*of shape \(1, 1\).*Received: shape \(1, 7\)",
        ),
    ],
)
def test_wrong_arguments_are_named(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_a_finite_gradient_whose_square_is_not_is_skipped_too():
    variable = keras.Variable([1.0, 1.0], name="x")
    optimizer = RNNprop(network=random_network())
    optimizer.apply([tf.constant([1e20, 1.0])], [variable])
    np.testing.assert_array_equal(variable.numpy(), [1.0, 1.0])
    assert int(optimizer.skipped_steps.numpy()) == 1
    optimizer.apply([tf.constant([1.0, 1.0])], [variable])
    assert np.isfinite(np.concatenate([np.ravel(v.numpy()) for v in optimizer.variables])).all()
    assert variable.numpy()[0] == variable.numpy()[1] != 1.0


@pytest.mark.parametrize("arguments", [{}, {"clipnorm": 1.0}, {"gradient_accumulation_steps": 2}], ids=str)
def test_a_dropped_model_takes_its_state_along(arguments):
    """Nothing that outlives a model, such as TensorFlow's registry of gradients, may hold its slots."""
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model.compile(RNNprop(network=random_network(), **arguments), "mse")
    model.fit(np.ones((8, 3)), np.ones((8, 2)), batch_size=4, epochs=2, verbose=0)
    slots = [weakref.ref(variable.value.handle) for variable in model.optimizer.variables]
    assert len(slots) > 4
    del model
    keras.backend.clear_session()
    gc.collect()
    assert not [slot for slot in slots if slot() is not None]


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_a_model_dropped_by_a_loop_of_ones_own_takes_its_state_along(mode):
    variables, optimizer = make_variables(), RNNprop(network=random_network())
    step = stepper(optimizer, variables, mode)
    step(*make_gradients(0, variables))
    slots = [weakref.ref(variable.value.handle) for variable in optimizer.variables]
    del variables, optimizer, step
    gc.collect()
    assert not [slot for slot in slots if slot() is not None]

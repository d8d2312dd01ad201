"""The optimizees: sizes, losses against NumPy, and what the tricks must leave alone."""

import functools
import itertools

import numpy as np
import pytest
import tensorflow as tf

from trainer import datasets
from trainer.datasets import Images
from trainer.problems import catalog
from trainer.problems.base import Draw, Problem, loss_and_gradient, split_seed, unpack
from trainer.problems.cnn import CNN
from trainer.problems.convex import Convex
from trainer.problems.lstm import RowLSTM, SineLSTM
from trainer.problems.mlp import ACTIVATIONS, MLP
from trainer.problems.tricks import Combination, RandomScaling, Tasks

SEED = tf.constant([1, 2], tf.int32)
SHAPES = {"mnist": (28, 28, 1), "cifar10": (32, 32, 3), "digits": (8, 8, 1)}

MNIST_CNN_1 = (9 * 1 + 1) * 16 + (9 * 16 + 1) * 16 + (14 * 14 * 16 + 1) * 10
MNIST_CNN_2 = (
    (9 * 1 + 1) * 16 + (9 * 16 + 1) * 16 + (9 * 16 + 1) * 32 + (9 * 32 + 1) * 32
) + ((7 * 7 * 32 + 1) * 64 + (64 + 1) * 10)  # fmt: skip
CIFAR_CNN_1 = (9 * 3 + 1) * 16 + (9 * 16 + 1) * 16 + (16 * 16 * 16 + 1) * 10
CIFAR_CNN_2 = (
    (9 * 3 + 1) * 16 + (9 * 16 + 1) * 16 + (9 * 16 + 1) * 32 + (9 * 32 + 1) * 32
) + ((8 * 8 * 32 + 1) * 64 + (64 + 1) * 10)  # fmt: skip

SIZES = {
    **{f"mnist-nn-sigmoid-{steps}": 15_910 for steps in (100, 2_000, 10_000)},
    **{f"mnist-nn-{activation}-100": 15_910 for activation in ("relu", "elu", "tanh")},
    **{f"mnist-nn-l{n}-sigmoid-100": 15_910 + (n - 1) * 21 * 20 for n in range(2, 11)},
    "vgg-mnist-fc1-conv2-pool1-100": MNIST_CNN_1,
    "vgg-mnist-fc2-conv4-pool2-100": MNIST_CNN_2,
    "vgg-cifar-fc1-conv2-pool1-100": CIFAR_CNN_1,
    "vgg-cifar-fc2-conv4-pool2-100": CIFAR_CNN_2,
    "sin_lstm": (1 + 20 + 1) * 80 + 21,
    "sin_lstm-x2": (1 + 20 + 1) * 80 + (20 + 20 + 1) * 80 + 21,
    "sin_lstm-no001": (1 + 20 + 1) * 80 + 21,
    "digits-nn-sigmoid-100": 65 * 20 + 21 * 10,
    "digits-nn-relu-100": 65 * 20 + 21 * 10,
    "digits-nn-elu-b32-100": 65 * 16 + 17 * 10,
    "digits-cnn-100": (9 + 1) * 4 + (36 + 1) * 4 + (4 * 4 * 4 + 1) * 10,
    "mnist-pool2-nn-sigmoid-100": 197 * 20 + 21 * 10,
    "mnist-pool4-nn-sigmoid-100": 50 * 20 + 21 * 10,
    "mnist-pool4-nn-relu-100": 50 * 20 + 21 * 10,
    "mnist-pool4-nn-l2-tanh-b64-100": 50 * 16 + 17 * 16 + 17 * 10,
    "mnist-pool4-nn-l3-sigmoid-100": 50 * 20 + 2 * 21 * 20 + 21 * 10,
    "mnist-pool4-nn-l5-sigmoid-100": 50 * 16 + 4 * 17 * 16 + 17 * 10,
    "mnist-pool4-nn-relu-b16-100": 50 * 20 + 21 * 10,
    "mnist-pool2-nn-l2-relu-b64-100": 197 * 24 + 25 * 12 + 13 * 10,
    "digits-nn-wide-relu-b64-100": 65 * 256 + 257 * 10,
    "mnist-pool4-cnn-100": (9 + 1) * 4 + (36 + 1) * 4 + (7 * 7 * 4 + 1) * 10,
    "mnist-pool2-cnn-100": (9 + 1) * 6 + (54 + 1) * 6 + (7 * 7 * 6 + 1) * 10,
    "mnist-pool2-cnn-wide-100": (9 + 1) * 16 + (144 + 1) * 16 + (7 * 7 * 16 + 1) * 10,
    "mnist-pool2-cnn-fc2-100": (
        (9 + 1) * 8 + (72 + 1) * 8 + (72 + 1) * 12 + (108 + 1) * 12 + (3 * 3 * 12 + 1) * 64 + 65 * 10
    ),
    "digits-cnn-fc2-100": (
        (9 + 1) * 6 + (54 + 1) * 6 + (54 + 1) * 8 + (72 + 1) * 8 + (2 * 2 * 8 + 1) * 64 + 65 * 10
    ),
    "mnist-pool4-lstm-100": (7 + 16 + 1) * 64 + 17 * 10,
    "digits-lstm-l2-b32-100": (8 + 12 + 1) * 48 + (12 + 12 + 1) * 48 + 13 * 10,
}
"""Counted by hand: (inputs + 1) times units, layer by layer."""


@functools.cache
def fake_images(name, count=256):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (count, *SHAPES[name]), dtype=np.uint8)
    offset = -0.5 if name == "cifar10" else 0.0
    return Images(pixels, rng.integers(0, 10, count, dtype=np.int32), 1 / 255, offset)


@pytest.fixture
def no_data_sets(monkeypatch):
    """Noise in the shape of each data set in its place."""
    monkeypatch.setattr(datasets, "_load", lambda name, split, data_dir: fake_images(name))


def first_batch(problem, seed=SEED):
    return tf.nest.map_structure(lambda b: b[0], problem.batches(seed, tf.constant(0), 1))


def start_and_batch(problem, seed=SEED):
    """Parameters away from the start, so that no bias is special."""
    draw = problem.draw(seed)
    params = draw.params + 0.3 * tf.random.stateless_normal([problem.size], seed)
    return params, draw.constants, first_batch(problem, seed)


# The catalog.


@pytest.mark.parametrize("name", catalog.PAPER_TASKS | catalog.SMALL_TASKS)
def test_a_task_builds_has_the_size_its_architecture_implies_and_a_finite_loss(name, no_data_sets):
    task = catalog.task(name)
    problem = task.build(None)
    assert problem.size == SIZES[name]
    draw = problem.draw(SEED)
    assert draw.params.shape == (problem.size,)
    assert abs(np.std(draw.params) - 0.1) < 0.01
    assert abs(np.mean(draw.params)) < 0.01
    loss, gradient = loss_and_gradient(problem, draw.params, draw.constants, first_batch(problem))
    assert loss.shape == ()
    assert np.isfinite(loss)
    assert np.isfinite(gradient).all()
    # Every tensor of parameters is in use.
    assert all(np.abs(part).max() > 0 for part in unpack(gradient, problem.shapes))
    # A step against the gradient helps.
    better = draw.params - 1e-2 * gradient / tf.norm(gradient)
    assert problem.loss(better, draw.constants, first_batch(problem)) < loss


def test_the_paper_s_22_tasks_are_there_and_their_names_say_their_steps():
    assert len(catalog.PAPER_TASKS) == 22
    assert set(SIZES) == set(catalog.PAPER_TASKS | catalog.SMALL_TASKS)
    for name, task in catalog.TASKS.items():
        last = name.rsplit("-", 1)[-1]
        assert task.steps == (int(last) if last.isdigit() else 100), name


def test_the_data_folder_reaches_the_loader(monkeypatch):
    asked = []
    monkeypatch.setattr(datasets, "_load", lambda *arguments: asked.append(arguments) or fake_images("mnist"))
    for name in ("mnist-nn-relu-100", "vgg-mnist-fc1-conv2-pool1-100", "mnist-pool2-nn-sigmoid-100"):
        catalog.task(name).build("gs://somewhere")
    assert asked == [("mnist", "train", "gs://somewhere")] * 3


def test_the_tasks_differ_where_their_names_do(no_data_sets):
    """Same start, same data: another activation, another noise, other pixels give another loss."""
    for names in (
        [f"mnist-nn-{activation}-100" for activation in ACTIVATIONS],
        ["sin_lstm", "sin_lstm-no001"],
    ):
        losses = set()
        for name in names:
            problem = catalog.task(name).build(None)
            losses.add(float(problem.loss(*start_and_batch(problem))))
        assert len(losses) == len(names)


def test_an_unknown_task_is_refused_with_the_names():
    with pytest.raises(ValueError, match=r"No task named 'mnits'. Expected one of mnist-nn-sigmoid-100, "):
        catalog.task("mnits")


# Losses against NumPy.


def cross_entropy(logits, labels):
    logits = logits - logits.max(1, keepdims=True)
    log_probabilities = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    return -np.mean([row[label] for row, label in zip(log_probabilities, labels, strict=True)])


NUMPY_ACTIVATIONS = {
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "relu": lambda x: np.maximum(x, 0),
    "elu": lambda x: np.where(x > 0, x, np.exp(np.minimum(x, 0)) - 1),
    "tanh": np.tanh,
}


def float64(*structures):
    """Parameters in float64, so that NumPy's result can be compared closely."""
    cast = lambda x: tf.cast(x, tf.float64) if x.dtype.is_floating else x  # noqa: E731
    return tf.nest.map_structure(cast, structures)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("hidden", [(5,), (6, 3)], ids=str)
def test_mlp_is_numpy_s(activation, hidden):
    images = fake_images("cifar10")
    problem = MLP(images, hidden, activation, batch_size=7)
    params, constants, (pixels, labels) = float64(*start_and_batch(problem))
    x = pixels.numpy().reshape(7, -1) / 255.0 - 0.5
    widths = [3072, *hidden, 10]
    position = 0
    for k, (inputs, units) in enumerate(itertools.pairwise(widths)):
        kernel = params[position : position + inputs * units].numpy().reshape(inputs, units)
        position += inputs * units
        x = x @ kernel + params[position : position + units].numpy()
        position += units
        if k < len(hidden):
            x = NUMPY_ACTIVATIONS[activation](x)
    assert position == problem.size
    loss = problem.loss(params, constants, (pixels, labels))
    np.testing.assert_allclose(loss, cross_entropy(x, labels.numpy()), rtol=1e-6)


def slow_convolution(x, kernel, bias):
    """3x3, the border padded with zeros, one output at a time."""
    n, height, width, _ = x.shape
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    out = np.zeros((n, height, width, kernel.shape[-1]))
    for i in range(height):
        for j in range(width):
            window = padded[:, i : i + 3, j : j + 3]
            out[:, i, j] = np.tensordot(window, kernel, axes=3) + bias
    return out


def slow_pooling(x):
    n, height, width, channels = x.shape
    out = np.zeros((n, height // 2, width // 2, channels))
    for i in range(height // 2):
        for j in range(width // 2):
            out[:, i, j] = x[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].max((1, 2))
    return out


def test_cnn_is_numpy_s():
    """An odd number of pixels, so that pooling drops a row; both kinds of fully connected layers."""
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 256, (6, 7, 6, 2), dtype=np.uint8)
    images = Images(pixels, rng.integers(0, 10, 6, dtype=np.int32), 1 / 255, -0.5)
    problem = CNN(images, "c-p-c-f-f", batch_size=3)
    params, constants, (pixels, labels) = float64(*start_and_batch(problem))
    shapes = ((3, 3, 2, 16), (16,), (3, 3, 16, 32), (32,), (3 * 3 * 32, 64), (64,), (64, 10), (10,))
    assert problem.shapes == shapes
    tensors = [p.numpy() for p in unpack(params, shapes)]
    x = pixels.numpy() / 255.0 - 0.5
    x = np.maximum(slow_convolution(x, *tensors[:2]), 0)
    x = slow_pooling(x)
    x = np.maximum(slow_convolution(x, *tensors[2:4]), 0)
    x = np.maximum(x.reshape(3, -1) @ tensors[4] + tensors[5], 0)
    logits = x @ tensors[6] + tensors[7]
    loss = problem.loss(params, constants, (pixels, labels))
    np.testing.assert_allclose(loss, cross_entropy(logits, labels.numpy()), rtol=1e-6)


def slow_lstm(tensors: list[np.ndarray], sequence: list[np.ndarray]) -> np.ndarray:
    """The last output of stacked LSTM layers; tensors end with those of a layer of another kind."""
    sigmoid = NUMPY_ACTIVATIONS["sigmoid"]
    for kernel, bias in zip(tensors[:-2:2], tensors[1:-2:2], strict=True):
        units = kernel.shape[1] // 4
        h = c = np.zeros((len(sequence[0]), units))
        outputs = []
        for x in sequence:
            gates = np.concatenate([x, h], 1) @ kernel + bias
            i, j, f, o = (gates[:, units * g : units * (g + 1)] for g in range(4))
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(j)
            h = sigmoid(o) * np.tanh(c)
            outputs.append(h)
        sequence = outputs
    return sequence[-1]


@pytest.mark.parametrize("layers", [1, 2])
def test_row_lstm_is_numpy_s(layers):
    problem = RowLSTM(fake_images("cifar10"), units=4, layers=layers, batch_size=3)
    params, constants, (pixels, labels) = float64(*start_and_batch(problem))
    params = 10 * params  # so that every gate matters
    tensors = [p.numpy() for p in unpack(params, problem.shapes)]
    images = pixels.numpy() / 255.0 - 0.5
    output = slow_lstm(tensors, [images[:, row].reshape(3, -1) for row in range(images.shape[1])])
    loss = problem.loss(params, constants, (pixels, labels))
    expected = cross_entropy(output @ tensors[-2] + tensors[-1], labels.numpy())
    np.testing.assert_allclose(loss, expected, rtol=1e-6)


@pytest.mark.parametrize("layers", [1, 2])
def test_sine_lstm_is_numpy_s(layers):
    problem = SineLSTM(units=4, layers=layers, batch_size=5)
    params, constants, (noisy, target) = float64(*start_and_batch(problem))
    tensors = [p.numpy() for p in unpack(params, problem.shapes)]
    output = slow_lstm(tensors, [noisy.numpy()[:, t : t + 1] for t in range(10)])
    prediction = (output @ tensors[-2] + tensors[-1])[:, 0]
    loss = problem.loss(params, constants, (noisy, target))
    np.testing.assert_allclose(loss, np.mean((prediction - target.numpy()) ** 2), rtol=1e-6)


# The sine wave's data.


def test_the_noise_is_on_the_inputs_only():
    """Without noise and with it, same seed: targets equal, inputs differ by N(0, noise)."""
    clean, noisy = (
        SineLSTM(noise=noise, batch_size=2_000).batches(SEED, tf.constant(0), 1) for noise in (0.0, 0.1)
    )
    np.testing.assert_array_equal(clean[1], noisy[1])
    difference = (noisy[0] - clean[0]).numpy()
    assert abs(difference.std() - 0.1) < 0.003
    assert abs(difference.mean()) < 0.003
    assert abs(np.corrcoef(difference[0, :, 0], difference[0, :, 1])[0, 1]) < 0.1


def test_the_target_goes_on_with_the_wave():
    """A sampled sine obeys s[t+1] = 2 cos(omega) s[t] - s[t-1]: ten values tell the eleventh."""
    inputs, target = (b[0].numpy() for b in SineLSTM(noise=0.0).batches(SEED, tf.constant(0), 1))
    assert inputs.shape == (128, 10)
    assert target.shape == (128,)
    two_cosines = [
        np.linalg.lstsq(s[1:-1, None], s[2:] + s[:-2], rcond=None)[0][0] for s in inputs.astype(np.float64)
    ]
    foretold = np.array(two_cosines) * inputs[:, 9] - inputs[:, 8]
    np.testing.assert_allclose(foretold, target, atol=2e-3)
    omega = np.arccos(np.clip(np.array(two_cosines) / 2, -1, 1))
    assert omega.min() > -1e-3
    assert np.pi / 2 - 0.1 < omega.max() < np.pi / 2 + 1e-3


def test_amplitudes_and_phases_cover_their_ranges():
    inputs = SineLSTM(noise=0.0, batch_size=20_000).batches(SEED, tf.constant(0), 1)[0][0].numpy()
    # At x = 0 the value is A sin(phase): symmetric, bounded by 10, its variance E[A^2] / 2 = 100 / 6.
    assert np.abs(inputs).max() <= 10.0
    assert np.abs(inputs).max() > 9.9
    assert abs(inputs[:, 0].mean()) < 0.1
    assert abs(inputs[:, 0].var() - 100 / 6) < 0.5


def test_sine_batches_are_a_function_of_seed_and_position():
    problem = SineLSTM(batch_size=4)
    whole = problem.batches(SEED, tf.constant(3), 4)
    again = problem.batches(SEED, tf.constant(5), 2)
    for a, b in zip(whole, again, strict=True):
        np.testing.assert_array_equal(a[2:], b)
    assert len({float(value) for value in tf.reshape(whole[1], [-1])}) == 16
    other = problem.batches(SEED + 1, tf.constant(3), 4)
    assert not np.intersect1d(whole[1], other[1]).size


# The convex function.


def test_convex_is_the_mean_squared_distance_from_v():
    problem = Convex(3)
    v = tf.constant([0.5, -1.0, 0.0])
    loss = problem.loss(tf.constant([1.5, 1.0, -3.0]), (v,), ())
    np.testing.assert_allclose(loss, (1 + 4 + 9) / 3)
    assert problem.batches(SEED, tf.constant(0), 5) == ()


def test_convex_is_drawn_from_minus_one_to_one():
    draw = Convex(10_000).draw(SEED)
    for drawn in (draw.params.numpy(), draw.constants[0].numpy()):
        assert -1.0 <= drawn.min() < -0.99
        assert 0.99 < drawn.max() <= 1.0
        assert abs(drawn.mean()) < 0.03
        assert abs(drawn.var() - 1 / 3) < 0.02
    assert abs(np.corrcoef(draw.params, draw.constants[0])[0, 1]) < 0.05


# The tricks.


@functools.cache
def small_mlp():
    return MLP(fake_images("digits"), hidden=(4,), batch_size=8)


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("log_range", [1.0, 3.0])
def test_random_scaling_keeps_the_starting_loss(log_range, mixed):
    inner = small_mlp()
    scaled = RandomScaling(inner, log_range, mixed)
    draw = scaled.draw(SEED)
    batch = first_batch(scaled)
    inner_draw = inner.draw(split_seed(SEED, 2)[1])
    np.testing.assert_allclose(
        scaled.loss(draw.params, draw.constants, batch),
        inner.loss(inner_draw.params, inner_draw.constants, batch),
        rtol=1e-5,
    )
    # And is another geometry: the gradient is c times as long, coordinate by coordinate.
    c = draw.constants[0]
    _, gradient = loss_and_gradient(scaled, draw.params, draw.constants, batch)
    _, inner_gradient = loss_and_gradient(inner, inner_draw.params, (), batch)
    np.testing.assert_allclose(gradient, c * inner_gradient, rtol=1e-3, atol=1e-6)


def test_the_scales_are_log_uniform():
    log_c = np.log(RandomScaling(Convex(20_000), 3.0).draw(SEED).constants[0])
    assert -3.0 <= log_c.min() < -2.99
    assert 2.99 < log_c.max() <= 3.0
    assert abs(log_c.mean()) < 0.06
    assert abs(log_c.var() - 3.0) < 0.1


def test_mixed_scales_differ_by_coordinate_by_tensor_and_as_a_whole():
    """Each in about half of the episodes, and each range is used to its end."""
    scaled = RandomScaling(small_mlp(), 3.0, mixed=True)
    seeds = tf.random.split(SEED, 200)
    kinds, largest = [], np.zeros(3)
    for seed in tf.unstack(seeds):
        log_c = np.log(scaled.draw(seed).constants[0])
        ends = np.cumsum([np.prod(shape) for shape in scaled.shapes])
        tensors = np.array([part.mean() for part in np.split(log_c, ends[:-1])])
        kernel = log_c[: ends[0]]
        by_coordinate, by_tensor = np.ptp(kernel) > 1e-4, np.ptp(tensors) > 1e-4
        kinds.append((by_coordinate, not by_coordinate and by_tensor, not by_tensor and tensors[0] > 1e-4))
        spreads = [
            np.ptp(kernel) / 2,
            0 if by_coordinate else np.ptp(tensors) / 2,
            0 if by_tensor else tensors[0],
        ]
        largest = np.maximum(largest, spreads)
        assert by_coordinate or by_tensor or tensors[0] > -1e-6
    np.testing.assert_allclose(np.mean(kinds, axis=0), [1 / 2, 1 / 4, 1 / 8], atol=0.1)
    assert (largest > [2.5, 1.5, 1.0]).all()
    assert (largest <= 3.0).all()


def test_random_scaling_leaves_the_data_alone():
    inner = small_mlp()
    for ours, theirs in zip(
        RandomScaling(inner, 3.0).batches(SEED, tf.constant(2), 3),
        inner.batches(SEED, tf.constant(2), 3),
        strict=True,
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_a_combination_adds():
    f, g = small_mlp(), SineLSTM(units=3, batch_size=4)
    both = Combination(f, g)
    assert both.size == f.size + g.size
    params, constants, batch = start_and_batch(both)
    theta, x = params[: f.size], params[f.size :]
    losses, gradients = zip(
        loss_and_gradient(f, theta, constants[0], batch[0]),
        loss_and_gradient(g, x, constants[1], batch[1]),
        strict=True,
    )
    loss, gradient = loss_and_gradient(both, params, constants, batch)
    np.testing.assert_allclose(loss, sum(losses), rtol=1e-6)
    np.testing.assert_allclose(gradient, np.concatenate(gradients), rtol=1e-5, atol=1e-7)
    # The parts' own draws and streams, by seeds of their own.
    seeds = split_seed(SEED, 2)
    np.testing.assert_array_equal(
        both.draw(SEED).params, np.concatenate([p.draw(s).params for p, s in zip((f, g), seeds, strict=True)])
    )
    for problem, seed, ours in zip((f, g), seeds, both.batches(SEED, tf.constant(1), 2), strict=True):
        theirs = problem.batches(seed, tf.constant(1), 2)
        tf.nest.map_structure(np.testing.assert_array_equal, ours, theirs)


PROBLEMS = {
    "mlp": small_mlp,
    "cnn": lambda: CNN(fake_images("digits"), "c-p-f", batch_size=4),
    "sine": lambda: SineLSTM(units=3, batch_size=4),
    "rows": lambda: RowLSTM(fake_images("digits"), units=3, batch_size=4),
    "convex": lambda: Convex(5),
    "both tricks": lambda: Combination(RandomScaling(small_mlp(), 3.0), RandomScaling(Convex(5), 1.0)),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_tasks_are_so_many_single_ones(name):
    single = PROBLEMS[name]()
    tasks = Tasks(single, 3)
    assert (tasks.tasks, tasks.size) == (3, 3 * single.size)
    seeds = tf.random.split(SEED, 3)
    draw = tasks.draw(seeds)
    params = draw.params + 0.3 * tf.random.stateless_normal([tasks.size], SEED)  # no bias is special
    losses, gradient = loss_and_gradient(tasks, params, draw.constants, first_batch(tasks, seeds))
    assert losses.shape == (3,)
    for k, seed in enumerate(tf.unstack(seeds)):
        own = params[k * single.size : (k + 1) * single.size]
        own_draw = single.draw(seed)
        np.testing.assert_array_equal(draw.params[k * single.size : (k + 1) * single.size], own_draw.params)
        loss, own_gradient = loss_and_gradient(single, own, own_draw.constants, first_batch(single, seed))
        np.testing.assert_allclose(losses[k], loss, rtol=1e-5)
        np.testing.assert_allclose(
            gradient[k * single.size : (k + 1) * single.size], own_gradient, rtol=1e-4, atol=1e-6
        )
    assert len(set(losses.numpy())) == 3


@pytest.mark.parametrize("name", PROBLEMS)
def test_one_trace_serves_every_episode(name):
    """Draws and losses are functions of their arguments: compiled once, no state in the problem."""
    problem = PROBLEMS[name]()
    draw = tf.function(problem.draw, autograph=False)
    batches = tf.function(problem.batches, autograph=False)
    for seed in (tf.constant([5, 6]), tf.constant([7, 8])):
        close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)
        tf.nest.map_structure(close, draw(seed), problem.draw(seed))
        first = tf.constant(4)
        tf.nest.map_structure(close, batches(seed, first, 2), problem.batches(seed, first, 2))
    assert draw.experimental_get_tracing_count() == 1
    assert isinstance(draw(SEED), Draw)


# Arguments.


def test_an_unknown_activation_is_refused():
    with pytest.raises(ValueError, match=r"among sigmoid, relu, elu, tanh. Received: 'gelu'"):
        MLP(fake_images("digits"), activation="gelu")


@pytest.mark.parametrize("structure", ["", "c-p", "f-c", "c--f", "x-f", "c-c-p-f-", "cf"])
def test_an_impossible_structure_is_refused(structure):
    with pytest.raises(ValueError, match=f"such as 'c-c-p-f'. Received: '{structure}'"):
        CNN(fake_images("digits"), structure)


@pytest.mark.parametrize("make", [MLP, CNN, RowLSTM])
def test_a_batch_of_more_images_than_there_are_is_refused(make):
    with pytest.raises(ValueError, match=r"from 1 to 256, the number of images. Received: 257"):
        make(fake_images("digits"), batch_size=257)


def test_problem_is_abstract():
    with pytest.raises(TypeError, match="abstract"):
        Problem()

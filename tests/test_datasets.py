"""Image sets and their batches: a pure function of a seed and a position, epoch by epoch."""

import functools
import os
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf

from trainer import datasets
from trainer.datasets import ImageBatches, Images

SEED = tf.constant([3, 4], tf.int32)


def numbered(count=50, height=2, width=4):
    """Images whose label is their index, and whose pixels are, too."""
    labels = np.arange(count, dtype=np.int32)
    pixels = np.broadcast_to(labels[:, None, None, None], (count, height, width, 1)).astype(np.uint8)
    return Images(pixels, labels, scale=1.0)


def labels(batches, seed=SEED, first=0, count=1):
    return batches.batches(seed, tf.constant(first), count)[1].numpy()


@functools.cache
def mnist():
    """MNIST's train split where TFDS finds it prepared: no test downloads."""
    folder = os.environ.get("TFDS_DATA_DIR") or os.path.expanduser("~/tensorflow_datasets")
    if not os.path.isdir(os.path.join(folder, "mnist")):
        pytest.skip(f"MNIST is not prepared in {folder}")
    return datasets.load("mnist")


@pytest.mark.parametrize("chunks", [[12], [5, 7], [1] * 12, [11, 1]], ids=str)
def test_any_chunking_gives_the_same_batches(chunks):
    batches = ImageBatches(numbered(), batch_size=8)
    whole = labels(batches, count=12)
    firsts = np.cumsum([0, *chunks[:-1]])
    parts = [labels(batches, first=f, count=c) for f, c in zip(firsts, chunks, strict=True)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_an_epoch_shows_each_image_at_most_once_and_drops_the_tail():
    batches = ImageBatches(numbered(50), batch_size=8)
    epochs = labels(batches, count=18).reshape(3, 48)
    for epoch in epochs:
        assert len(set(epoch)) == 48
        assert set(epoch) <= set(range(50))
    # The two left out are not the same ones in each epoch.
    assert len({frozenset(set(range(50)) - set(epoch)) for epoch in epochs}) > 1


def test_an_epoch_without_a_tail_shows_every_image():
    assert sorted(labels(ImageBatches(numbered(48), 8), count=6).ravel()) == list(range(48))


@pytest.mark.parametrize("distance", [1, 2, 128])
def test_an_image_s_place_says_nothing_of_its_neighbours(distance):
    """As many images as MNIST has; the difference of two places, in 20 classes, is uniform."""
    orders = labels(ImageBatches(numbered(60_000, 1, 1), 60_000), count=20).astype(np.int64)
    difference = (orders[:, distance:] - orders[:, :-distance]) % 60_000
    counts = np.bincount(difference.ravel() // 3_000, minlength=20)
    chi_square = ((counts - counts.mean()) ** 2).sum() / counts.mean()  # 19 degrees of freedom
    assert chi_square < 60


def test_epochs_differ_and_seeds_differ():
    batches = ImageBatches(numbered(48), batch_size=48)
    first, second = labels(batches, count=2)
    other = labels(batches, seed=tf.constant([3, 5], tf.int32))[0]
    another = labels(batches, seed=tf.constant([4, 4], tf.int32))[0]
    orders = [tuple(order) for order in (first, second, other, another, np.arange(48))]
    assert len(set(orders)) == 5


def test_far_positions_and_negative_seeds_work():
    batches = ImageBatches(numbered(48), batch_size=8)
    far = labels(batches, seed=tf.constant([-1, -(2**31)], tf.int32), first=6 * 10**8, count=6)
    assert sorted(far.ravel()) == list(range(48))


def test_pixels_go_with_their_labels():
    pixels, labels = ImageBatches(numbered(), 8).batches(SEED, tf.constant(3), 2)
    assert pixels.shape == (2, 8, 2, 4, 1)
    assert pixels.dtype == tf.uint8
    np.testing.assert_array_equal(pixels[..., 0, 0, 0], labels)


@pytest.mark.parametrize("size", [0, -1, 51])
def test_an_impossible_batch_size_is_refused(size):
    with pytest.raises(ValueError, match=f"from 1 to 50, the number of images. Received: {size}"):
        ImageBatches(numbered(50), size)


def test_pooled_is_the_rounded_mean_of_each_window():
    pixels = np.arange(2 * 4 * 6 * 3, dtype=np.uint8).reshape(2, 4, 6, 3)
    images = datasets.pooled(Images(pixels, np.zeros(2, np.int32), scale=0.5, offset=-1.0), 2)
    assert images.image_shape == (2, 3, 3)
    assert images.pixels.dtype == np.uint8
    assert (images.scale, images.offset) == (0.5, -1.0)
    for y, x, c in [(0, 0, 0), (1, 2, 1), (0, 1, 2)]:
        window = pixels[1, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2, c]
        assert images.pixels[1, y, x, c] == np.rint(window.mean())


@pytest.mark.parametrize("window", [3, 4])
def test_pooling_must_divide_both_sides(window):
    with pytest.raises(ValueError, match=f"2x4 pixels cannot be pooled by {window}"):
        datasets.pooled(numbered(), window)


def test_digits_are_split_in_two_disjoint_parts():
    from sklearn.datasets import load_digits

    parts = [datasets.load("digits", split) for split in ("train", "test")]
    assert [len(part.labels) for part in parts] == [1438, 359]
    assert all(part.image_shape == (8, 8, 1) for part in parts)
    # Together they are the data set, each image once.
    everything = np.concatenate([p.pixels.reshape(-1, 64) for p in parts])
    expected = load_digits().data
    np.testing.assert_array_equal(
        everything[np.lexsort(everything.T)], expected[np.lexsort(expected.T)].astype(np.uint8)
    )


def test_digits_lie_in_0_to_1_and_all_classes_are_there():
    images = datasets.load("digits")
    value = images.value(images.pixels, tf.float32).numpy()
    assert (value.min(), value.max()) == (0.0, 1.0)
    assert set(images.labels) == set(range(10))


def test_value_is_scaled_and_shifted_in_the_dtype_asked_for():
    images = Images(np.zeros((1, 1, 1, 1), np.uint8), np.zeros(1, np.int32), scale=1 / 255, offset=-0.5)
    value = images.value(tf.constant([0, 51, 255], tf.uint8), tf.float64)
    assert value.dtype == tf.float64
    np.testing.assert_allclose(value, [-0.5, -0.3, 0.5], rtol=1e-12)


def test_a_data_set_is_read_once_per_process():
    assert datasets.load("digits") is datasets.load("digits")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("mnits",), "No data set named 'mnits'. Expected one of mnist, fashion_mnist, cifar10, digits"),
        (("digits", "valid"), "No split named 'valid'. Expected 'train' or 'test'"),
    ],
)
def test_unknown_names_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        datasets.load(*arguments)


def test_a_data_set_that_cannot_be_had_is_one_clear_error():
    failure = OSError("no route to host\nand more")
    with (
        mock.patch("tensorflow_datasets.load", side_effect=failure) as load,
        pytest.raises(RuntimeError, match="use `digits`, which needs no download") as error,
    ):
        datasets.load("cifar10", data_dir="/nowhere")
    assert load.call_args.kwargs["data_dir"] == "/nowhere"
    assert "The data set 'cifar10' is not in /nowhere" in str(error.value)
    assert "(no route to host)" in str(error.value)
    assert "--data_dir or TFDS_DATA_DIR" in str(error.value)


def test_no_network_is_found_out_in_seconds(tmp_path):
    """TFDS's own downloader, with every connection refused."""
    with (
        mock.patch("socket.getaddrinfo", side_effect=OSError("no network")),
        mock.patch("time.sleep") as sleep,
        pytest.raises(RuntimeError, match=r"'fashion_mnist' is not in .* and could not be downloaded"),
    ):
        datasets.load("fashion_mnist", data_dir=str(tmp_path))
    # Each of the four files' downloads waits beside the others.
    assert sleep.called
    assert sum(call.args[0] for call in sleep.call_args_list) < 4 * 5


def test_the_environment_names_the_folder(monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", "/from/the/environment")
    with mock.patch.object(datasets, "_load") as load:
        datasets.load("mnist")
        datasets.load("mnist", data_dir="/given")
    assert [call.args[2] for call in load.call_args_list] == ["/from/the/environment", "/given"]


def test_cifar_is_centred_and_mnist_is_not():
    data = {"image": np.full((1, 2, 2, 3), 255, np.uint8), "label": np.array([7], np.int64)}
    with (
        mock.patch("tensorflow_datasets.load"),
        mock.patch("tensorflow_datasets.as_numpy", return_value=data),
    ):
        cifar, mnist = (datasets.load(n, data_dir="/fake") for n in ("cifar10", "mnist"))
    datasets._load.cache_clear()
    assert cifar.value(cifar.pixels, tf.float32).numpy().max() == 0.5
    assert mnist.value(mnist.pixels, tf.float32).numpy().max() == 1.0
    assert cifar.labels.dtype == np.int32


def test_mnist_as_tfds_reads_it():
    images = mnist()
    assert images.pixels.shape == (60_000, 28, 28, 1)
    assert (images.pixels.min(), images.pixels.max()) == (0, 255)
    np.testing.assert_array_equal(
        np.bincount(images.labels), [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    )
    assert datasets.pooled(images, 2).image_shape == (14, 14, 1)

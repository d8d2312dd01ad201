"""Gradients of some rows of a table, such as an embedding's: each row once, the others left alone."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from rnnprop_tf.network import Tensor


class Rows(NamedTuple):
    """A gradient that is zero but for K rows. Unlike `tf.IndexedSlices`, it has each row once."""

    values: Tensor
    """[K, *dims]: the first `count` of them are the rows' gradients, the rest zeros."""
    indices: Tensor
    """[K], the rows. Those beyond `count` have no meaning."""
    count: Tensor
    """Scalar: the number of rows, at most K."""


def rows_of(slices: tf.IndexedSlices) -> Rows:
    """The rows of a sparse gradient, those that are there several times added up.

    The sum is made in the order of the slices, as `tf.convert_to_tensor` makes it.

    Args:
        slices: K slices of any rows.

    Returns:
        The rows in rising order.
    """
    order = tf.argsort(slices.indices, stable=True)
    indices = tf.gather(slices.indices, order)
    size = tf.shape(indices)[0]
    fresh = tf.concat([tf.ones_like(indices[:1], "bool"), indices[1:] != indices[:-1]], axis=0)
    segments = tf.cumsum(tf.cast(fresh, "int32")) - 1
    values = tf.math.unsorted_segment_sum(tf.gather(slices.values, order), segments, size)
    values = tf.ensure_shape(values, slices.values.shape)
    return Rows(
        values=values,
        indices=tf.math.unsorted_segment_max(indices, segments, size),
        count=tf.reduce_sum(tf.cast(fresh, "int32")),
    )


def gather(variable: tf.Variable, indices: Tensor, features: int = 0) -> Tensor:
    """Rows of a variable, read without the others.

    Args:
        variable: [R, *dims], or with features [H, R, *dims].
        indices: [K], the rows.
        features: 1 for a variable with an axis before that of the rows, 0 for one without.

    Returns:
        [K, *dims] or [H, K, *dims].
    """
    if features:
        indices = tf.tile(indices[None], [variable.shape[0], 1])
    return tf.raw_ops.ResourceGather(
        resource=variable.handle, indices=indices, dtype=variable.dtype, batch_dims=features
    )


def scatter(variable: tf.Variable, indices: Tensor, rows: Tensor, features: int = 0) -> None:
    """Writes rows of a variable; the inverse of `gather`.

    Args:
        variable: [R, *dims], or with features [H, R, *dims].
        indices: [K], the rows. One that is there several times must have the same values each time.
        rows: [K, *dims] or [H, K, *dims], of the variable's dtype.
        features: as in `gather`.
    """
    places = indices[:, None]
    if features:
        grid = tf.meshgrid(tf.range(variable.shape[0], dtype=indices.dtype), indices, indexing="ij")
        places = tf.stack(grid, axis=-1)
    tf.raw_ops.ResourceScatterNdUpdate(ref=variable.handle, indices=places, updates=rows)

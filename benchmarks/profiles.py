"""What RNNprop costs for three known models, and `OptimizerMonitor` on top.

    python -m benchmarks.profiles

Prints `rnnprop_tf.profile`'s table for each, and how long one log of all variables takes.
"""

from __future__ import annotations

import tempfile
import time

import keras
import numpy as np
import tensorflow as tf
from absl import flags
from keras import layers

from benchmarks.machine import machine
from rnnprop_tf import OptimizerMonitor, RNNprop, pretrained, profile
from trainer import commands

FLAGS = flags.FLAGS


def base_mlp() -> keras.Model:
    """The paper's."""
    return keras.Sequential([keras.Input((784,)), layers.Dense(20, "sigmoid"), layers.Dense(10)])


def text_lstm() -> keras.Model:
    """A classifier of 10,000 words."""
    return keras.Sequential(
        [keras.Input((80,), dtype="int32"), layers.Embedding(10_000, 32), layers.LSTM(64), layers.Dense(2)]
    )


def mobile_net() -> keras.Model:
    """MobileNetV2, 1,000 classes."""
    return keras.applications.MobileNetV2(weights=None)


def milliseconds_a_log(model: keras.Model) -> float:
    """Median time of one log of the monitor, after an update."""
    optimizer = RNNprop.from_pretrained(FLAGS.weights)
    optimizer.build(model.trainable_variables)
    optimizer.apply([tf.random.normal(v.shape) for v in model.trainable_variables], model.trainable_variables)
    model.compile(optimizer)
    times = []
    with tempfile.TemporaryDirectory() as folder:
        monitor = OptimizerMonitor(folder)
        monitor.set_model(model)
        monitor.on_train_begin()
        for epoch in range(FLAGS.updates + 1):
            begin = time.perf_counter()
            monitor.on_epoch_end(epoch)
            times.append(time.perf_counter() - begin)
        monitor.on_train_end()
    return 1e3 * float(np.median(times[1:]))


def main(_: list[str]) -> None:
    print(machine())
    for make_model in (base_mlp, text_lstm, mobile_net):
        model = make_model()
        print(f"\n{make_model.__name__}")
        profile(model, RNNprop.from_pretrained(FLAGS.weights), updates=FLAGS.updates)
        print(f"{'one log of OptimizerMonitor':42}{milliseconds_a_log(model):14.2f}")


if __name__ == "__main__":
    flags.DEFINE_string("weights", pretrained.DEFAULT, "weights of RNNprop, a name or folder")
    flags.DEFINE_integer("updates", 5, "updates and logs to time; medians count", lower_bound=1)
    commands.run(main)

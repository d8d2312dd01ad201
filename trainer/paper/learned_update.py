"""What a learned rule does: the direction as a function of what it sees, in a fresh and in a used state."""

from __future__ import annotations

import io

import numpy as np
import tensorflow as tf

from rnnprop_tf.network import LSTMState
from rnnprop_tf.pretrained import Pretrained
from rnnprop_tf.rule import Observation
from trainer import files
from trainer.problems import catalog
from trainer.unroll import start, unroll

M_AXIS = np.linspace(-1.0, 1.0, 41, dtype=np.float32)
"""Values of m~, all that there are: with equal decays m^2 is at most v."""
G_AXIS = np.linspace(-4.0, 4.0, 41, dtype=np.float32)
"""Values of g~; with a decay of 0.95 they reach 4.5."""
STEPS_OF_USE = 50
COORDINATES = 100
"""Number of coordinates with a gradient whose states the used response is the mean of."""


def write(weights: Pretrained, task: str, path: str, data_dir: str | None) -> None:
    """Writes `m` [n], `g` [n], `fresh` [n, n] and `used` [n, n], directions by m~ (rows) and g~, as .npz.

    Args:
        weights: of RNNprop.
        task: a name of the catalog. Used states are those of random coordinates after some steps of it.
        path: of the file.
        data_dir: TFDS's folder, its default where None.
    """
    rule, network = weights.rule, weights.network
    problem = catalog.task(task).build(data_dir)
    draw = problem.draw(tf.constant([0, 0]))
    batches = problem.batches(tf.constant([0, 1]), tf.constant(0), STEPS_OF_USE)
    carry = start(rule, network, draw.params)
    fresh = carry.state.lstm
    carry, _ = tf.function(
        lambda: unroll(
            problem, rule, network, weights.learning_rate, carry, draw.constants, batches, STEPS_OF_USE
        )
    )()
    awoken = np.flatnonzero(carry.state.accumulators.v)
    picks = np.random.default_rng(0).choice(awoken, COORDINATES, replace=False)
    m, g = (values.reshape(-1) for values in np.meshgrid(M_AXIS, G_AXIS, indexing="ij"))
    inputs = tf.tile(tf.stack([m, g]), [1, COORDINATES])
    observation = Observation(inputs, scale=(), awake=tf.ones(inputs.shape[1], tf.bool))

    def response(lstm: tuple[LSTMState, ...]) -> np.ndarray:
        states = tf.nest.map_structure(
            lambda state: tf.repeat(tf.gather(state, picks, axis=1), len(m), axis=1), lstm
        )
        direction, _ = rule.respond(network, observation, states)
        return direction.numpy().reshape(COORDINATES, len(M_AXIS), len(G_AXIS)).mean(axis=0)

    content = io.BytesIO()
    np.savez_compressed(content, m=M_AXIS, g=G_AXIS, fresh=response(fresh), used=response(carry.state.lstm))
    files.write_atomically(path, content.getvalue())

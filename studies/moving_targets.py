"""Losses that move while they are trained on: does RNNprop follow?

    python -m studies.moving_targets

Small tasks, each with every optimizer of `--optimizers`; prints a Markdown table a task, means over seeds.

- `gan`: two networks against each other, on a ring of 8 Gaussians in the plane. `gan-tanh`: the same with
  tanh in place of ReLU, whose units cannot be switched off for all inputs.
- `actor-critic`: an actor and its critic balance a pole on a cart. The data depend on the actor.
- `contrastive`: two views of a digit are to be alike and unlike all others of the batch (SimCLR).
- `teacher`: a student with few labels follows a teacher that is its own moving average.
- `scale`: digits, with a loss that is multiplied by 100 or by 1/100 in the middle.
- `shift`: digits, with pixels that are permuted anew four times.

An optimizer is the name or folder of RNNprop weights, or `adam`, and then, each after a colon, a learning
rate, `averaging`, or another argument: `rnnprop-1:0.01`, `adam:beta_1=0.5`. What averages is judged at its
average in the end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from absl import flags
from keras import layers

from rnnprop_tf import RNNprop
from studies import losses
from trainer import commands
from trainer.keras_models import data

FLAGS = flags.FLAGS

OPTIMIZERS = [
    "adam:0.001",
    "adam:0.01",
    "rnnprop-1",
    "rnnprop-1:averaging",
    "rnnprop-1:0.01",
    "rnnprop-1-small",
    "rnnprop-1-small:0.01",
]

Make = Callable[[], keras.optimizers.Optimizer]
Measures = dict[str, float]
"""What a training is judged by: numbers by the headers of their columns."""

CROSS_ENTROPY = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
BINARY = keras.losses.BinaryCrossentropy(from_logits=True)


def maker(text: str) -> Make:
    """Makes the optimizer that a word of `--optimizers` describes.

    Args:
        text: as in the module's docstring.

    Returns:
        A function without arguments.

    Raises:
        ValueError: a part after a colon is no rate, no argument with a number, and not "averaging".
    """
    name, *parts = text.split(":")
    arguments: dict[str, Any] = {}
    for part in parts:
        key, _, value = part.rpartition("=")
        if part == "averaging":
            arguments["use_averaging"] = True
            continue
        try:
            arguments[key or "learning_rate"] = float(value)
        except ValueError:
            raise ValueError(
                "Expected a learning rate, 'averaging' or an argument such as beta_1=0.5 after the colon. "
                f"Received: {part!r} in {text!r}"
            ) from None
    if name == "adam":
        return partial(keras.optimizers.Adam, **arguments)
    return partial(RNNprop.from_pretrained, name, **arguments)


def mlp(*sizes: int, activation: str = "relu") -> keras.Sequential:
    """Dense layers of these sizes, inputs first."""
    inputs, *hidden, outputs = sizes
    inner = [layers.Dense(units, activation) for units in hidden]
    return keras.Sequential([keras.Input((inputs,)), *inner, layers.Dense(outputs)])


def built(make: Make, variables: Sequence[keras.Variable]) -> keras.optimizers.Optimizer:
    """An optimizer with its state, as a `tf.function` wants it."""
    optimizer = make()
    optimizer.build(variables)
    return optimizer


def descend(
    optimizer: keras.optimizers.Optimizer,
    tape: tf.GradientTape,
    loss: tf.Tensor,
    variables: Sequence[keras.Variable],
) -> None:
    """A step."""
    optimizer.apply(tape.gradient(loss, variables), variables)


def finish(optimizer: keras.optimizers.Optimizer, variables: Sequence[keras.Variable]) -> None:
    """Goes to the average, if the optimizer keeps one."""
    if optimizer.use_ema:
        optimizer.finalize_variable_values(variables)


# Two networks against each other.

ANGLES = np.arange(8) * np.pi / 4
MODES = np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=1).astype(np.float32)
SPREAD = 0.05
"""Standard deviation of each Gaussian of the ring."""
NOISE = 8
"""Numbers that the generator makes a point of."""


def modes_hit(samples: np.ndarray) -> tuple[int, float]:
    """How much of the ring a generator covers.

    Args:
        samples: points, [N, 2].

    Returns:
        The number of Gaussians with a point within 4 standard deviations, and the share of such points.
    """
    distances = np.linalg.norm(samples[:, None] - MODES, axis=-1)
    near = distances.min(axis=1) < 4 * SPREAD
    return len(set(distances.argmin(axis=1)[near])), float(near.mean())


def gan(make: Make, seed: int, steps: int, activation: str = "relu") -> Measures:
    """A GAN with the non-saturating loss, batches of 128, just under 5,000 parameters a network.

    "Farthest" is the greatest mean distance of the points from the middle, over the first 100 steps; the ring
    is at 1. "Still" is the share of the generator's parameters without a gradient, over the last quarter.
    """
    keras.utils.set_random_seed(seed)
    generator, critic = mlp(NOISE, 64, 64, 2, activation=activation), mlp(2, 64, 64, 1, activation=activation)
    theirs, its = critic.trainable_variables, generator.trainable_variables
    judge, generate = built(make, theirs), built(make, its)

    @tf.function
    def step() -> tf.Tensor:
        chosen = tf.random.uniform((128,), 0, len(MODES), tf.int32)
        real = tf.gather(MODES, chosen) + SPREAD * tf.random.normal((128, 2))
        with tf.GradientTape(persistent=True) as tape:
            made = generator(tf.random.normal((128, NOISE)))
            on_real, on_made = critic(real), critic(made)
            judged = BINARY(tf.ones_like(on_real), on_real) + BINARY(tf.zeros_like(on_made), on_made)
            fooled = BINARY(tf.ones_like(on_made), on_made)
        descend(judge, tape, judged, theirs)
        gradients = tape.gradient(fooled, its)
        generate.apply(gradients, its)
        still = tf.concat([tf.reshape(gradient == 0, (-1,)) for gradient in gradients], axis=0)
        distance = tf.reduce_mean(tf.norm(made, axis=1))
        return tf.stack([distance, tf.reduce_mean(tf.cast(still, tf.float32)), judged])

    distance, still, critic_loss = np.transpose([step().numpy() for _ in range(steps)])
    finish(generate, its)
    modes, near = modes_hit(np.asarray(generator(tf.random.normal((2_000, NOISE)))))
    last = slice(-max(1, steps // 4), None)
    return {
        "modes of 8": modes,
        "seeds with all 8, share": modes == len(MODES),
        "points near a mode, share": near,
        "farthest": distance[:100].max(),
        "still, share": still[last].mean(),
        "critic's loss": critic_loss[last].mean(),
    }


# An actor and its critic.

ENVIRONMENTS, HORIZON, LIMIT, DISCOUNT = 32, 8, 500, 0.98


class CartPole:
    """Many carts with a pole each, by the equations of Barto, Sutton and Anderson (1983), without friction.

    A force of 10 N pushes a cart of 1 kg to the left or to the right for 0.02 s. The pole, 1 m and 0.1 kg,
    has fallen at 12 degrees or where the cart is 2.4 m from the middle. A game also ends after `LIMIT` steps.

    Attributes:
        state: position, speed, angle and angular speed, [N, 4].
        age: steps since the start of each game, [N].
    """

    def __init__(self, count: int, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self.state = self._starts(count)
        self.age = np.zeros(count, int)

    def _starts(self, count: int) -> np.ndarray:
        return self._random.uniform(-0.05, 0.05, (count, 4)).astype(np.float32)

    def step(self, right: np.ndarray) -> np.ndarray:
        """Pushes each cart; a game that ends is begun anew.

        Args:
            right: whether to the right, [N].

        Returns:
            Whether each game has ended, [N].
        """
        _, speed, angle, turning = self.state.T
        force = np.where(right, 10.0, -10.0)
        sine, cosine = np.sin(angle), np.cos(angle)
        pushed = (force + 0.05 * turning**2 * sine) / 1.1
        bending = (9.8 * sine - cosine * pushed) / (0.5 * (4 / 3 - 0.1 * cosine**2 / 1.1))
        rate = np.stack([speed, pushed - 0.05 * bending * cosine / 1.1, turning, bending], axis=1)
        self.state = (self.state + 0.02 * rate).astype(np.float32)
        self.age += 1
        fallen = (np.abs(self.state[:, 0]) > 2.4) | (np.abs(self.state[:, 2]) > np.radians(12))
        ended = fallen | (self.age >= LIMIT)
        self.state[ended], self.age[ended] = self._starts(ended.sum()), 0
        return ended


def discounted(rewards: np.ndarray, ended: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Sums of discounted rewards to the end of each game, or of the batch.

    Args:
        rewards: [T, N].
        ended: whether the game ended with the step, [T, N].
        after: what is expected after the last step, [N].

    Returns:
        The sums, [T, N].
    """
    sums = np.empty_like(rewards)
    for t in reversed(range(len(rewards))):
        sums[t] = after = rewards[t] + DISCOUNT * np.where(ended[t], 0.0, after)
    return sums


def balanced(actor: keras.Model, seed: int) -> float:
    """Mean number of steps of 32 games with random actions by the actor's odds, `LIMIT` at most."""
    carts, ended, steps = CartPole(32, seed), np.zeros(32, bool), np.zeros(32)
    random = np.random.default_rng(seed)
    odds = tf.function(lambda state: tf.nn.softmax(actor(state)))
    while not ended.all():
        steps += ~ended
        ended |= carts.step(random.uniform(size=32) < odds(carts.state).numpy()[:, 1])
    return float(steps.mean())


def actor_critic(make: Make, seed: int, steps: int) -> Measures:
    """Advantage actor-critic: 32 carts, 8 steps of each a batch, a bonus of 0.01 for entropy."""
    keras.utils.set_random_seed(seed)
    random = np.random.default_rng(seed)
    actor, critic = mlp(4, 64, 64, 2), mlp(4, 64, 64, 1)
    variables = actor.trainable_variables + critic.trainable_variables
    optimizer = built(make, variables)
    see = tf.function(lambda state: (tf.nn.softmax(actor(state))[:, 1], critic(state)[:, 0]))

    @tf.function
    def step(states: tf.Tensor, right: tf.Tensor, returns: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            odds = tf.nn.log_softmax(actor(states))
            surprise = returns - critic(states)[:, 0]
            chosen = tf.gather(odds, right, batch_dims=1)
            entropy = -tf.reduce_sum(tf.exp(odds) * odds, axis=1)
            gain = tf.stop_gradient(surprise) * chosen + 0.01 * entropy
            loss = tf.reduce_mean(0.5 * surprise**2 - gain)
        descend(optimizer, tape, loss, variables)

    carts, seen = CartPole(ENVIRONMENTS, seed), []
    for number in range(steps):
        states, actions, ends = [], [], []
        for _ in range(HORIZON):
            states.append(carts.state)
            actions.append(random.uniform(size=ENVIRONMENTS) < see(carts.state)[0].numpy())
            ends.append(carts.step(actions[-1]))
        ended = np.array(ends)
        returns = discounted(np.ones(ended.shape, np.float32), ended, see(carts.state)[1].numpy())
        step(np.concatenate(states), np.concatenate(actions).astype(np.int32), returns.ravel())
        if (number + 1) % -(-steps // 10) == 0:
            seen.append(balanced(actor, seed + number))
    finish(optimizer, variables)
    return {"balanced at the end, steps": balanced(actor, seed), "in the course, mean": float(np.mean(seen))}


# Two views of a digit.


def view(x: tf.Tensor) -> tf.Tensor:
    """Digits moved by up to a pixel each way, a fifth of the pixels dark, lighter or darker: [N, 64]."""
    count = tf.shape(x)[0]
    padded = tf.pad(tf.reshape(x, (-1, 8, 8)), ((0, 0), (1, 1), (1, 1)))
    moved = tf.stack([padded[:, i : i + 8, j : j + 8] for i in range(3) for j in range(3)], axis=1)
    chosen = tf.gather(moved, tf.random.uniform((count,), 0, 9, tf.int32), batch_dims=1)
    kept = tf.cast(tf.random.uniform((count, 64)) > 0.2, tf.float32)
    return tf.reshape(chosen, (-1, 64)) * kept * tf.random.uniform((count, 1), 0.6, 1.4)


def last_tenth(course: list[float]) -> float:
    """Mean of the last tenth, of one number at least."""
    return float(np.mean(course[-max(1, len(course) // 10) :]))


def probe(encoder: keras.Model, splits: data.Splits) -> float:
    """Accuracy of the nearest of 200 labelled digits, by the angle that the encoder has them at."""
    (x, y), (held_out, labels) = splits
    known, asked = (tf.math.l2_normalize(encoder(part), axis=1).numpy() for part in (x[:200], held_out))
    return float(np.mean(y[np.argmax(asked @ known.T, axis=1)] == labels))


def contrastive(make: Make, seed: int, steps: int) -> Measures:
    """SimCLR: batches of 128, temperature 0.2. The loss is the mean of the last tenth of the training."""
    keras.utils.set_random_seed(seed)
    splits = digits()
    x = tf.constant(splits[0][0])
    encoder, head = mlp(64, 128, 64), mlp(64, 64, 32)
    variables = encoder.trainable_variables + head.trainable_variables
    optimizer = built(make, variables)

    @tf.function
    def step() -> tf.Tensor:
        batch = tf.gather(x, tf.random.uniform((128,), 0, len(x), tf.int32))
        both = tf.concat([view(batch), view(batch)], axis=0)
        partner = tf.concat([tf.range(128, 256), tf.range(128)], axis=0)
        with tf.GradientTape() as tape:
            made = tf.math.l2_normalize(head(tf.nn.relu(encoder(both))), axis=1)
            alike = tf.matmul(made, made, transpose_b=True) / 0.2 - 1e9 * tf.eye(256)
            loss = CROSS_ENTROPY(partner, alike)
        descend(optimizer, tape, loss, variables)
        return loss

    loss = last_tenth([float(step()) for _ in range(steps)])
    finish(optimizer, variables)
    return {"loss": loss, "accuracy of the nearest": probe(encoder, splits)}


def teacher(make: Make, seed: int, steps: int) -> Measures:
    """Mean teacher: labels for 100 digits, and for all digits the guess of a teacher that sees another view.

    The teacher keeps 0.99 of itself a step and adds 0.01 of the student. Batches have 64 digits with labels
    and 128 without; 5 times the squared distance of the two guesses is added to the cross-entropy. Accuracy
    is that on held-out digits.
    """
    keras.utils.set_random_seed(seed)
    (x, y), (held_out, labels) = digits()
    student = mlp(64, 128, 64, 10)
    follower = keras.models.clone_model(student)
    follower.set_weights(student.get_weights())
    variables = student.trainable_variables
    optimizer = built(make, variables)

    @tf.function
    def step() -> None:
        chosen = tf.random.uniform((64,), 0, 100, tf.int32)
        batch = tf.gather(x, tf.random.uniform((128,), 0, len(x), tf.int32))
        told = tf.nn.softmax(follower(view(batch)))
        with tf.GradientTape() as tape:
            known = CROSS_ENTROPY(tf.gather(y, chosen), student(view(tf.gather(x, chosen))))
            apart = tf.reduce_sum((tf.nn.softmax(student(view(batch))) - told) ** 2, axis=1)
            loss = known + 5 * tf.reduce_mean(apart)
        descend(optimizer, tape, loss, variables)
        for old, new in zip(follower.variables, student.variables, strict=True):
            old.assign(0.99 * old + 0.01 * new)

    for _ in range(steps):
        step()
    finish(optimizer, variables)
    right = [np.mean(np.argmax(model(held_out), axis=1) == labels) for model in (student, follower)]
    return {"student's accuracy": right[0], "teacher's accuracy": right[1]}


# Digits, with a change on the way.


def digits() -> data.Splits:
    """scikit-learn's digits as rows of 64 pixels, for training and held out."""
    (x, y), (held_out, labels) = data.digits(None)
    return (x.reshape(-1, 64), y), (held_out.reshape(-1, 64), labels)


class Classifier:
    """An MLP of 9,000 parameters in training on digits, batches of 64.

    Args:
        make: makes its optimizer.
        seed: of its start and its batches.
    """

    def __init__(self, make: Make, seed: int) -> None:
        keras.utils.set_random_seed(seed)
        (x, y), _ = digits()
        self._x, self._y = tf.Variable(x), tf.constant(y)
        self._model = mlp(64, 64, 64, 10)
        self._optimizer = built(make, self._model.trainable_variables)

    def permute(self, order: np.ndarray) -> None:
        """Puts the pixels into another order, [64]."""
        self._x.assign(self._x.value().numpy()[:, order])

    def loss(self) -> float:
        """On all training data."""
        return float(CROSS_ENTROPY(self._y, self._model(self._x)))

    @tf.function
    def step(self, factor: tf.Tensor) -> None:
        """A step on the loss times a number."""
        chosen = tf.random.uniform((64,), 0, len(self._y), tf.int32)
        variables = self._model.trainable_variables
        with tf.GradientTape() as tape:
            loss = factor * CROSS_ENTROPY(tf.gather(self._y, chosen), self._model(tf.gather(self._x, chosen)))
        descend(self._optimizer, tape, loss, variables)

    def train(self, steps: int, factor: float = 1.0) -> list[float]:
        """Losses after each of the first 20 steps, and after the last."""
        seen = []
        for number in range(steps):
            self.step(tf.constant(factor))
            if number < 20 or number == steps - 1:
                seen.append(self.loss())
        return seen

    def finish(self) -> None:
        """Goes to the average, if there is one."""
        finish(self._optimizer, self._model.trainable_variables)


def scale(make: Make, seed: int, steps: int) -> Measures:
    """The loss is multiplied in the middle, and shown without the factor."""
    measures: Measures = {}
    for name, factor in {"1": 1.0, "100": 100.0, "1/100": 0.01}.items():
        classifier = Classifier(make, seed)
        before = classifier.train(steps // 2)[-1]
        after = classifier.train(steps - steps // 2, factor)
        classifier.finish()
        if name == "1":
            measures["in the middle"] = before
        else:
            measures[f"times {name}, highest of 20"] = max(after[:20])
        measures[f"times {name}, end"] = classifier.loss()
    return measures


def shift(make: Make, seed: int, steps: int) -> Measures:
    """Five parts, each with the pixels in an order of its own. To a new MLP all parts are alike.

    Losses at the end of a part are those of the iterate, with or without an average.
    """
    classifier = Classifier(make, seed)
    random = np.random.default_rng(seed)
    ends = []
    for _ in range(5):
        ends.append(classifier.train(steps // 5)[-1])
        classifier.permute(random.permutation(64))
    return {"after part 1": ends[0], "after part 2": ends[1], "after parts 3 to 5": float(np.mean(ends[2:]))}


class Task(NamedTuple):
    """A task of the study."""

    train: Callable[[Make, int, int], Measures]
    """Trains from a seed for so many steps, and judges."""
    steps: int
    runs: int
    """Number of seeds."""


TASKS = {
    "gan": Task(gan, 2_000, 5),
    "gan-tanh": Task(partial(gan, activation="tanh"), 2_000, 5),
    "actor-critic": Task(actor_critic, 1_000, 3),
    "contrastive": Task(contrastive, 1_000, 3),
    "teacher": Task(teacher, 1_000, 3),
    "scale": Task(scale, 800, 3),
    "shift": Task(shift, 1_500, 3),
}


def main(_: list[str]) -> None:
    makers = {text: maker(text) for text in FLAGS.optimizers}
    for name in FLAGS.tasks:
        train, steps, runs = TASKS[name]
        steps, runs = FLAGS.steps or steps, FLAGS.runs or runs
        print(f"\n{name}: {steps} steps, {runs} seeds\n")
        for number, (text, make) in enumerate(makers.items()):
            found = [train(make, seed, steps) for seed in range(runs)]
            if number == 0:
                losses.print_head("optimizer", *found[0])
            means = (np.mean([measures[key] for measures in found]) for key in found[0])
            losses.print_row(text, *(f"{mean:.4g}" for mean in means))


if __name__ == "__main__":
    flags.DEFINE_list("optimizers", OPTIMIZERS, "see the module's docstring")
    flags.DEFINE_multi_enum("tasks", list(TASKS), list(TASKS), "which to make; given once for each")
    flags.DEFINE_integer("steps", None, "steps of each training, instead of the task's own", lower_bound=5)
    flags.DEFINE_integer("runs", None, "seeds 0, 1, ..., instead of the task's own number", lower_bound=1)
    commands.run(main)

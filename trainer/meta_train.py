"""Meta-training: the outer loop that makes a rule's weights (section 5)."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from rnnprop_tf import network as coordinatewise
from rnnprop_tf import pretrained
from rnnprop_tf.network import Network
from trainer import checkpoint, distribution, files, interrupts
from trainer.checkpoint import Checkpoint
from trainer.config import MetaTrainConfig
from trainer.episodes import Episodes, Place
from trainer.estimators import catalog as estimators
from trainer.estimators.base import Episode, Period
from trainer.evaluation.unrolled_runner import LearnedRunner
from trainer.problems import catalog
from trainer.problems.base import Problem, unpack

AVERAGED_ITERATIONS = 100
AVERAGE_DECAY = 0.9
"""The train loss is averaged over 100 iterations, and these means with decay 0.9: about the past 1,000."""
VALIDATION_SEEDS = range(1_000_000, 1_000_010)
SUMMARY_EVERY = 10


class MetaTrainer:
    """The state of a run and its compiled steps.

    Everything random is drawn from the config's seed and the iteration, so that the state between two
    iterations is the weights, the outer optimizer's variables, what the estimator keeps and a few numbers.
    """

    def __init__(
        self,
        config: MetaTrainConfig,
        data_dir: str | None = None,
        strategy: tf.distribute.Strategy | None = None,
    ) -> None:
        """
        Args:
            config: the run.
            data_dir: TFDS's folder, its default where None.
            strategy: its replicas share the config's meta-batch; TensorFlow's default, one replica, where
                None.

        Raises:
            ValueError: the replicas do not divide the meta-batch, or weights that the config names cannot be
                read or are of another rule or size.
        """
        self.config = config
        self.strategy = strategy or tf.distribute.get_strategy()
        share = distribution.tasks_per_replica(self.strategy, config.meta_batch_size)
        self.episodes = Episodes(config, data_dir, share)
        self.estimator = estimators.estimator(config)
        self.iteration = 0
        self.skipped_updates = 0
        self.block_losses: list[float] = []
        self.average_loss: float | None = None
        self.network: Network = tf.nest.map_structure(tf.Variable, _initial_weights(config))
        self._weights = tf.nest.flatten(self.network)
        self._outer = _outer_optimizer(config)
        self._outer.build(self._weights)
        self._data_dir = data_dir
        self._validation: LearnedRunner | None = None
        self._begin = tf.function(self._begin_episode, autograph=False)
        self._train = tf.function(self._train_period, autograph=False)
        self._update = tf.function(self._apply, autograph=False)

    def weights(self) -> Network:
        """The weights as NumPy arrays."""
        return tf.nest.map_structure(lambda w: w.numpy(), self.network)

    def train_episode(self) -> float:
        """One iteration: an episode, with an outer update each period, or one after it where the estimator
        says so. Returns its mean objective."""
        problem, periods = self.episodes.plan(self.iteration)
        if self.config.cosine_decay:
            self._outer.learning_rate.assign(self._outer_learning_rate())
        iteration = tf.constant(self.iteration)
        episode = self._begin(problem, iteration)
        objectives, gradients = [], []
        for k in range(periods):
            place = Place(problem, iteration, tf.constant(k))
            episode, objective, gradient = self._train(place, episode)
            objectives.append(float(objective))
            gradients.append(gradient)
            if k == periods - 1 or not self.estimator.once_an_episode:
                self.skipped_updates += not bool(self._update(tf.add_n(gradients) / len(gradients)))
                gradients = []
        self.iteration += 1
        loss = float(np.mean(objectives))
        self._average(loss)
        return loss

    def _outer_learning_rate(self) -> float:
        progress = self.iteration / self.config.iterations
        return self.config.outer_learning_rate * (1 + math.cos(math.pi * progress)) / 2

    def _begin_episode(self, problem: Problem, iteration: tf.Tensor) -> Episode:
        def begin() -> Episode:
            place = Place(problem, iteration, tf.constant(0))
            draw = self.episodes.draw(problem, iteration)
            return self.estimator.begin(problem, self.network, draw, self.episodes.sample_seed(place))

        return self.strategy.run(begin)

    def _train_period(self, place: Place, episode: Episode) -> tuple[Episode, tf.Tensor, tf.Tensor]:
        """A period: the episode after it, the objective, and the gradient as one vector.

        The episode is the replicas', each has its own; what they find out is averaged here.
        """
        network = tf.nest.map_structure(tf.convert_to_tensor, self.network)
        episode, *found = self.strategy.run(self._estimate, (place, network, episode))
        objective, flat = (self.strategy.reduce("MEAN", value, axis=None) for value in found)
        return episode, objective, flat

    def _estimate(
        self, place: Place, network: Network, episode: Episode
    ) -> tuple[Episode, tf.Tensor, tf.Tensor]:
        """One replica's part of an outer update: the episode, the objective, the gradient as one vector."""
        batches = self.episodes.batches(place, self.config.objective.batches)
        seed = self.episodes.sample_seed(place)
        progress = tf.cast(place.iteration, tf.float32) / self.config.iterations
        found = self.estimator.estimate(Period(place.problem, network, episode, batches, seed, progress))
        flat = tf.concat([tf.reshape(g, [-1]) for g in tf.nest.flatten(found.gradient)], axis=0)
        return found.episode, found.objective, flat

    def _apply(self, flat: tf.Tensor) -> tf.Tensor:
        """The outer update, left out unless the gradient's norm is finite; returns whether it is."""
        gradients = unpack(flat, tuple(tuple(weight.shape) for weight in self._weights))
        # The norm, as finite numbers whose squares overflow would leave a NaN behind in Adam and in clipping.
        finite = tf.math.is_finite(tf.linalg.global_norm(gradients))

        def update() -> tf.Tensor:
            self._outer.apply(gradients, self._weights)
            return finite

        return tf.cond(finite, update, lambda: finite)

    def _average(self, loss: float) -> None:
        """Takes a loss into the moving average, where one that is not finite would stay forever."""
        if not math.isfinite(loss):
            return
        self.block_losses.append(loss)
        if len(self.block_losses) == AVERAGED_ITERATIONS:
            mean = float(np.mean(self.block_losses))
            if self.average_loss is not None:
                mean = AVERAGE_DECAY * self.average_loss + (1 - AVERAGE_DECAY) * mean
            self.average_loss = mean
            self.block_losses = []

    def validation_loss(self) -> float:
        """The mean final loss on the first task, without tricks, from starts that nothing else uses."""
        if self._validation is None:
            problem = catalog.task(self.config.entries[0].task).build(self._data_dir)
            rule = self.config.update_rule
            self._validation = LearnedRunner(problem, rule, self.weights())
        self._validation.network = tf.nest.map_structure(tf.convert_to_tensor, self.network)
        run, config = self._validation.run, self.config
        runs = (run(config.episode_steps, seed, config.alpha) for seed in VALIDATION_SEEDS)
        return float(np.mean([run.final_loss for run in runs]))

    def checkpoint(self) -> Checkpoint:
        """Everything that the rest of the run depends on."""
        weights = coordinatewise.to_tensors(self.weights())
        tensors = {f"network.{name}": value for name, value in weights.items()}
        tensors |= {f"outer.{k}": np.asarray(v) for k, v in enumerate(self._outer.variables)}
        tensors |= {f"estimator.{name}": value for name, value in self.estimator.tensors().items()}
        record = {
            "iteration": self.iteration,
            "average_loss": self.average_loss,
            "block_losses": self.block_losses,
            "skipped_updates": self.skipped_updates,
            "config": self.config.as_dict(),
            "teacher": self.estimator.fingerprint,
        }
        return Checkpoint(tensors, record)

    def restore(self, saved: Checkpoint) -> None:
        """Goes on from a checkpoint of the same config; only `iterations` may have grown.

        Raises:
            ValueError: the config is another one, or the teacher's weights are.
        """
        self.config.check_continues(saved.record["config"])
        if saved.record.get("teacher") != self.estimator.fingerprint:
            raise ValueError(
                f"teacher: {self.config.teacher} holds other weights than when the run was started. "
                "Put those back, or name another folder for a new run."
            )
        for name, variable in coordinatewise.to_tensors(self.network).items():
            variable.assign(saved.tensors[f"network.{name}"])
        for k, variable in enumerate(self._outer.variables):
            variable.assign(saved.tensors[f"outer.{k}"])
        self.estimator.restore(checkpoint.part(saved, "estimator"))
        self.iteration = saved.record["iteration"]
        self.average_loss = saved.record["average_loss"]
        self.block_losses = list(saved.record["block_losses"])
        self.skipped_updates = saved.record["skipped_updates"]


def _initial_weights(config: MetaTrainConfig) -> Network:
    """Fresh weights, or those that the config names."""
    if not config.initial:
        return coordinatewise.initial_weights(config.architecture, config.seed)
    found = pretrained.load(config.initial)
    rule = config.update_rule
    # The weights would make other steps with another rule or alpha.
    if (found.rule, found.learning_rate) != (rule, config.alpha):
        raise ValueError(
            f"initial: expected weights of a {rule} with alpha {config.alpha}. "
            f"Received: {config.initial}, those of a {found.rule} with {found.learning_rate}"
        )
    sizes = coordinatewise.architecture_of(found.network)
    if sizes != config.architecture:
        asked, units = (",".join(map(str, part)) for part in (sizes.preprocess, sizes.lstm))
        raise ValueError(
            f"initial: expected weights of the sizes preprocess={config.preprocess!r} and "
            f"lstm={config.lstm!r}. Received: {config.initial}; for these weights give "
            f"--preprocess={asked} --lstm={units}"
        )
    return found.network


def _outer_optimizer(config: MetaTrainConfig) -> keras.optimizers.Optimizer:
    return keras.optimizers.Adam(config.outer_learning_rate, global_clipnorm=config.clipnorm or None)


def train(
    config: MetaTrainConfig,
    folder: str,
    data_dir: str | None = None,
    resume: bool = False,
    strategy: tf.distribute.Strategy | None = None,
) -> None:
    """Meta-trains to the config's last iteration, writing checkpoints and summaries into the folder.

    SIGINT and SIGTERM, to any of the workers, end it after the episode, with a checkpoint.

    Args:
        config: the run.
        folder: of the run; any path that `tf.io.gfile` opens. One for all workers, of whom the chief writes.
        data_dir: TFDS's folder, its default where None.
        resume: go on from the folder's last checkpoint, bit for bit as if never stopped on the same machine;
            from the start if there is none.
        strategy: its replicas share the config's meta-batch; TensorFlow's default, one replica, where None.

    Raises:
        ValueError: the folder holds a run already and `resume` is not set, or its config is another one; or
            the replicas do not divide the meta-batch; or the workers do not start alike.
        OSError: the folder cannot be read or written.
        KeyboardInterrupt: it was interrupted; the message says after how many episodes.
    """
    saved = checkpoint.iterations(folder)
    if saved and not resume:
        raise ValueError(f"{folder} holds a run already. Resume it with --resume, or name another --run_dir.")
    trainer = MetaTrainer(config, data_dir, strategy)
    if saved:
        trainer.restore(checkpoint.load(checkpoint.path_of(folder, saved[-1])))
    gather = distribution.gatherer_of(trainer.strategy)
    _check_alike(trainer, gather)
    with files.os_errors(f"write to {folder}"):
        writer = _summary_writer(trainer, folder)
    with writer.as_default(), _progress_bar(trainer) as bar, interrupts.put_off() as interrupted:
        stop = False
        while trainer.iteration < config.iterations and not stop:
            loss = trainer.train_episode()
            bar.update()
            if trainer.iteration % SUMMARY_EVERY == 0:
                _show(trainer, loss, bar)
            # All workers stop after the same episode.
            stop = any(gather(interrupted()))
            due = trainer.iteration % config.checkpoint_every == 0 or trainer.iteration == config.iterations
            if (due or stop) and distribution.is_chief(trainer.strategy):
                _save(trainer, folder, due)
    if trainer.iteration < config.iterations:
        raise KeyboardInterrupt(
            f"Interrupted after {trainer.iteration} episodes; a checkpoint holds them. --resume goes on."
        )


def _check_alike(trainer: MetaTrainer, gather: Callable[[int], list[int]]) -> None:
    """Workers of other settings, or that read another folder, would silently train something else."""
    state = trainer.checkpoint()
    digest = zlib.crc32(checkpoint.to_bytes(state))
    if len(set(gather(digest))) > 1:
        raise ValueError(
            "The workers do not start alike. Expected the same flags and the same --run_dir, seen by all of "
            f"them. This one starts after {trainer.iteration} episodes, with {state.record['config']}."
        )


def _summary_writer(trainer: MetaTrainer, folder: str) -> tf.summary.SummaryWriter:
    if not distribution.is_chief(trainer.strategy):
        return tf.summary.create_noop_writer()
    return tf.summary.create_file_writer(folder)


def _progress_bar(trainer: MetaTrainer) -> tqdm:
    return tqdm(
        total=trainer.config.iterations,
        initial=trainer.iteration,
        unit="episode",
        dynamic_ncols=True,
        disable=not distribution.is_chief(trainer.strategy),
    )


def _show(trainer: MetaTrainer, loss: float, bar: tqdm) -> None:
    """Summaries, and a few numbers beside the progress bar."""
    postfix = {"loss": f"{loss:.3f}", "skipped": str(trainer.skipped_updates)}
    tf.summary.scalar("loss", loss, trainer.iteration)
    tf.summary.scalar("skipped_updates", trainer.skipped_updates, trainer.iteration)
    if trainer.average_loss is not None:  # not before 100 iterations
        postfix["average"] = f"{trainer.average_loss:.3f}"
        tf.summary.scalar("average_loss", trainer.average_loss, trainer.iteration)
    bar.set_postfix(postfix)


def _save(trainer: MetaTrainer, folder: str, due: bool) -> None:
    """Writes a checkpoint; one that is not due is there to go on from, and no candidate for the best."""
    tensors, record = trainer.checkpoint()
    if not due:
        record["interrupted"] = True
    elif trainer.config.select == "validation":
        record["validation_loss"] = trainer.validation_loss()
        tf.summary.scalar("validation_loss", record["validation_loss"], trainer.iteration)
    checkpoint.save(folder, Checkpoint(tensors, record))

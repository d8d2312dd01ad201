"""Meta-training: the outer loop that makes a rule's weights (section 5)."""

from __future__ import annotations

import dataclasses
import itertools
import math
import zlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from rnnprop_tf import network as coordinatewise
from rnnprop_tf import pretrained
from rnnprop_tf.network import Architecture, Network
from rnnprop_tf.rule import DMRule, RNNpropRule, Rule
from trainer import checkpoint, distribution, files, imitation, interrupts, meta_gradient, unroll
from trainer.checkpoint import Checkpoint
from trainer.config import MetaTrainConfig
from trainer.evaluation.unrolled_runner import LearnedRunner
from trainer.meta_gradient import PeriodStart
from trainer.problems import catalog
from trainer.problems.base import Problem, Seed, unpack
from trainer.problems.convex import Convex
from trainer.problems.tricks import Combination, RandomScaling, Tasks

AVERAGED_ITERATIONS = 100
AVERAGE_DECAY = 0.9
"""The train loss is averaged over 100 iterations, and these means with decay 0.9: about the past 1,000."""
VALIDATION_SEEDS = range(1_000_000, 1_000_010)
SUMMARY_EVERY = 10


def rule_of(config: MetaTrainConfig) -> tuple[Rule, Architecture]:
    """The rule and the sizes of its network."""
    if config.rule == "dm":
        return DMRule(), Architecture(preprocess=())
    return RNNpropRule(), Architecture()


def problem_of(config: MetaTrainConfig, task: str, data_dir: str | None, tasks: int) -> Problem:
    """The optimizee of that name with the tricks that the config asks for, so many times."""
    problem = catalog.task(task).build(data_dir)
    if config.scaling:
        problem = RandomScaling(problem, config.scaling, config.mixed_scaling)
    if config.convex_dimension:
        convex: Problem = Convex(config.convex_dimension)
        if config.convex_scaling:
            convex = RandomScaling(convex, config.convex_scaling)
        problem = Combination(problem, convex)
    return Tasks(problem, tasks) if tasks > 1 else problem


class Plan(NamedTuple):
    """What an episode will be."""

    problem: Problem
    windows: list[range]
    """The periods of each outer update."""


class Place(NamedTuple):
    """A period of an episode."""

    problem: Problem
    iteration: tf.Tensor
    period: tf.Tensor


class MetaTrainer:
    """The state of a run and its compiled steps.

    Everything random is drawn from the config's seed and the iteration, so that the state between two
    iterations is the weights, the outer optimizer's variables and a few numbers.
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
            strategy: its replicas share the config's tasks; TensorFlow's default, one replica, where None.

        Raises:
            ValueError: the replicas do not divide the tasks.
        """
        self.config = config
        self.strategy = strategy or tf.distribute.get_strategy()
        self.rule, self.architecture = rule_of(config)
        share = distribution.tasks_per_replica(self.strategy, config.tasks)
        # One replica's part of each; one object, and so one trace, for a task that is named twice.
        by_task = {
            name: problem_of(config, name, data_dir, share)
            for name in dict.fromkeys(entry.task for entry in config.entries)
        }
        self.problems = [by_task[entry.task] for entry in config.entries]
        self.iteration = 0
        self.skipped_updates = 0
        self.block_losses: list[float] = []
        self.average_loss: float | None = None
        initial = self._initial_weights()
        self._teacher = self._teacher_of(config)
        self.network: Network = tf.nest.map_structure(tf.Variable, initial)
        self._weights = tf.nest.flatten(self.network)
        self._outer = _outer_optimizer(config)
        self._outer.build(self._weights)
        self._seed = tf.constant([config.seed, 0x524E4E], tf.int32)
        self._data_dir = data_dir
        self._validation: LearnedRunner | None = None
        self._begin = tf.function(self._begin_episode, autograph=False)
        self._train = tf.function(self._train_period, autograph=False)
        self._imitate = tf.function(self._imitate_period, autograph=False)
        self._record = tf.function(self._record_period, autograph=False)
        self._end = tf.function(self._end_window, autograph=False)
        self._apply = tf.function(self._apply_gradients, autograph=False)

    def weights(self) -> Network:
        """The weights as NumPy arrays."""
        return tf.nest.map_structure(lambda w: w.numpy(), self.network)

    def train_episode(self) -> float:
        """One iteration: an episode with the outer updates that are planned. Returns its mean objective."""
        problem, windows = self._plan()
        if self.config.cosine_decay:
            self._outer.learning_rate.assign(self._learning_rate())
        iteration = tf.constant(self.iteration)
        carry, constants, lesson = self._begin(problem, iteration)
        objectives = []
        for window in windows:
            places = [Place(problem, iteration, tf.constant(k)) for k in window]
            if self._teacher:
                lesson, *trained = self._imitate(*places, carry, constants, lesson)
            elif self.config.doubling and window.start > 0:
                trained = self._train_window(places, carry, constants)
            else:
                trained = self._train(*places, carry, constants)
            carry, objective, finite = trained
            objectives.append(float(objective))
            self.skipped_updates += not bool(finite)
        self.iteration += 1
        loss = float(np.mean(objectives))
        self._average(loss)
        return loss

    def _initial_weights(self) -> Network:
        if not self.config.initial:
            return coordinatewise.initial_weights(self.architecture, self.config.seed)
        network = self._shipped_or_saved("initial", self.config.initial)
        self.architecture = coordinatewise.architecture_of(network)
        return network

    def _teacher_of(self, config: MetaTrainConfig) -> imitation.Teacher | None:
        if not config.teacher:
            return None
        network = self._shipped_or_saved("teacher", config.teacher)
        return imitation.Teacher(tf.nest.map_structure(tf.constant, network), config.teacher_warmup)

    def _teacher_digest(self) -> int | None:
        if self._teacher is None:
            return None
        return zlib.crc32(b"".join(w.numpy().tobytes() for w in tf.nest.flatten(self._teacher.network)))

    def _shipped_or_saved(self, setting: str, name: str) -> Network:
        """Weights of this run's rule and learning rate; with others they would not be what they were."""
        found = pretrained.load(name)
        if (found.rule, found.learning_rate) != (self.rule, self.config.alpha):
            raise ValueError(
                f"{setting}: expected weights of a {self.rule} with alpha {self.config.alpha}. "
                f"Received: {name}, those of a {found.rule} with {found.learning_rate}"
            )
        return found.network

    def _plan(self) -> Plan:
        config = self.config
        rng = np.random.default_rng([config.seed, self.iteration])
        drawn = rng.integers(len(self.problems))
        shortest, longest = config.steps // config.period, config.entries[drawn].longest // config.period
        periods = round(math.exp(rng.uniform(math.log(shortest), math.log(longest))))
        if config.doubling:  # Halved from the end, so that each window is half of what there was so far.
            edges = [periods >> k for k in range(periods.bit_length(), -1, -1)]
        else:
            edges = list(range(periods + 1))
        return Plan(self.problems[drawn], [range(*pair) for pair in itertools.pairwise(edges)])

    def _learning_rate(self) -> float:
        progress = self.iteration / self.config.iterations
        return self.config.learning_rate * (1 + math.cos(math.pi * progress)) / 2

    def _begin_episode(
        self, problem: Problem, iteration: tf.Tensor
    ) -> tuple[unroll.Carry, Any, imitation.Lesson | None]:
        return self.strategy.run(self._begin_share, (problem, iteration))

    def _begin_share(
        self, problem: Problem, iteration: tf.Tensor
    ) -> tuple[unroll.Carry, Any, imitation.Lesson | None]:
        draw = problem.draw(self._seed_of_share(problem, tf.random.fold_in(self._seed, iteration)))
        carry = unroll.start(self.rule, self.network, draw.params)
        if self._teacher is None:
            return carry, draw.constants, None
        seed = self._sample_seed(Place(problem, iteration, tf.constant(0)))
        return carry, draw.constants, imitation.begin(problem, self._teacher, self._sample(problem), seed)

    def _train_period(
        self, place: Place, carry: unroll.Carry, constants: Any
    ) -> tuple[unroll.Carry, tf.Tensor, tf.Tensor]:
        """One outer update. Carry and constants are the replicas'; what they find out is averaged here."""
        network = tf.nest.map_structure(tf.convert_to_tensor, self.network)
        shares = self.strategy.run(self._period_of_share, (place, network, carry, constants))
        carry, objective, flat = shares
        return carry, *self._apply_gradients(objective, flat)

    def _imitate_period(
        self, place: Place, carry: unroll.Carry, constants: Any, lesson: imitation.Lesson
    ) -> tuple[imitation.Lesson, unroll.Carry, tf.Tensor, tf.Tensor]:
        """One outer update towards the teacher."""
        network = tf.nest.map_structure(tf.convert_to_tensor, self.network)
        shares = self.strategy.run(self._imitation_of_share, (place, network, carry, constants, lesson))
        lesson, carry, objective, flat = shares
        return lesson, carry, *self._apply_gradients(objective, flat)

    def _train_window(
        self, places: Sequence[Place], carry: unroll.Carry, constants: Any
    ) -> tuple[unroll.Carry, tf.Tensor, tf.Tensor]:
        """One outer update for a window of periods. Not one graph, which each length would trace anew."""
        network = tf.nest.map_structure(tf.convert_to_tensor, self.network)
        recorded = []
        for place in places:
            carry, one = self._record(place, network, carry, constants)
            recorded.append(one)
        last = places[-1]
        objective, sensitivity = self._end(last, network, carry, constants)
        flat = self.strategy.run(self._window_of_share, (last, network, recorded, sensitivity))
        return carry, *self._apply(objective, flat)

    def _record_period(
        self, place: Place, network: Network, carry: unroll.Carry, constants: Any
    ) -> tuple[unroll.Carry, meta_gradient.Recorded]:
        return self.strategy.run(self._record_of_share, (place, network, carry, constants))

    def _end_window(
        self, place: Place, network: Network, carry: unroll.Carry, constants: Any
    ) -> tuple[tf.Tensor, tf.Tensor]:
        return self.strategy.run(self._end_of_share, (place, network, carry, constants))

    def _apply_gradients(self, objective: Any, flat: Any) -> tuple[tf.Tensor, tf.Tensor]:
        """The outer update with the replicas' mean gradient. Returns the objective, and if all is finite."""
        objective, flat = (self.strategy.reduce("MEAN", value, axis=None) for value in (objective, flat))
        gradients = unpack(flat, tuple(tuple(weight.shape) for weight in self._weights))
        # The norm, as finite numbers whose squares overflow would leave a NaN behind in Adam and in clipping.
        finite = tf.math.is_finite(tf.linalg.global_norm(gradients))

        def update() -> tf.Tensor:
            self._outer.apply(gradients, self._weights)
            return finite

        tf.cond(finite, update, lambda: finite)
        return objective, finite

    def _period_of_share(
        self, place: Place, network: Network, carry: unroll.Carry, constants: Any
    ) -> tuple[unroll.Carry, tf.Tensor, tf.Tensor]:
        """One replica's part of an outer update: carry, objective and gradient, the latter one vector."""
        start = self._start_of_share(place, network, carry, constants)
        if self.config.doubling:
            # An episode's first steps, where one that is too long may leave units dead: seen from the end,
            # a dead network has no gradient that says so.
            start = start._replace(objective=dataclasses.replace(start.objective, weights="mean"))
        if self.config.plain_tape:
            result = meta_gradient.taped(start)
        else:
            result = meta_gradient.replayed(start, self._sample(place.problem), self._sample_seed(place))
        return result.carry, result.objective, _flat(result.gradient)

    def _imitation_of_share(
        self, place: Place, network: Network, carry: unroll.Carry, constants: Any, lesson: imitation.Lesson
    ) -> tuple[imitation.Lesson, unroll.Carry, tf.Tensor, tf.Tensor]:
        """One replica's part of a period with a teacher."""
        assert self._teacher is not None
        start = self._start_of_share(place, network, carry, constants)
        period = imitation.imitated(start, self._teacher, lesson)
        return period.lesson, period.carry, period.objective, _flat(period.gradient)

    def _record_of_share(
        self, place: Place, network: Network, carry: unroll.Carry, constants: Any
    ) -> tuple[unroll.Carry, meta_gradient.Recorded]:
        """One replica's part of a window's period."""
        return meta_gradient.record(self._start_of_share(place, network, carry, constants))

    def _end_of_share(
        self, place: Place, network: Network, carry: unroll.Carry, constants: Any
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """One replica's objective and sensitivities after a window's last period."""
        start = self._start_of_share(place, network, carry, constants)
        rest = tf.nest.map_structure(lambda b: b[self.config.period :], start.batches)
        return meta_gradient.window_end(start._replace(batches=rest))

    def _window_of_share(
        self,
        last: Place,
        network: Network,
        recorded: Sequence[meta_gradient.Recorded],
        sensitivity: tf.Tensor,
    ) -> tf.Tensor:
        """One replica's gradient of a window, one vector."""
        chosen, count = tf.range(last.problem.size), self._sample(last.problem)
        if count is not None:
            seed = self._sample_seed(last)
            chosen, sensitivity = meta_gradient.sample_window(recorded, sensitivity, count, seed)
        return _flat(meta_gradient.replay_window(self.rule, network, recorded, chosen, sensitivity))

    def _start_of_share(
        self, place: Place, network: Network, carry: unroll.Carry, constants: Any
    ) -> PeriodStart:
        """What this replica's part of a period is made of."""
        objective = self.config.objective
        batches = self._batches_of_share(place, objective.batches)
        return PeriodStart(
            place.problem, self.rule, network, self.config.alpha, objective, carry, constants, batches
        )

    def _sample(self, problem: Problem) -> int | None:
        """How many coordinates are replayed; None for each once."""
        return None if self.config.sample == 1 else math.ceil(self.config.sample * problem.size)

    def _sample_seed(self, place: Place) -> Seed:
        # 1, 2, ... on the first replica, and so on: each has samples of its own.
        count = distribution.replica_id() * self.config.periods + place.period + 1
        return tf.random.fold_in(tf.random.fold_in(self._seed, place.iteration), count)

    def _batches_of_share(self, place: Place, count: int) -> Any:
        """This replica's batches from the period's first one on."""
        config = self.config
        periods = tf.cast(place.iteration, tf.int64) * config.periods + tf.cast(place.period, tf.int64)
        seed = self._seed_of_share(place.problem, self._seed)
        return place.problem.batches(seed, periods * config.period, count)

    def _seed_of_share(self, problem: Problem, seed: Seed) -> Seed:
        """The seeds of this replica's tasks, the same whichever replica has them."""
        if self.config.tasks == 1:
            return seed
        tasks = problem.tasks
        own = distribution.replica_id() * tasks + tf.range(tasks)
        seeds = tf.gather(tf.random.split(seed, self.config.tasks), own)
        return seeds if tasks > 1 else seeds[0]

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
            self._validation = LearnedRunner(problem, self.rule, self.weights())
        self._validation.network = tf.nest.map_structure(tf.convert_to_tensor, self.network)
        run, config = self._validation.run, self.config
        runs = (run(config.steps, seed, config.alpha) for seed in VALIDATION_SEEDS)
        return float(np.mean([run.final_loss for run in runs]))

    def checkpoint(self) -> Checkpoint:
        """Everything that the rest of the run depends on."""
        weights = coordinatewise.to_tensors(self.weights())
        tensors = {f"network.{name}": value for name, value in weights.items()}
        tensors |= {f"outer.{k}": np.asarray(v) for k, v in enumerate(self._outer.variables)}
        record = {
            "iteration": self.iteration,
            "average_loss": self.average_loss,
            "block_losses": self.block_losses,
            "skipped_updates": self.skipped_updates,
            "config": self.config.as_dict(),
            "teacher": self._teacher_digest(),
        }
        return Checkpoint(tensors, record)

    def restore(self, saved: Checkpoint) -> None:
        """Goes on from a checkpoint of the same config; only `iterations` may have grown.

        Raises:
            ValueError: the config is another one.
        """
        _check_continues(self.config, MetaTrainConfig.from_dict(saved.record["config"]))
        if saved.record.get("teacher") != self._teacher_digest():
            raise ValueError(
                f"teacher: {self.config.teacher} holds other weights than when the run was started. "
                "Put those back, or name another folder for a new run."
            )
        for name, variable in coordinatewise.to_tensors(self.network).items():
            variable.assign(saved.tensors[f"network.{name}"])
        for k, variable in enumerate(self._outer.variables):
            variable.assign(saved.tensors[f"outer.{k}"])
        self.iteration = saved.record["iteration"]
        self.average_loss = saved.record["average_loss"]
        self.block_losses = list(saved.record["block_losses"])
        self.skipped_updates = saved.record["skipped_updates"]


def _flat(gradient: Network) -> tf.Tensor:
    return tf.concat([tf.reshape(g, [-1]) for g in tf.nest.flatten(gradient)], axis=0)


def _outer_optimizer(config: MetaTrainConfig) -> keras.optimizers.Optimizer:
    return keras.optimizers.Adam(config.learning_rate, global_clipnorm=config.clipnorm or None)


def _check_continues(config: MetaTrainConfig, saved: MetaTrainConfig) -> None:
    """Whether a run of the saved config goes on as one of this config."""
    ours, theirs = config.as_dict(), saved.as_dict()
    differing = [name for name in ours if ours[name] != theirs[name]]
    if differing == ["iterations"] and config.iterations > saved.iterations:
        if not config.cosine_decay:
            return
        raise ValueError(
            f"iterations: expected {saved.iterations}, as the cosine decay of this run's learning rate ended "
            f"there. Received: {config.iterations}. Name another folder for a new run."
        )
    if differing:
        raise ValueError(
            "The run to be resumed was started with another config: "
            + "; ".join(f"{name} was {theirs[name]!r}, is {ours[name]!r}" for name in differing)
            + ". Give the same settings (iterations may be more), or another folder for a new run."
        )


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
        strategy: its replicas share the config's tasks; TensorFlow's default, one replica, where None.

    Raises:
        ValueError: the folder holds a run already and `resume` is not set, or its config is another one; or
            the replicas do not divide the tasks; or the workers do not start alike.
        OSError: the folder cannot be read or written.
        KeyboardInterrupt: it was interrupted; the message says after how many episodes.
    """
    saved = checkpoint.iterations(folder)
    if saved and not resume:
        raise ValueError(f"{folder} holds a run already. Resume it with --resume, or name another --run_dir.")
    trainer = MetaTrainer(config, data_dir, strategy)
    if saved:
        trainer.restore(checkpoint.load(checkpoint.path_of(folder, saved[-1])))
    meet = distribution.meeting_of(trainer.strategy)
    _check_alike(trainer, meet)
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
            stop = any(meet(interrupted()))
            due = trainer.iteration % config.checkpoint_every == 0 or trainer.iteration == config.iterations
            if (due or stop) and distribution.is_chief(trainer.strategy):
                _save(trainer, folder, due)
    if trainer.iteration < config.iterations:
        raise KeyboardInterrupt(
            f"Interrupted after {trainer.iteration} episodes; a checkpoint holds them. --resume goes on."
        )


def _check_alike(trainer: MetaTrainer, meet: Callable[[int], list[int]]) -> None:
    """Workers of other settings, or that read another folder, would silently train something else."""
    state = trainer.checkpoint()
    digest = zlib.crc32(checkpoint.to_bytes(state))
    if len(set(meet(digest))) > 1:
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

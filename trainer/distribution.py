"""Replicas that share the tasks of an outer update: TensorFlow's strategies, by the command line's names.

Weights and outer optimizer are ordinary variables of each process; only what the replicas compute goes
through the strategy, and comes back reduced, alike for every worker.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable

import tensorflow as tf

STRATEGIES = ("none", "mirrored", "multi_worker")


def strategy_of(name: str) -> tf.distribute.Strategy:
    """The strategy of that name; "multi_worker" must be made before TensorFlow does anything else.

    Raises:
        ValueError: "multi_worker" without a cluster in TF_CONFIG, or no such strategy.
    """
    if name == "none":
        return tf.distribute.get_strategy()
    if name == "mirrored":
        return tf.distribute.MirroredStrategy()
    if name == "multi_worker":
        _check_cluster(os.environ.get("TF_CONFIG", ""))
        return tf.distribute.MultiWorkerMirroredStrategy()
    raise ValueError(f"No strategy named {name!r}. Expected one of {', '.join(STRATEGIES)}.")


def _check_cluster(text: str) -> None:
    # Without it TensorFlow would start one run of its own in each process, all in the same folder.
    try:
        config = json.loads(text)
        config["cluster"]["worker"], config["task"]["type"], config["task"]["index"]
    except (ValueError, KeyError, TypeError):
        raise ValueError(
            "strategy multi_worker: expected TF_CONFIG in the environment, such as "
            '{"cluster": {"worker": ["host0:port", "host1:port"]}, "task": {"type": "worker", "index": 0}}. '
            f"Received: {text!r}"
        ) from None


def tasks_per_replica(strategy: tf.distribute.Strategy, tasks: int) -> int:
    """Number of the meta-batch's tasks that each replica has.

    Raises:
        ValueError: the replicas do not divide the tasks.
    """
    replicas = strategy.num_replicas_in_sync
    if tasks % replicas:
        raise ValueError(
            f"meta_batch_size: expected a multiple of the {replicas} replicas. Received: {tasks}"
        )
    return tasks // replicas


def replica_id() -> tf.Tensor:
    """Which of all workers' replicas this is, inside `strategy.run`."""
    return tf.convert_to_tensor(tf.distribute.get_replica_context().replica_id_in_sync_group)


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Whether this process writes the run's files."""
    return strategy.extended.should_checkpoint


def gatherer_of(strategy: tf.distribute.Strategy) -> Callable[[int], list[int]]:
    """A function from each worker's number to those of all replicas' workers; they wait for each other."""

    @tf.function(autograph=False)
    def gather(value: tf.Tensor) -> tf.Tensor:
        return strategy.gather(strategy.run(lambda: value[None]), axis=0)

    return lambda value: gather(tf.constant(value, tf.int64)).numpy().tolist()

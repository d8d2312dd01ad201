"""More than one device, more than one machine: the single-device result, and the same on each replica.

Replicas are logical CPUs, machines are processes on the loopback interface; a test has processes of its own,
as TensorFlow sets up devices and clusters once. Starting one takes seconds, so a test of two replicas checks
the optimizer and meta-training.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from trainer import checkpoint, distribution, files

ROOT = Path(__file__).parent.parent


def start_python(script, *arguments, **environment):
    """Runs a script in a fresh process that can import the packages."""
    return subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        env=os.environ | {"PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def start_workers(script, *arguments):
    """The script in two processes that know each other through TF_CONFIG."""
    with socket.socket() as one, socket.socket() as two:
        for free in (one, two):
            free.bind(("localhost", 0))
        hosts = [f"localhost:{free.getsockname()[1]}" for free in (one, two)]
    tasks = [{"cluster": {"worker": hosts}, "task": {"type": "worker", "index": k}} for k in range(2)]
    return [start_python(script, *arguments, TF_CONFIG=json.dumps(task)) for task in tasks]


def finish(*processes):
    """Waits for all to end. Returns the exit status, output and errors of each."""
    try:
        outputs = [process.communicate(timeout=540) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, *output) for process, output in zip(processes, outputs, strict=True)]


def succeed(*processes):
    """Waits for all to end well. Returns the last line that each printed."""
    finished = finish(*processes)
    assert not any(status for status, *_ in finished), "\n".join(errors[-3000:] for *_, errors in finished)
    return [output.splitlines()[-1] if output else "" for _, output, _ in finished]


TWO_DEVICES = """
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
"""
TWO_WORKERS = """
import tensorflow as tf
strategy = tf.distribute.MultiWorkerMirroredStrategy()
"""

# The optimizer.

MODEL = """
import gc, hashlib, keras, numpy as np, weakref
from rnnprop_tf import RNNprop
from rnnprop_tf.network import Architecture, initial_weights

network = tf.nest.map_structure(lambda w: 3 * w, initial_weights(Architecture(2, (4,), (4,)), 0))
# Words repeat within a replica's half of 4 examples and across the halves; word 9 is never used.
words = np.random.default_rng(0).integers(0, 9, size=(24, 3))
y = np.cos(words.sum(axis=1, keepdims=True)).astype("float32")

def make(optimizer=None, **settings):
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Embedding(10, 2), keras.layers.Flatten(), keras.layers.Dense(4, "tanh")]
    model = keras.Sequential([keras.Input((3,)), *layers, keras.layers.Dense(1)])
    model.compile(optimizer or RNNprop(0.05, network=network, **settings), "mse")
    return model

def values(model):
    return [v.numpy() for v in (*model.weights, *model.optimizer.variables[4:])]

def counts(optimizer):
    return tuple(int(v.numpy()) for v in (optimizer.iterations, *optimizer.variables[2:4]))

def assert_close(ours, theirs):
    for one, two in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(two, one, rtol=1e-4, atol=1e-6)

def assert_same(ours, theirs):
    for one, two in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(two, one)

def custom_loop(strategy, model):
    # The optimizer is built on the first, traced step.
    @tf.function
    def train(x, y):
        def replica(x, y):
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean((model(x) - y) ** 2) / strategy.num_replicas_in_sync
            gradients = tape.gradient(loss, model.trainable_variables)
            model.optimizer.apply(gradients, model.trainable_variables)
        strategy.run(replica, args=(x, y))
    return train
"""

TWO_REPLICAS = """
def handles(model):
    return [weakref.ref(replica.handle) for v in model.optimizer.variables for replica in v.value.values]

def check_replicas(model):
    for v in (*model.weights, *model.optimizer.variables):
        first, second = (replica.numpy() for replica in v.value.values)
        np.testing.assert_array_equal(first, second, err_msg=v.path)

plain = {"weight_decay": 0.01}
for settings in (plain, *CLIPPINGS):
    single = make(**settings)
    with strategy.scope():
        double = make(**settings)
    for model in (single, double):
        model.fit(words, y, batch_size=8, epochs=2, shuffle=False, verbose=0)
    assert_close(values(single), values(double))
    check_replicas(double)
    assert counts(double.optimizer) == (6, 6, 0), counts(double.optimizer)
    if settings is plain:
        expected = values(single)
    else:  # tight enough to act on each half of the gradient
        assert np.abs(values(single)[2] - expected[2]).max() > 1e-3

# An infinity on one replica only.
before = values(double)
bad = y[:8].copy()
bad[-1] = np.inf
double.fit(words[:8], bad, batch_size=8, verbose=0)
assert_same(before, values(double))
check_replicas(double)
assert counts(double.optimizer) == (7, 6, 1), counts(double.optimizer)

fitted = handles(double)
with strategy.scope():
    double = make(**plain)
train = custom_loop(strategy, double)
data = tf.data.Dataset.from_tensor_slices((words, y)).batch(8)
for _ in range(2):
    for batch in strategy.experimental_distribute_dataset(data):
        train(*batch)
assert_close(expected, values(double))
check_replicas(double)
looped = handles(double)

# The average of the iterates, which `fit` leaves in the model. One replica's infinity is no step.
single = make(use_averaging=True)
with strategy.scope():
    double = make(use_averaging=True)
for model in (single, double):
    model.fit(words, y, batch_size=8, epochs=2, shuffle=False, verbose=0)
    model.fit(words[:8], bad, batch_size=8, verbose=0)
assert_close(values(single), values(double))
check_replicas(double)
assert counts(double.optimizer) == (7, 6, 1), counts(double.optimizer)
assert np.abs(values(double)[2] - expected[2]).max() > 1e-3

# A dropped model takes its state along, fitted or trained in a loop of one's own.
gone = fitted + looped + handles(double)
assert len(gone) > 100
del model, double, train, batch
keras.backend.clear_session()
gc.collect()
assert not [handle for handle in gone if handle() is not None]
"""


CUSTOM_LOOP = """
settings = {"weight_decay": 0.01, "global_clipnorm": 0.05}
single = make(**settings)
with strategy.scope():
    double = make(**settings)
alone, together = custom_loop(tf.distribute.get_strategy(), single), custom_loop(strategy, double)
data = tf.data.Dataset.from_tensor_slices((words, y)).batch(8)
for batch in data:
    alone(*batch)
for batch in strategy.experimental_distribute_dataset(data):
    together(*batch)
assert_close(values(single), values(double))
assert counts(double.optimizer) == (3, 3, 0)

# An infinity at one worker only.
before = values(double)
y[7] = np.inf
for batch in strategy.experimental_distribute_dataset(
    tf.data.Dataset.from_tensor_slices((words[:8], y[:8])).batch(8)
):
    together(*batch)
assert_same(before, values(double))
assert counts(double.optimizer) == (4, 3, 1)
print(hashlib.sha256(b"".join(v.tobytes() for v in values(double))).hexdigest())
"""


@pytest.mark.slow
def test_two_workers_equal_one_process_and_each_other():
    one, two = succeed(*start_workers(TWO_WORKERS + MODEL + CUSTOM_LOOP))
    assert one == two


FIT = """
with strategy.scope():
    model = make(OPTIMIZER)
model.fit(tf.data.Dataset.from_tensor_slices((words, y)).batch(8), verbose=0)
"""


@pytest.mark.slow
@pytest.mark.xfail(
    strict=True, reason="Keras 3.15.1: `fit` takes a PerReplica batch for a tensor, whatever the optimizer"
)
@pytest.mark.parametrize("optimizer", ["keras.optimizers.Adam()", "None"], ids=["adam", "rnnprop"])
def test_two_workers_fit(optimizer):
    succeed(*start_workers(TWO_WORKERS + MODEL + FIT.replace("OPTIMIZER", optimizer)))


# Meta-training.

META = """
import dataclasses
import numpy as np
from trainer.config import MetaTrainConfig
from trainer.episodes import Place
from trainer.meta_train import MetaTrainer

tf.config.experimental.enable_op_determinism()
config = MetaTrainConfig(
    task="digits-nn-sigmoid-100", convex_dimension=3, episode_steps=4, period=2, outer_learning_rate=1e-2,
    clipnorm=0.5,
)

def trained(trainer):
    losses = [trainer.train_episode() for _ in range(3)]
    tensors = trainer.checkpoint().tensors
    return losses, np.concatenate([np.ravel(tensors[k]) for k in sorted(tensors) if k.startswith("network")])

def check_equal(**changes):
    changed = dataclasses.replace(config, **changes)
    single, double = MetaTrainer(changed), MetaTrainer(changed, strategy=strategy)
    start = single._weights[2].numpy()
    (losses, expected), (their_losses, weights) = trained(single), trained(double)
    np.testing.assert_allclose(their_losses, losses, rtol=1e-5)
    np.testing.assert_allclose(weights, expected, atol=1e-5)
    assert np.abs(single._weights[2].numpy() - start).max() > 1e-2
"""


# Of four tasks each replica has two, of two one.
@pytest.mark.parametrize(
    ("clippings", "tasks"),
    [(["global_clipnorm"], 4), pytest.param(["clipnorm", "clipvalue"], 2, marks=pytest.mark.slow)],
    ids=str,
)
def test_two_replicas_train_and_meta_train_as_one_device_does(clippings, tasks):
    settings = [{clipping: 0.02} for clipping in clippings]
    optimizer = f"CLIPPINGS = {settings}\n" + MODEL + TWO_REPLICAS
    meta_training = META + f"check_equal(plain_tape=True, meta_batch_size={tasks})\n"
    succeed(start_python(TWO_DEVICES + optimizer + meta_training))


REPLAY = """
check_equal(sample=1.0, meta_batch_size=2)

def estimator(**changes):
    trainer = MetaTrainer(dataclasses.replace(config, meta_batch_size=2, **changes), strategy=strategy)
    [problem] = trainer.episodes.problems
    batches = problem.batches
    problem.batches = lambda seed, first, count: batches(seed, 0 * first, count)
    episode = trainer._begin(problem, tf.constant(0))

    @tf.function(autograph=False)
    def estimate(iteration):
        # Of all that depends on the iteration only the sample is left.
        network = tf.nest.map_structure(tf.convert_to_tensor, trainer.network)
        place = Place(problem, iteration, tf.constant(0))
        _, _, flat = strategy.run(trainer._estimate, (place, network, episode))
        return strategy.reduce("MEAN", flat, axis=None)

    return lambda iteration: estimate(tf.constant(iteration)).numpy()

truth = estimator(plain_tape=True)(0)
sampled = estimator(sample=0.05)
draws = np.stack([sampled(k) for k in range(200)])
np.testing.assert_array_equal(sampled(3), draws[3])
along = draws @ truth / np.linalg.norm(truth)
assert along.std() > 1e-3 * np.linalg.norm(truth)
z = (along.mean() - np.linalg.norm(truth)) / (along.std(ddof=1) / np.sqrt(len(draws)))
assert abs(z) < 4, z
"""


@pytest.mark.slow
def test_replicas_replay_exactly_or_samples_of_their_own_without_bias():
    succeed(start_python(TWO_DEVICES + META + REPLAY))


COMMAND = "from trainer import commands, train; commands.run(train.main)"
SETTINGS = [
    "--preset=demo",
    "--meta_batch_size=2",
    "--plain_tape",
    "--convex_dimension=3",
    "--episode_steps=6",
    "--period=3",
    "--last_batches=1",
    "--outer_learning_rate=0.01",
    "--iterations=40",
    "--checkpoint_every=4",
]


def wait_for_checkpoint(folder, process):
    """Until there is one more."""
    before, deadline = checkpoint.iterations(str(folder)), time.monotonic() + 200
    while checkpoint.iterations(str(folder)) == before:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.slow
def test_workers_are_one_run_that_may_be_interrupted_and_killed(tmp_path):
    """As one process with the same tasks; bit for bit as never stopped after a SIGTERM, and a kill -9, of one
    worker, both started again by the same command."""
    one, two, stopped = (tmp_path / name for name in ("one", "two", "stopped"))

    def start(folder):
        arguments = [*SETTINGS, "--strategy=multi_worker", "--resume", f"--run_dir={folder}"]
        return start_workers(COMMAND, *arguments)

    succeed(start_python(COMMAND, *SETTINGS, f"--run_dir={one}"))
    succeed(*start(two))
    assert checkpoint.iterations(str(two)) == list(range(4, 41, 4))
    alone, together = (checkpoint.load(checkpoint.path_of(str(folder), 40)) for folder in (one, two))
    assert alone.record["config"] == together.record["config"]
    for name, value in together.tensors.items():
        np.testing.assert_allclose(value, alone.tensors[name], atol=1e-4, err_msg=name)

    workers = start(stopped)
    wait_for_checkpoint(stopped, workers[0])
    workers[1].send_signal(signal.SIGTERM)
    for status, _, errors in finish(*workers):
        assert status == 1
        assert "Interrupted after " in errors
    *_, last = checkpoint.iterations(str(stopped))
    assert 4 <= last < 40

    workers = start(stopped)
    wait_for_checkpoint(stopped, workers[0])
    workers[1].kill()
    (status, _, errors), _ = finish(*workers)
    assert status == 1
    assert "Another worker is gone or cannot be reached. Start all of them again, with --resume." in errors

    succeed(*start(stopped))
    assert files.read(checkpoint.path_of(str(stopped), 40)) == files.read(checkpoint.path_of(str(two), 40))
    summaries = [name for name in os.listdir(stopped) if name.startswith("events.out")]
    assert len(summaries) == 3  # of the chief's three starts


@pytest.mark.slow
def test_workers_of_other_settings_do_not_start(tmp_path):
    script = "import json, os, sys; index = json.loads(os.environ['TF_CONFIG'])['task']['index']\n"
    script += "sys.argv.append(f'--seed={index}')\n" + COMMAND
    arguments = [*SETTINGS, "--strategy=multi_worker", f"--run_dir={tmp_path}"]
    for status, _, errors in finish(*start_workers(script, *arguments)):
        assert status == 1
        assert "The workers do not start alike. Expected the same flags and the same --run_dir" in errors
    assert os.listdir(tmp_path) == []


def test_replicas_must_divide_the_tasks():
    strategy = SimpleNamespace(num_replicas_in_sync=2)
    assert distribution.tasks_per_replica(strategy, 6) == 3
    with pytest.raises(
        ValueError, match=r"meta_batch_size: expected a multiple of the 2 replicas. Received: 3"
    ):
        distribution.tasks_per_replica(strategy, 3)


@pytest.mark.parametrize("config", [None, "", "{", "[]", '{"cluster": {"worker": ["a:1"]}}', '{"task": 1}'])
def test_workers_must_know_each_other(monkeypatch, config):
    """Else each process would be a run of its own, in one folder."""
    monkeypatch.delenv("TF_CONFIG", raising=False)
    if config is not None:
        monkeypatch.setenv("TF_CONFIG", config)
    with pytest.raises(ValueError, match="strategy multi_worker: expected TF_CONFIG in the env") as refused:
        distribution.strategy_of("multi_worker")
    assert str(refused.value).endswith(f"Received: {config or ''!r}")


def test_an_unknown_strategy_is_refused():
    with pytest.raises(ValueError, match=r"No strategy named 'tpu'. Expected one of none, mirrored, multi_w"):
        distribution.strategy_of("tpu")

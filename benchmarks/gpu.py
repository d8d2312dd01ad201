"""RNNprop on a GPU: are its steps those of a CPU, does `fit` train, what does it cost beside Adam.

    python -m benchmarks.gpu

Needs a GPU, a checkout, and `pip install . 'tensorflow[and-cuda]'`; no data sets. Ends after eight minutes at
the latest and writes what it has after each result. Exit code 2 says that there is no GPU, 1 that a result is
not as it should be. `--device=cpu` rehearses the command at tiny sizes.

Each part runs in a process of its own, so that one that runs out of memory or time leaves the others alone:

- `parity`: 100 steps from the same gradients on the CPU and on the GPU, see `benchmarks.gpu_parity`.
- `fit`: a convolutional network trained by `fit`, in float32 and in mixed_float16.
- `steps`: training steps (`fit`'s own function on one small batch of random data) with Adam and with RNNprop,
  as it comes, with a float32 state and with the network of the paper's size: milliseconds, bytes of state,
  peak memory of the GPU.
"""

from __future__ import annotations

import functools
import gc
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from absl import flags

from benchmarks import gpu_models, gpu_parity
from benchmarks.machine import machine, save
from benchmarks.update_step import seconds, train_step
from rnnprop_tf import LossScaleOptimizer, RNNprop
from trainer import commands

FLAGS = flags.FLAGS

NO_GPU = 2
"""Exit code where there is no GPU."""

OUT_OF_TIME = "out of time"


class Model(NamedTuple):
    """A model to time."""

    make: Callable[[], keras.Model]
    batch: int


class Sizes(NamedTuple):
    """How much of everything."""

    shapes: tuple[tuple[int, ...], ...]
    """Variables whose steps are compared."""
    large: tuple[int, ...]
    """One more, for the cases that ask for it."""
    parity_steps: int
    fit_model: Callable[[], keras.Model]
    fit_examples: int
    models: dict[str, Model]
    timed_steps: int


SMALL_SHAPES = ((120, 200), (300,), (7, 3))
SIZES = {
    "gpu": Sizes(
        shapes=SMALL_SHAPES,
        large=(1_100, 1_000),
        parity_steps=100,
        fit_model=gpu_models.cnn,
        fit_examples=4_096,
        models={
            "CNN": Model(gpu_models.cnn, 64),
            "ViT-S/16": Model(lambda: gpu_models.vision_transformer(384, 6), 8),
            "ViT-B/16": Model(lambda: gpu_models.vision_transformer(768, 12), 8),
        },
        timed_steps=20,
    ),
    "cpu": Sizes(
        shapes=((6, 4), (3,)),
        large=(70_000,),
        parity_steps=8,
        fit_model=lambda: gpu_models.cnn(8, 8),
        fit_examples=1_024,
        models={
            "CNN": Model(lambda: gpu_models.cnn(8, 8), 4),
            "ViT": Model(lambda: gpu_models.vision_transformer(8, 2, depth=1, size=32, classes=4), 2),
        },
        timed_steps=2,
    ),
}

OPTIMIZERS: dict[str, Callable[[], keras.optimizers.Optimizer]] = {
    # The largest last: what runs out of memory ends its process.
    "Adam": keras.optimizers.Adam,
    "RNNprop": RNNprop.from_pretrained,
    "RNNprop, float32": lambda: RNNprop.from_pretrained(state_dtype="float32"),
    "RNNprop, rnnprop-1": lambda: RNNprop.from_pretrained("rnnprop-1"),
}

Entry = dict[str, Any]


def parity(sizes: Sizes, cases: Sequence[gpu_parity.Case] = gpu_parity.CASES) -> Iterator[Entry]:
    """Steps on TensorFlow's default device beside a CPU's."""
    tf.config.experimental.enable_tensor_float_32_execution(False)
    for case in cases:
        shapes = (*sizes.shapes, sizes.large) if case.large else sizes.shapes
        with gpu_parity.points_of_a_cpu(case, shapes, sizes.parity_steps) as reference:
            yield from gpu_parity.compare(case, shapes, reference)


def fit(sizes: Sizes) -> Iterator[Entry]:
    """Training by `fit` on images of ten kinds that are easy to tell apart."""
    rng = np.random.default_rng(0)
    for policy in ("float32", "mixed_float16"):
        keras.config.set_dtype_policy(policy)
        keras.utils.set_random_seed(0)
        model = sizes.fit_model()
        optimizer: Any = RNNprop.from_pretrained()
        if policy == "mixed_float16":
            optimizer = LossScaleOptimizer(optimizer)
        model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        y = rng.integers(0, 10, sizes.fit_examples)
        kinds = rng.normal(size=(10, *model.input_shape[1:]))
        x = kinds[y] + rng.normal(size=(len(y), *model.input_shape[1:]))
        begin = time.perf_counter()
        losses = model.fit(x.astype("float32"), y, batch_size=32, epochs=3, verbose=0).history["loss"]
        yield {
            "policy": policy,
            "jit_compile": bool(model.jit_compile),
            "device": tf.DeviceSpec.from_string(model.trainable_variables[0].value.device).device_type,
            "seconds": time.perf_counter() - begin,
            "loss_by_epoch": losses,
            "learns": bool(losses[-1] < 0.5 * losses[0]),
        }
    keras.config.set_dtype_policy("float32")


def steps(sizes: Sizes, name: str, jit_compile: bool) -> Iterator[Entry]:
    """Training steps of one model with each optimizer."""
    on_gpu = bool(tf.config.list_physical_devices("GPU"))
    adam: float | None = None
    for kind, make in OPTIMIZERS.items():
        entry: Entry = {"model": name, "optimizer": kind, "jit_compile": jit_compile}
        if on_gpu:
            tf.config.experimental.reset_memory_stats("GPU:0")
        try:
            entry |= step_cost(sizes.models[name], make(), jit_compile, sizes.timed_steps)
        except tf.errors.ResourceExhaustedError:
            yield entry | {"out_of_memory": True}
            continue
        adam = entry["milliseconds"] if kind == "Adam" else adam
        peak = tf.config.experimental.get_memory_info("GPU:0")["peak"] if on_gpu else None
        yield entry | {"peak_bytes": peak, "times_adam": adam and entry["milliseconds"] / adam}
        keras.backend.clear_session()
        gc.collect()  # Or the next model would find the memory taken.


def step_cost(which: Model, optimizer: keras.optimizers.Optimizer, jit_compile: bool, times: int) -> Entry:
    """Time and state; the first call traces and compiles."""
    model = which.make()
    step = train_step(model, optimizer, jit_compile, batch=which.batch)
    first = seconds(step)
    seconds(step)
    return {
        "parameters": model.count_params(),
        "batch": which.batch,
        "first_step_seconds": first,
        "milliseconds": 1e3 * float(np.median([seconds(step) for _ in range(times)])),
        "state_bytes": sum(v.value.shape.num_elements() * v.value.dtype.size for v in optimizer.variables),
    }


def parts(sizes: Sizes) -> dict[str, Callable[[], Iterator[Entry]]]:
    """What there is to do, by name, the surest first."""
    result: dict[str, Callable[[], Iterator[Entry]]] = {
        "parity": functools.partial(parity, sizes),
        "fit": functools.partial(fit, sizes),
    }
    for how, jit_compile in (("plain", False), ("compiled", True)):
        for name in sizes.models:
            result[f"steps: {name}, {how}"] = functools.partial(steps, sizes, name, jit_compile)
    return result


def entries(part: str, device: str, limit: float) -> Iterator[Entry]:
    """Runs a part in a process of its own, for so many seconds at most; its results as they come."""
    command = [sys.executable, "-m", "benchmarks.gpu", f"--device={device}", f"--part={part}"]
    end = time.perf_counter() + limit
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        timer = threading.Timer(limit, process.kill)
        timer.start()
        try:
            for line in process.stdout:
                if line.startswith("{"):
                    yield json.loads(line)
            if process.wait():
                late = time.perf_counter() >= end
                yield {"failed": OUT_OF_TIME if late else f"exit code {process.returncode}, see above"}
        finally:
            timer.cancel()
            process.kill()


def wrong(entry: Entry, device: str) -> bool:
    """Whether a result is not as it should be; a part that ran out of time or memory is only incomplete."""
    failed = entry.get("failed", OUT_OF_TIME) != OUT_OF_TIME
    elsewhere = entry.get("device", device.upper()) != device.upper()
    return failed or elsewhere or not entry.get("agrees", True) or not entry.get("learns", True)


def measure(device: str, minutes: float, out: str) -> list[Entry]:
    """Runs all parts, writes after each result. Returns the results that are not as they should be."""
    begin = time.perf_counter()
    result: dict[str, Any] = {"machine": machine(), "device": device, "complete": False}
    result |= {"parity": [], "fit": [], "steps": [], "seconds": 0.0}
    found: list[Entry] = []
    for part in parts(SIZES[device]):
        print(f"{time.perf_counter() - begin:5.0f} s  {part}", flush=True)
        left = 60.0 * minutes - (time.perf_counter() - begin)
        for entry in entries(part, device, left) if left > 0.0 else [{"failed": OUT_OF_TIME}]:
            entry = {"part": part} | entry
            print(f"{time.perf_counter() - begin:5.0f} s    {shown(entry)}", flush=True)
            result[part.partition(":")[0]].append(entry)
            found.append(entry)
            result["seconds"] = time.perf_counter() - begin
            save(result, out)
    result["complete"] = not any("failed" in entry for entry in found)
    save(result, out)
    return [entry for entry in found if wrong(entry, device)]


def shown(entry: Entry) -> str:
    """A result in one line."""
    values = {key: value for key, value in entry.items() if key != "part" and value is not None}
    return ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in values.items())


def main(_: list[str]) -> None:
    if FLAGS.device == "gpu" and not tf.config.list_physical_devices("GPU"):
        print(
            "TensorFlow finds no GPU. Install `tensorflow[and-cuda]` on a machine with one, or rehearse the "
            "command with --device=cpu.",
            file=sys.stderr,
        )
        raise SystemExit(NO_GPU)
    if FLAGS.part:
        for entry in parts(SIZES[FLAGS.device])[FLAGS.part]():
            print(json.dumps(entry), flush=True)
        return
    found = measure(FLAGS.device, FLAGS.minutes, FLAGS.out)
    print(f"Written to {FLAGS.out}")
    if found:
        raise SystemExit("Not as it should be:\n" + "\n".join(f"  {e['part']}: {shown(e)}" for e in found))


if __name__ == "__main__":
    flags.DEFINE_enum("device", "gpu", ["gpu", "cpu"], "what to measure; cpu is a rehearsal at tiny sizes")
    flags.DEFINE_float("minutes", 8.0, "how long it may take", lower_bound=0.1)
    flags.DEFINE_string("out", "results/benchmarks/gpu.json", "where to write")
    flags.DEFINE_string("part", None, "for the command itself: do this part in this process")
    commands.run(main)

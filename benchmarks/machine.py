"""What a benchmark's numbers were measured on, and where they go."""

from __future__ import annotations

import json
import os
import platform
from typing import Any

import keras
import tensorflow as tf

from trainer import files


def machine() -> dict[str, Any]:
    """Processor, cores, GPUs, load and versions."""
    with open("/proc/cpuinfo") as info:
        names = [line.split(":")[1].strip() for line in info if line.startswith("model name")]
    gpus = [tf.config.experimental.get_device_details(d) for d in tf.config.list_physical_devices("GPU")]
    return {
        "cpu": names[0] if names else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "gpus": [gpu.get("device_name") for gpu in gpus],
        "load_average": os.getloadavg()[0],
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
    }


def save(result: dict[str, Any], path: str) -> None:
    """Writes the numbers as JSON, the whole file or nothing."""
    files.write_atomically(path, f"{json.dumps(result, indent=2)}\n".encode())


def write(result: dict[str, Any], path: str) -> None:
    """Prints the numbers and writes them as JSON."""
    print(json.dumps(result, indent=2))
    save(result, path)

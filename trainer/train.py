"""Meta-trains a learned optimizer: `python -m trainer.train --preset=paper-rnnprop --run_dir=runs/mine`."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from typing import Any

import tensorflow as tf
from absl import app, flags

from trainer import meta_train
from trainer.config import PRESETS, MetaTrainConfig, preset

FLAGS = flags.FLAGS
flags.DEFINE_enum(
    "preset", "paper-rnnprop", list(PRESETS), "the named recipe; further flags change parts of it"
)
flags.DEFINE_string(
    "run_dir", None, "folder of the run; any path that TensorFlow opens, gs:// included", required=True
)
flags.DEFINE_string("data_dir", None, "TFDS's folder; by default TFDS_DATA_DIR, or TFDS's own")
flags.DEFINE_bool("resume", False, "go on from the run's last checkpoint")

_DEFINE: dict[Any, Callable[..., Any]] = {
    "str": flags.DEFINE_string,
    "int": flags.DEFINE_integer,
    "float": flags.DEFINE_float,
    "bool": flags.DEFINE_bool,
}
for _field in dataclasses.fields(MetaTrainConfig):
    _DEFINE[_field.type](_field.name, None, f"{_field.metadata['help']} (default: the preset's)")


def config_from_flags() -> MetaTrainConfig:
    """The preset with what the command line changes."""
    recipe = preset(FLAGS.preset)
    names = [field.name for field in dataclasses.fields(MetaTrainConfig)]
    given: dict[str, Any] = {name: FLAGS[name].value for name in names if FLAGS[name].value is not None}
    return dataclasses.replace(recipe, **given)


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {' '.join(argv[1:])}")
    tf.config.experimental.enable_op_determinism()
    try:
        meta_train.train(config_from_flags(), os.path.expanduser(FLAGS.run_dir), FLAGS.data_dir, FLAGS.resume)
    except (ValueError, RuntimeError, OSError) as error:
        raise SystemExit(str(error)) from error
    except KeyboardInterrupt:
        raise SystemExit(
            "Interrupted. Episodes since the last checkpoint are lost; --resume goes on from there."
        ) from None


if __name__ == "__main__":
    app.run(main)

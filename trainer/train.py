"""Meta-trains a learned optimizer: `python -m trainer.train --preset=paper-rnnprop --run_dir=runs/mine`."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable
from typing import Any

import tensorflow as tf
from absl import flags

from trainer import checkpoint, commands, distribution, meta_train
from trainer.config import PRESETS, MetaTrainConfig, preset

FLAGS = flags.FLAGS
flags.DEFINE_enum(
    "preset", "paper-rnnprop", list(PRESETS), "the named recipe; further flags change parts of it"
)
flags.DEFINE_string(
    "run_dir", None, "folder of the run; any path that TensorFlow opens, gs:// included", required=True
)
flags.DEFINE_string("data_dir", None, "TFDS's folder; by default TFDS_DATA_DIR, or TFDS's own")
flags.DEFINE_bool("resume", False, "go on from the run's last checkpoint, or start if there is none")
flags.DEFINE_enum(
    "strategy",
    "none",
    distribution.STRATEGIES,
    "who shares the tasks of an outer update: one device, all of this machine's, or the workers of TF_CONFIG",
)

_DEFINE: dict[Any, Callable[..., Any]] = {
    "str": flags.DEFINE_string,
    "int": flags.DEFINE_integer,
    "float": flags.DEFINE_float,
    "bool": flags.DEFINE_bool,
}
for _field in dataclasses.fields(MetaTrainConfig):
    _DEFINE[_field.type](_field.name, None, f"{_field.metadata['help']} (default: the preset's)")
UNSETTABLE = [field.name for field in dataclasses.fields(MetaTrainConfig) if field.type == "str"]
"""Settings that `--name=` unsets; the config says where it needs something."""


def config_from_flags() -> MetaTrainConfig:
    """The preset with what the command line changes."""
    recipe = preset(FLAGS.preset)
    names = [field.name for field in dataclasses.fields(MetaTrainConfig)]
    given: dict[str, Any] = {name: FLAGS[name].value for name in names if FLAGS[name].value is not None}
    return dataclasses.replace(recipe, **given)


def main(_: list[str]) -> None:
    tf.config.experimental.enable_op_determinism()
    tf.get_logger().setLevel("WARNING")  # strategies tell of each reduction
    try:
        config, folder = config_from_flags(), os.path.expanduser(FLAGS.run_dir)
        strategy = distribution.strategy_of(FLAGS.strategy)
        if FLAGS.resume and not checkpoint.iterations(folder):
            print(f"No checkpoint in {folder} yet: a new run starts.", file=sys.stderr)
        meta_train.train(config, folder, FLAGS.data_dir, FLAGS.resume, strategy)
    except (ValueError, RuntimeError, OSError) as error:
        raise SystemExit(str(error)) from error
    except (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError) as error:
        reason = error.message.rpartition("Collective ops is aborted by: ")[2].partition("\n")[0]
        raise SystemExit(
            f"Another worker is gone or cannot be reached. Start all of them again, with --resume. ({reason})"
        ) from error
    except KeyboardInterrupt as interrupt:
        raise SystemExit(
            str(interrupt)
            or "Interrupted. Episodes since the last checkpoint are lost; --resume goes on from there."
        ) from None


if __name__ == "__main__":
    commands.run(main, may_be_empty=UNSETTABLE)

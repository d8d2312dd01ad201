"""Turns a run's best checkpoint into a weight folder.

    python -m trainer.export --run_dir=runs/mine --out=weights/mine
    python -m trainer.export --run_dir=runs/mine --out=weights/mine --annealing=1500 --state_dtype=bfloat16

The checkpoint is chosen by the paper's criterion: the lowest moving-average train loss, or, for a run that
selects by validation, the lowest loss on the plain task. The folder's `config.json` is the weights' card. It
also says what `from_pretrained` is to use them with: as the second command has it, shorter steps late in
training and a narrow state, which take no training.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import flags

from rnnprop_tf import network as coordinatewise
from rnnprop_tf import pretrained
from rnnprop_tf.network import Architecture
from rnnprop_tf.rule import AnnealingRule, RNNpropRule
from rnnprop_tf.state_types import STATE_DTYPES
from trainer import checkpoint, commands
from trainer.checkpoint import Checkpoint
from trainer.config import MetaTrainConfig
from trainer.evaluation.results import Results, Row, short_digest

LICENCE = "Apache-2.0"


def best_checkpoint(folder: str, iteration: int | None = None) -> Checkpoint:
    """The checkpoint that the run's criterion chooses, or that of an iteration.

    Raises:
        ValueError: the folder holds no checkpoint, not that one, or none with a finite loss to judge by.
    """
    there = checkpoint.iterations(folder)
    if not there:
        raise ValueError(f"No checkpoint in {folder}. Expected the --run_dir of a run of trainer.train.")
    if iteration is not None:
        if iteration not in there:
            raise ValueError(f"{folder} holds no checkpoint {iteration}, but {there}.")
        return checkpoint.load(checkpoint.path_of(folder, iteration))
    saved = [checkpoint.load(checkpoint.path_of(folder, k)) for k in there]
    by_validation = saved[0].record["config"]["select"] == "validation"
    criterion = "validation_loss" if by_validation else "average_loss"
    # Those written at an interrupt are left out: a run that was resumed chooses as one that never stopped.
    due = [s for s in saved if not s.record.get("interrupted")]
    rated = [s for s in due if s.record[criterion] is not None and math.isfinite(s.record[criterion])]
    if not rated:
        raise ValueError(
            f"No checkpoint in {folder} has a finite {criterion}; the moving average takes 100 iterations. "
            f"Name a checkpoint with --iteration, one of {there}; or let a run that has not ended go on with "
            "--resume."
        )
    return min(rated, key=lambda s: s.record[criterion])


def export(
    run_dir: str,
    out: str,
    iteration: int | None = None,
    results_dir: str | None = None,
    recipe: str = "",
    annealing: float = 0.0,
    state_dtype: str = STATE_DTYPES[0],
) -> Checkpoint:
    """Writes the weight folder. Returns the checkpoint it was made from.

    Args:
        run_dir: of the run.
        out: the weight folder.
        iteration: of the checkpoint; by default the best one.
        results_dir: of `trainer.evaluate`; what it measured of these very weights goes onto the card.
        recipe: how the weights were made, in words.
        annealing: of the folder's rule, `rnnprop_tf.rule.AnnealingRule`, for weights that were trained under
            the paper's; 0 leaves the rule as the run has it.
        state_dtype: one of `rnnprop_tf.state_types`, for `from_pretrained`.

    Raises:
        ValueError: see `best_checkpoint`; or the results folder holds no runs; or the run's rule does not
            take `annealing`.
        OSError: the weight folder cannot be written.
    """
    rows = [] if results_dir is None else Results(results_dir).rows
    if results_dir is not None and not rows:
        raise ValueError(f"No runs in {results_dir}. Expected the --out folder of trainer.evaluate.")
    chosen = best_checkpoint(run_dir, iteration)
    config = MetaTrainConfig.from_dict(chosen.record["config"])
    rule = config.update_rule
    if annealing:
        if type(rule) is not RNNpropRule:
            raise ValueError(
                f"annealing: expected a run under the paper's rule, RNNpropRule. Received: {rule}. Leave "
                "--annealing out."
            )
        rule = AnnealingRule(**dataclasses.asdict(rule), annealing=annealing)
    tensors = checkpoint.part(chosen, "network")
    provenance: dict[str, Any] = {
        "recipe": recipe,
        "meta_training": chosen.record["config"],
        "seed": config.seed,
        "iterations": chosen.record["iteration"],
        "average_train_loss": chosen.record["average_loss"],
        "data": config.task,
        "licence": LICENCE,
        "results": {},
    }
    network = coordinatewise.from_tensors(tensors, _architecture(tensors))
    pretrained.save(out, network, rule, config.alpha, provenance, state_dtype)
    if rows:
        digest = short_digest(pretrained.load(os.path.join(out, "")).config)
        provenance["results"] = _measured(rows, digest, config.alpha)
        pretrained.save(out, network, rule, config.alpha, provenance, state_dtype)
    return chosen


def _architecture(tensors: Mapping[str, np.ndarray]) -> Architecture:
    """The sizes; weights that a run began with may have others than those of fresh ones."""
    biases = sorted((name, tensor.size) for name, tensor in tensors.items() if name.endswith(".bias"))
    preprocess, lstm = ([n for name, n in biases if name.startswith(part)] for part in ("preprocess", "lstm"))
    return Architecture(preprocess=tuple(preprocess), lstm=tuple(n // 4 for n in lstm))


def _measured(rows: Sequence[Row], digest: str, alpha: float) -> dict[str, Any]:
    """Mean final loss, number of runs and first seed by task, for runs of these weights at alpha.

    A seed counts once, though the same weights were run under several names.
    """
    by_task: dict[str, dict[int, float]] = {}
    for row in rows:
        if row.weights == digest and row.learning_rate == alpha:
            by_task.setdefault(f"{row.task} ({row.steps} steps)", {})[row.seed] = row.final_loss
    return {
        task: {
            "mean_final_loss": float(f"{np.mean(list(losses.values())):.4g}"),
            "runs": len(losses),
            "first_seed": min(losses),
        }
        for task, losses in by_task.items()
    }


def main(_: list[str]) -> None:
    run_dir, out, results = (
        path and os.path.expanduser(path) for path in (FLAGS.run_dir, FLAGS.out, FLAGS.results)
    )
    try:
        chosen = export(
            run_dir, out, FLAGS.iteration, results, FLAGS.recipe, FLAGS.annealing, FLAGS.state_dtype
        )
    except (ValueError, OSError) as error:
        raise SystemExit(str(error)) from error
    print(f"Wrote {out} from the checkpoint after {chosen.record['iteration']} iterations.")


FLAGS = flags.FLAGS
if __name__ == "__main__":
    flags.DEFINE_string("run_dir", None, "folder of the run", required=True)
    flags.DEFINE_string("out", None, "the weight folder to write", required=True)
    flags.DEFINE_integer("iteration", None, "checkpoint to take; by default the best by the run's criterion")
    flags.DEFINE_string("results", None, "folder of trainer.evaluate whose results go onto the card")
    flags.DEFINE_string("recipe", "", "how the weights were made, in words, for the card")
    flags.DEFINE_float(
        "annealing",
        0.0,
        "steps after which updates become shorter; 0: never, as in the paper",
        lower_bound=0.0,
    )
    flags.DEFINE_enum("state_dtype", STATE_DTYPES[0], STATE_DTYPES, "how h and c are stored between steps")
    commands.run(main)

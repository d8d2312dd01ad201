"""The tables and figures of the paper's experiments, the default weights and the Keras models.

    python -m trainer.report --out=results                        # all of the paper's: hours
    python -m trainer.report --out=quick --quick                  # the same with two runs each
    python -m trainer.report --out=results --experiments=table2   # one
    python -m trainer.report --out=results --nocompute            # draw from the files that are there

Two steps: runs are computed into FOLDER/runs, those that are there are not made again, so an interrupted
computation goes on where it stopped; then three pages, each with its figures, are made from the runs that
are there: RESULTS.md in FOLDER/paper, FOLDER/default-weights and FOLDER/keras-models. A NOTES.md beside a
page becomes a part of it.

Weights that do not ship are looked for in FOLDER/weights, then in --weights: the controls, those of Table 4,
the replicates, and the peer's (`python -m trainer.convert --weights=vita_rnnprop_cl_il.npz
--out=FOLDER/weights/vita-rnnprop-cl-il`).
"""

from __future__ import annotations

import os

from absl import flags

from trainer import commands
from trainer.paper import report
from trainer.paper.experiments import EXPERIMENTS, PAPER


def main(_: list[str]) -> None:
    folder = os.path.expanduser(FLAGS.out)
    names = [name for one in FLAGS.experiments for name in (PAPER if one == "paper" else [one])]
    try:
        if unknown := sorted(set(names) - set(EXPERIMENTS)):
            raise ValueError(
                f"No experiment named {unknown}. Expected paper, or among {', '.join(EXPERIMENTS)}."
            )
        if FLAGS.compute:
            report.compute(
                names, FLAGS.optimizers, FLAGS.quick, folder, FLAGS.weights, FLAGS.data_dir, FLAGS.jobs
            )
        report.draw(folder)
    except (ValueError, RuntimeError, OSError) as error:
        raise SystemExit(str(error)) from error
    except KeyboardInterrupt:
        raise SystemExit("Interrupted. The same command goes on from there.") from None


FLAGS = flags.FLAGS
if __name__ == "__main__":
    flags.DEFINE_list(
        "experiments", ["paper"], f"paper for all of the paper's, or some of {', '.join(EXPERIMENTS)}"
    )
    flags.DEFINE_list("optimizers", [], "compute the runs of these alone, such as adam,sgd; by default all")
    flags.DEFINE_bool("compute", True, "make the runs that are missing; --nocompute only draws")
    flags.DEFINE_bool("quick", False, "two runs of each and a coarse tuning, to see it all in minutes")
    flags.DEFINE_integer("jobs", os.cpu_count() or 1, "tasks computed at once", lower_bound=1)
    flags.DEFINE_string("out", None, "folder of the runs and of the pages", required=True)
    flags.DEFINE_string(
        "weights", os.path.join("results", report.WEIGHTS), "folder of weights that do not ship"
    )
    flags.DEFINE_string("data_dir", None, "TFDS's folder; by default TFDS_DATA_DIR, or TFDS's own")
    commands.run(main)

"""Export: the right checkpoint, whole weights, and a card that tells what was measured of them."""

import json
import resource
from types import SimpleNamespace
from unittest import mock

import keras
import numpy as np
import pytest
import tensorflow as tf
from made_runs import TASK, add_cell

from rnnprop_tf import RNNprop, pretrained
from rnnprop_tf import network as coordinatewise
from rnnprop_tf.network import Architecture
from rnnprop_tf.rule import AnnealingRule, DMRule, RNNpropRule
from trainer import checkpoint, export, files
from trainer.checkpoint import Checkpoint
from trainer.config import MetaTrainConfig
from trainer.evaluation.results import Results, short_digest


def save_checkpoint(folder, iteration, average=None, seed=0, architecture=None, **settings):
    config = MetaTrainConfig(task=TASK, **settings)
    architecture = architecture or Architecture(preprocess=() if config.rule == "dm" else (20,))
    weights = coordinatewise.initial_weights(architecture, seed)
    tensors = {f"network.{k}": v for k, v in coordinatewise.to_tensors(weights).items()}
    record = {"iteration": iteration, "average_loss": average, "config": config.as_dict()}
    if config.select == "validation":
        record |= {"validation_loss": average, "average_loss": -1.0 * iteration}
    checkpoint.save(str(folder), Checkpoint(tensors | {"outer.0": np.zeros(3)}, record))
    return weights


@pytest.mark.parametrize("select", ["train", "validation"])
def test_the_best_checkpoint_is_the_criterion_s(tmp_path, select):
    for iteration, loss in [(100, 0.9), (200, 0.5), (300, 0.7), (400, 0.6)]:
        save_checkpoint(tmp_path, iteration, loss, select=select)
    assert export.best_checkpoint(str(tmp_path)).record["iteration"] == 200
    assert export.best_checkpoint(str(tmp_path), 400).record["iteration"] == 400


@pytest.mark.parametrize("select", ["train", "validation"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_loss_that_is_not_finite_is_never_the_best(tmp_path, select, bad):
    for iteration, loss in [(100, bad), (200, 0.5), (300, bad)]:
        save_checkpoint(tmp_path, iteration, loss, select=select)
    assert export.best_checkpoint(str(tmp_path)).record["iteration"] == 200


def test_an_average_of_zero_or_below_is_a_loss(tmp_path):
    """Logarithms of losses are."""
    for iteration, loss in [(100, 0.1), (200, 0.0), (300, None)]:
        save_checkpoint(tmp_path, iteration, loss)
    assert export.best_checkpoint(str(tmp_path)).record["iteration"] == 200


def test_a_folder_says_what_its_weights_are_used_with(tmp_path):
    run, out = str(tmp_path / "run"), str(tmp_path / "weights")
    save_checkpoint(run, 100, 0.5)
    export.export(run, out, annealing=1_500.0, state_dtype="bfloat16")
    loaded = pretrained.load(out)
    assert loaded.rule == AnnealingRule(annealing=1_500.0)
    assert loaded.state_dtype == "bfloat16"


def test_only_the_paper_s_rule_takes_annealing(tmp_path):
    save_checkpoint(tmp_path, 100, 0.5, rule="dm")
    with pytest.raises(
        ValueError, match=r"annealing: expected a run under the paper's rule.*Received: DMRule"
    ):
        export.export(str(tmp_path), str(tmp_path / "weights"), annealing=1_500.0)
    assert not (tmp_path / "weights").exists()


def test_what_there_is_not_cannot_be_exported(tmp_path):
    with pytest.raises(ValueError, match=f"No checkpoint in {tmp_path}. Expected the --run_dir of a run"):
        export.best_checkpoint(str(tmp_path))
    save_checkpoint(tmp_path, 50)
    with pytest.raises(ValueError, match=r"has a finite average_loss; the moving average takes 100 iter"):
        export.best_checkpoint(str(tmp_path))
    with pytest.raises(ValueError, match=r"holds no checkpoint 60, but \[50\]"):
        export.best_checkpoint(str(tmp_path), 60)


@pytest.mark.parametrize("rule", ["rnnprop", "dm"])
def test_an_exported_folder_holds_the_checkpoint_s_weights_and_its_card(tmp_path, rule):
    run, out = str(tmp_path / "run"), str(tmp_path / "weights")
    expected = save_checkpoint(run, 100, 0.25, seed=3, rule=rule, alpha=0.2)
    chosen = export.export(run, out, recipe="by hand")
    assert chosen.record["iteration"] == 100
    loaded = pretrained.load(out)
    tf.nest.map_structure(np.testing.assert_array_equal, loaded.network, expected)
    assert isinstance(loaded.rule, DMRule if rule == "dm" else RNNpropRule)
    assert loaded.learning_rate == 0.2
    card = json.loads(files.read(f"{out}/config.json"))["provenance"]
    assert card["recipe"] == "by hand"
    assert card["meta_training"] == MetaTrainConfig(task=TASK, rule=rule, alpha=0.2).as_dict()
    assert (card["seed"], card["iterations"], card["data"]) == (0, 100, TASK)
    assert (card["average_train_loss"], card["licence"], card["results"]) == (0.25, "Apache-2.0", {})


def test_weights_of_other_sizes_are_exported_whole(tmp_path):
    """A run may begin with such."""
    run, out = str(tmp_path / "run"), str(tmp_path / "weights")
    architecture = Architecture(preprocess=(4, 3), lstm=(5, 2, 6))
    expected = save_checkpoint(run, 100, 0.25, architecture=architecture)
    export.export(run, out)
    found = pretrained.load(out).network
    assert coordinatewise.architecture_of(found) == architecture
    tf.nest.map_structure(np.testing.assert_array_equal, found, expected)


def test_results_that_are_not_there_are_not_an_empty_card(tmp_path):
    run, out, typo = (str(tmp_path / name) for name in ("run", "weights", "typo"))
    save_checkpoint(run, 100, 0.25)
    with pytest.raises(ValueError, match=f"No runs in {typo}. Expected the --out folder of trainer.evaluate"):
        export.export(run, out, results_dir=typo)
    assert not (tmp_path / "weights").exists()


def test_a_keras_model_trains_with_what_was_exported(tmp_path):
    run, out = str(tmp_path / "run"), str(tmp_path / "weights")
    save_checkpoint(run, 100, 0.25)
    export.export(run, out)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile(RNNprop.from_pretrained(out), "mse")
    model.fit(np.ones((4, 3)), np.ones(4), verbose=0)


def test_the_card_tells_what_was_measured_of_these_weights_only(tmp_path):
    run, out, measured = (str(tmp_path / name) for name in ("run", "mine", "results"))
    save_checkpoint(run, 100, 0.25)
    export.export(run, out)
    digest = short_digest(pretrained.load(out).config)
    results = Results(measured)
    for name in ("under any name", "under another"):
        final, _ = add_cell(results, seeds=[4, 5], optimizer=name, weights=digest)
    add_cell(results, optimizer="adam")
    add_cell(results, optimizer=out, weights=digest, rate=0.3)
    add_cell(results, optimizer=out, weights="123456789abc")
    export.export(run, out, results_dir=measured)
    assert pretrained.load(out).config["provenance"]["results"] == {
        f"{TASK} (3 steps)": {"mean_final_loss": float(f"{np.mean(final):.4g}"), "runs": 2, "first_seed": 4}
    }


def test_a_full_disk_leaves_the_exported_weights_that_were_there(tmp_path):
    """A limit on the size of files stands for the disk."""
    run, out = str(tmp_path / "run"), str(tmp_path / "weights")
    old = save_checkpoint(run, 100, 0.25)
    export.export(run, out)
    new = save_checkpoint(run, 200, 0.2, seed=1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(OSError, match="What was there before is whole"):
            export.export(run, out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    tf.nest.map_structure(np.testing.assert_array_equal, pretrained.load(out).network, old)
    export.export(run, out)
    tf.nest.map_structure(np.testing.assert_array_equal, pretrained.load(out).network, new)


def test_a_checkpoint_of_an_interrupt_is_exported_by_its_number_only(tmp_path):
    save_checkpoint(tmp_path, 100, 0.5)
    save_checkpoint(tmp_path, 150, 0.4)
    saved = checkpoint.load(checkpoint.path_of(str(tmp_path), 150))
    saved.record["interrupted"] = True
    checkpoint.save(str(tmp_path), saved)
    assert export.best_checkpoint(str(tmp_path)).record["iteration"] == 100
    assert export.best_checkpoint(str(tmp_path), 150).record["iteration"] == 150


def test_the_export_command_says_what_it_wrote_or_what_is_wrong(tmp_path, capsys):
    values = {
        "run_dir": str(tmp_path / "run"),
        "out": str(tmp_path / "weights"),
        "iteration": None,
        "results": None,
        "recipe": "",
        "annealing": 0.0,
        "state_dtype": "float32",
    }
    with mock.patch.object(export, "FLAGS", SimpleNamespace(**values)):
        with pytest.raises(SystemExit, match="No checkpoint in"):
            export.main(["export"])
        save_checkpoint(values["run_dir"], 100, 0.25)
        with (
            mock.patch.object(export.FLAGS, "out", "/dev/null/weights"),
            pytest.raises(SystemExit, match="Cannot write weights to /dev/null/weights"),
        ):
            export.main(["export"])
        export.main(["export"])
    assert capsys.readouterr().out == f"Wrote {values['out']} from the checkpoint after 100 iterations.\n"

"""The tutorial's code runs at a small budget and does what its text says; its committed outputs are whole."""

import re
import sys
import tempfile
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest

import rnnprop_tf
from rnnprop_tf import network, pretrained

PATH = Path(__file__).parent.parent / "docs/tutorial.ipynb"
NOTEBOOK = nbformat.read(PATH, as_version=4)
CODE = [cell for cell in NOTEBOOK.cells if cell.cell_type == "code"]
SMALL = {"EPOCHS": 2, "EPISODES": 100, "EPISODE_STEPS": 10}


@pytest.fixture(scope="module")
def tutorial(tmp_path_factory):
    """What the cells define, and under "drawn" how many lines each panel of each figure has."""
    drawn = []
    plt.close("all")  # Figures of other tests.

    def show() -> None:
        drawn.extend([len(axes.lines) for axes in plt.figure(n).axes] for n in plt.get_fignums())
        plt.close("all")

    (parameters,) = [cell for cell in CODE if "parameters" in cell.metadata.get("tags", ())]
    assert re.findall(r"^(\w+) = ", parameters.source, flags=re.MULTILINE) == list(SMALL)
    namespace = {"drawn": drawn}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plt, "show", show)
        patch.setattr(sys, "path", list(sys.path))
        patch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("tutorial")))
        for number, cell in enumerate(CODE):
            if cell is parameters:
                namespace.update(SMALL)
            else:
                exec(compile(cell.source, f"tutorial.ipynb, code cell {number}", "exec"), namespace)
    return namespace


def test_losses_fall_with_each_optimizer(tutorial):
    dense, image = tutorial["dense_runs"], tutorial["image_runs"]
    assert [name.split(",")[0] for name in dense] == ["RNNprop", "Adam", "Adam"]
    assert [name.split(",")[0] for name in image] == ["RNNprop", "RNNprop", "Adam", "Adam"]
    for runs in (dense, image):
        for name, history in runs.items():
            assert len(history["loss"]) == SMALL["EPOCHS"]
            assert history["loss"][-1] < history["loss"][0], name
    # The text: RNNprop is ahead of either Adam in training.
    assert min(dense, key=lambda name: dense[name]["loss"][-1]) == "RNNprop"


def test_statistics_are_those_of_each_variable(tutorial):
    variables = [
        f"dense_model/{layer}/{kind}" for layer in ("hidden", "classes") for kind in ("kernel", "bias")
    ]
    names = ("update_rms", "m_tilde_rms", "saturated", "untouched")
    expected = {f"{name}/{variable}" for name in names for variable in variables} | {"skipped_steps"}
    assert set(tutorial["statistics"]) == expected
    for name, (steps, values) in tutorial["statistics"].items():
        assert steps == list(range(5, SMALL["EPOCHS"] * 23 + 1, 5)), name  # 23 batches of 64 images an epoch
        assert np.isfinite(values).all()
    assert min(tutorial["statistics"]["update_rms/dense_model/hidden/kernel"][1]) > 0


def test_exported_weights_are_the_small_network_that_was_trained(tutorial):
    assert np.isfinite(tutorial["losses"]).all()
    made = pretrained.load(tutorial["folder"] / "weights")
    architecture = network.architecture_of(made.network)
    assert (architecture.preprocess, architecture.lstm) == ((8,), (8,))
    assert architecture != network.architecture_of(pretrained.load(pretrained.DEFAULT).network)
    fresh = network.to_tensors(network.initial_weights(architecture, tutorial["config"].seed))
    trained = network.to_tensors(made.network)
    assert all(np.abs(trained[name] - fresh[name]).max() > 1e-3 for name in fresh)
    losses = {name: history["loss"] for name, history in tutorial["image_runs"].items()}
    assert losses["RNNprop, made here"] != losses["RNNprop, as shipped"]
    assert isinstance(tutorial["made_here"], rnnprop_tf.RNNprop)


def test_each_picture_has_its_curves(tutorial):
    assert tutorial["drawn"] == [[3, 3], [4, 4, 4], [2], [4, 4], [6, 6, 6], [6, 6, 6]]


def test_committed_outputs_are_of_one_whole_run_and_name_no_machine(tutorial):
    assert PATH.stat().st_size < 500_000
    assert [cell.execution_count for cell in CODE] == list(range(1, len(CODE) + 1))
    outputs = [output for cell in CODE for output in cell.outputs]
    assert {output.output_type for output in outputs} <= {"stream", "display_data"}
    assert all(output.name == "stdout" for output in outputs if output.output_type == "stream")
    pictures = [o for o in outputs if o.output_type == "display_data" and "image/png" in o.data]
    assert len(pictures) == len(tutorial["drawn"])
    assert not any("execution" in cell.metadata for cell in CODE)
    text = "".join(output.text for output in outputs if output.output_type == "stream")
    assert not re.search(r"/(home|root|tmp|work|Users)/", text)

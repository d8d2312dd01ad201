"""Tables and figures of Keras models read what was run."""

import numpy as np
from made_runs import cells

from trainer.evaluation.fit_runner import COLUMNS
from trainer.evaluation.results import TUNING_SEED, Cell, Results
from trainer.paper import experiments, keras_models_tables, plots


def test_tables_and_figures_read_what_was_run(tmp_path):
    results = Results(str(tmp_path))
    points = ([10, 20], [1.0, 0.6], [1.2, 0.8], [0.5, 0.75], [0.5, 1.0])
    curve = dict(zip(COLUMNS, map(np.array, points), strict=True))
    no_classes = curve | {"validation_accuracy": np.full(2, np.nan)}
    for name, loss in ((experiments.DEFAULT, 0.3), ("adam-default", 0.9), ("adam", 0.6)):
        cell = Cell("keras-cancer", name, "", 0.01, 200)
        results.add(cell, [0, 1], [loss, loss], [3.0, 3.0], [curve, curve])

    def row(quantity, optimizer_or_model, steps="200"):
        """The cells of a table's row, by the table's title."""
        text = keras_models_tables.test_models(results)
        [part] = [part for part in text.split("\n\n") if part.startswith(quantity)] or [""]
        table = text.split("\n\n")[text.split("\n\n").index(part) + 1]
        starts = f"| {optimizer_or_model} | {steps} | "
        [line] = [line for line in table.splitlines() if line.startswith(starts)]
        return line.removeprefix(starts).removesuffix(" |").split(" | ")

    mean, ratio, near = "Mean final training loss", "Ratio of the mean", "On how many models"
    learned = len(experiments.KERAS_MODEL_LEARNED)
    not_run = ["not run"] * (len(experiments.KERAS_MODEL_BASELINES) - 2)
    assert row(mean, "keras-cancer")[learned:] == ["0.9 [0.9, 0.9]", "0.6 [0.6, 0.6]", *not_run]
    assert row("Median", "keras-cancer")[learned:] == ["0.9", "0.6", *not_run]
    assert row("Tuned learning rate", "keras-cancer") == ["0.01", *not_run]
    assert row(ratio, "keras-cancer") == ["0.500", *["not run"] * (learned - 1)]
    for quantity, value in (("Validation loss", "0.8"), ("Validation accuracy", "0.750"), ("Seconds", "1.0")):
        assert row(quantity, "keras-cancer").count(value) == 3
    assert "keras-eeg" not in keras_models_tables.test_models(results)
    results.add(Cell("keras-eeg-gru", "adam-default", "", 0.001, 200), [0], [0.9], [3.0], [no_classes])
    assert row(mean, "keras-eeg-gru") == ["not run"] * learned + ["0.9 [0.9, 0.9]", "not run", *not_run]
    assert row(ratio, "keras-eeg-gru") == ["not run"] * learned
    accuracies = keras_models_tables.test_models(results).split("Validation accuracy")[1].split("Seconds")[0]
    assert "keras-eeg" not in accuracies
    cell = Cell("keras-cancer", experiments.SETTLING, "", 0.1, 200)
    results.add(cell, [0, 1], [0.7, 0.7], [3.0, 3.0], [curve, curve])
    assert row(ratio, "keras-cancer") == ["0.500", "not run", "1.167", *["not run"] * (learned - 3)]
    no_pairs = ["0 of 0"] * len(not_run)
    assert row(near, experiments.DEFAULT) == ["1 of 1", "1 of 1", *no_pairs, "1 of 1"]
    assert row(near, experiments.SETTLING) == ["1 of 1", "0 of 1", *no_pairs, "0 of 1"]
    assert row(near, experiments.SETTLING, "2,000") == ["0 of 0", "0 of 0", *no_pairs, "0 of 0"]
    # A mean that is not finite is the worst.
    losses = {experiments.DEFAULT: 5.0, "adam": np.nan, "adamw-cosine": 4.6, experiments.SETTLING: np.nan}
    for name, loss in losses.items():
        results.add(Cell("keras-cancer", name, "", 0.01, 2_000), [0], [loss], [3.0], [curve])
    assert row(near, experiments.DEFAULT, "2,000") == ["0 of 0", "1 of 1", "1 of 1", *no_pairs[1:], "1 of 1"]
    assert row(near, experiments.SETTLING, "2,000") == ["0 of 0", "0 of 1", "0 of 1", *no_pairs[1:], "0 of 1"]
    # The best tuned one is the one to be near.
    results.add(Cell("keras-cancer", "muon-cosine", "", 0.01, 2_000), [0], [4.0], [3.0], [curve])
    assert row(near, experiments.DEFAULT, "2,000")[-1] == "0 of 1"
    figure = plots.test_models(results)
    [axes] = figure.axes
    assert axes.get_title() == "keras-cancer, 2,000 steps"
    np.testing.assert_allclose(
        axes.lines[0].get_xydata(), np.stack([curve["seconds"], curve["validation_loss"]], axis=1)
    )
    assert plots.png(figure).startswith(b"\x89PNG")


def test_mean_ratios_to_the_best_tuned(tmp_path):
    results = Results(str(tmp_path))
    blocks = [block for block in experiments.BEYOND["keras-models-test"] if block.steps == 200]
    first, second = (block.task for block in blocks[:2])
    # Learning rates tried, with their losses; the first is the one that is tuned.
    tried = {"adam": {0.1: 0.2, 0.2: 0.4}, "muon-cosine": {0.1: 0.2, 0.2: np.inf}}

    curve = {name: np.ones(2) for name in COLUMNS}

    def add(task, name, losses, rate, seed=0):
        results.add(Cell(task, name, "", rate, 200), [seed], losses, [3.0], [curve])

    def row(name):
        text = keras_models_tables.test_models(results)
        return cells(text[text.index("Geometric mean over the models") :].split("\n\n")[1], name)[0]

    def run(task, best):
        for name in experiments.KERAS_MODEL_BASELINES[1:]:
            for rate, loss in tried.get(name, {0.1: 0.3}).items():
                add(task, name, [loss * best], rate, TUNING_SEED)
            add(task, name, [next(iter(tried.get(name, {0.1: 0.3}).values())) * best], 0.1)
        add(task, experiments.DEFAULT, [0.8 * best], 0.1)

    for block in blocks[1:]:
        run(block.task, 1.0)
    assert row(experiments.DEFAULT) == "not run"
    assert row("adam at one rate") == "not run"
    run(first, 1e-9)
    # Of the first model all losses are below what counts.
    others = (len(blocks) - 1) / len(blocks)
    assert row(experiments.DEFAULT) == f"{4.0**others:.2f}"
    assert row("adam") == "1.00"
    assert row(experiments.LARGE) == "not run"
    assert row("adam at one rate") == "1.00 (0.1)"
    assert row("schedule-free at one rate") == f"{1.5**others:.2f} (0.1)"
    # One rate is one that was tried on all models, with the lowest mean there.
    gone = Cell(second, "adam", "", 0.1, 200)
    results.rows = [one for one in results.rows if one.cell != gone]
    add(second, "adam", [0.2], 0.3)
    assert row("adam at one rate") == f"{2.0**others:.2f} (0.2)"

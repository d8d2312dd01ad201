"""The tables: a number a cell, beside the paper's, verdicts of what they show."""

import re

import numpy as np
import pytest
from made_runs import add, cells, change, paper_like_runs

from trainer.evaluation.results import Results
from trainer.evaluation.summary import summary, verdict
from trainer.paper import default_weights_tables, experiments, tables
from trainer.paper.experiments import BASE, DM, RELU, RNNPROP
from trainer.problems.catalog import PAPER_TASKS


@pytest.fixture
def paper_like(tmp_path):
    return paper_like_runs(tmp_path)


def test_tables_stand_beside_the_paper_s_numbers(paper_like):
    table = tables.table2(paper_like)
    mean, median, printed, _ = cells(table, "mnist-nn-elu-100", RNNPROP)
    assert re.fullmatch(r"0\.\d+ \[0\.\d+, 0\.\d+\]", mean)
    assert re.fullmatch(r"0\.\d+", median)
    assert printed == "0.24"
    assert cells(table, "mnist-nn-elu-100", DM)[2:] == ["13.51", ""]
    assert cells(table, "mnist-nn-elu-100", "adam")[2:] == ["0.26", "0.1"]
    printed = [line.split(" | ")[-1] for line in tables.table4(paper_like).splitlines()[2:]]
    assert len(printed) == 18
    assert printed[-1] == "0.32 |"
    score = tables.scorecard(paper_like)
    assert cells(score, f"{RNNPROP} won")[0] == str(18 - 1 - 1)
    assert "not run" not in score


@pytest.mark.parametrize("optimizer", [RNNPROP, DM])
def test_the_scorecard_s_verdicts_are_those_of_its_rows(paper_like, optimizer):
    """Every task is counted once, where its numbers put it."""
    score = tables.scorecard(paper_like, optimizer)
    counted = {}
    for one in ("won", "tied", "lost"):
        number, where = cells(f"{score}\n", f"{optimizer} {one}")
        named = where.split(", ") if where else []
        assert len(named) == int(number)
        counted |= dict.fromkeys(named, one)
    assert set(counted) == set(PAPER_TASKS)
    for task, one in counted.items():
        best, theirs = tables.best_traditional(paper_like, task, PAPER_TASKS[task].steps)
        ours = summary(paper_like, task, PAPER_TASKS[task].steps, optimizer)
        assert one == verdict(ours, theirs)
        assert f"{ours.mean / theirs.mean:.3f}" in cells(score, task, f"{PAPER_TASKS[task].steps:,}")
        assert best in cells(score, task, f"{PAPER_TASKS[task].steps:,}")


def test_the_tables_of_all_optimizers_have_a_number_a_cell(tmp_path):
    results = Results(str(tmp_path))
    add(results, BASE, "adam", [0.1, 0.2, 0.6])
    means, medians, rates = tables.all_optimizers(results).split("optimizer:")[1:]
    assert cells(means, BASE, "100")[-2:] == ["not run", "0.3 [0.1, 0.6]"]
    assert cells(medians, BASE, "100")[-2:] == ["not run", "0.2"]
    assert cells(rates, BASE, "100") == ["not run"] * 5 + ["0.1"]


def test_replicates_show_the_spread_between_meta_training_seeds(tmp_path):
    results = Results(str(tmp_path))
    add(results, BASE, "adam", [0.3, 0.3])
    for seed, loss in zip(experiments.REPLICATE_SEEDS, (0.1, 0.2, 0.6), strict=True):
        add(results, BASE, experiments.replicate(RNNPROP, seed), [loss, loss])
    add(results, BASE, experiments.replicate(DM, 0), [0.1, 0.1])
    table = tables.replicates(results)
    assert cells(table, BASE, "100", "adam")[0] == "0.3"
    assert cells(table, BASE, "100", RNNPROP) == ["0.3", "0.2646", "0.1", "0.2", "0.6"]
    assert cells(table, BASE, "100", experiments.NO_SCALING) == ["not run"] * 5
    assert cells(table, BASE, "100", DM) == ["not run", "not run", "0.1", "not run", "not run"]
    assert cells(table, "adam") == ["2", "0", "1"]
    assert cells(table, DM) == ["0", "1", "0"]


def test_weights_are_compared_in_pairs(tmp_path):
    results = Results(str(tmp_path))
    add(results, BASE, experiments.LARGE, [0.3, 2.4])
    pair = experiments.SMALL, experiments.LARGE
    assert tables.relative(results, *pair, [(BASE, 100)]).endswith("not run.")
    add(results, BASE, experiments.SMALL, [0.15, 1.2])
    text = tables.relative(results, *pair, [(BASE, 100), (RELU, 100)])
    assert cells(text, BASE, "100") == ["0.500", "0.500", "0.500", "2"]
    assert "Geometric mean of 1 ratios, each held within 1 / 1.5 and 1.5: 0.667" in text


def test_the_default_weights_runs_are_compared_with_their_start(tmp_path):
    results = Results(str(tmp_path))
    add(results, BASE, experiments.DEFAULT, [0.3, 2.4, 2.5, np.nan])  # curves begin at 2.3
    add(results, BASE, experiments.PEER, [0.5, 0.5])
    above = f"ended more than 5% above their first loss, of 4: 2 of {BASE} (100 steps)."
    assert f"Runs of {experiments.DEFAULT} that {above}" in default_weights_tables.default_weights(results)
    add(results, BASE, experiments.SETTLING, [0.3, 2.5])
    text = default_weights_tables.default_weights(results)
    means, medians = text.split("optimizer:")[1:]
    assert cells(means, BASE, "100") == [
        "nan [nan, nan]",
        "not run",
        "1.4 [0.3, 2.5]",
        "not run",
        "not run",
        "not run",
        "0.5 [0.5, 0.5]",
    ]
    assert cells(medians, BASE, "100") == ["nan", "not run", "1.4", "not run", "not run", "not run", "0.5"]
    assert f"Runs of {experiments.SETTLING} that ended more than 5% above their first loss, of 2:" in text
    for name in experiments.OURS:
        change(results, BASE, name, 0.3)
    assert "of 4: none." in default_weights_tables.default_weights(results)

"""Files of runs: nothing lost, overwritten or mixed up."""

import csv
import math

import numpy as np
import pytest
from made_runs import TASK, add_cell

from trainer.evaluation.results import Cell, Results, Row


def test_results_round_trip(tmp_path):
    folder = str(tmp_path / "new")
    rate = math.sqrt(0.5)
    results = Results(folder)
    assert results.rows == []
    final, values = add_cell(results, rate=rate)
    add_cell(results, optimizer="gs://my/weights/", seeds=[7])
    read = Results(folder)
    assert read.rows == results.rows
    rows = read.of(Cell(TASK, "adam", "", rate, 3))
    assert [(row.seed, row.final_loss) for row in rows] == list(zip((0, 1), final, strict=True))
    found = read.curves(rows[::-1])
    np.testing.assert_array_equal(found["loss"], values[::-1])
    np.testing.assert_array_equal(found["step"], [[0, 1, 2]] * 2)
    assert [row.seed for row in read.of(Cell(TASK, "gs://my/weights/", "", 0.1, 3))] == [7]
    assert read.of(Cell(TASK, "adam", "", rate, 4)) == read.of(Cell("other", "adam", "", rate, 3)) == []
    assert read.of(Cell(TASK, "adam", "abc", rate, 3)) == []


def test_cells_have_files_of_their_own(tmp_path):
    """Two lengths, two rates, two batches of seeds: none overwrites another's curves."""
    results = Results(str(tmp_path))
    cells = [{"steps": 3}, {"steps": 4}, {"rate": 0.2}, {"seeds": [5, 6]}, {"optimizer": "sgd"}]
    cells += [{"optimizer": "mine", "weights": digest} for digest in ("abc", "abd")]
    for cell in cells:
        add_cell(results, **cell)
    assert len({row.curves for row in results.rows}) == len(cells)
    for row in results.rows:
        assert np.load(tmp_path / TASK / "curves" / row.curves).shape == (2, row.steps)


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_diverged_run_is_written_down_too(tmp_path, loss):
    results = Results(str(tmp_path))
    curve = {"step": np.zeros(1), "loss": np.array([loss])}
    results.add(Cell(TASK, "sgd", "", 8.0, 1), [0], [loss], [0.1], [curve])
    np.testing.assert_equal(Results(str(tmp_path)).rows[0].final_loss, loss)


def test_one_process_at_a_time_may_add(tmp_path):
    folder = str(tmp_path)
    adding = Results(folder, adding=True)
    add_cell(adding)
    with pytest.raises(OSError, match=f"Another process is adding runs to {folder}. Wait for it, or name"):
        Results(folder, adding=True)
    assert len(Results(folder).rows) == 2  # Reading is free.
    del adding
    assert len(Results(folder, adding=True).rows) == 2


HEADER = ",".join(Row._fields)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("a,b\n1,2\n", r"its columns are \['a', 'b'\]"),
        ("", "its columns are"),
        (f"{HEADER}\ntask,adam,,0.1,100,0\n", "shorter"),
        (f"{HEADER}\ntask,adam,,fast,100,0,0.5,1.5,x.npy,0\n", "could not convert string to float: 'fast'"),
    ],
)
def test_a_file_of_others_is_refused_and_left_alone(tmp_path, content, reason):
    path = tmp_path / TASK / "runs.csv"
    path.parent.mkdir()
    path.write_text(content)
    with pytest.raises(ValueError, match=f"{path} is not a file of runs .*{reason}.* Name another --out"):
        Results(str(tmp_path))
    assert path.read_text() == content


def test_results_are_plain_csv(tmp_path):
    add_cell(Results(str(tmp_path)))
    with (tmp_path / TASK / "runs.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["seed"] for row in rows] == ["0", "1"]

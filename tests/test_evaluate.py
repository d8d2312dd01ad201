"""Evaluation and its command: fair comparisons, and no run made twice."""

import math
import re
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
from made_runs import TASK

from rnnprop_tf import network as coordinatewise
from rnnprop_tf import pretrained
from rnnprop_tf.network import Architecture
from rnnprop_tf.rule import RNNpropRule
from trainer import evaluate
from trainer.evaluation import tasks
from trainer.evaluation.competitors import competitor
from trainer.evaluation.evaluation import Evaluation
from trainer.evaluation.results import TUNING_SEED, Results
from trainer.evaluation.runner import Run, Runner

NETWORK = coordinatewise.initial_weights(Architecture(), 1)


class Counted(Runner):
    """Records which runs were asked for; a loss that depends on seed and learning rate alone."""

    made: list

    def __init__(self, *_):
        pass

    def run(self, steps, seed, learning_rate):
        type(self).made.append((learning_rate, steps, seed))
        distance = abs(2 * math.log2(learning_rate) + 7)
        curve = {"step": np.arange(steps), "loss": np.full(steps, 2.0)}
        return Run(curve, 1.0 + distance + (seed % 1_000) / 100)


@pytest.fixture
def counted(monkeypatch):
    """Runners that only count, in the place of both."""
    made = []
    for name in ("KerasRunner", "LearnedRunner"):
        monkeypatch.setattr(tasks, name, type(name, (Counted,), {"made": made}))
    return made


def run_evaluate(folder, texts, seeds, steps=5, tuning=range(500_000, 500_002)):
    """The final losses by optimizer and rate."""
    evaluation = Evaluation(Results(str(folder)), TASK, steps, None)
    found = {}
    for one in map(competitor, texts):
        rate, losses = evaluation.losses(one, seeds, tuning)
        found[f"{one.name} ({rate:.4g})"] = losses
    return found


def test_runs_that_are_there_are_not_made_again(tmp_path, counted):
    first = run_evaluate(tmp_path, ["adam:0.125"], range(3))
    assert counted == [(0.125, 5, seed) for seed in range(3)]
    counted.clear()
    second = run_evaluate(tmp_path, ["adam:0.125"], range(1, 5))
    assert counted == [(0.125, 5, seed) for seed in (3, 4)]
    assert first["adam (0.125)"][1:] == second["adam (0.125)"][:2]
    counted.clear()
    run_evaluate(tmp_path, ["adam:0.125"], range(1), steps=6)
    run_evaluate(tmp_path, ["adam:0.25"], range(1))
    assert counted == [(0.125, 6, 0), (0.25, 5, 0)]
    assert len(Results(str(tmp_path)).rows) == 7


def test_a_baseline_without_a_rate_is_tuned_with_seeds_of_its_own(tmp_path, counted):
    losses = run_evaluate(tmp_path, ["adam"], range(2))
    best = 2**-3.5
    assert losses == {f"adam ({best:.4g})": [1.0, 1.01]}
    assert {seed for _, _, seed in counted} == {0, 1, 500_000, 500_001}
    assert [rate for rate, _, seed in counted if seed < 500_000] == [best] * 2
    counted.clear()
    assert run_evaluate(tmp_path, ["adam"], range(2)) == losses
    assert counted == []


def test_other_weights_under_an_old_name_are_evaluated_anew(tmp_path, counted):
    weights = str(tmp_path / "weights")
    pretrained.save(weights, NETWORK, RNNpropRule(), 0.05)
    run_evaluate(tmp_path / "out", [weights], range(1))
    pretrained.save(weights, coordinatewise.initial_weights(Architecture(), 2), RNNpropRule(), 0.05)
    run_evaluate(tmp_path / "out", [weights], range(1))
    assert len(counted) == 2
    run_evaluate(tmp_path / "out", [weights], range(1))
    assert len(counted) == 2


def test_a_task_has_its_own_length(tmp_path, counted):
    run_evaluate(tmp_path, ["sgd:1"], range(1), steps=None)
    assert counted == [(1.0, 100, 0)]


def test_real_runs_of_learned_and_traditional_optimizers(tmp_path):
    weights = str(tmp_path / "weights")
    pretrained.save(weights, NETWORK, RNNpropRule(), 0.05)
    losses = run_evaluate(tmp_path / "out", [weights, "adam:0.02"], range(2), steps=4)
    assert list(losses) == [f"{weights} (0.05)", "adam (0.02)"]
    rows = Results(str(tmp_path / "out")).rows
    assert [row.final_loss for row in rows] == [loss for cell in losses.values() for loss in cell]
    curves = Results(str(tmp_path / "out")).curves(rows)["loss"]
    # Learned and traditional start from the same loss.
    np.testing.assert_allclose(curves[0][0], curves[2][0], rtol=1e-6)
    np.testing.assert_allclose(curves[1][0], curves[3][0], rtol=1e-6)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("adm", "No pretrained weights named 'adm'"),
        ("/no/such/folder", "No pretrained weights named '/no/such/folder'"),
        ("adm:0.1", "No pretrained weights named 'adm:0.1'"),
        ("adam:fast", "Expected a learning rate after the colon, as in adam:0.001. Received: 'adam:fast'"),
        ("adam:-1", "Expected a positive learning rate. Received: 'adam:-1'"),
        ("adam:0", "Expected a positive learning rate. Received: 'adam:0'"),
        ("adam:nan", "Expected a positive learning rate. Received: 'adam:nan'"),
        ("adam:inf", "Expected a positive learning rate. Received: 'adam:inf'"),
    ],
)
def test_an_optimizer_that_is_not_there_is_refused(text, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        competitor(text)


def flag_values(folder, **changes):
    values = {
        "tasks": [TASK],
        "optimizers": ["adam:0.125"],
        "runs": 2,
        "first_seed": 3,
        "tuning_runs": 1,
        "steps": 4,
        "out": str(folder),
        "data_dir": None,
    }
    return SimpleNamespace(**(values | changes))


def run_main(folder, **changes):
    with mock.patch.object(evaluate, "FLAGS", flag_values(folder, **changes)):
        evaluate.main(["evaluate"])


def test_the_command_prints_a_table(tmp_path, counted, capsys):
    run_main(tmp_path)
    assert counted == [(0.125, 4, 3), (0.125, 4, 4)]
    printed = capsys.readouterr().out
    assert f"{TASK}: final loss of 2 runs" in printed
    assert re.search(r"adam \(0\.125\) +mean 2\.0350 \[2\.0300, 2\.0400\], median 2\.0350, 2 runs", printed)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizers": ["adam:0.1", "nothing"]}, "No pretrained weights named 'nothing'"),
        ({"tasks": [TASK, "nothing"]}, "No task named 'nothing'"),
    ],
)
def test_the_command_refuses_before_it_runs(tmp_path, counted, changes, message):
    """Weights that are not there are not replaced by untrained ones, and nothing is computed in vain."""
    with pytest.raises(SystemExit, match=message):
        run_main(tmp_path / "out", **changes)
    assert counted == []
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written_is_one_clear_line(counted):
    with pytest.raises(SystemExit, match="Cannot write to /dev/null/out: Not a directory"):
        run_main("/dev/null/out")


def test_weights_may_lie_in_the_home_folder(tmp_path, counted, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    pretrained.save(str(tmp_path / "mine"), NETWORK, RNNpropRule())
    run_main(tmp_path / "out", optimizers=["~/mine"])
    assert f"{tmp_path}/mine (0.1)" in capsys.readouterr().out


def test_paper_stands_for_its_22_tasks(tmp_path):
    with mock.patch.object(evaluate, "Evaluation") as evaluation:
        evaluation.return_value.losses.return_value = 0.1, [0.5]
        run_main(tmp_path, tasks=["paper"])
    assert len({call.args[1] for call in evaluation.call_args_list}) == 22


def test_tuning_keeps_no_curves(tmp_path, counted):
    run_evaluate(tmp_path, ["adam"], range(2))
    for row in Results(str(tmp_path)).rows:
        assert bool(row.curves) == (row.seed < TUNING_SEED)

"""Evaluation and export: the final loss, fair comparisons, files that are never made twice or mixed up."""

import csv
import functools
import json
import math
import re
import resource
from types import SimpleNamespace
from unittest import mock

import keras
import numpy as np
import pytest
import tensorflow as tf

from rnnprop_tf import RNNprop, pretrained
from rnnprop_tf import network as coordinatewise
from rnnprop_tf.network import Architecture
from rnnprop_tf.rule import DMRule, RNNpropRule
from trainer import checkpoint, datasets, evaluate, export, files
from trainer.checkpoint import Checkpoint
from trainer.config import MetaTrainConfig
from trainer.evaluation import baselines, tasks, unrolled_runner
from trainer.evaluation.competitors import competitor
from trainer.evaluation.evaluation import Evaluation
from trainer.evaluation.results import TUNING_SEED, Cell, Results, Row, short_digest
from trainer.evaluation.runner import Run, Runner
from trainer.evaluation.unrolled_runner import KerasRunner, LearnedRunner
from trainer.problems.mlp import MLP
from trainer.unroll import loss_and_gradient

TASK = "digits-nn-sigmoid-100"
NETWORK = coordinatewise.initial_weights(Architecture(), 1)


@functools.cache
def problem():
    return MLP(datasets.load("digits"), hidden=(4,), batch_size=16)


@pytest.fixture
def short_chunks(monkeypatch):
    """Ten steps a compiled call, so that short runs have several."""
    monkeypatch.setattr(unrolled_runner, "CHUNK", 10)


def slow_run(seed, steps, make_step):
    """Step by step, eagerly; `make_step(params, gradient)` gives the next parameters."""
    start_seed, data_seed = tf.unstack(tf.random.split(tf.constant([seed, 0x45564C], tf.int32)))
    params, constants = problem().draw(start_seed)
    batches = problem().batches(data_seed, tf.constant(0), steps)
    curve = []
    for t in range(steps):
        batch = tf.nest.map_structure(lambda b: b[t], batches)  # noqa: B023
        loss, gradient = loss_and_gradient(problem(), params, constants, batch)
        curve.append(float(loss))
        params = make_step(params, gradient)
    final = [
        float(problem().loss(params, constants, tf.nest.map_structure(lambda b: b[t], batches)))  # noqa: B023
        for t in range(steps)
    ]
    return curve, np.mean(final)


# Runs.


@pytest.mark.parametrize("steps", [25, 10, 3])
def test_a_keras_run_is_the_plain_loop_and_its_final_loss_the_mean_over_all_batches(steps, short_chunks):
    run = KerasRunner(problem(), keras.optimizers.Adam).run(steps, seed=5, learning_rate=0.02)
    variable = tf.Variable(tf.zeros([problem().size]))
    adam = keras.optimizers.Adam(0.02)
    adam.build([variable])

    def step(params, gradient):
        variable.assign(params)
        adam.apply([gradient], [variable])
        return variable.read_value()

    curve, final_loss = slow_run(5, steps, step)
    np.testing.assert_array_equal(run.curve["step"], np.arange(steps))
    np.testing.assert_allclose(run.curve["loss"], curve, rtol=1e-4)
    np.testing.assert_allclose(run.final_loss, final_loss, rtol=1e-4)


def test_a_learned_run_is_the_plain_loop(short_chunks):
    rule = RNNpropRule()
    run = LearnedRunner(problem(), rule, NETWORK).run(25, seed=5, learning_rate=0.1)
    state = rule.initial_state(NETWORK, problem().size)
    count = 0

    def step(params, gradient):
        nonlocal state, count
        count += 1
        direction, state = rule.update(NETWORK, state, gradient, tf.constant(float(count)))
        return params + 0.1 * direction

    curve, final_loss = slow_run(5, 25, step)
    np.testing.assert_array_equal(run.curve["step"], np.arange(25))
    np.testing.assert_allclose(run.curve["loss"], curve, rtol=1e-4)
    np.testing.assert_allclose(run.final_loss, final_loss, rtol=1e-4)


def test_a_seed_is_the_same_start_and_data_for_every_optimizer(short_chunks):
    """Without a step, the curve is the start's loss on each batch."""
    keras_runner = KerasRunner(problem(), keras.optimizers.SGD)
    learned = LearnedRunner(problem(), RNNpropRule(), NETWORK)
    curves = []
    for seed in (0, 1):
        ours, theirs = (runner.run(15, seed, 0.0) for runner in (learned, keras_runner))
        np.testing.assert_allclose(ours.curve["loss"], theirs.curve["loss"], rtol=1e-6)
        np.testing.assert_allclose(ours.final_loss, theirs.final_loss, rtol=1e-6)
        np.testing.assert_allclose(ours.final_loss, ours.curve["loss"].mean(), rtol=1e-6)
        curves.append(ours.curve["loss"])
    assert not np.allclose(*curves)


def test_a_run_leaves_nothing_behind(short_chunks):
    """Adam's moments, step counter and rate are those of a new optimizer at each start."""
    runner = KerasRunner(problem(), keras.optimizers.Adam)
    first, other, again = (runner.run(15, 0, rate) for rate in (0.05, 0.5, 0.05))
    np.testing.assert_array_equal(first.curve["loss"], again.curve["loss"])
    assert first.final_loss == again.final_loss != other.final_loss


@pytest.mark.parametrize("name", baselines.FIRST_GRID)
def test_every_baseline_can_be_tuned_and_learns(name, short_chunks):
    runner = KerasRunner(problem(), baselines.OPTIMIZERS[name])
    exponents = baselines.FIRST_GRID[name]
    rate = baselines.learning_rate(exponents[len(exponents) // 2])
    assert runner.run(30, 0, rate).final_loss < runner.run(30, 0, 0.0).final_loss


# The search of the learning rate.


@pytest.mark.parametrize("strides", [baselines.STRIDES, (1,)])
@pytest.mark.parametrize("best", [-2, 0, 3, 9, -11, 40, -40])
def test_tuning_finds_the_best_rate_and_widens_the_grid_for_it(best, strides):
    tried = []

    def mean_loss(rate):
        tried.append(rate)
        return abs(math.log2(rate) * 2 - best)

    np.testing.assert_allclose(baselines.tune(range(-3, 4), mean_loss, strides), 2 ** (best / 2), rtol=1e-12)
    assert len(set(tried)) == len(tried)  # no rate twice
    exponents = [round(2 * math.log2(rate)) for rate in tried]
    # Both neighbours of the best were looked at.
    assert {best - 1, best + 1} & set(range(-40, 41)) <= set(exponents)


def test_tuning_passes_by_what_diverges():
    losses = {-3: 5.0, -2: 3.0, -1: 2.0, 0: float("nan"), 1: float("inf")}
    tune = baselines.tune(range(-3, 2), lambda rate: losses.get(round(2 * math.log2(rate)), 6.0))
    assert tune == pytest.approx(2**-0.5)


def test_tuning_ends_where_every_rate_diverges():
    with pytest.raises(ValueError, match=r"Every learning rate tried diverges: \[0.5, 2.0\]"):
        baselines.tune(range(-2, 4), lambda rate: float("nan"))


def test_tuning_ends_where_there_is_no_best():
    rates = []
    assert baselines.tune(range(2), lambda rate: rates.append(rate) or -rate) == 2.0**20
    assert max(rates) == 2.0**20


# Results.


def add_cell(results, seeds=(0, 1), steps=3, optimizer="adam", weights="", rate=0.1):
    final = [0.5 + seed / 7 for seed in seeds]
    values = np.arange(len(seeds) * steps).reshape(len(seeds), steps) + steps
    seconds = [0.25] * len(seeds)
    curves = [{"step": np.arange(steps), "loss": losses} for losses in values]
    results.add(Cell(TASK, optimizer, weights, rate, steps), list(seeds), final, seconds, curves)
    return final, values


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


def test_tuning_keeps_no_curves(tmp_path, counted):
    run_evaluate(tmp_path, ["adam"], range(2))
    for row in Results(str(tmp_path)).rows:
        assert bool(row.curves) == (row.seed < TUNING_SEED)


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


# The command.


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


# Export.


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


def test_results_are_plain_csv(tmp_path):
    add_cell(Results(str(tmp_path)))
    with (tmp_path / TASK / "runs.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["seed"] for row in rows] == ["0", "1"]

"""The paper's tables and figures: which runs they need, what is said of them, and that drawing only reads."""

import math
import re
import threading

import numpy as np
import pytest

from rnnprop_tf import network as coordinatewise
from rnnprop_tf import pretrained
from rnnprop_tf.network import Architecture
from rnnprop_tf.rule import DMRule, RNNpropRule
from trainer.evaluation import baselines, schedule
from trainer.evaluation.block import Block
from trainer.evaluation.evaluation import Evaluation
from trainer.evaluation.results import TUNING_SEED, Cell, Results
from trainer.evaluation.summary import Summary, bootstrap, difference, reported, summary, verdict
from trainer.paper import claims, default_weights_tables, experiments, learned_update, plots, report, tables
from trainer.paper.experiments import BASE, DM, EXPERIMENTS, RNNPROP, TRADITIONAL
from trainer.problems.catalog import PAPER_TASKS

DIGITS = "digits-nn-sigmoid-100"


def add(results, task, optimizer, losses, first_seed=0, rate=0.1, steps=None, curves=None):
    steps = steps or PAPER_TASKS[task].steps
    seeds = range(first_seed, first_seed + len(losses))
    if curves is None and first_seed < TUNING_SEED:
        curves = np.tile(np.linspace(2.3, 0.5, steps), (len(losses), 1))
    if curves is not None:
        curves = [{"step": np.arange(steps), "loss": curve} for curve in curves]
    results.add(Cell(task, optimizer, "", rate, steps), seeds, losses, [0.1] * len(losses), curves)


# Statistics.


def test_the_bootstrap_interval_has_the_width_of_the_standard_error():
    values = np.random.default_rng(1).normal(3.0, 2.0, 400)
    mean, low, high = bootstrap(values)
    assert mean == values.mean()
    np.testing.assert_allclose([mean - low, high - mean], 1.96 * values.std() / 20, rtol=0.06)
    assert bootstrap(values) == (mean, low, high)


@pytest.mark.parametrize("values", [[1.5], [1.0, np.inf], [np.nan, 1.0]])
def test_one_run_or_a_diverged_one_has_no_width(values):
    mean, low, high = bootstrap(np.array(values))
    np.testing.assert_equal([low, high], [mean, mean])


def test_differences_are_taken_in_pairs():
    """Starts differ much more than optimizers do."""
    starts = np.random.default_rng(0).normal(0.0, 10.0, 50)
    ours, theirs = (Summary(0.1, starts + shift, tuple(range(50))) for shift in (1.0, 1.5))
    np.testing.assert_allclose(difference(ours, theirs), [-0.5] * 3)
    later = Summary(0.1, starts[10:] + 1.0, tuple(range(10, 50)))
    np.testing.assert_allclose(difference(later, theirs), [-0.5] * 3)


@pytest.mark.parametrize(
    ("shift", "noise", "expected"),
    [(-0.05, 0.01, "won"), (0.05, 0.01, "lost"), (0.005, 1e-4, "tied"), (-0.05, 0.5, "tied")],
)
def test_verdicts(shift, noise, expected):
    rng = np.random.default_rng(0)
    theirs = Summary(0.1, 1.0 + 0.01 * rng.normal(size=30), tuple(range(30)))
    ours = Summary(0.1, theirs.losses + shift + noise * rng.normal(size=30), theirs.seeds)
    assert verdict(ours, theirs) == expected


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_diverged_run_neither_is_the_best_nor_wins(tmp_path, bad):
    results = Results(str(tmp_path))
    add(results, BASE, "sgd", [0.1, bad])  # the first of the traditional ones
    for name in TRADITIONAL[1:-1]:
        add(results, BASE, name, [0.6, 0.6])
    assert tables.best_traditional(results, BASE, 100) is None  # one is not there
    add(results, BASE, "adam", [0.5, 0.5])
    add(results, BASE, RNNPROP, [0.4, bad])
    name, best = tables.best_traditional(results, BASE, 100)
    assert name == "adam"
    diverged = summary(results, BASE, 100, RNNPROP)
    assert verdict(diverged, best) == "lost"
    assert verdict(best, diverged) == "won"
    assert verdict(diverged, diverged) == "tied"


def test_tuning_runs_and_former_cells_are_not_reported(tmp_path):
    results = Results(str(tmp_path))
    add(results, BASE, "adam", [9.0], first_seed=TUNING_SEED)
    assert summary(results, BASE, 100, "adam") is None
    add(results, BASE, "adam", [5.0], rate=0.2)
    add(results, BASE, "adam", [2.0, 1.0], rate=0.1)
    assert [row.final_loss for row in reported(results, BASE, 100, "adam")] == [2.0, 1.0]
    assert summary(results, BASE, 100, "adam").rate == 0.1
    assert summary(results, BASE, 2_000, "adam") is None


def test_a_rate_given_by_hand_is_not_reported_as_the_tuned_one(tmp_path):
    results = Results(str(tmp_path))
    for rate, loss in ((0.1, 0.3), (0.2, np.nan), (0.4, 0.4)):
        add(results, BASE, "adam", [loss], first_seed=TUNING_SEED, rate=rate)
    add(results, BASE, "adam", [0.31], rate=0.1)
    add(results, BASE, "adam", [0.41], rate=0.4)
    assert summary(results, BASE, 100, "adam").rate == 0.1


# What is to be run.


def test_the_experiments_are_the_paper_s():
    tasks = {block.task for block in EXPERIMENTS["scorecard"]}
    assert tasks == set(PAPER_TASKS)
    for block in EXPERIMENTS["scorecard"]:
        assert set(TRADITIONAL) | {RNNPROP, DM} <= set(block.optimizers)
        least = {100: 20 if block.task.startswith("vgg") else 100, 2_000: 10, 10_000: 5}
        assert block.runs >= least[block.steps]
    for name, blocks in EXPERIMENTS.items():
        assert name in report.SECTIONS
        assert all(block.runs < TUNING_SEED for block in blocks)


def test_every_experiment_is_on_a_page_and_the_shared_runs_are_made_once():
    on_pages = [name for page in report.PAGES for name in page.experiments]
    assert sorted(on_pages) == sorted(EXPERIMENTS) == sorted(report.SECTIONS)
    assert all(section.table or section.figure for section in report.SECTIONS.values())
    found = experiments.blocks(EXPERIMENTS, quick=False)
    assert len(found) == len(set(found))
    assert {block.task for name in experiments.PAPER for block in EXPERIMENTS[name]} == set(PAPER_TASKS)
    assert len(experiments.blocks(["figure2", "figure3"], quick=False)) == 2
    assert {block.runs for block in experiments.blocks(EXPERIMENTS, quick=True)} == {2}
    quick = experiments.blocks(["keras-models", "default-weights", "figure9"], quick=True)
    lengths = {(block.task, block.steps) for block in quick}
    assert {steps for task, steps in lengths if task.startswith("keras-")} == {200}
    assert {steps for task, steps in lengths if task == BASE.replace("sigmoid", "relu")} == {100, 1_000}


@pytest.fixture
def folder(tmp_path):
    """Weights beside the results, small tasks in place of the paper's."""
    for name, rule in ((RNNPROP + "-5000", RNNpropRule()), (DM, DMRule())):
        architecture = Architecture(preprocess=(4,) if name != DM else (), lstm=(4,))
        network = coordinatewise.initial_weights(architecture, 0)
        pretrained.save(tmp_path / "weights" / name, network, rule)
    return str(tmp_path)


def test_an_interrupted_computation_goes_on(folder, monkeypatch):
    names = ("adam", DM, RNNPROP + "-5000", "no-such-weights")
    block = Block(DIGITS, 5, names, runs=2, tuning_runs=1, strides=(4,))
    competitors = schedule.find(names, [folder + "/elsewhere", folder + "/weights"])
    assert list(competitors) == list(names[:3])
    results = Results(folder, adding=True)
    whole = schedule.cost([block], competitors, results)
    assert whole > 0
    fewer = block._replace(optimizers=names[:2], runs=1)
    assert schedule.cost([fewer, block], competitors, results) == whole  # what both run is counted once

    made = []
    real_cell = Evaluation._cell

    def interrupted(self, cell, runner, seeds):
        if cell.optimizer == DM and not made:
            made.append(cell)
            raise KeyboardInterrupt
        return real_cell(self, cell, runner, seeds)

    monkeypatch.setattr(Evaluation, "_cell", interrupted)
    with pytest.raises(KeyboardInterrupt):
        schedule.run([block], competitors, results, None, jobs=2)
    before = list(results.rows)
    assert {row.optimizer for row in before} == {"adam"}
    assert schedule.cost([block], competitors, results) < whole
    schedule.run([block], competitors, results, None, jobs=2)
    assert results.rows[: len(before)] == before
    assert {row.optimizer for row in results.rows} == set(names[:3])
    assert schedule.cost([block], competitors, results) == 0
    after = list(results.rows)
    schedule.run([block], competitors, results, None, jobs=2)
    assert results.rows == after


def test_tasks_run_side_by_side_and_no_run_is_made_twice(folder, monkeypatch):
    """Two experiments may want the same runs."""
    together = threading.Barrier(2, timeout=60)

    class Fake:
        def __init__(self, results, task, steps, *_):
            self.place = results, task, steps
            together.wait()  # two tasks: both are under way

        def losses(self, competitor, seeds, *_):
            results, task, steps = self.place
            cell = competitor.cell(task, 0.1, steps)
            there = {row.seed for row in results.of(cell)}
            if missing := [seed for seed in seeds if seed not in there]:
                results.add(cell, missing, [0.5] * len(missing), [0.0] * len(missing))

    monkeypatch.setattr(schedule, "Evaluation", Fake)
    blocks = [Block(DIGITS, steps, names, 2, 1) for steps in (3, 4) for names in (("adam",), ("sgd", "adam"))]
    results = Results(folder)
    schedule.run(blocks, schedule.find(["adam", "sgd"], []), results, None, jobs=4)
    assert len(results.rows) == len(set(results.rows)) == 2 * 2 * 2


def test_longer_runs_are_tuned_around_the_best_rates_of_shorter_ones(folder, monkeypatch):
    blocks = [Block(DIGITS, 6, ("adam",), 1, 1, after=3), Block(DIGITS, 3, ("adam",), 1, 1)]
    best, tried = {3: 2.0**-2, 6: 2.0**-4.5}, {3: [], 6: []}

    def measured(self, cell, runner, seeds):
        tried[cell.steps].append(cell.learning_rate)
        losses = [abs(math.log(cell.learning_rate / best[cell.steps]))] * len(seeds)
        self._results.add(cell, seeds, losses, losses)
        return losses

    monkeypatch.setattr(Evaluation, "_cell", measured)
    results = Results(folder)
    schedule.run(blocks, schedule.find(["adam"], []), results, None, jobs=2)
    assert tried[3][0] == baselines.learning_rate(baselines.FIRST_GRID["adam"][0])
    assert tried[6][:3] == [2.0**-3, 2.0**-2, 2.0**-1]
    assert tried[3][-1] == best[3]
    assert tried[6][-1] == best[6]


def test_an_error_in_one_task_ends_the_others(folder, monkeypatch):
    blocks = [Block(DIGITS, steps, ("adam",), 2, 1) for steps in (3, 4)]
    results = Results(folder)

    def fail(self, cell, runner, seeds):
        raise OSError("disk full")

    monkeypatch.setattr(Evaluation, "_cell", fail)
    with pytest.raises(OSError, match="disk full"):
        schedule.run(blocks, schedule.find(["adam"], []), results, None, jobs=2)


# What is said of it.


@pytest.fixture
def paper_like(tmp_path):
    """Runs that agree with the paper wherever a table or claim looks, where the report looks for runs."""
    results = Results(str(tmp_path / report.RUNS))
    rng = np.random.default_rng(0)

    def put(task, name, mean, steps=None):
        add(results, task, name, list(mean + 0.001 * rng.normal(size=4)), steps=steps)

    for task in PAPER_TASKS:
        hard = task in [experiments.DEPTHS[n] for n in (8, 9, 10)]
        best = "sgd" if task in experiments.CNNS else "adam"
        for name in TRADITIONAL:
            put(task, name, 2.3 if hard else 0.5 if name != best else 0.4)
        put(task, RNNPROP, 2.3 if hard else 0.45 if task in experiments.CNNS[1:3] else 0.3)
        put(task, DM, 0.2 if task == BASE else 5.0)
    for task in (BASE, experiments.RELU):
        for k in experiments.TABLE_4_ITERATIONS:
            put(task, f"{RNNPROP}-{k}", 0.3)
            put(task, f"{experiments.NO_CONVEX}-{k}", 0.35)
    for name, loss in (
        (experiments.RNNPROP_5000, 0.2),
        (experiments.NO_SCALING, 0.9),
        (experiments.NO_CONVEX_5000, 0.25),
        (DM, 5.0),
        (experiments.DM_TRICKS, 0.3),
    ):
        put(experiments.RELU, name, loss, steps=1_000)
    for task in experiments.OTHER_OPTIMIZEES:
        for name in (*TRADITIONAL, RNNPROP):
            put(task, name, 0.2, steps=experiments.OTHER_OPTIMIZEES_STEPS)
    long = "mnist-nn-sigmoid-10000"
    for rate, loss in ((0.001, 0.5), (0.004, 0.1), (0.008, 0.1), (0.03, 0.6)):
        add(results, long, "adam", [loss], first_seed=TUNING_SEED, rate=rate)
    rising = np.interp(np.arange(10_000), [0, 400, 10_000], [2.3, 0.3, 30.0])
    results.rows = [row for row in results.rows if (row.task, row.optimizer) != (long, DM)]
    add(results, long, DM, [26.0, 26.1], rate=0.2, curves=np.tile(rising, (2, 1)))
    results.rows = [row for row in results.rows if (row.task, row.optimizer) != (long, RNNPROP)]
    add(
        results, long, RNNPROP, [0.45, 0.46], rate=0.2, curves=np.tile(np.geomspace(2.3, 0.4, 10_000), (2, 1))
    )
    return results


def test_claims_hold_on_runs_as_the_paper_has_them(paper_like):
    for claim in claims.CLAIMS:
        assert claims.check(claim, paper_like).verdict == claims.HOLDS, (
            claim,
            claims.check(claim, paper_like),
        )


def test_no_claim_holds_on_runs_that_are_the_other_way_round(paper_like):
    """Each claim can fail: learned and traditional optimizers swapped, RNNprop and DMoptimizer too."""
    swap = {RNNPROP: "adam", "adam": RNNPROP, DM: "momentum", "momentum": DM}
    swap |= {experiments.NO_SCALING: RNNPROP, experiments.DM_TRICKS: DM}
    for k in experiments.TABLE_4_ITERATIONS:
        pair = (f"{RNNPROP}-{k}", f"{experiments.NO_CONVEX}-{k}")
        swap |= dict(zip(pair, reversed(pair), strict=True))
    paper_like.rows = [
        row._replace(optimizer=swap.get(row.optimizer, row.optimizer)) for row in paper_like.rows
    ]
    for claim in claims.CLAIMS:
        assert claims.check(claim, paper_like).verdict != claims.HOLDS, claim


def test_a_claim_without_its_runs_is_not_judged(tmp_path):
    for claim in claims.CLAIMS:
        assert claims.check(claim, Results(str(tmp_path))).verdict == "not run"


def verdicts(text, results):
    return {claims.check(claim, results).verdict for claim in claims.CLAIMS if text in claim.text}


def change(results, task, optimizer, loss):
    """Other final losses for the reported runs of one optimizer."""
    results.rows = [
        row._replace(final_loss=loss)
        if (row.task, row.optimizer) == (task, optimizer) and row.seed < TUNING_SEED
        else row
        for row in results.rows
    ]


def test_an_untrained_classifier_failed_whatever_the_best_one_has(paper_like):
    for task in experiments.CNNS[:3]:
        change(paper_like, task, DM, 2.3)
        for name in TRADITIONAL:
            change(paper_like, task, name, 1.6)
    assert verdicts("fails on all CNNs", paper_like) == {claims.HOLDS}
    change(paper_like, experiments.CNNS[0], DM, 2.2)
    assert verdicts("fails on all CNNs", paper_like) == {claims.IN_PART}


def test_a_tie_with_a_lower_loss_does_not_speak_for_rnnprop(paper_like):
    task = experiments.CNNS[1]
    rows = [row for row in paper_like.rows if (row.task, row.optimizer) == (task, RNNPROP)]
    paper_like.rows = [row for row in paper_like.rows if row not in rows]
    paper_like.rows += [row._replace(final_loss=2.3 if row.seed == 0 else 0.45) for row in rows]
    assert verdicts("only the best traditional", paper_like) == {claims.IN_PART}


def test_longer_runs_of_other_optimizees_are_to_be_near_the_best(paper_like):
    change(paper_like, experiments.OTHER_OPTIMIZEES[1], RNNPROP, 0.3)  # after 100 and 2,000 steps
    assert verdicts("longer horizons", paper_like) == {claims.IN_PART}


def test_adam_is_not_the_best_traditional_where_another_is(paper_like):
    change(paper_like, experiments.DEPTHS[3], "rmsprop", 0.3)
    assert verdicts("Adam is the best", paper_like) == {claims.IN_PART}


def test_a_diverged_rnnprop_is_not_left_out_of_a_claim(paper_like):
    change(paper_like, experiments.DEPTHS[3], RNNPROP, np.nan)
    assert verdicts("RNNprop wins at every depth", paper_like) == {claims.IN_PART}


def test_a_diverging_dmoptimizer_rises(paper_like):
    long = "mnist-nn-sigmoid-10000"
    curve = np.interp(np.arange(10_000), [0, 400, 10_000], [2.3, 0.3, 30.0])
    curve[5_000:] = np.nan
    paper_like.rows = [row for row in paper_like.rows if (row.task, row.optimizer) != (long, DM)]
    add(paper_like, long, DM, [np.nan], curves=curve[None])
    assert verdicts("loss rises after about 400", paper_like) == {claims.HOLDS}


def test_a_narrow_interval_elsewhere_is_not_the_paper_s(paper_like):
    paper_like.rows = [
        row._replace(learning_rate=row.learning_rate / 20) if row.seed >= TUNING_SEED else row
        for row in paper_like.rows
    ]
    assert verdicts("narrow interval", paper_like) == {claims.IN_PART}


def test_random_scaling_is_not_the_most_effective_where_the_rule_does_more(paper_like):
    change(paper_like, experiments.RELU, experiments.NO_SCALING, 0.25)
    assert verdicts("Random Scaling", paper_like) == {claims.IN_PART}


def test_the_paper_s_sine_lstms_are_comparable(paper_like):
    for task, printed in tables.PAPER_TABLE_3.items():
        for name in (*TRADITIONAL, RNNPROP):
            change(paper_like, task, name, printed.get(name, 1.0))
    assert verdicts("on the sine LSTMs", paper_like) == {claims.HOLDS}


def test_a_curve_beyond_the_scale_leaves_the_others_readable(tmp_path):
    results = Results(str(tmp_path))
    for name, end in ((RNNPROP, 0.2), (DM, 1e6)):
        add(results, BASE, name, [end], curves=np.geomspace(2.3, end, 100)[None])
    figure = plots._panels(results, [BASE])
    bottom, top = figure.axes[0].get_ylim()
    plots.png(figure)
    assert 0.05 < bottom < 0.2
    assert top == pytest.approx(plots.CEILING * 2.3, rel=1e-3)  # float16


def cells(text, *first):
    """The remaining cells of the table row that begins with these."""
    starts = f"| {' | '.join(first)} | "
    [line] = [line for line in text.splitlines() if line.startswith(starts)]
    return line.removeprefix(starts).removesuffix(" |").split(" | ")


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
        "1.4 [0.3, 2.5]",
        "not run",
        "not run",
        "0.5 [0.5, 0.5]",
    ]
    assert cells(medians, BASE, "100") == ["nan", "1.4", "not run", "not run", "0.5"]
    assert f"Runs of {experiments.SETTLING} that ended more than 5% above their first loss, of 2:" in text
    for name in experiments.OURS:
        change(results, BASE, name, 0.3)
    assert "of 4: none." in default_weights_tables.default_weights(results)


def test_drawing_reads_files_only_and_says_what_is_missing(paper_like, tmp_path, monkeypatch):
    monkeypatch.setattr(schedule, "Evaluation", None)
    axis, ones = np.linspace(-1, 1, 5), np.ones((5, 5))
    page = tmp_path / "paper"
    page.mkdir()
    np.savez(tmp_path / report.LEARNED_UPDATE, m=axis, g=4 * axis, fresh=ones, used=ones)
    (page / report.NOTES).write_text("Made on a machine.\n")
    report.draw(str(tmp_path))
    text = (page / "RESULTS.md").read_text()
    assert "\n\nMade on a machine.\n\nOf two optimizers" in text
    assert re.search(rf"^\| {len(claims.CLAIMS)} \| 5.5 \| .* \| holds \|$", text, re.MULTILINE)
    assert f"{len(claims.CLAIMS)}. holds:\n    - {BASE}: with the convex part 0.3" in text
    pictures = re.findall(r"!\[.*\]\((.*)\)", text)
    assert pictures == [*(f"figure{k}.png" for k in range(2, 10)), "learned-update.png"]
    for picture in pictures:
        assert (page / picture).read_bytes().startswith(b"\x89PNG")
    assert report.SECTIONS["scorecard"].title in text
    assert "`python -m trainer.report --experiments=figure9 --out=...`: 4 runs of each optimizer" in text
    # Of the default weights there are no runs, only of those that they would be compared with.
    assert {path.name for path in tmp_path.iterdir()} == {"paper", report.RUNS}
    with pytest.raises(ValueError, match=r"No runs in .*empty/runs\. Compute them first"):
        report.draw(str(tmp_path / "empty"))


def test_the_default_weights_have_a_page_with_the_headline_figure(tmp_path):
    results = Results(str(tmp_path / report.RUNS))
    for name in plots.HEADLINE_OPTIMIZERS:
        add(results, BASE, name, [0.3, 0.4])
    report.draw(str(tmp_path))
    page = tmp_path / "default-weights"
    text = (page / "RESULTS.md").read_text()
    assert re.findall(r"!\[.*\]\((.*)\)", text) == ["headline.png"]
    assert (page / "headline.png").read_bytes().startswith(b"\x89PNG")
    assert report.SECTIONS["default-weights"].title in text
    figure = plots.headline(results)
    np.testing.assert_allclose(figure.axes[0].lines[0].get_ydata()[[0, -1]], [2.3, 0.5], rtol=1e-3)
    assert len(figure.axes[0].lines) == 3
    assert all(axes.get_yscale() == "log" for axes in figure.axes)


def test_the_learned_update_is_the_rule_s(tmp_path):
    network = coordinatewise.initial_weights(Architecture(preprocess=(4,), lstm=(4,)), 0)
    rule = RNNpropRule()
    pretrained.save(tmp_path / "w", network, rule)
    path = tmp_path / "map.npz"
    learned_update.write(pretrained.load(tmp_path / "w"), DIGITS, str(path), None)
    with np.load(path) as maps:
        m, g, fresh, used = (maps[name] for name in ("m", "g", "fresh", "used"))
    inputs = np.array([[m[3]], [g[35]]], "float32")
    seen = learned_update.Observation(inputs, scale=(), awake=np.array([True]))
    state = rule.initial_state(network, 1)
    direction, _ = rule.respond(network, seen, state.lstm)
    np.testing.assert_allclose(fresh[3, 35], direction[0], rtol=1e-5)
    assert used.shape == fresh.shape == (41, 41)
    assert not np.allclose(used, fresh)

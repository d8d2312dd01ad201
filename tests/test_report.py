"""Pages and figures: drawn from files alone, each with what there are runs for."""

import re

import numpy as np
import pytest
from made_runs import TASK, add, paper_like_runs

from rnnprop_tf import network as coordinatewise
from rnnprop_tf import pretrained
from rnnprop_tf.network import Architecture
from rnnprop_tf.rule import RNNpropRule
from trainer.evaluation import schedule
from trainer.evaluation.results import Results
from trainer.paper import claims, learned_update, plots, report
from trainer.paper.experiments import BASE, DM, RNNPROP


@pytest.fixture
def paper_like(tmp_path):
    return paper_like_runs(tmp_path / report.RUNS)


def test_a_curve_beyond_the_scale_leaves_the_others_readable(tmp_path):
    results = Results(str(tmp_path))
    for name, end in ((RNNPROP, 0.2), (DM, 1e6)):
        add(results, BASE, name, [end], curves=np.geomspace(2.3, end, 100)[None])
    figure = plots._panels(results, [BASE])
    bottom, top = figure.axes[0].get_ylim()
    plots.png(figure)
    assert 0.05 < bottom < 0.2
    assert top == pytest.approx(plots.CEILING * 2.3, rel=1e-3)  # float16


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
    learned_update.write(pretrained.load(tmp_path / "w"), TASK, str(path), None)
    with np.load(path) as maps:
        m, g, fresh, used = (maps[name] for name in ("m", "g", "fresh", "used"))
    inputs = np.array([[m[3]], [g[35]]], "float32")
    seen = learned_update.Observation(inputs, scale=(), awake=np.array([True]))
    state = rule.initial_state(network, 1)
    direction, _ = rule.respond(network, seen, state.lstm)
    np.testing.assert_allclose(fresh[3, 35], direction[0], rtol=1e-5)
    assert used.shape == fresh.shape == (41, 41)
    assert not np.allclose(used, fresh)

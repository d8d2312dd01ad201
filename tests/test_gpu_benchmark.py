"""The command that measures a GPU, at tiny sizes on a CPU: what a device does wrong is caught."""

import json
import os
import subprocess
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest

from benchmarks import gpu, gpu_parity

ROOT = Path(__file__).parent.parent
SIZES = gpu.SIZES["cpu"]
STEPS = gpu_parity.BAD_STEP + 2
FLOAT, BFLOAT = gpu_parity.CASES[:2]


@pytest.fixture(scope="module")
def reference():
    """What a CPU does, by case."""
    return {case: list(gpu_parity.points(case, SIZES.shapes, STEPS)) for case in (FLOAT, BFLOAT)}


@pytest.mark.parametrize("case", [FLOAT, BFLOAT])
def test_a_cpu_agrees_with_itself_and_every_step_counts(case, reference):
    expected = reference[case]
    steps = [gpu_parity.rms(point.step) for point in expected]
    assert [step == 0.0 for step in steps] == [k == gpu_parity.BAD_STEP for k in range(STEPS)]
    found = gpu_parity.compare(case, SIZES.shapes, iter(expected))
    assert [entry["jit_compile"] for entry in found] == [False, True]
    for entry in found:
        assert entry["agrees"], entry
        assert entry["steps"] == STEPS
        assert not gpu.wrong(entry, "cpu")


def changed(points, number, change):
    """The same points but for one."""
    return [change(point) if k == number else point for k, point in enumerate(points)]


@pytest.mark.parametrize(
    ("case", "number", "change"),
    [
        (FLOAT, 3, lambda p: p._replace(step=p.step * np.float32(1.001))),
        (FLOAT, 3, lambda p: p._replace(step=np.where(np.arange(p.step.size) == 1, np.nan, p.step))),
        (FLOAT, gpu_parity.BAD_STEP, lambda p: p._replace(step=p.step + np.float32(1e-3))),
        (BFLOAT, STEPS - 1, lambda p: p._replace(state=[v * v.dtype.type(1.01) for v in p.state])),
    ],
)
def test_what_a_device_does_wrong_is_caught(case, number, change, reference):
    received = iter(changed(reference[case], number, change))
    worst = np.max([gpu_parity.distances(p, next(received)) for p in reference[case]], axis=0)
    entry = gpu_parity.verdict(case, False, worst, STEPS)
    assert not entry["agrees"]
    assert gpu.wrong(entry, "gpu")


def test_loss_scaling_s_gradients_were_float16():
    plain, scaled = (gpu_parity.gradients(SIZES.shapes, 0, scaling) for scaling in (False, True))
    for one, other in zip(plain, scaled, strict=True):
        np.testing.assert_allclose(other, one * gpu_parity.LOSS_SCALE, rtol=1e-3, atol=1e-7)
        np.testing.assert_array_equal(other, other.astype("float16"))


def test_fit_learns_where_it_should():
    """In float32 and in mixed_float16."""
    found = list(gpu.fit(SIZES))
    assert [entry["policy"] for entry in found] == ["float32", "mixed_float16"]
    for entry in found:
        assert not gpu.wrong(entry, "cpu"), entry
        assert gpu.wrong(entry, "gpu")
        assert gpu.wrong(entry | {"learns": False}, "cpu")


def test_steps_stand_beside_adam_s_and_free_their_state(monkeypatch):
    states = []
    measured = gpu.step_cost

    def step_cost(which, optimizer, *rest):
        assert [state() for state in states] == [None] * len(states)
        entry = measured(which, optimizer, *rest)
        states.append(weakref.ref(optimizer))
        return entry

    monkeypatch.setattr(gpu, "step_cost", step_cost)
    adam, ours, wide, large = gpu.steps(SIZES, "CNN", jit_compile=False)
    assert adam["times_adam"] == 1.0
    assert ours["milliseconds"] == pytest.approx(ours["times_adam"] * adam["milliseconds"])
    for entry, bytes_a_parameter in ((adam, 8), (ours, 32), (wide, 48), (large, 328)):
        assert entry["state_bytes"] == pytest.approx(bytes_a_parameter * entry["parameters"], rel=0.01)


def test_results_are_written_as_they_come(monkeypatch, tmp_path):
    """The file holds each before the next is there; what failed is named at the end, not what was late."""
    path = tmp_path / "new" / "gpu.json"
    results = {
        "parity": [{"agrees": True}, {"agrees": False}],
        "fit": [{"failed": "exit code -11, see above"}],
        "steps: CNN, plain": [{"milliseconds": 1.0}, {"failed": gpu.OUT_OF_TIME}],
    }
    there = []

    def entries(part, device, limit):
        assert 0.0 < limit <= 60.0
        for entry in results.get(part, []):
            yield entry
            written = json.loads(path.read_text())
            assert not written["complete"]
            there.append(written[part.partition(":")[0]][-1])

    monkeypatch.setattr(gpu, "entries", entries)
    bad = gpu.measure("cpu", minutes=1.0, out=str(path))
    expected = [{"part": part} | entry for part, found in results.items() for entry in found]
    assert there == expected
    assert bad == [expected[1], expected[2]]
    assert not json.loads(path.read_text())["complete"]
    assert os.listdir(path.parent) == [path.name]


def command(*arguments, **environment):
    """Runs the command where no data sets, no plots and no progress bars are installed."""
    missing = "import runpy, sys; sys.modules.update(dict.fromkeys(['sklearn', 'tqdm', 'matplotlib', "
    missing += (
        "'tensorflow_datasets'])); runpy.run_module('benchmarks.gpu', run_name='__main__', alter_sys=True)"
    )
    return subprocess.run(
        [sys.executable, "-c", missing, *arguments],
        cwd=ROOT,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"} | environment,
        capture_output=True,
        text=True,
    )


def test_without_a_gpu_one_line_says_so(tmp_path):
    done = command(f"--out={tmp_path / 'gpu.json'}")
    assert done.returncode == gpu.NO_GPU
    assert done.stderr.splitlines()[-1].startswith("TensorFlow finds no GPU. Install `tensorflow[and-cuda]`")
    assert done.stdout == ""
    assert os.listdir(tmp_path) == []


@pytest.mark.slow
def test_the_rehearsal_is_complete(tmp_path):
    path = tmp_path / "gpu.json"
    done = command("--device=cpu", f"--out={path}")
    assert done.returncode == 0, done.stderr
    result = json.loads(path.read_text())
    assert result["complete"]
    assert len(result["parity"]) == 2 * len(gpu_parity.CASES)
    assert len(result["steps"]) == 2 * len(SIZES.models) * len(gpu.OPTIMIZERS)


@pytest.mark.slow
def test_a_part_that_takes_too_long_is_ended():
    assert list(gpu.entries("parity", "cpu", limit=1.0)) == [{"failed": gpu.OUT_OF_TIME}]

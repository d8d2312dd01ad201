"""The commands' flags: a wrong value ends in one line that says what is allowed, before anything is done."""

import os
import runpy
import sys
from pathlib import Path

import pytest
from absl import flags

RATES = ("alpha", "outer_learning_rate")
TRAIN = {
    "preset": {"mine": "one of paper-rnnprop, paper-rnnprop-no-scaling, "},
    "run_dir": {"": "folder of the run; any path", "/dev/null/run": "Cannot write to /dev/null/run"},
    "data_dir": {"": "TFDS's folder", "/dev/null/x": "The data set 'mnist' is not in /dev/null/x and"},
    "resume": {"maybe": "true or false"},
    "strategy": {
        "tpu": "one of none, mirrored, multi_worker",
        "multi_worker": "TF_CONFIG in the environment",
    },
    "rule": {"adam": "one of rnnprop, rnnprop-annealing, dm"},
    "task": {"mnist": "Expected one of mnist-nn-sigmoid-100, "},
    "select": {"test": "train or validation"},
    "loss_weights": {"first": "last or mean"},
    **{
        name: {"0": "at least 1", "1.5": "an integer"}
        for name in ("meta_batch_size", "period", "last_batches")
    },
    **{name: {"0": "at least 1", "x": "an integer"} for name in ("iterations", "checkpoint_every")},
    "episode_steps": {"30": "a multiple of the period, 20", "0": "at least 1", "": "an integer"},
    "convex_dimension": {"-1": "0 or more", "few": "an integer"},
    **{name: {"-1": "0 or more", "x": "a number"} for name in ("scaling", "convex_scaling", "clipnorm")},
    **{
        name: {"0": "a positive number", "nan": "a positive number"}
        for name in ("alpha", "outer_learning_rate")
    },
    **{name: {"maybe": "true or false"} for name in ("plain_tape", "cosine_decay", "mixed_scaling")},
    "longest_episode": {"-1": "0 or more", "x": "an integer"},
    "initial": {"/nowhere": "Expected one of ['"},
    "teacher": {"rnnprop-quick": "for one give --convex_dimension=0"},  # the default preset has a convex part
    "teacher_share": {"2": "a share from 0 to 1", "half": "a number"},
    "evolution_pairs": {"-1": "0 or more", "some": "an integer"},
    "evolution_deviation": {"0": "from 1e-6 to 1", "wide": "a number"},
    "preprocess": {"0": "layers of 1 or more units", "x": "layers of 1 or more units"},
    "lstm": {"": "layers of 1 or more units", "0": "layers of 1 or more units"},
    "teacher_warmup": {"-1": "0 or more", "x": "an integer", "3": "0 without a teacher"},
    "sample": {"0": "a share above 0, up to 1", "all": "a number"},
    "seed": {"-1": "a number from 0 to 2^31 - 1", "x": "an integer"},
}
EXPORT = {
    "run_dir": {"": "folder of the run", "/nowhere": "Expected the --run_dir of a run of trainer.train"},
    "out": {"": "the weight folder to write"},
    "iteration": {"last": "an integer"},
    "results": {
        "": "folder of trainer.evaluate",
        "/nowhere": "Expected the --out folder of trainer.evaluate",
    },
    "annealing": {"-1": "a non-negative number", "x": "a non-negative number"},
    "state_dtype": {"half": "one of float32, bfloat16, int8"},
}
EVALUATE = {
    "tasks": {"": "names of trainer.problems.catalog", "mnist": "Expected one of mnist-nn-sigmoid-100, "},
    "optimizers": {
        "": "name or folder",
        "adm": "Expected one of",
        "adam:fast": "a learning rate after the c",
        "adamw-cosine": "expected Keras models as tasks. Received: ",
    },
    **{name: {"0": "a positive integer", "x": "a positive"} for name in ("runs", "tuning_runs", "steps")},
    "first_seed": {"-1": "an integer in the range [0, 499999]", "x": "an integer in the range"},
    "out": {"": "folder for the runs"},
    "data_dir": {"": "TFDS's folder"},
}
DEMO = {
    "folder": {"": "where the run, the weights and the picture go"},
    "epochs": {"0": "a positive integer"},
    "runs": {"many": "a positive integer"},
}
CONVERT = {
    "weights": {"": "the .npz file to convert", "/nowhere.npz": "/nowhere.npz"},
    "out": {"": "the weight folder to write"},
}
REPORT = {
    "experiments": {"table1": "paper, or among table2, table3", "": "paper for all of the paper's, or"},
    "optimizers": {"adamw": "Expected some of ['adadelta', 'adagrad', 'adam'"},
    "compute": {"maybe": "true or false"},
    "quick": {"maybe": "true or false"},
    "weights": {"": "folder of weights that do not ship"},
    "jobs": {"0": "a positive integer"},
    "out": {"": "folder of the runs", "/dev/null/out": "Cannot write to /dev/null/out"},
    "data_dir": {"": "TFDS's folder"},
}
COMMANDS = {
    "train": TRAIN,
    "export": EXPORT,
    "evaluate": EVALUATE,
    "convert": CONVERT,
    "report": REPORT,
    "demo": DEMO,
}
ANY_TEXT = {"recipe", "source", "licence"}
WRONG = [
    (command, name, value, expected)
    for command, table in COMMANDS.items()
    for name, values in table.items()
    for value, expected in values.items()
]


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Runs a command as `python -m` does, but in this process. Returns what it ends with."""
    kept = dict(flags.FLAGS.__dict__)
    monkeypatch.delenv("TF_CONFIG", raising=False)
    monkeypatch.setattr("tensorflow.config.experimental.enable_op_determinism", lambda: None)
    monkeypatch.chdir(tmp_path)

    def run(command, *arguments):
        libraries = {
            flag.name: flag
            for module, defined in flags.FLAGS.flags_by_module_dict().items()
            if module.split(".")[0] in ("absl", "tensorflow")
            for flag in defined
        }
        flags.FLAGS.__init__()  # the commands share names of flags
        flags.FLAGS.__dict__["__flags"].update(libraries)
        module = command if "." in command else f"trainer.{command}"
        monkeypatch.delitem(sys.modules, module, raising=False)
        monkeypatch.setattr(sys, "argv", [command, *arguments])
        with pytest.raises(SystemExit) as stop:
            runpy.run_module(module, run_name="__main__")
        return stop.value.code

    yield run
    flags.FLAGS.__dict__.update(kept)


def required(command, *names):
    """The flags that the command must have, but for those."""
    there = {"run_dir": "--run_dir=run", "out": "--out=out", "weights": "--weights=/nowhere.npz"}
    if command == "train" and "data_dir" not in names:
        there["task"] = "--task=digits-nn-sigmoid-100"  # needs no download
    return [flag for name, flag in there.items() if name in COMMANDS[command] and name not in names]


@pytest.mark.parametrize(("command", "name", "value", "expected"), WRONG)
def test_a_wrong_value_is_one_line_that_says_what_is_allowed(run, command, name, value, expected):
    line = run(command, *required(command, name), f"--{name}={value}")
    assert expected in line
    assert "\n" not in line
    assert os.listdir(".") == []


@pytest.mark.parametrize("command", COMMANDS)
def test_the_table_has_every_flag(run, command):
    run(command, "--nothing")
    ours = {flag.name for flag in flags.FLAGS.flags_by_module_dict()[command]}
    assert ours - ANY_TEXT == set(COMMANDS[command])


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ["--iteratons=3"],
            "Unknown command line flag 'iteratons'. Did you mean: iterations ?. --help lists the",
        ),
        (["runs/mine"], "Expected flags only, as in --name=value. Received: runs/mine"),
        (["--noresume=1"], "--noresume=1 does not take an argument. --help lists the flags."),
    ],
)
def test_what_is_no_flag_is_one_line(run, arguments, line):
    assert run("train", "--run_dir=run", *arguments).startswith(line)


MEASUREMENTS = [
    f"{folder}.{path.stem}"
    for folder in ("benchmarks", "studies")
    for path in sorted((Path(__file__).parent.parent / folder).glob("*.py"))
    if "flags.DEFINE_" in path.read_text(encoding="utf-8")
]


@pytest.mark.parametrize("module", MEASUREMENTS)
def test_a_timing_or_a_study_says_which_flag_it_does_not_know(run, module):
    line = run(module, "--nothing=1")
    assert line.startswith("Unknown command line flag 'nothing'")
    assert "\n" not in line
    assert os.listdir(".") == []


@pytest.mark.parametrize(("command", "flag"), [("train", "run_dir"), ("export", "out"), ("evaluate", "out")])
def test_a_flag_that_must_be_there_is_named(run, command, flag):
    line = run(command, *required(command, flag))
    assert line.startswith(f"{flag}: expected {COMMANDS[command][flag]['']}")
    assert line.endswith("Received: nothing")

"""Runs the tests that Keras ships in its wheel with RNNprop in place of SGD and Adam.

    python -m tests.keras_suite              all files, each in a process of its own
    python -m tests.keras_suite trainer_test # those whose path contains this
    python -m tests.keras_suite --stock ...  with Keras's optimizers, for comparison

What fails because it hard-codes SGD's or Adam's arithmetic, or their arguments, is listed with its reason in
`expected_failures.txt`; a failure that is not listed fails the run, and so does a listed test that passes.
"""

import collections
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import keras

FILES = Path(__file__).with_name("files.txt").read_text().split()
KERAS = Path(keras.__file__).parent


def run(file: str, stock: bool) -> collections.Counter[str]:
    """Runs one file; returns how often each outcome came."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "outcomes.json")
        options = ["-q", "--tb=short", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", str(KERAS)]
        options += ["-o", "python_files=*_test.py", "-W", "ignore", "-p", "tests.keras_suite.plugin"]
        environment = os.environ | {"KERAS_SUITE_REPORT": str(report), "KERAS_SUITE_STOCK": "1" * stock}
        command = [sys.executable, "-m", "pytest", *options, str(KERAS / file)]
        process = subprocess.run(command, env=environment, capture_output=True, text=True)
        outcomes = json.loads(report.read_text()) if report.exists() else {}
    counts = collections.Counter(outcomes.values())
    if process.returncode:
        if not counts["failed"]:
            counts["broken"] = 1
        print(process.stdout[-20_000:], process.stderr[-2_000:])
    print(f"{file}: {_sentence(counts)}", flush=True)
    return counts


def _sentence(counts: collections.Counter[str]) -> str:
    return ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items()))


def main(arguments: list[str]) -> int:
    stock = "--stock" in arguments
    wanted = [argument for argument in arguments if argument != "--stock"]
    files = [file for file in FILES if not wanted or any(name in file for name in wanted)]
    total: collections.Counter[str] = sum((run(file, stock) for file in files), collections.Counter())
    print(f"Keras {keras.__version__}, {len(files)} files: {_sentence(total)}")
    return int(total["failed"] + total["broken"] > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

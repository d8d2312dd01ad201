"""The package: what source distribution and wheel hold, and that the wheel alone is enough to train with."""

import re
import shutil
import site
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

import rnnprop_tf

ROOT = Path(__file__).parent.parent
BUILT_FROM = ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE", "rnnprop_tf")
"""What a build needs of the checkout."""

TRAINING = """
import importlib.metadata, importlib.util, pathlib, sys
import keras, numpy as np, rnnprop_tf

assert pathlib.Path(rnnprop_tf.__file__).is_relative_to(sys.prefix), rnnprop_tf.__file__
assert importlib.util.find_spec("trainer") is None
assert importlib.metadata.version("rnnprop-tf") == rnnprop_tf.__version__
keras.utils.set_random_seed(0)
x = np.random.default_rng(0).normal(size=(64, 3)).astype("float32")
model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
model.compile(rnnprop_tf.RNNprop.from_pretrained(), "mse")
losses = model.fit(x, x @ [[1.0], [-2.0], [0.5]], epochs=20, verbose=0).history["loss"]
assert losses[-1] < 0.1 * losses[0], losses
"""
TYPED = """
import rnnprop_tf

names: list[str] = rnnprop_tf.list_pretrained()
number: int = rnnprop_tf.list_pretrained()
rnnprop_tf.RNNprop.from_pretrained().save_pretrained("a folder")
rnnprop_tf.RNNprop.from_pretrained().save_pretrained(3)
"""


class Distributions(NamedTuple):
    """The two files that `python -m build` makes."""

    sdist: Path
    wheel: Path


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Distributions:
    """Built from a copy, so that no leftovers of earlier builds get in and none stay behind.

    The copy has the packages too that must stay out.
    """
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in (*BUILT_FROM, "trainer", "tests"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, source)
    (sdist,), (wheel,) = out.glob("*.tar.gz"), out.glob("*.whl")
    return Distributions(sdist, wheel)


def run(*command: str | Path, folder: Path | None = None) -> None:
    """Runs a command that must succeed, with what it printed as the error."""
    done = subprocess.run(command, cwd=folder, text=True, capture_output=True)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as files:
        (name,) = (name for name in files.namelist() if name.endswith(".dist-info/METADATA"))
        return Parser().parsestr(files.read(name).decode())


def package_files() -> set[str]:
    """The files of the checkout that users install."""
    found = {path.relative_to(ROOT).as_posix() for path in (ROOT / "rnnprop_tf").rglob("*") if path.is_file()}
    return {path for path in found if "__pycache__" not in path}


def test_wheel_holds_the_package_and_nothing_else(built: Distributions) -> None:
    with zipfile.ZipFile(built.wheel) as files:
        names = set(files.namelist())
    ours = {name for name in names if ".dist-info/" not in name}
    assert ours == package_files()
    assert "rnnprop_tf/py.typed" in ours
    weights = {name.split("/")[2] for name in ours if name.startswith("rnnprop_tf/weights/")}
    assert weights == set(rnnprop_tf.list_pretrained())
    ones = {"rnnprop-1", "rnnprop-1-settling", "rnnprop-1-small"}
    assert weights == ones | {"rnnprop-2", "rnnprop-paper", "rnnprop-quick"}
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


def test_source_distribution_holds_what_the_wheel_is_built_from(built: Distributions) -> None:
    with tarfile.open(built.sdist) as files:
        names = {member.name.split("/", 1)[1] for member in files.getmembers() if member.isfile()}
    made = {name for name in names if name.startswith("rnnprop_tf.egg-info/")} | {"PKG-INFO", "setup.cfg"}
    assert names - made == package_files() | {name for name in BUILT_FROM if "." in name} | {"LICENSE"}


def test_metadata_is_complete(built: Distributions) -> None:
    found = metadata(built.wheel)
    for key in ("Summary", "Author", "Keywords", "Classifier", "Project-URL", "Requires-Python"):
        assert found[key], key
    assert found["License-Expression"] == "Apache-2.0"
    assert found["Description-Content-Type"] == "text/markdown"
    assert str(found.get_payload()).strip() == (ROOT / "README.md").read_text(encoding="utf-8").strip()
    # What only a checkout can use is no extra.
    assert found.get_all("Provides-Extra") == ["hub"]
    always = [line for line in found.get_all("Requires-Dist") or [] if "extra ==" not in line]
    assert {re.split(r"\W", line)[0] for line in always} == {"tensorflow", "keras", "numpy", "safetensors"}


def test_version_is_the_same_everywhere(built: Distributions) -> None:
    assert metadata(built.wheel)["Version"] == rnnprop_tf.__version__
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == rnnprop_tf.__version__
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    latest = re.search(r"^## \[(\d[^\]]*)\]", changes, re.MULTILINE)
    assert latest is not None
    assert latest[1] == rnnprop_tf.__version__


def test_citation_names_the_authors_and_the_licence_of_the_package() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert citation["license"] == project["license"]
    assert citation["authors"] == project["authors"]


@pytest.fixture
def installed(built: Distributions, tmp_path: Path) -> Path:
    """The Python of an environment with the wheel, and its requirements borrowed from this environment.

    A path in a .pth file does not activate the .pth files that lie there: the checkout, which is installed
    as editable here, stays out.
    """
    home = tmp_path / "environment"
    venv.create(home, symlinks=True)
    python = home / "bin" / "python"
    (packages,) = home.glob("lib/python*/site-packages")
    (packages / "borrowed.pth").write_text("\n".join(site.getsitepackages()))
    run(
        *(sys.executable, "-m", "pip", "--disable-pip-version-check"),
        *("install", "--quiet", "--no-deps", "--no-index", "--target", packages, built.wheel),
    )
    return python


def test_the_wheel_alone_trains_a_model(installed: Path, tmp_path: Path) -> None:
    run(installed, "-c", TRAINING, folder=tmp_path)


def test_a_type_checker_sees_the_types(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "user.py").write_text(TYPED)
    command = [sys.executable, "-m", "mypy", "--python-executable", str(installed), "user.py"]
    done = subprocess.run(command, cwd=tmp_path, text=True, capture_output=True)
    errors = re.findall(r"^user\.py:(\d+): error: .*\[([\w-]+)\]$", done.stdout, re.MULTILINE)
    assert errors == [("5", "assignment"), ("7", "arg-type")], done.stdout + done.stderr


@pytest.mark.slow
def test_the_wheel_and_what_it_requires_train_a_model(built: Distributions, tmp_path: Path) -> None:
    """In a fresh environment, with a package index: takes a minute and more."""
    venv.create(tmp_path / "environment", with_pip=True)
    python = tmp_path / "environment" / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", built.wheel)
    run(python, "-c", TRAINING, folder=tmp_path)


def test_pre_commit_runs_make_lint() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    hooks = [hook for repository in config["repos"] for hook in repository["hooks"]]
    assert [(hook["entry"], hook["language"]) for hook in hooks] == [("make lint", "system")]
    assert all(hook["always_run"] and not hook["pass_filenames"] for hook in hooks)
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    lint = re.search(r"^lint:.*\n((?:\t.*\n)+)", makefile, re.MULTILINE)
    assert lint is not None
    assert re.findall(r"\$\(BIN\)/(.*)", lint[1]) == ["ruff check", "ruff format --check", "mypy"]


def test_requirements_of_dependency_groups_are_not_the_package_s() -> None:
    """Nor twice in one: a contributor's group includes the others."""
    tables = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    groups = tables["dependency-groups"]
    backends = {"jax", "torch", "without-tensorflow"}
    assert set(groups) == {"trainer", "docs", "dev", "minilm"} | backends
    assert {"include-group": "trainer"} in groups["dev"]
    assert {"include-group": "docs"} in groups["dev"]
    assert {"include-group": "minilm"} not in groups["dev"]  # It brings PyTorch.
    # Those of the backends are for environments of their own.
    shared = [group for name, group in groups.items() if name not in backends]
    required = [line for group in shared for line in group if isinstance(line, str)]
    required += tables["project"]["dependencies"]
    required += [line for extra in tables["project"]["optional-dependencies"].values() for line in extra]
    names = [re.split(r"[^\w-]", line)[0] for line in required]
    assert len(set(names)) == len(names)

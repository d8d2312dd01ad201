"""Weights from the Hugging Face Hub, played by a server on the loopback interface."""

import hashlib
import math
import re
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import pytest
from watch import audit_events

from rnnprop_tf import RNNprop, hub, pretrained
from rnnprop_tf import network as coordinatewise
from rnnprop_tf.network import Architecture
from rnnprop_tf.rule import RNNpropRule

pytest.importorskip("huggingface_hub", reason="the extra `hub` is not installed")

Files = dict[str, bytes]


class StandIn:
    """As much of the hub as a download needs: `HEAD` and `GET /org/name/resolve/revision/file`."""

    def __init__(self) -> None:
        self.commits: dict[str, Files] = {}
        self.refs: dict[str, str] = {}
        self.sizes: dict[str, int | None] = {}
        """What it says instead of the truth."""
        self.requests: list[str] = []
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                stand_in.answer(self)

            do_HEAD = do_GET  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def push(self, files: Files, ref: str = "main") -> str:
        """A commit with these files, at which the branch or tag points from now on; its hash."""
        commit = hashlib.sha1(repr((len(self.commits), files)).encode()).hexdigest()
        self.commits[commit] = files
        self.refs[ref] = commit
        return commit

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        if "/resolve/" not in request.path:  # The library's own affairs.
            refuse(request, "")
            return
        _, org, name, _, revision, file = map(unquote, request.path.split("/"))
        self.requests.append(f"{request.command} {file}")
        commit = self.refs.get(revision, revision)
        if (org, name) != ("lab", "weights"):
            refuse(request, "RepoNotFound")
        elif commit not in self.commits:
            refuse(request, "RevisionNotFound")
        elif file not in self.commits[commit]:
            refuse(request, "EntryNotFound")
        else:
            self.give(request, commit, file)

    def give(self, request: BaseHTTPRequestHandler, commit: str, file: str) -> None:
        content = self.commits[commit][file]
        request.send_response(200)
        size = self.sizes.get(file, len(content))
        if size is not None:
            request.send_header("Content-Length", str(size))
        request.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        request.send_header("X-Repo-Commit", commit)
        request.end_headers()
        if request.command == "GET":
            request.wfile.write(content)


def refuse(request: BaseHTTPRequestHandler, code: str) -> None:
    request.send_response(404)
    request.send_header("X-Error-Code", code)
    request.send_header("Content-Length", "0")
    request.end_headers()


@pytest.fixture
def stand_in() -> Iterator[StandIn]:
    server = StandIn()
    yield server
    server.stop()


def forget_the_library() -> dict[str, object]:
    """It reads its environment variables once; imported anew, it reads those of the test."""
    names = [name for name in sys.modules if name.split(".")[0] == "huggingface_hub"]
    return {name: sys.modules.pop(name) for name in names}


@pytest.fixture
def online(stand_in: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    """Address and cache of the library are those of the test."""
    monkeypatch.setenv("HF_ENDPOINT", stand_in.url)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    for variable in ("HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_TOKEN"):
        monkeypatch.delenv(variable, raising=False)
    before = forget_the_library()
    yield stand_in
    forget_the_library()
    sys.modules.update(before)  # type: ignore[arg-type]


def weights(tmp_path: Path, alpha: float) -> Files:
    """A weight folder's files, told apart by alpha."""
    network = coordinatewise.initial_weights(Architecture(2, (3,), (4,)), seed=1)
    pretrained.save(tmp_path / "made", network, RNNpropRule(), alpha)
    return {name: (tmp_path / "made" / name).read_bytes() for name in ("config.json", "model.safetensors")}


def alpha(address: str) -> float:
    return float(RNNprop.from_pretrained(address).learning_rate.numpy())


def test_a_branch_is_followed_and_a_pinned_revision_stays(online: StandIn, tmp_path: Path) -> None:
    first = online.push({**weights(tmp_path, 0.25), "setup.py": b"raise SystemExit", "big.bin": b"x"})
    online.refs["refs/pr/1"] = online.refs["v1"] = first
    assert alpha("hf://lab/weights") == 0.25
    assert online.requests.count("GET config.json") == online.requests.count("GET model.safetensors") == 1
    assert {request.split()[1] for request in online.requests} == {"config.json", "model.safetensors"}

    second = online.push(weights(tmp_path, 0.5))
    assert alpha("hf://lab/weights") == alpha("hf://lab/weights@main") == 0.5
    assert alpha(f"hf://lab/weights@{second}") == 0.5
    for revision in (first, "v1", "refs/pr/1"):
        assert alpha(f"hf://lab/weights@{revision}") == 0.25
    assert online.requests.count("GET config.json") == 2, "a commit's files are fetched once"
    # The second commit has the first's weights: the cache knows them by their digest.
    assert online.requests.count("GET model.safetensors") == 1


def test_a_pinned_commit_that_was_fetched_asks_nothing(online: StandIn, tmp_path: Path) -> None:
    commit = online.push(weights(tmp_path, 0.25))
    assert alpha(f"hf://lab/weights@{commit}") == 0.25
    online.requests.clear()
    with audit_events() as events:
        assert alpha(f"hf://lab/weights@{commit}") == 0.25
    assert not online.requests
    assert not [event for event, _ in events if event.startswith("socket.")]


@pytest.mark.parametrize("by", ["HF_HUB_OFFLINE", "a hub that does not answer"])
def test_what_was_fetched_is_found_offline(
    online: StandIn, tmp_path: Path, by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = online.push(weights(tmp_path, 0.25))
    assert alpha("hf://lab/weights") == 0.25
    online.push(weights(tmp_path, 0.5))
    if by == "HF_HUB_OFFLINE":
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        forget_the_library()
    else:
        online.stop()
    online.requests.clear()
    assert alpha("hf://lab/weights") == alpha(f"hf://lab/weights@{commit}") == 0.25
    assert not online.requests


def test_nothing_is_there_offline_that_was_not_fetched(
    online: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    online.push({"config.json": weights(tmp_path, 0.25)["config.json"]})
    with pytest.raises(ValueError, match=r"Cannot fetch model\.safetensors of hf://lab/weights\."):
        pretrained.load("hf://lab/weights")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    forget_the_library()
    for address, file in (("hf://lab/weights", "model.safetensors"), ("hf://lab/weights@v1", "config.json")):
        with pytest.raises(
            ValueError, match=rf"Cannot fetch {file} of {address}\. .*fetched before\. Received: "
        ):
            pretrained.load(address)


@pytest.mark.parametrize(
    ("address", "received"),
    [
        ("hf://lab/other", "RepositoryNotFoundError"),
        ("hf://lab/weights@v9", "RevisionNotFoundError"),
        (f"hf://lab/weights@{'0' * 40}", "RevisionNotFoundError"),
        ("hf://lab/weights@empty", "EntryNotFoundError"),
        ("hf://lab/two--dashes", "HFValidationError"),
    ],
)
def test_what_the_hub_does_not_have_is_said(
    online: StandIn, tmp_path: Path, address: str, received: str
) -> None:
    online.push(weights(tmp_path, 0.25))
    online.push({"README.md": b"# Weights"}, "empty")
    with pytest.raises(
        ValueError, match=rf"Cannot fetch config\.json of {address}\. Expected .*Received: \w*{received}: "
    ):
        pretrained.load(address)


@pytest.mark.parametrize(
    ("size", "refusal"),
    [
        (10 * 2**30, rf"Expected {{}} to have at most \d+ bytes\. Received: {10 * 2**30} bytes\."),
        # Older versions of the library refuse it themselves.
        (None, r"Expected {} to have at most \d+ bytes\. Received: an unknown|Cannot fetch {} of hf://"),
    ],
)
@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_a_file_of_absurd_or_unknown_size_is_not_fetched(
    online: StandIn, tmp_path: Path, file: str, size: int | None, refusal: str
) -> None:
    online.push(weights(tmp_path, 0.25))
    online.sizes[file] = size
    with pytest.raises(ValueError, match=refusal.replace("{}", re.escape(file))):
        pretrained.load("hf://lab/weights")
    assert f"GET {file}" not in online.requests


def test_a_file_longer_than_the_hub_said_is_refused(online: StandIn, tmp_path: Path) -> None:
    files = weights(tmp_path, 0.25)
    online.push(files)
    online.sizes["config.json"] = len(files["config.json"]) - 10
    with pytest.raises(ValueError, match=r"Unusable weights, .*config\.json\. Expected valid JSON"):
        pretrained.load("hf://lab/weights")


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_wrong_files_are_refused_as_in_any_folder(online: StandIn, tmp_path: Path, file: str) -> None:
    online.push(weights(tmp_path, 0.25) | {file: b"<html>not what you wanted</html>"})
    with pytest.raises(ValueError, match=rf"Unusable weights, .*{file}\. Expected"):
        pretrained.load("hf://lab/weights")


def test_the_largest_weights_that_load_would_take_fit_the_limit() -> None:
    sizes = (pretrained.MAX_UNITS,) * pretrained.MAX_LAYERS
    shapes = coordinatewise.tensor_shapes(Architecture(2, sizes, sizes)).values()
    data = sum(4 * math.prod(shape) for shape in shapes)
    assert data + 8 < pretrained.MAX_MODEL_BYTES <= data + 8 + pretrained.MAX_HEADER_BYTES < 80 * 2**20


@pytest.mark.parametrize(
    "address",
    [
        "hf://",
        "hf://name",
        "hf://lab/weights/config.json",
        "hf://lab/weights@",
        "hf://lab/../weights",
        "hf://lab/weights@../../../../etc",
        "hf://lab/weights@v1/../../x",
        "hf:///etc/passwd",
        "hf://lab/weights?x=1",
        "hf://lab/weights\n",
        "hf://lab/wei\0ghts",
        "hf://.lab/weights",
        "hf://lab/" + "w" * 97,
    ],
)
def test_an_address_of_another_form_is_refused_unasked(online: StandIn, address: str) -> None:
    with pytest.raises(ValueError, match=r"Expected an address like hf://org/name, or .*Received: 'hf:"):
        pretrained.load(address)
    assert not online.requests


def test_without_the_package_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r"pip install 'rnnprop-tf\[hub\]'"):
        RNNprop.from_pretrained("hf://lab/weights")


@pytest.mark.parametrize("name", pretrained.list_pretrained())
def test_shipped_weights_touch_no_network(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "fetch", None)
    with audit_events() as events:
        pretrained.load(name)
    assert events, "the watch is asleep"
    assert not [event for event, _ in events if event.startswith("socket.")]

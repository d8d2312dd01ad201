"""Files from the Hugging Face Hub: `hf://org/name` and `hf://org/name@revision`.

`huggingface_hub` is imported when the first such address is used, and by nothing else here. Its settings
hold: `HF_TOKEN` for private repositories, `HF_HOME` for where files are kept, `HF_HUB_OFFLINE=1`,
`HF_ENDPOINT`. To upload a folder written by `save_pretrained`, use that package's own command:

    hf upload org/name path/to/folder .
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

PREFIX = "hf://"

_NAME = r"\w[\w.-]{0,95}"
_ADDRESS = re.compile(rf"{PREFIX}({_NAME}/{_NAME})(?:@(\w[\w./+-]{{0,199}}))?", re.ASCII)


def fetch(address: str, files: Mapping[str, int]) -> str:
    """A local folder that holds these files of a repository, all of one commit.

    Where a branch or a tag points is asked each time; without a network it is the commit that it was last
    seen at. A file of a commit is fetched once. A full commit hash whose files are there asks nothing.

    Args:
        address: `hf://org/name`, which means its branch `main`, or `hf://org/name@revision`: a branch, a tag
            or a commit hash.
        files: names, and how many bytes each may have. A file that the hub says is larger is not fetched.

    Raises:
        ValueError: the address is not one, a file is too large, or there is no way to get it.
        ImportError: `huggingface_hub` is not installed.
    """
    repository, revision = _parse(address)
    download = _hub().hf_hub_download
    for name, limit in files.items():
        with _failing(address, name):
            size = download(repository, name, revision=revision, dry_run=True).file_size
        if size is None or size > limit:
            raise ValueError(
                f"Unusable weights, {address}. Expected {name} to have at most {limit} bytes. Received: "
                f"{'an unknown number of' if size is None else size} bytes."
            )
        with _failing(address, name):
            folder = os.path.dirname(download(repository, name, revision=revision))
        # Files lie in folders named after their commit: the other files come from this one.
        revision = os.path.basename(folder)
    return folder


def _parse(address: str) -> tuple[str, str]:
    match = _ADDRESS.fullmatch(address)
    if match is None or ".." in address:
        raise ValueError(
            "Expected an address like hf://org/name, or hf://org/name@revision with a branch, a tag or a "
            f"commit hash. Received: {address!r}"
        )
    return match[1], match[2] or "main"


def _hub() -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise ImportError(
            "Weights at hf:// need the package huggingface_hub. Install it with "
            "`pip install 'rnnprop-tf[hub]'` or `pip install huggingface_hub`."
        ) from error
    return huggingface_hub


@contextmanager
def _failing(address: str, name: str) -> Iterator[None]:
    try:
        yield
    # The library raises errors of its own, of its HTTP client and of the system; they share no other base.
    except Exception as error:
        raise ValueError(
            f"Cannot fetch {name} of {address}. Expected a repository that is there and can be reached, or "
            f"files that were fetched before. Received: {type(error).__name__}: {error}"
        ) from error

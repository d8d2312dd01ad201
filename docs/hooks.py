"""Makes the site whole: repository files that a page links to become part of it.

Pages link to files outside `docs/` by relative paths, as GitHub needs them. The site knows `docs/` alone. So
each file that is linked is added to it under `repository/`, Markdown as a page, and the links are rewritten.
A link to a file that is not there stays as it is, and MkDocs warns of it. The hook warns of public names of
the package that have no docstring, too; `make docs` fails on any warning.
"""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
ADDED = "repository"
LINK = re.compile(r"(\]\()([^)\s#]+)(#[^)\s]*)?(?=\))")
CODE = re.compile(r"(^```.*?^```|`[^`\n]*`)", re.MULTILINE | re.DOTALL)

log = logging.getLogger("mkdocs.hooks")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds what pages link to, and what those pages link to in turn."""
    waiting = list(DOCS.rglob("*.md"))
    seen = set(waiting)
    while waiting:
        page = waiting.pop()
        for target in sorted(_linked_files(page) - seen):
            seen.add(target)
            if DOCS not in target.parents:
                files.append(File.generated(config, _uri(target), abs_src_path=str(target)))
            if target.suffix == ".md":
                waiting.append(target)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrites links between pages and repository files."""
    source = Path(page.file.abs_src_path or "")
    here = os.path.dirname(page.file.src_uri)

    def rewritten(match: re.Match[str]) -> str:
        target = _target(source, match[2])
        if target is None:
            return match[0]
        return f"{match[1]}{os.path.relpath(_uri(target), here)}{match[3] or ''}"

    parts = CODE.split(markdown)
    parts[::2] = [LINK.sub(rewritten, part) for part in parts[::2]]
    return "".join(parts)


def on_pre_build(config: MkDocsConfig) -> None:
    """Warns of public names of the package without a docstring, and of parameters that none explains."""
    package = griffe.load("rnnprop_tf", search_paths=[str(ROOT)], docstring_parser="google")
    for module in ("network", "rule", "pretrained", "optimizer", "loss_scale", "profile", "callbacks"):
        for member in package[module].members.values():
            if not member.is_alias and _public(member):
                _check(member)


def _public(member: griffe.Object) -> bool:
    # Keras's hooks of a callback are described there.
    return (member.is_class or member.is_function) and not member.name.startswith(("_", "on_"))


def _check(member: griffe.Object) -> None:
    if member.docstring is None:
        log.warning("%s has no docstring", member.path)
        return
    if "See `keras" in member.docstring.value:
        return
    function = member.members.get("__init__") if member.is_class else member
    if function is not None and "Abstract;" not in member.docstring.value:
        explained = {
            parameter.name.lstrip("*")
            for section in member.docstring.parsed
            if section.kind is griffe.DocstringSectionKind.parameters
            for parameter in section.value
        }
        for parameter in function.parameters:
            if parameter.name not in explained | {"self", "cls"}:
                log.warning("%s does not explain its parameter %s", member.path, parameter.name)
    if member.is_class:
        inherited = {name for base in member.mro() for name in base.members}
        for name, method in member.members.items():
            if _public(method) and not (method.docstring is None and name in inherited):
                _check(method)


def _linked_files(page: Path) -> set[Path]:
    text = "".join(CODE.split(page.read_text(encoding="utf-8"))[::2])
    return {target for match in LINK.finditer(text) if (target := _target(page, match[2]))}


def _target(source: Path, link: str) -> Path | None:
    """The repository file that a link means, if it is one and is there."""
    if "://" in link or link.startswith("mailto:"):
        return None
    target = (source.parent / link).resolve()
    return target if target.is_file() and ROOT in target.parents else None


def _uri(target: Path) -> str:
    """Where a repository file is in the site."""
    if DOCS in target.parents:
        return target.relative_to(DOCS).as_posix()
    return f"{ADDED}/{target.relative_to(ROOT).as_posix()}"

"""`lifecycle lineage RUN`: from a run back to the raw text, and which links still hold on this disk. No torch."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..finding import Refusal
from ..record.file import read_record
from ..record.gate import judge
from ..record.parents import hash_file, hash_weights, is_local, named_parents

HASH = 12  # characters of a hash that are shown
HOLDS, CHANGED, MISSING = "holds", "changed since", "not on this disk"


@dataclass
class Link:
    """A run, a file or a Hub id, and what it was made from.

    role: for what it was used. state: HOLDS, CHANGED or MISSING; empty for what is not checked. about: of a run.
    seen: whether this run is in the tree already, with what it was made from.
    """

    role: str
    path: str
    state: str = ""
    digest: str = ""
    about: str = ""
    seen: bool = False
    made_from: list[Link] = field(default_factory=list)

    def broken(self) -> list[Link]:
        """The links in this tree that do not hold."""
        own = [self] if self.state in (CHANGED, MISSING) else []
        return own + [link for part in self.made_from for link in part.broken()]


def lineage(run: str) -> Link:
    """The tree of a run. Raises Refusal no-record, bad-record."""
    record = read_record(run)
    seen: dict[str, str] = {}
    link = Link("", run, *_weights(Path(run), record.get("weights_sha256")), _about(run, record))
    link.made_from = _made_from(run, record, seen)
    return link


def records(run: str) -> dict[str, dict[str, Any]]:
    """Directory -> record of a run and of all that it was made from or compared with, the nearest first; no hashing.

    A run that was replaced since, at the same path, is not among them. Raises Refusal no-record, bad-record.
    """
    found: dict[str, tuple[str, dict[str, Any]]] = {}
    waiting: list[tuple[str, str | None]] = [(run, None)]
    while waiting:
        place, identity = waiting.pop(0)
        try:
            record = read_record(place)
        except Refusal:  # not on this disk, or a model from elsewhere
            if not found:
                raise
            continue
        if identity not in (None, record.get("identity")):
            continue
        found.setdefault(os.path.realpath(place), (place, record))
        for parent in (record.get("parents") or {}).values():
            below = place_of(place, parent)
            if os.path.realpath(below) not in found:
                waiting.append((below, parent.get("identity")))
    return dict(found.values())


def name_of(run: str) -> str:
    """The name of a run's directory, also of `.`."""
    return os.path.basename(os.path.abspath(run))


def place_of(run: str, parent: dict[str, Any]) -> str:
    """Where a parent is: at its path, or where it was, seen from the run."""
    beside = os.path.normpath(os.path.join(os.path.realpath(run), parent.get("relative") or "."))
    return parent["path"] if os.path.isdir(parent["path"]) else beside


def _made_from(run: str, record: dict[str, Any], seen: dict[str, str]) -> list[Link]:
    links, parents = [], record.get("parents") or {}
    roles = sorted(parents, key=lambda role: (role != "model", role))
    for role in roles:
        links.append(_parent(run, role, parents[role], seen))
    below = [os.path.realpath(link.path) + os.sep for link in links]
    for path, digest in (record.get("inputs") or {}).items():
        place = _file(run, record, path)
        if not os.path.realpath(place).startswith(tuple(below)):  # rows of curation stand as their run
            links.append(Link("file", path, _state(place, digest), digest))
    values = record.get("settings") or {}
    for role, path in named_parents(values).items():
        if role not in parents and not is_local(path):
            links.append(Link(role, path, about="on the Hub" + _revision(values, path)))
    for source in (values.get("data") or {}).get("sources") or []:
        if (path := source.get("path")) and not os.path.exists(path) and not is_local(path):
            links.append(
                Link(
                    "rows",
                    path,
                    about="on the Hub" + (f" at {source['revision']}" if source.get("revision") else ""),
                )
            )
    return links


def _parent(run: str, role: str, parent: dict[str, Any], seen: dict[str, str]) -> Link:
    place, digest = place_of(run, parent), parent.get("weights_sha256") or ""
    if not os.path.isdir(place):
        return Link(role, parent["path"], MISSING, digest)
    link = Link(role, place, *_weights(Path(place), digest))
    try:
        record = read_record(place)
    except Refusal:
        link.about = "without a record"
        return link
    link.about = _about(place, record)
    real = os.path.realpath(place)
    if real in seen:
        link.seen = True
        return link
    seen[real] = place
    link.made_from = _made_from(place, record, seen)
    return link


def _file(run: str, record: dict[str, Any], path: str) -> str:
    """Where an input is: at its path, or below the directory in which the run was started, where that was."""
    output = os.path.normpath(record.get("output_dir") or "")
    root = os.path.realpath(run).removesuffix(os.sep + output)
    moved = os.path.join(root, path)
    return (
        path if os.path.exists(path) or root == os.path.realpath(run) or not os.path.exists(moved) else moved
    )


def _weights(directory: Path, digest: str | None) -> tuple[str, str]:
    """(state, digest) of what a run has saved."""
    if not digest:
        return "", ""
    return HOLDS if hash_weights(directory) == digest else CHANGED, digest


def _state(path: str, digest: str) -> str:
    if not os.path.isfile(path):
        return MISSING
    return HOLDS if hash_file(path) == digest else CHANGED


def _about(run: str, record: dict[str, Any]) -> str:
    """Stage, status and gate of a run."""
    parts = [record.get("stage") or "", *([record["status"]] if record["status"] != "done" else [])]
    if record.get("gate") and record["status"] == "done":
        try:
            failed = [verdict for verdict in judge(run) if not verdict.ok]
            parts.append("gate failed" if failed else "gate passed")
        except Refusal:
            parts.append("gate cannot be judged")
    return ", ".join(parts)


def _revision(values: dict[str, Any], path: str) -> str:
    sections = [section for section in values.values() if isinstance(section, dict)]
    found = [s.get("model_revision") for s in sections if s.get("model_name_or_path") == path]
    return f" at {found[0]}" if found and found[0] else ""


def lineage_text(tree: Link) -> str:
    """A tree as text, and a last line about the links that do not hold."""
    broken = list(dict.fromkeys(link.path for link in tree.broken()))
    last = f"links that do not hold: {', '.join(broken)}" if broken else "every link holds on this disk"
    return "\n".join([_line(tree), *_branches(tree, ""), "", last])


def _branches(link: Link, indent: str) -> list[str]:
    lines = []
    for i, part in enumerate(link.made_from):
        end = i == len(link.made_from) - 1
        lines.append(f"{indent}{'└─ ' if end else '├─ '}{_line(part)}")
        lines += _branches(part, indent + ("   " if end else "│  "))
    return lines


def _line(link: Link) -> str:
    parts = [link.about, link.digest[:HASH], link.state, "as above" if link.seen else ""]
    head = f"{link.role} {link.path}".strip()
    return f"{head}  ({', '.join(filter(None, parts))})"

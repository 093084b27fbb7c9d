"""The manifest of a directory: written last, it says which files were complete, and with what content. No torch."""

import hashlib
import json
from pathlib import Path

from .file import write_json
from .parents import add_to_hash

MANIFEST = "manifest.json"


def write_manifest(directory: Path) -> None:
    """Record size and hash of every file below `directory`; large files are sampled (see `add_to_hash`)."""
    files = sorted(file for file in directory.rglob("*") if file.is_file() and file.name != MANIFEST)
    entries = {str(file.relative_to(directory)): _describe(file) for file in files}
    write_json(directory / MANIFEST, {"files": entries})


# Files as they were compared -> what was found.
_compared: dict[tuple, str] = {}


def find_damage(directory: Path) -> str:
    """What the files of a directory lack compared with its manifest, the first file by name; empty if nothing.

    The files are read once per process, unless one of them changes.
    """
    files = sorted(file for file in directory.rglob("*") if file.is_file())
    states = tuple(
        (str(f), s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for f in files for s in [f.stat()]
    )
    if states not in _compared:
        _compared[states] = _find_damage(directory)
    return _compared[states]


def _find_damage(directory: Path) -> str:
    try:
        entries = json.loads((directory / MANIFEST).read_text(encoding="utf-8"))["files"].items()
    except FileNotFoundError:
        return f"no {MANIFEST}: it was never completed"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{MANIFEST} cannot be read: {error}"
    for name, entry in entries:
        try:
            size = (directory / name).stat().st_size
            if size != entry["size"]:
                return f"{name} has {size} bytes, not {entry['size']}"
            if _describe(directory / name) != entry:
                return f"{name} does not match its hash"
        except FileNotFoundError:
            return f"{name} is missing"
        except OSError as error:
            return f"{name} cannot be read: {error}"
    return ""


def _describe(file: Path) -> dict:
    digest = hashlib.sha256()
    add_to_hash(digest, file)
    return {"size": file.stat().st_size, "sha256": digest.hexdigest()}

"""run.json on disk: read it, write it atomically, keep secrets out of it. No torch."""

import contextlib
import json
import math
import os
import tempfile
from pathlib import Path

from ..finding import refuse
from ..near_path import near_path

RUN_FILE, GATE_FILE = "run.json", "gate.ok"
BENCH_FILE = "bench.json"  # of `lifecycle bench`
# What a run of curation writes.
LEDGER_FILE, LEFT_OUT, EDITS = "ledger.json", "left_out.jsonl", "edits.jsonl"
TRAIN, HELD_OUT = "train.jsonl", "held_out.jsonl"


def read_record(path: str | Path) -> dict:
    """The record in a run directory (or its run.json). Refuses a missing file, or one that is no record."""
    path = Path(path)
    file = path / RUN_FILE if path.is_dir() or path.suffix != ".json" else path
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        message = f"this directory has no {RUN_FILE}" if path.exists() else "the directory does not exist"
        near = near_path(str(path))
        fix = f"did you mean {near}?" if near else "give the output_dir of a run"
        raise refuse("no-record", message, fix, str(path)) from None
    except (OSError, ValueError) as error:
        raise refuse(
            "bad-record", f"{RUN_FILE} is unreadable: {error}", "run the stage again", str(file)
        ) from None
    if not isinstance(record, dict) or "status" not in record:
        raise refuse("bad-record", f"{RUN_FILE} is not a run record", "run the stage again", str(file))
    return record


def exported_forms(record: dict) -> list[str]:
    """The forms of an export, `merged` first, which is the run's directory; [] for other runs."""
    return list((record.get("export") or {}).get("parity") or {})


def write_json(file: Path, content: dict) -> None:
    """Write the file atomically: a reader never finds half a file, not even after a power cut."""
    handle, temporary = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            json.dump(plain(content), stream, indent=1, allow_nan=False)
            stream.write("\n")
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, file)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def plain(value):
    """JSON values only: numpy and torch scalars become numbers; NaN and infinities become strings."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(v) for v in value]
    if hasattr(value, "item") and getattr(value, "ndim", 0) == 0:
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, str | int | float | bool | None) else str(value)

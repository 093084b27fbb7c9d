"""run.json on disk: read it, write it atomically, keep secrets out of it. No torch."""

import contextlib
import json
import math
import os
import re
import tempfile
from pathlib import Path

from ..finding import refuse
from ..recipe.names import hide_secrets, is_secret

RUN_FILE, GATE_FILE = "run.json", "gate.ok"
REDACTED = "<hidden>"

SECRET_ENV = re.compile(r"(?i)(^|_)(token|key|secret|password|passwd)$")
# `hub_token: x`, `--train.hub_token x`, `train.hub_token=x`, `{"hub_token": "x"}`
KEY_AND_VALUE = re.compile(
    r"(?P<key>[A-Za-z_][\w.]*)(?P<link>[\"']?(?:\s*[:=]\s*|[ \t]+))(?P<value>[^\s,}\]#]+)"
)


def read_record(path: str | Path) -> dict:
    """The record in a run directory (or its run.json). Refuses what is missing or is not a record."""
    path = Path(path)
    file = path / RUN_FILE if path.is_dir() or path.suffix != ".json" else path
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise refuse("no-record", f"no {RUN_FILE} here", "name the output_dir of a run", str(path)) from None
    except (OSError, ValueError) as error:
        raise refuse("bad-record", f"cannot be read: {error}", "run the stage again", str(file)) from None
    if not isinstance(record, dict) or "status" not in record:
        raise refuse("bad-record", "is not the record of a run", "run the stage again", str(file))
    return record


def write_json(file: Path, content: dict) -> None:
    """Write all of it or nothing: a reader never sees half a file, not even after a power cut."""
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


def redact(value, secrets: list[str] = ()):
    """`value` without `secrets`, those in the environment, under a secret's key, or that look like one."""
    return _redact(value, sorted({*secrets, *_secrets_in_environment()}, key=len, reverse=True))


def redact_recipe(text_or_overrides):
    """A recipe's text, or a list of overrides, without the values of keys such as `hub_token`."""
    if isinstance(text_or_overrides, str):
        return KEY_AND_VALUE.sub(_redact_pair, text_or_overrides)
    items = [KEY_AND_VALUE.sub(_redact_pair, str(item)) for item in text_or_overrides]
    # `--train.hub_token hf_...` may also be two items.
    after_key = [False, *(item.startswith("--") and _is_secret_key(item) for item in items)]
    return [REDACTED if follows else item for follows, item in zip(after_key, items, strict=False)]


def secret_values(values) -> list[str]:
    """What stands under a secret's key anywhere in a recipe's values."""
    if isinstance(values, list):
        return [secret for value in values for secret in secret_values(value)]
    if not isinstance(values, dict):
        return []
    here = [v for k, v in values.items() if _is_secret_key(str(k)) and isinstance(v, str) and len(v) >= 6]
    return here + secret_values(list(values.values()))


def _secrets_in_environment() -> list[str]:
    # Shorter values ("1", "true") would eat harmless text.
    return [value for name, value in os.environ.items() if SECRET_ENV.search(name) and len(value) >= 6]


def _redact(value, secrets: list[str]):
    if isinstance(value, dict):
        return {
            k: REDACTED if v and isinstance(v, str) and _is_secret_key(str(k)) else _redact(v, secrets)
            for k, v in value.items()
        }
    if isinstance(value, list):
        return [_redact(v, secrets) for v in value]
    if not isinstance(value, str):
        return value
    for secret in secrets:
        value = value.replace(secret, REDACTED)
    return hide_secrets(value)


def _redact_pair(match: re.Match) -> str:
    # "the token limit" is prose: without `:` or `=` only an option (`--train.hub_token x`) counts.
    option = match.string[max(0, match.start() - 2) : match.start()] == "--"
    if not _is_secret_key(match["key"]) or not (option or re.search("[:=]", match["link"])):
        return match[0]
    return match["key"] + match["link"] + REDACTED


def _is_secret_key(key: str) -> bool:
    return is_secret(key.lstrip("-").rsplit(".", 1)[-1])

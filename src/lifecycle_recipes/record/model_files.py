"""The files beside a model's weights that decide what it does: which they are, and their hashes. No torch."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .parents import hash_file

# additional_chat_templates: of a tokenizer with several templates (transformers/utils/hub.py).
BESIDE_WEIGHTS = (
    "*.safetensors.index.json",
    "config.json",
    "generation_config.json",
    "adapter_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "additional_chat_templates/*.jinja",
    "Modelfile",
)
# Before these files were hashed together, a record had these two.
ALONE = {"tokenizer.json": "tokenizer_sha256", "chat_template.jinja": "template_sha256"}


def found_in(directory: Path, patterns: Iterable[str]) -> list[Path]:
    """The files that the patterns name, in their order."""
    return [file for pattern in patterns for file in sorted(directory.glob(pattern)) if file.is_file()]


def hash_model_files(directory: str | Path) -> dict[str, str]:
    """Name -> sha256 of the files beside the weights in a directory; {} if it has none."""
    directory = Path(directory)
    files = found_in(directory, BESIDE_WEIGHTS)
    return {str(file.relative_to(directory)): hash_file(file) for file in files}


def find_changed(directory: str | Path, record: dict[str, Any], form: str | None = None) -> list[str]:
    """Names of the files beside the weights that were changed, added or removed since the run of the record.

    form: of an export, whose directory it is. A record without these hashes tells nothing of them.
    """
    of_forms = (record.get("export") or {}).get("files_sha256") or {}
    then = of_forms.get(form) if form else record.get("files_sha256")
    now = hash_model_files(directory)
    if then is None:
        alone = {} if form else ALONE
        return [name for name, key in alone.items() if record.get(key) and now.get(name) != record[key]]
    return sorted(name for name in now.keys() | then.keys() if now.get(name) != then.get(name))

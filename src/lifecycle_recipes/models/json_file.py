"""A JSON file of a model: an object, or a refusal that names the file. No torch."""

import json
from pathlib import Path

from ..finding import refuse


def read_object(file: Path) -> dict:
    """The object in a JSON file. Raises Refusal parent-unreadable, with the path."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        message = f"this file cannot be read: {error}"
    else:
        if isinstance(content, dict):
            return content
        message = "this file holds no JSON object"
    raise refuse("parent-unreadable", message, "download or copy it again", str(file))

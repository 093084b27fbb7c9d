"""config.json and other JSON files of a model, on disk or in the Hub's cache. Imports no torch itself."""

from pathlib import Path

from ..finding import Refusal, refuse
from ..record.parents import is_local
from .adapters import model_below
from .json_file import read_object


def read_json(path: str, name: str, revision: str | None = None) -> dict:
    """A JSON file of a model directory or of the Hub's cache; {} if it does not exist.

    Raises Refusal parent-unreadable.
    """
    file = find_file(path, name, revision)
    return read_object(file) if file else {}


def find_file(path: str, name: str, revision: str | None = None) -> Path | None:
    """`name` in a local directory, or from the Hub or its cache; None if it does not exist."""
    if is_local(path):
        file = Path(path) / name
        return file if file.is_file() else None
    from transformers.utils import cached_file

    found = cached_file(
        path,
        name,
        revision=revision or "main",
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
        _raise_exceptions_for_gated_repo=False,
    )
    return Path(found) if found else None


def model_config(path: str, revision: str | None = None) -> dict:
    """config.json of the model or of an adapter's base; of a multimodal one, with the keys of text_config."""
    config = read_json(model_below(path), "config.json", revision)
    return config | (config.get("text_config") or {})


def longest_sequence(config: dict) -> int | None:
    """The number of positions of a model, from its `model_config`; None if that has no limit.

    Learned positions end at max_position_embeddings (GPT-2: n_positions). RoPE scaling multiplies the positions
    of pretraining by its factor, and some configs give the product, others the positions of pretraining.
    """
    longest = config.get("max_position_embeddings") or config.get("n_positions")
    if not longest:
        return None
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    per_layer_type = [value for value in rope.values() if isinstance(value, dict)]
    scaled = [
        (scaling.get("original_max_position_embeddings") or longest) * (scaling.get("factor") or 1)
        for scaling in (rope, *per_layer_type)
    ]
    return int(max(longest, *scaled))


def require_room_for_blocks(block_size: int, config: dict) -> None:
    """Raise Refusal block-too-long if a model with this config has fewer positions."""
    longest = longest_sequence(config)
    if longest and block_size > longest:
        raise refuse(
            "block-too-long",
            f"text.block_size {block_size} exceeds the model's {longest} positions",
            "lower it, or raise max_position_embeddings",
        )


def local_config(path: str | Path) -> dict:
    """`model_config` of a directory; {} if that is unreadable, or its weights are on the Hub. For level 1."""
    try:
        return model_config(str(path)) if Path(model_below(str(path))).is_dir() else {}
    except (OSError, Refusal):
        return {}


def stored_dtype(config: dict) -> str:
    """The dtype in which a model was saved; older configs name it torch_dtype."""
    return str(config.get("dtype") or config.get("torch_dtype") or "float32")

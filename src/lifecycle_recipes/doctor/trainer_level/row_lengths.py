"""Rows of the built sets that are longer than the model's positions: all rows, where level 2 samples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...data.provenance import Origins
from ...data.shares import REPLIES
from ...finding import Finding
from ...models.config_file import longest_sequence

if TYPE_CHECKING:
    from transformers import Trainer

COLUMNS = ("input_ids", *REPLIES)


def find_beyond_positions(trainer: Trainer, origins: Origins | None) -> list[Finding]:
    """block-too-long, with the longest row; nothing if train.max_length keeps every row within the positions."""
    from .forward import language_model
    from .loss_mask import named

    positions = longest_sequence(language_model(trainer).config.get_text_config().to_dict())
    limit = getattr(trainer.args, "max_length", None)
    if positions is None or (limit is not None and limit <= positions):
        return []
    for dataset in (trainer.train_dataset, getattr(trainer, "eval_dataset", None)):
        tokens, row = longest_row(dataset)
        if tokens <= positions:
            continue
        place = named(origins, [row]) if dataset is trainer.train_dataset else f"held-out row {row + 1}"
        message = f"a row has {tokens} tokens ({place}), and the model {positions} positions"
        fix = f"write `train.max_length: {positions}`, or raise the model's positions (rope_scaling in its config)"
        return [Finding.error("block-too-long", message, fix)]
    return []


def longest_row(dataset: Any, step: int = 10_000) -> tuple[int, int]:
    """(tokens, number) of the longest row, prompt and longest reply together; (0, 0) without a built set.

    The documents of a packed row have positions of their own: the longest of them counts.
    """
    columns = getattr(dataset, "column_names", None) or []
    if not set(COLUMNS) & set(columns):
        return 0, 0
    lengths = dataset.select_columns([c for c in (*COLUMNS, "prompt_ids", "seq_lengths") if c in columns])
    longest = (0, 0)
    for start in range(0, len(dataset), step):
        batch = lengths[start : start + step]
        for i, cells in enumerate(zip(*batch.values(), strict=True)):
            tokens = _count(dict(zip(batch, cells, strict=True)))
            longest = max(longest, (tokens, start + i), key=lambda found: found[0])
    return longest


def _count(row: dict[str, list[int]]) -> int:
    if "seq_lengths" in row:
        return max(row["seq_lengths"], default=0)
    return len(row.get("prompt_ids", ())) + max(len(row[column]) for column in COLUMNS if column in row)

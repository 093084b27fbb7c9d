"""Enter rows that a trainer drops or truncates by their length in the ledger: upstream does both silently."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..finding import refuse

if TYPE_CHECKING:
    from ..recipe.stage_recipe import TrainingRecipe

TOO_LONG = "longer than train.max_length"


def count_left_out(ledger: dict, reason: str, rows: int, held_out: int = 0) -> None:
    """Count `rows` training rows and `held_out` held-out rows in the ledger as left out for `reason`."""
    if rows + held_out:
        ledger["left_out"][reason] = ledger["left_out"].get(reason, 0) + rows + held_out
        ledger["rows_out"] -= rows + held_out
        ledger["eval_rows"] -= held_out


def count_too_long(ledger: dict, before: tuple, after: tuple) -> None:
    """Count the rows that a trainer leaves out, given (train, held-out or None) as read and as prepared."""
    gone = [
        len(rows) - len(kept) if rows is not None else 0 for rows, kept in zip(before, after, strict=True)
    ]
    count_left_out(ledger, TOO_LONG, *gone)


def without_longer(ledger: dict, rows, max_length: int, name: str, parts: tuple[str, ...] = ("input_ids",)):
    """`rows` without those whose `parts` exceed `max_length` together; they are counted in the ledger.

    name: train or eval. parts: columns of ids; of several lists after a prompt, the longest counts.
    Raises Refusal no-trained-tokens if no row is left.
    """
    first, *others = parts

    def fits(row) -> bool:
        return len(row[first]) + max((len(row[c]) for c in others), default=0) <= max_length

    kept = rows.filter(fits, desc="Dropping longer rows")
    if len(rows) and not len(kept):
        raise refuse(
            "no-trained-tokens",
            f"every {name} row is longer than train.max_length = {max_length} (data.truncation: drop)",
            "raise train.max_length",
        )
    gone = len(rows) - len(kept)
    count_left_out(ledger, TOO_LONG, *((gone, 0) if name == "train" else (0, gone)))
    return kept


def account_for_replies(
    ledger: dict, recipe: TrainingRecipe, before: tuple, after: tuple, replies: list[str]
) -> tuple[Any, Any]:
    """The prepared sets; the rows that the trainer dropped, and those that it will truncate, are counted.

    before, after: (train, held-out or None) as read and as prepared. replies: columns of ids after a prompt. A row
    whose longest reply train.max_length truncates loses the end-of-turn token: with `data.truncation: drop` it is
    left out, otherwise the training rows among them are `truncated` in the ledger.
    """
    count_too_long(ledger, before, after)
    max_length = recipe.train.max_length
    if max_length is None:
        return after
    parts = ("prompt_ids", *replies)
    if recipe.data.truncation == "drop":
        after = tuple(
            rows and without_longer(ledger, rows, max_length, name, parts)
            for rows, name in zip(after, ("train", "eval"), strict=True)
        )
    columns = [map(len, after[0][column]) for column in parts]
    lengths = (prompt + max(rest) for prompt, *rest in zip(*columns, strict=True))
    ledger["truncated"] = sum(length > max_length for length in lengths)
    return after

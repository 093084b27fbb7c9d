"""Rows that a trainer drops or cuts by their length, booked in the ledger: upstream does both in silence."""


def count_left_out(ledger: dict, reason: str, rows: int, held_out: int = 0) -> None:
    """Book rows (`held_out` of them on top, from the held-out set) out of the ledger under `reason`."""
    if rows + held_out:
        ledger["left_out"][reason] = ledger["left_out"].get(reason, 0) + rows + held_out
        ledger["rows_out"] -= rows + held_out
        ledger["eval_rows"] -= held_out


def count_too_long(ledger: dict, before: tuple, after: tuple) -> None:
    """Book the rows that a trainer leaves out, given (train, held-out or None) as read and as prepared."""
    gone = [
        len(rows) - len(kept) if rows is not None else 0 for rows, kept in zip(before, after, strict=True)
    ]
    count_left_out(ledger, "longer than train.max_length", *gone)


def count_truncated(ledger: dict, dataset, max_length: int | None, replies: list[str]) -> None:
    """Note how many training rows have a reply that `max_length` (tokens) cuts: it loses its turn end."""
    if max_length is None:
        return
    prompts = [len(ids) for ids in dataset["prompt_ids"]]
    longest = [max(map(len, row)) for row in zip(*(dataset[column] for column in replies), strict=True)]
    ledger["truncated"] = sum(p + r > max_length for p, r in zip(prompts, longest, strict=True))

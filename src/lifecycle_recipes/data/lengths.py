"""Rows that a trainer drops or cuts by their length, booked in the ledger: upstream does both in silence."""


def count_left_out(ledger: dict, reason: str, rows: int, held_out: int = 0) -> None:
    """Book rows (`held_out` of them on top, from the held-out set) out of the ledger under `reason`."""
    if rows + held_out:
        ledger["left_out"][reason] = ledger["left_out"].get(reason, 0) + rows + held_out
        ledger["rows_out"] -= rows + held_out
        ledger["eval_rows"] -= held_out


def count_too_long(ledger: dict, trainer, train, held_out) -> None:
    """Book the rows that the built `trainer` no longer has of `train` and `held_out` (None without)."""
    rows = len(train) - len(trainer.train_dataset)
    gone = len(held_out) - len(trainer.eval_dataset) if held_out is not None else 0
    count_left_out(ledger, "longer than train.max_length", rows, gone)


def count_truncated(ledger: dict, dataset, max_length: int | None, replies: list[str]) -> None:
    """Note how many training rows have a reply that `max_length` (tokens) cuts: it loses its turn end."""
    if max_length is None:
        return
    prompts = [len(ids) for ids in dataset["prompt_ids"]]
    longest = [max(map(len, row)) for row in zip(*(dataset[column] for column in replies), strict=True)]
    ledger["truncated"] = sum(p + r > max_length for p, r in zip(prompts, longest, strict=True))

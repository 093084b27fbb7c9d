"""Enter rows that a trainer drops or truncates by their length in the ledger: upstream does both silently."""

from ..finding import refuse

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


def count_truncated(ledger: dict, dataset, max_length: int | None, replies: list[str]) -> None:
    """Note how many training rows have a reply that `max_length` truncates: its end-of-turn token is lost."""
    if max_length is None:
        return
    prompts = [len(ids) for ids in dataset["prompt_ids"]]
    longest = [max(map(len, row)) for row in zip(*(dataset[column] for column in replies), strict=True)]
    ledger["truncated"] = sum(p + r > max_length for p, r in zip(prompts, longest, strict=True))


def drop_truncated(ledger: dict, done: tuple, max_length: int | None, replies: list[str]) -> tuple:
    """(train, held-out or None) without the rows whose longest reply `max_length` truncates."""
    if max_length is None:
        return done
    parts = ("prompt_ids", *replies)
    return tuple(
        rows and without_longer(ledger, rows, max_length, name, parts)
        for rows, name in zip(done, ("train", "eval"), strict=True)
    )


def account_for_conversations(ledger: dict, args, end: int, before: tuple, after: tuple) -> None:
    """Count the rows that upstream dropped and those that it truncated; refuse if no row is left.

    before, after: (train, held-out or None), as read and as prepared. end: the id of the end-of-turn token.
    """
    parts = [part for part in after if part is not None]
    conversations = [list(pieces(part)) for part in parts]
    # Packing leaves out no conversation; bfd_split and wrapped split it into pieces and lose no token.
    packed = [args.packing, args.packing if args.eval_packing is None else args.eval_packing]
    gone = [
        0 if pack else len(rows) - len(kept)
        for rows, kept, pack in zip(before, conversations, packed, strict=False)
    ]
    count_left_out(ledger, "no assistant token within train.max_length", *gone)
    if not all(conversations):
        raise refuse(
            "no-trained-tokens",
            "no row has a supervised token within train.max_length",
            "raise train.max_length",
        )
    whole = args.packing and args.packing_strategy != "bfd"
    # The template may write a line break after the end-of-turn token.
    ledger["truncated"] = 0 if whole else sum(end not in ids[-2:] for ids in conversations[0])
    ledger["tokens"] = sum(map(len, conversations[0]))


def pieces(dataset):
    """The conversations of a prepared dataset, each a list of ids, packed (seq_lengths) or not."""
    for row in dataset:
        start = 0
        for length in row.get("seq_lengths") or [len(row["input_ids"])]:
            yield row["input_ids"][start : start + length]
            start += length

"""Conversations of the sft stage as a trainer prepares them: masked, truncated or packed, and all counted."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate
from typing import TYPE_CHECKING

from ..finding import refuse
from ..quiet import tokenizers_in_parallel
from .ledger import count_left_out, without_longer
from .prepare import rows_of_trainer
from .turn_weights import keep_out_of_loss

if TYPE_CHECKING:
    import trl
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase


def prepare_conversations(
    trainer_class: type[trl.SFTTrainer],
    args: trl.SFTConfig,
    tokenizer: PreTrainedTokenizerBase,
    read: tuple,
    ledger: dict,
    drop: bool,
) -> tuple:
    """(train, held-out or None) as the trainer prepares them, without the turns that are kept out of the loss.

    read: the same sets with the column `messages`. drop: leave out the conversations that the trainer would
    truncate. Raises Refusal no-trained-tokens if no conversation is left.
    """
    whole = {}

    def tokenize(rows, upstream, template: str | None, name: str):
        rows = upstream(tokenize_in_batches(rows, args, tokenizer, template))
        rows = keep_out_of_loss(rows, tokenizer, template)
        if drop and _truncates(args, name):
            rows = without_longer(ledger, rows, args.max_length, name)
        whole[name] = rows
        return rows

    done = rows_of_trainer(trainer_class, args, tokenizer, *read, tokenize)
    _account(ledger, args, tokenizer.eos_token_id, (whole["train"], whole.get("eval")), done)
    return done


def tokenize_in_batches(
    rows: Dataset, args: trl.SFTConfig, tokenizer: PreTrainedTokenizerBase, template: str | None
) -> Dataset:
    """The rows with the `input_ids` and `labels` that upstream makes one by one, which is slower.

    Left to upstream, unchanged: rows with tools, which differ between rows, and rows of which one has no supervised
    token, which upstream refuses.
    """
    if "tools" in rows.column_names:
        return rows

    def tokenize(batch: dict[str, list]) -> dict[str, list]:
        options = {"chat_template": template, "return_dict": True, "return_assistant_tokens_mask": True}
        with tokenizers_in_parallel():
            made = tokenizer.apply_chat_template(batch["messages"], **options)
        ids, masks = made["input_ids"], made["assistant_masks"]
        if not all(map(any, masks)):
            raise _NotSupervised
        labels = [
            [token if bit else -100 for token, bit in zip(row, mask, strict=True)]
            for row, mask in zip(ids, masks, strict=True)
        ]
        return {"input_ids": ids, "labels": labels}

    try:
        return rows.map(tokenize, batched=True, num_proc=args.dataset_num_proc, desc="Tokenizing")
    except _NotSupervised:
        return rows


class _NotSupervised(Exception):
    """A conversation has no supervised token."""


def _packs(args: trl.SFTConfig, name: str) -> bool:
    """Whether the trainer packs its train or eval rows."""
    return args.packing if name == "train" or args.eval_packing is None else args.eval_packing


def _truncates(args: trl.SFTConfig, name: str) -> bool:
    """Whether the trainer truncates its train or eval rows; two ways of packing split a row instead."""
    return args.max_length is not None and not (_packs(args, name) and args.packing_strategy != "bfd")


def _account(ledger: dict, args: trl.SFTConfig, end: int, before: tuple, after: tuple) -> None:
    """Count the rows that upstream dropped and those that it truncated; refuse if no row is left.

    before, after: (train, held-out or None), before truncation and as prepared. end: the id of the end-of-turn
    token.
    """
    conversations = [list(pieces(part)) for part in after if part is not None]
    # Packing leaves out no conversation; bfd_split and wrapped split it into pieces and lose no token.
    gone = [
        0 if _packs(args, name) else len(rows) - len(kept)
        for name, rows, kept in zip(("train", "eval"), before, conversations, strict=False)
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


def pieces(dataset: Dataset) -> Iterator[list[int]]:
    """The conversations of a prepared dataset, each a list of ids, packed (seq_lengths) or not."""
    packed = "seq_lengths" in dataset.column_names
    columns = dataset.select_columns(["input_ids", "seq_lengths"] if packed else ["input_ids"])
    for batch in columns.iter(1000):
        if not packed:
            yield from batch["input_ids"]
            continue
        for ids, lengths in zip(batch["input_ids"], batch["seq_lengths"], strict=True):
            ends = list(accumulate(lengths))
            yield from (ids[end - length : end] for end, length in zip(ends, lengths, strict=True))

"""Pack documents into blocks of a fixed length; attention does not cross from one document to another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..finding import refuse
from ..quiet import tokenizers_in_parallel

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Pieces of documents that are packed with one another. The default of 1,000 would leave a half-empty block after
# each of them.
PACKED_TOGETHER = 10_000


def pack_documents(
    dataset, tokenizer: PreTrainedTokenizerBase, column: str, block_size: int, packing: str = "bfd"
):
    """Tokenise `column` and pack it. Return (Dataset of input_ids, seq_lengths and ROW, counts).

    A document is [bos] text eos with the tokenizer's bos (ours is <|endoftext|>, so that the model can
    predict a document's first token). A document longer than a block is split into pieces that overlap by one
    token, so that every token after the first is predicted exactly once and none is lost.
    input_ids: at most `block_size` ids. seq_lengths: the length of each piece in the row; they sum to the
    row's length. counts: {documents, tokens, predicted_tokens, bytes, blocks, fill}.
    """
    from trl import pack_dataset

    from .provenance import ROW, with_packed_numbers

    if tokenizer.eos_token_id is None:
        raise refuse(
            "no-eos",
            "the tokenizer has no eos_token: the model would never learn to stop",
            "set eos_token in the tokenizer",
        )
    bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    eos = [tokenizer.eos_token_id]

    def cut(rows: dict[str, list]) -> dict[str, list]:
        pieces, numbers = [], []
        # add_special_tokens=False: the ids are added here, once (a tokenizer may add its own).
        with tokenizers_in_parallel():
            documents = tokenizer(rows[column], add_special_tokens=False)["input_ids"]
        for ids, number in zip(documents, rows[ROW], strict=True):
            document = bos + ids + eos
            starts = range(0, max(len(document) - 1, 1), block_size - 1)
            pieces += [document[i : i + block_size] for i in starts]
            numbers += [number] * len(starts)
        return {"input_ids": pieces, ROW: numbers}

    def pack(rows):
        options = {"batch_size": PACKED_TOGETHER, "desc": "Packing"}
        return pack_dataset(rows.select_columns("input_ids"), block_size, "bfd", options)

    counts = {"documents": len(dataset), "bytes": sum(len(text.encode()) for text in dataset[column])}
    quiet = {"batched": True, "remove_columns": dataset.column_names}
    pieces = dataset.map(cut, **quiet, desc="Tokenizing")
    if packing == "bfd":
        packed = with_packed_numbers(pack(pieces), pieces, pack)
    else:
        packed = pieces.map(lambda row: {"seq_lengths": [len(row["input_ids"])]}, desc="Rows")
    lengths = [sum(row) for row in packed["seq_lengths"]]
    counts |= {
        "tokens": sum(lengths),
        "predicted_tokens": sum(lengths) - len(pieces),
        "blocks": len(packed),
        "fill": sum(lengths) / (len(packed) * block_size),
    }
    return packed, counts


@dataclass
class BlockCollator:
    """Rows of input_ids and seq_lengths -> a batch whose position_ids restart with each document.

    Returns input_ids, position_ids and labels, each (batch, block_size), and no attention_mask: without a
    mask, transformers isolates documents by their position_ids under sdpa and eager attention; a mask of ones
    would switch that off. Labels are the ids, eos included, but -100 for the first token of a piece (no token
    before it may predict it) and for padding. Padding counts as one more document.
    flatten: one row of (1, batch * block_size), which flash attention needs to find the boundaries.
    """

    pad_token_id: int
    block_size: int
    flatten: bool = False

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        import torch

        shape = (len(rows), self.block_size)
        input_ids = torch.full(shape, self.pad_token_id)
        labels = torch.full(shape, -100)
        position_ids = torch.zeros(shape, dtype=torch.long)
        for i, row in enumerate(rows):
            end = len(row["input_ids"])
            input_ids[i, :end] = labels[i, :end] = torch.as_tensor(row["input_ids"])
            padding = [self.block_size - end] if end < self.block_size else []
            position_ids[i] = torch.cat([torch.arange(n) for n in [*row["seq_lengths"], *padding]])
        labels[position_ids == 0] = -100
        batch = {"input_ids": input_ids, "position_ids": position_ids, "labels": labels}
        return {k: v.view(1, -1) for k, v in batch.items()} if self.flatten else batch


def token_losses(logits, labels):
    """For `Trainer(preprocess_logits_for_metrics=...)`: (batch, 2), the nats and label count of each row.

    Keeps evaluation from holding (rows, block_size, vocabulary) logits in memory.
    """
    import torch

    logits = logits[0] if isinstance(logits, tuple) else logits
    nats = torch.nn.functional.cross_entropy(
        logits[:, :-1].float().transpose(1, 2), labels[:, 1:], ignore_index=-100, reduction="none"
    )
    return torch.stack([nats.double().sum(1), (labels[:, 1:] != -100).double().sum(1)], dim=1)


def text_measures(total_bytes: int):
    """For `Trainer(compute_metrics=...)`: perplexity and bits_per_byte over all of the held-out text.

    From exact sums: the Trainer's eval_loss is a mean of batch means. bits_per_byte is the sum of the nats of
    all predicted tokens, eos included, divided by ln 2 and by the text's UTF-8 bytes.
    """
    import math

    def measure(prediction) -> dict[str, float]:
        nats, tokens = prediction.predictions.sum(0)
        return {
            # Above e^700 a double overflows; a model with such a loss has learnt nothing.
            "perplexity": math.exp(min(nats / max(tokens, 1), 700)),
            "bits_per_byte": nats / math.log(2) / max(total_bytes, 1),
        }

    return measure

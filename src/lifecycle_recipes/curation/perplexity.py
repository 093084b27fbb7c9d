"""Leave out documents that a reference language model finds improbable, or too probable.

Improbable text is often noise, markup or another language; very probable text is often boilerplate. The idea is
that of CCNet (arXiv:1911.00359), which ranks web text by its perplexity under a model of Wikipedia and keeps the
best third or two thirds; a pruning by the middle or the highest perplexities also works (arXiv:2309.04564). Which
end to cut depends on the data and on the reference, so nothing is cut by default: look at the table of scores first.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..finding import FAILED, Finding, Refusal, refuse
from ..models.adapters import is_adapter, require_adapter_base
from ..models.config_file import local_config, longest_sequence
from ..models.special_tokens import document_start
from ..near_path import near_path
from ..record.parents import closest_run, hash_file, hash_weights, is_local
from ..record.weight_files import find_unreadable
from .documents import Decide, Part, Shard, Shards, Verdict

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ..models.saved import Saved

SCORED = ("model", "revision", "max_length", "by")
PACKAGES = ("torch", "transformers", "tokenizers")
# Of a local model, the files beside its weights on which the scores depend.
_FILES = ("config.json", "adapter_config.json", "tokenizer.json", "tokenizer_config.json")


@dataclass
class Perplexity:
    """Score the text by its negative log-likelihood under a causal LM, and cut the ends of each source.

    The unit is nats per byte of text: unlike perplexity, which is per token, it is comparable between tokenizers.
    Source of the method: CCNet (arXiv:1911.00359), which also cuts by percentile.

    model: the directory of a run, also of an adapter, or the id of a model on the Hub.
    revision: of a model on the Hub.
    max_length: the text is scored by its first tokens, at most this many and at most as many as the model has
    positions; null: as many as the model has positions. CCNet scores paragraphs, which are shorter.
    batch_tokens: tokens in one batch, padding included; it changes speed and memory, not the scores. Memory is
    batch_tokens x vocabulary x bytes of a weight, for the logits: 2.5 GB of bf16 at 8,192 and 150,000.
    drop_highest, drop_lowest: shares of the documents of each source to leave out, those with the most and the
    fewest nats per byte. The percentiles are over all documents of the source that have a score, also those that
    an earlier step leaves out: a decision does not depend on the order of the steps.
    max_nats_per_byte: leave out every document above it, in any source.
    by: which text of a conversation or pair is scored.
    """

    model: str
    revision: str | None = None
    max_length: int | None = 1024
    batch_tokens: int = 8192
    drop_highest: float = 0.0
    drop_lowest: float = 0.0
    max_nats_per_byte: float | None = None
    by: Part = "row"


# Before the run


def find_in_settings(settings: Perplexity, where: str) -> list[Finding]:
    """missing-model, parent-unreadable, not-a-language-model, adapter-base-missing, bad-value. No torch."""
    findings = []
    if settings.drop_highest + settings.drop_lowest >= 1:
        message = "drop_highest and drop_lowest together leave out every document"
        findings.append(Finding.error("bad-value", message, "let them sum to less than 1", where))
    path = settings.model
    if not is_local(path):
        return findings
    if not Path(path).is_dir() or hash_weights(path) is None or not _has_config(path):
        state = "has no saved model" if Path(path).is_dir() else "does not exist"
        near = closest_run(path) or near_path(path)
        fix = f"did you mean {near}?" if near else "train it first, or correct the path"
        message = f"perplexity.model: the directory {path} {state}"
        return [*findings, Finding.error("missing-model", message, fix, where)]
    if unreadable := find_unreadable(path):
        message = f"perplexity.model: {unreadable[0]}: {unreadable[1]}"
        return [*findings, Finding.error("parent-unreadable", message, "copy it again", where)]
    if is_adapter(path):
        try:
            require_adapter_base(path)
        except Refusal as refusal:
            fault = refusal.findings[0]
            message = f"perplexity.model {path}: {fault.message}"
            return [*findings, Finding.error(fault.code, message, fault.fix, where)]
    heads = local_config(path).get("architectures") or []
    if any(name.endswith("ForSequenceClassification") for name in heads):
        message = f"perplexity.model: {path} is a reward model: it has no log-likelihood of a text"
        fix = "give the run of a pretrain, sft or preference stage"
        findings.append(Finding.error("not-a-language-model", message, fix, where))
    return findings


def _has_config(path: str) -> bool:
    return any((Path(path) / name).is_file() for name in ("config.json", "adapter_config.json"))


def scored_by(settings: Perplexity) -> dict[str, Any]:
    """What the scores depend on: `max_length`, and the weights and files of a directory, or the Hub's commit.

    Not the device: scores from a GPU and from a CPU differ by rounding, and are both valid.
    """
    path = settings.model
    if is_local(path):
        from ..models.saved import weights_id

        files = {name: hash_file(Path(path) / name) for name in _FILES if (Path(path) / name).is_file()}
        return {"weights": weights_id(path), "files": files, "max_length": settings.max_length}
    from transformers.utils import resolve_revision

    revision = resolve_revision(path, settings.revision or "main")
    commit = str(getattr(revision, "resolved", revision))
    return {"model": path, "revision": commit, "max_length": settings.max_length}


def in_main_process(settings: Perplexity) -> bool:
    """True: one model on one device, with all threads. Worker processes would each load it."""
    return True


# Scores


def score(texts: Sequence[str], settings: Perplexity) -> dict[str, list]:
    """nats_per_token, nats_per_byte: means; None for a text without a token. scored_tokens, scored_bytes: over how
    much of the text.

    Raises Refusal non-finite if the model returns NaN or infinity.
    """
    saved = _load(settings.model, settings.revision)
    rows, sizes = _encode(texts, saved, settings.max_length)
    totals = _negative_log_likelihoods(rows, saved, settings.batch_tokens)
    if broken := sum(not math.isfinite(total) for total in totals):
        message = f"the model returns NaN or infinity for {broken} of {len(texts)} documents"
        raise refuse("non-finite", message, "give a model that works", settings.model, status=FAILED)
    return {
        "nats_per_token": [t / len(row) if row else None for t, row in zip(totals, rows, strict=True)],
        "nats_per_byte": [t / size if size else None for t, size in zip(totals, sizes, strict=True)],
        "scored_tokens": [len(row) for row in rows],
        "scored_bytes": sizes,
    }


@lru_cache(maxsize=1)
def _load(path: str, revision: str | None) -> Saved:
    """The model, in the dtype in which it was saved, on the accelerator if there is one; once per process."""
    from ..models.saved import load_saved

    return load_saved(path, revision=revision)


@lru_cache(maxsize=1)
def _longest_token(tokenizer: PreTrainedTokenizerBase) -> int:
    return max(map(len, tokenizer.get_vocab()))


def _encode(texts: Sequence[str], saved: Saved, max_length: int | None) -> tuple[list[list[int]], list[int]]:
    """(the token ids of each text, the bytes of text that they stand for)."""
    tokenizer = saved.tokenizer
    limits = [max_length, longest_sequence(saved.model.config.get_text_config().to_dict())]
    limit = min((n for n in limits if n), default=None)
    # The start of a long text is enough: no token has more characters than the longest one of the vocabulary.
    heads = [text[: limit * _longest_token(tokenizer)] for text in texts] if limit else list(texts)
    # A control token in a text is scored as the characters that it is written with.
    options = {"add_special_tokens": False, "split_special_tokens": True}
    encoded = tokenizer(heads, **options)["input_ids"] if heads else []
    rows = [list(ids[:limit]) for ids in encoded]
    sizes = [
        _bytes(text if len(head) == len(text) and len(row) == len(ids) else tokenizer.decode(row))
        for text, head, ids, row in zip(texts, heads, encoded, rows, strict=True)
    ]
    return rows, sizes


def _bytes(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))


def _negative_log_likelihoods(rows: list[list[int]], saved: Saved, batch_tokens: int) -> list[float]:
    """The sum of each row's negative log-likelihoods in nats; 0.0 for an empty row.

    The first token follows the token that starts a document. Rows of similar length share a batch; a batch holds
    at least one row.
    """
    totals = [0.0] * len(rows)
    order = sorted((i for i, row in enumerate(rows) if row), key=lambda i: -len(rows[i]))
    while order:
        size = max(1, batch_tokens // len(rows[order[0]]))
        batch, order = order[:size], order[size:]
        for i, total in zip(batch, _score_batch([rows[i] for i in batch], saved), strict=True):
            totals[i] = total
    return totals


def _score_batch(rows: list[list[int]], saved: Saved) -> list[float]:
    import torch
    from torch.nn.functional import cross_entropy

    start, device = document_start(saved.tokenizer), saved.model.device
    width = len(rows[0])
    # Padding on the right: in a causal model, no token attends to it.
    ids = torch.tensor([[start, *row[:-1], *[start] * (width - len(row))] for row in rows], device=device)
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=device)
    with torch.inference_mode():
        logits = saved.model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        # Row by row: in float32 at once, the logits would need two or four times their memory.
        totals = [
            cross_entropy(logits[i, : len(row)].float(), torch.tensor(row, device=device), reduction="none")
            .double()
            .sum()
            for i, row in enumerate(rows)
        ]
        return torch.stack(totals).tolist()


# Decision


def decider(settings: Perplexity, shards: Shards) -> Decide:
    """Reads all scores first, for the limits of each source; 8 bytes of memory per document."""
    limits = _limits(settings, shards)

    def decide(shard: Shard, alive: Sequence[bool]) -> dict[int, Verdict]:
        verdicts = {}
        for i, value in enumerate(shard.scores["nats_per_byte"]):
            if not alive[i] or value is None:
                continue
            low, high = limits[shard.sources[i]]
            if value > high:
                verdicts[i] = _verdict("perplexity-high", value, high)
            elif value < low:
                verdicts[i] = _verdict("perplexity-low", value, low)
        return verdicts

    return decide


def _verdict(reason: str, value: float, limit: float) -> Verdict:
    return Verdict((reason,), {"nats_per_byte": round(value, 4), "limit": round(limit, 4)})


def _limits(settings: Perplexity, shards: Shards) -> dict[int, tuple[float, float]]:
    """{source: (lowest, highest) nats per byte of a document that stays}."""
    above = math.inf if settings.max_nats_per_byte is None else settings.max_nats_per_byte
    if not settings.drop_highest and not settings.drop_lowest:
        return {source: (-math.inf, above) for source in range(len(shards.source_names))}
    values: dict[int, array] = {}
    for shard in shards:
        for source, value in zip(shard.sources, shard.scores["nats_per_byte"], strict=True):
            if value is not None:
                values.setdefault(source, array("d")).append(value)
    limits = {source: (-math.inf, above) for source in range(len(shards.source_names))}
    for source, found in values.items():
        ordered = sorted(found)
        # Never more than the share: of equal scores at a limit, all stay.
        low = ordered[_share(settings.drop_lowest, len(ordered))]
        high = ordered[-1 - _share(settings.drop_highest, len(ordered))]
        limits[source] = (low, min(high, above))
    return limits


def _share(share: float, count: int) -> int:
    """How many of `count` are the share, rounded down; 0.1 of 30 is 3, although 0.1 * 30 is a little more."""
    return min(int(share * count + 1e-9), count - 1)

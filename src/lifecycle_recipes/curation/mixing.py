"""Which documents are held out, and how often each of the others is in the mixture. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..data.shares import per_weight, take
from ..finding import Finding, refuse
from .config import CurateConfig, CurateData
from .ledger import Books
from .shards import Corpus

if TYPE_CHECKING:
    import numpy as np

OVER = "mixture"  # the reason of a document for which the mixture has no room
LEAST_USED = 0.5  # share of the tokens; less is reported
MISSED = 0.01  # a share that misses what was asked for by more is reported


@dataclass
class Mixture:
    """times: how often each document is written for training (array). shares: per source, for the ledger."""

    times: np.ndarray
    shares: dict[str, dict[str, Any]]
    findings: list[Finding]


def sample(corpus: Corpus, data: CurateData) -> set[int]:
    """The documents beyond `max_rows` of their source: all but a seeded sample."""
    import numpy as np

    left_out: set[int] = set()
    for source, config in enumerate(data.sources):
        own = documents_of(corpus, source)
        if config.max_rows is not None and len(own) > config.max_rows:
            order = np.random.default_rng([data.seed, source]).permutation(len(own))
            left_out.update(int(own[i]) for i in order[config.max_rows :])
    return left_out


def documents_of(corpus: Corpus, source: int) -> range:
    """The numbers of the documents of a source."""
    shards = [i for i, of in enumerate(corpus.of_source) if of == source]
    return range(corpus.firsts[shards[0]], corpus.firsts[shards[-1] + 1]) if shards else range(0)


def mix(
    corpus: Corpus,
    config: CurateConfig,
    data: CurateData,
    training: np.ndarray,
    sizes: np.ndarray,
    tokens: np.ndarray,
) -> Mixture:
    """How often each training document is in the mixture: by weights in tokens, caps and epochs.

    training: whether each document is left by the steps and not held out. Raises Refusal.
    """
    import numpy as np

    own = [np.flatnonzero(within(training, documents_of(corpus, i))) for i in range(len(data.sources))]
    lengths = [np.maximum(tokens[numbers], 1) for numbers in own]
    have = np.array([length.sum() for length in lengths], dtype=float)
    for source, name, numbers in zip(data.sources, corpus.source_names, own, strict=True):
        if source.weight is not None and not len(numbers):
            message = "all that the steps left of it is held out, so its weight cannot be met"
            fix = "lower curate.held_out.fraction, group by another column, or remove the source"
            raise refuse("no-rows", message, fix, name)
    wanted = _wanted(data, config, have)
    random = np.random.default_rng(data.seed)
    times = np.zeros(len(corpus), np.int32)
    for numbers, length, size in zip(own, lengths, wanted, strict=True):
        if len(numbers):
            np.add.at(times, numbers[take(length, size, random)], 1)
    shares, findings = _shares(corpus, data, config, times, sizes, tokens, wanted, have)
    findings += _find_left_out(data, tokens, training, times)
    return Mixture(times, shares, [*findings, *_find_too_small(config, tokens, times)])


def _find_too_small(config: CurateConfig, tokens: np.ndarray, times: np.ndarray) -> list[Finding]:
    """mixture-too-small: fewer tokens than `curate.tokens`."""
    total = int((times * tokens).sum())
    if not config.tokens or total >= config.tokens * (1 - MISSED):
        return []
    fix = "add rows, let the sources repeat (passes, data.max_repetition), or lower curate.tokens"
    message = f"the mixture has {total:,} tokens, where curate.tokens asks for {config.tokens:,}"
    return [Finding.warning("mixture-too-small", message, fix, "curate.tokens")]


def _find_left_out(
    data: CurateData, tokens: np.ndarray, training: np.ndarray, times: np.ndarray
) -> list[Finding]:
    """weight-leaves-out: the weights use less than half of the tokens."""
    used = tokens[training & (times > 0)].sum() / max(int(tokens[training].sum()), 1)
    if used >= LEAST_USED or all(source.weight is None for source in data.sources):
        return []
    fix = "lower the weight of the smallest source, or let it repeat: data.max_repetition, or its passes"
    message = (
        f"the weights use {used:.0%} of the tokens that are left: the smallest source limits the mixture"
    )
    return [Finding.warning("weight-leaves-out", message, fix, "data.sources")]


def within(flags: np.ndarray, numbers: range) -> np.ndarray:
    """The flags of these documents; of the others, false."""
    import numpy as np

    mine = np.zeros(len(flags), bool)
    mine[numbers.start : numbers.stop] = flags[numbers.start : numbers.stop]
    return mine


def _wanted(data: CurateData, config: CurateConfig, have: np.ndarray) -> np.ndarray:
    """Tokens of each source in the mixture."""
    import numpy as np

    sources = data.sources
    weighted = [s.weight is not None for s in sources]
    if any(weighted) and not all(weighted):
        raise refuse(
            "bad-value", "some sources have a weight and others none", "give all of them a weight, or none"
        )
    caps = np.array([s.max_tokens or np.inf for s in sources])
    if not all(weighted) or not weighted:
        wanted = np.minimum(have * [1.0 if s.passes is None else s.passes for s in sources], caps)
        total = wanted.sum()
        return wanted * min(1.0, config.tokens / total) if config.tokens else wanted
    weights = np.array([s.weight for s in sources], dtype=float)
    limits = np.array([data.max_repetition if s.passes is None else s.passes for s in sources])
    most = np.minimum(have * limits, caps)
    # With a total, the weights divide it, and a source that is exhausted gives what it has.
    if config.tokens:
        return np.minimum(config.tokens * weights / weights.sum(), most)
    every = per_weight(have / weights, np.inf) if data.max_repetition > 1 else np.inf
    return weights * min((most / weights).min(), every)


def _shares(
    corpus: Corpus,
    data: CurateData,
    config: CurateConfig,
    times: np.ndarray,
    sizes: np.ndarray,
    tokens: np.ndarray,
    wanted: np.ndarray,
    have: np.ndarray,
) -> tuple[dict[str, dict[str, Any]], list[Finding]]:
    """(what each source has in the mixture beside what was asked for, findings)."""
    total = max(int((times * tokens).sum()), 1)
    weights = sum(s.weight or 0 for s in data.sources)
    shares, findings = {}, []
    for i, (name, source) in enumerate(zip(corpus.source_names, data.sources, strict=True)):
        numbers = documents_of(corpus, i)
        mine = slice(numbers.start, numbers.stop)
        used = int((times[mine] * tokens[mine]).sum())
        share = used / total
        entry = {
            "rows": int(times[mine].sum()),
            "bytes": int((times[mine] * sizes[mine]).sum()),
            "tokens": used,
        }
        entry["share"] = round(share, 4)
        entry["epochs"] = round(used / max(float(have[i]), 1), 4)
        if weights:
            entry["weight"] = source.weight
            entry["share_wanted"] = round(source.weight / weights, 4)
            if abs(share - source.weight / weights) > MISSED:
                short = config.tokens and wanted[i] < config.tokens * source.weight / weights - 1
                why = "the source is exhausted" if short else "its documents are few and long"
                findings.append(
                    Finding.warning(
                        "weight-missed",
                        f"{share:.1%} of the tokens, where its weight asks for {source.weight / weights:.1%}: {why}",
                        "add rows to the source, allow more passes over it, or lower curate.tokens",
                        name,
                    )
                )
        shares[name] = entry
    return shares, findings


def book(
    corpus: Corpus, mixture: Mixture, training: np.ndarray, sizes: np.ndarray, tokens: np.ndarray
) -> Books:
    """The books of the mixture."""
    import numpy as np

    books = Books("mixture")
    times = mixture.times
    for source, name in enumerate(corpus.source_names):
        own = within(training, documents_of(corpus, source))
        more = np.maximum(times[own] - 1, 0)
        books.stay(name, *totals(own & (times > 0), sizes, tokens))
        if more.any():
            books.repeat(
                name, int(more.sum()), int((more * sizes[own]).sum()), int((more * tokens[own]).sum())
            )
        if (over := own & (times == 0)).any():
            books.leave_out(name, (OVER,), *totals(over, sizes, tokens))
    return books


def totals(chosen: np.ndarray, sizes: np.ndarray, tokens: np.ndarray) -> tuple[int, int, int]:
    """(documents, bytes, tokens) of the documents that are chosen."""
    return int(chosen.sum()), int(sizes[chosen].sum()), int(tokens[chosen].sum())

"""One pass over all shards, in order: what each step leaves out or edits, and the books of it. No torch.

Everything that a later part needs of a document is in arrays of a few bytes per document; texts go to disk.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from ..finding import refuse
from ..record.file import EDITS, LEFT_OUT
from . import tokens
from .documents import Edit, Part, Verdict
from .ledger import Books
from .reading import Read
from .rows import apply, strings, text_of
from .shards import Corpus, StepShard
from .steps import StepOf

if TYPE_CHECKING:
    import numpy as np
    from tqdm import tqdm

NOTHING_LEFT = "nothing-left"  # the reason of a document of which edits leave a text or a message empty


@dataclass
class Decided:
    """What the pass found. alive, sizes, tokens: of every document, after its edits (arrays).

    books: one per step, `read` first. deciders: label of a step -> its `decide`, which may hold more.
    """

    alive: np.ndarray
    sizes: np.ndarray
    tokens: np.ndarray
    books: list[Books]
    deciders: dict[str, Any] = field(default_factory=dict)


def decide(
    corpus: Corpus,
    sources: list[Read],
    steps: list[StepOf],
    counter: StepOf,
    sampled_out: set[int],
    to: Path,
    bar: tqdm,
) -> Decided:
    """Decide about every document; writes `left_out.jsonl` and `edits.jsonl` into the directory `to`.

    counter: the step that counted tokens. sampled_out: documents beyond `max_rows`. Raises Refusal source-empty.
    """
    import numpy as np

    names = corpus.source_names
    decided = Decided(
        np.zeros(len(corpus), bool), np.zeros(len(corpus), np.int64), np.zeros(len(corpus), np.int64), [], {}
    )
    reading = Books("read")
    decided.books = [reading, *(Books(step.label) for step in steps)]
    for step in steps:
        decided.deciders[step.label] = step.module.decider(step.settings, corpus.scored(step))
    with (
        (to / LEFT_OUT).open("w", encoding="utf-8") as side,
        (to / EDITS).open("w", encoding="utf-8") as audit,
    ):
        for read in sources:
            _copy_left_out(read, reading, side)
        for index in range(len(corpus.files)):
            _decide_shard(corpus, index, steps, counter, sampled_out, decided, side, audit)
            bar.update(corpus.sizes[index])
    for source, name in enumerate(names):
        _refuse_empty(name, source, decided.books)
    return decided


def _decide_shard(
    corpus: Corpus,
    index: int,
    steps: list[StepOf],
    counter: StepOf,
    sampled_out: set[int],
    decided: Decided,
    side: TextIO,
    audit: TextIO,
) -> None:
    first, name = corpus.firsts[index], corpus.source_names[corpus.of_source[index]]
    counted = StepShard(corpus, counter, index)
    sizes, counts = counted.scores["bytes"], counted.scores["tokens"]
    alive = [first + i not in sampled_out for i in range(len(counted))]
    edits: dict[int, list[tuple[Part, tuple[Edit, ...]]]] = {}
    audited: list[tuple[int, str]] = []
    reading = decided.books[0]
    reading.stay(name, alive.count(True), *_sums(alive, sizes, counts))
    for i, stays in enumerate(alive):
        if not stays:
            reading.leave_out(name, ("max_rows",), 1, sizes[i], counts[i])
            _write_left_out(side, counted, i, name, "read", Verdict(("max_rows",)))
    for step, books in zip(steps, decided.books[1:], strict=True):
        shard = StepShard(corpus, step, index)
        verdicts = decided.deciders[step.label](shard, alive)
        unjudged = [lives and i not in verdicts for i, lives in enumerate(alive)]
        books.stay(name, unjudged.count(True), *_sums(unjudged, sizes, counts))
        for i, verdict in sorted(verdicts.items()):
            before = sizes[i], counts[i]
            if verdict.edits:
                edits.setdefault(i, []).append((step.part, verdict.edits))
                row = edited(shard.rows[i], edits[i])
                sizes[i], counts[i] = _measure(row, counter)
                if _is_emptied(shard.rows[i], row):
                    verdict = Verdict((NOTHING_LEFT,), verdict.detail)
                    sizes[i], counts[i] = before
            if verdict.reasons:
                alive[i] = False
                books.leave_out(name, verdict.reasons, 1, *before)
                _write_left_out(side, shard, i, name, step.label, verdict)
            elif verdict.edits:
                books.edit(name, before, (sizes[i], counts[i]))
                audited += [(i, _edit_line(shard.ids[i], first + i, step, edit)) for edit in verdict.edits]
            else:
                books.stay(name, 1, *before)
    # In the order of the documents, as `read_edits` expects them.
    audit.writelines(line for _, line in sorted(audited, key=lambda entry: entry[0]))
    end = first + len(alive)
    decided.alive[first:end], decided.sizes[first:end], decided.tokens[first:end] = alive, sizes, counts


def _sums(chosen: list[bool], sizes: list[int], counts: list[int]) -> tuple[int, int]:
    """(bytes, tokens) of the documents that are chosen."""
    return sum(compress(sizes, chosen)), sum(compress(counts, chosen))


def edited(row: dict[str, Any], edits: list[tuple[Part, tuple[Edit, ...]]]) -> dict[str, Any]:
    """A copy of the row with the edits."""
    copy = _copy(row)
    apply(edits, copy)
    return copy


def _is_emptied(before: dict[str, Any], after: dict[str, Any]) -> bool:
    """Whether a text, message or reply has nothing left: a question without words, or a pair without a reply."""
    both = zip(strings(before, "row"), strings(after, "row"), strict=True)
    return any(one[key].strip() and not other[key].strip() for (one, key), (other, _) in both)


def _copy(value: Any) -> Any:
    """A copy of JSON values. `copy.deepcopy` takes many times as long."""
    if isinstance(value, dict):
        return {key: _copy(one) for key, one in value.items()}
    return [_copy(one) for one in value] if isinstance(value, list) else value


def _measure(row: dict[str, Any], counter: StepOf) -> tuple[int, int]:
    """(bytes, tokens) of one row."""
    found = tokens.score([text_of(row, "row")], counter.settings)
    return found["bytes"][0], found["tokens"][0]


def _copy_left_out(read: Read, books: Books, side: TextIO) -> None:
    """The rows of a source that became no document."""
    for reason, (rows, size) in read.left_out.items():
        count = books.left_out[read.name][reason]
        for total in (count, books.came[read.name]):
            total[0] += rows
            total[1] += size
    with (read.directory / LEFT_OUT).open(encoding="utf-8") as file:
        for line in file:
            side.write(
                json.dumps({"source": read.name, "step": "read"} | json.loads(line), ensure_ascii=False)
                + "\n"
            )


def _write_left_out(side: TextIO, shard: StepShard, i: int, source: str, step: str, verdict: Verdict) -> None:
    if "span" in verdict.detail:  # in characters of the step's part
        verdict = replace(verdict, detail={**verdict.detail, "part": shard.step.part})
    write_left_out(side, shard.ids[i], source, step, verdict, shard.rows[i])


def write_left_out(
    side: TextIO, id: str, source: str, step: str, verdict: Verdict, row: dict[str, Any]
) -> None:
    """A line of left_out.jsonl; the text of a document, or else its whole row, as it was read."""
    line = {"source": source, "step": step, "id": id, "reason": verdict.reasons[0]}
    line |= {"reasons": list(verdict.reasons)} if len(verdict.reasons) > 1 else {}
    line |= {"detail": dict(verdict.detail)} if verdict.detail else {}
    line |= {"text": row["text"]} if "text" in row else {"row": row}
    side.write(json.dumps(line, ensure_ascii=False) + "\n")


def _edit_line(id: str, number: int, step: StepOf, edit: Edit) -> str:
    """A line of edits.jsonl; what was there is not in it, since it may be personal data."""
    line = {"document": number, "id": id, "step": step.label, "part": step.part} | asdict(edit)
    return json.dumps(line, ensure_ascii=False) + "\n"


def read_edits(directory: Path) -> Iterator[tuple[int, list[tuple[Part, tuple[Edit, ...]]]]]:
    """(number of a document, its edits), in the order of the documents."""
    number, found = -1, []
    with (directory / EDITS).open(encoding="utf-8") as file:
        for line in map(json.loads, file):
            if line["document"] != number:
                if found:
                    yield number, found
                number, found = line["document"], []
            found.append((line["part"], (Edit(line["start"], line["end"], line["text"], line["kind"]),)))
    if found:
        yield number, found


def _refuse_empty(name: str, source: int, books: list[Books]) -> None:
    """Raises Refusal source-empty if nothing of a source is left, with the step that took the last and most."""
    if books[-1].stayed[name][0]:
        return
    taken = {b.step: sum(count[0] for count in b.left_out[name].values()) for b in books}
    most = max(taken, key=taken.__getitem__)
    last = [step for step, rows in taken.items() if rows][-1]
    reasons = next(b for b in books if b.step == most).left_out[name]
    reason = max(reasons, key=lambda r: reasons[r][0])
    total = books[0].came[name][0]
    message = f"nothing is left: of {total:,} rows, {most} left out {taken[most]:,} (mostly {reason})"
    message += f", and {last} the last" if last != most else ""
    fix = f"change the settings of {most}, or remove the source"
    if most == "read":
        wrong = (
            "curate.max_characters"
            if reason == "too-long"
            else "curate.kind, the source's `format:` or `columns:`, or its rows"
        )
        fix = f"correct {wrong}, or remove the source"
    raise refuse("source-empty", message, fix, name)

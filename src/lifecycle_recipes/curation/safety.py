"""Unsafe text: by a list of words, by a classifier, or by both.

A list finds what it names and cannot read: it leaves out a medical text with the words of an insult list. A classifier
reads a text as far as its own length goes. Which of the two a corpus needs, and which words and labels count, is the
recipe's decision; nothing is blocked by default.
"""

from __future__ import annotations

import json
import os
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..finding import Finding, Refusal
from ..near_path import near_path
from ..record.parents import hash_file, hash_weights, is_local
from .documents import Decide, Part, Shard, Shards, Verdict
from .words import words


@dataclass
class Safety:
    """Leaves out documents with words of a list, or that a classifier finds unsafe.

    The list works as that of C4 (arXiv 1910.10683), which leaves out a page with any of its words.

    words: a text file with a word or phrase per line, whole words, in any case; lines with # are comments, and after a
    tab may stand the reason, such as `slur`, that the ledger counts as blocked-slur.
    max_matches: a document with more matches than so many is left out.
    classifier: a model for text classification, a directory or a Hub id; reads each text up to its own length.
    labels: the labels of the classifier that are unsafe.
    threshold: a document is left out from this probability of an unsafe label.
    by: the part of a document to look at: row, prompt or reply.
    """

    words: str | None = None
    max_matches: int = 0
    classifier: str | None = None
    labels: list[str] = field(default_factory=list)
    threshold: float = 0.5
    by: Part = "row"


SCORED = ("words", "classifier", "by")
PACKAGES = ("transformers", "torch")
PREFIX = "label "  # of the columns with the probabilities of the classifier
BATCH_TOKENS = 16384


def scored_by(settings: Safety) -> dict[str, Any]:
    """What the scores depend on: the content of the list and of the classifier, not where they are."""
    by: dict[str, Any] = {"by": settings.by, "words": settings.words and hash_file(settings.words)}
    model = settings.classifier
    if model and is_local(model):
        # The names of the labels and the tokenizer belong to it.
        files = [Path(model) / name for name in ("config.json", "tokenizer.json", "tokenizer_config.json")]
        by["classifier"] = [hash_weights(model), *(hash_file(f) for f in files if f.is_file())]
    else:
        by["classifier"] = model
    return by


def in_main_process(settings: Safety) -> bool:
    """Whether to score in the main process: a model is loaded once, and uses the GPU or all cores by itself."""
    return settings.classifier is not None


def score(texts: Sequence[str], settings: Safety) -> dict[str, list]:
    """The matched entries with counts and reasons, and the probability of each label of the classifier."""
    columns: dict[str, list] = {}
    if settings.words:
        blocked = read_words(settings.words)
        found = [blocked.find(text) for text in texts]
        columns["entries"] = [[entry.text for entry, _ in matches] for matches in found]
        columns["reasons"] = [[entry.reason for entry, _ in matches] for matches in found]
        columns["counts"] = [[count for _, count in matches] for matches in found]
    if settings.classifier:
        columns |= {PREFIX + label: values for label, values in classify(texts, settings.classifier).items()}
    return columns


def decider(settings: Safety, shards: Shards) -> Decide:
    def decide(shard: Shard, alive: Sequence[bool]) -> dict[int, Verdict]:
        if settings.classifier:
            known = [name.removeprefix(PREFIX) for name in shard.scores if name.startswith(PREFIX)]
            if unknown := _unknown_labels(settings, known, ""):
                raise Refusal(*unknown)
        verdicts = {i: _judge(shard, i, settings) for i, is_alive in enumerate(alive) if is_alive}
        return {i: verdict for i, verdict in verdicts.items() if verdict.reasons}

    return decide


def _judge(shard: Shard, i: int, settings: Safety) -> Verdict:
    reasons: list[str] = []
    detail: dict[str, Any] = {}
    if settings.words and (count := sum(shard.scores["counts"][i])) > settings.max_matches:
        reasons += dict.fromkeys(shard.scores["reasons"][i])
        detail |= {"count": count, "first": shard.scores["entries"][i][0]}
    if settings.classifier:
        scores = {label: shard.scores[PREFIX + label][i] for label in settings.labels}
        unsafe = {label: p for label, p in scores.items() if p >= settings.threshold}
        reasons += [f"unsafe-{_kebab(label)}" for label in sorted(unsafe, key=lambda label: -unsafe[label])]
        detail |= {"probability": {label: round(p, 4) for label, p in unsafe.items()}} if unsafe else {}
    return Verdict(tuple(reasons), detail)


def _kebab(name: str) -> str:
    return re.sub(r"[\W_]+", "-", name.lower()).strip("-")


# The list


@dataclass(frozen=True)
class Entry:
    """A line of the list. firsts: its first word, by which it is looked up; None if it has no word."""

    text: str
    reason: str
    first: str | None
    pattern: re.Pattern


class Words:
    """The entries of a list, by their first words."""

    def __init__(self, entries: Sequence[Entry]):
        self.entries = list(entries)
        self.firsts = {entry.first for entry in entries} - {None}

    def find(self, text: str) -> list[tuple[Entry, int]]:
        """The entries in a text and how often each occurs, in the order of their first occurrence."""
        folded = _fold(text)
        present = self.firsts.intersection(words(folded))
        found = []
        for number, entry in enumerate(self.entries):
            if entry.first is None or entry.first in present:
                starts = [m.start() for m in entry.pattern.finditer(folded) if not _goes_on(folded, m.end())]
                if starts:
                    found.append((starts[0], number, len(starts)))
        return [(self.entries[number], count) for _, number, count in sorted(found)]


def read_words(path: str) -> Words:
    """The list in a file, read again if it changes. Raises Refusal: missing-file, line-not-utf8, no-words."""
    if faults := _faults_of_list(path, ""):
        raise Refusal(*faults)
    return _words_of(path, hash_file(path))


@lru_cache(maxsize=4)
def _words_of(path: str, content: str) -> Words:
    return Words(list(_entries(path)))


def _entries(path: str) -> Iterator[Entry]:
    seen = set()
    for line in Path(path).read_text(encoding="utf-8-sig").splitlines():
        text, _, reason = line.partition("\t")
        text, reason = text.strip(), _kebab(reason.partition("#")[0])
        folded = _fold(text)
        if not text or text.startswith("#") or folded in seen:
            continue
        seen.add(folded)
        # No letter before or after it; a script without spaces has no such boundary.
        left = r"(?<!\w)" if _has_boundary(folded[0]) else ""
        right = r"(?!\w)" if _has_boundary(folded[-1]) else ""
        body = r"\s+".join(re.escape(part) for part in folded.split())
        first = next(iter(words(folded)), None)
        yield Entry(text, f"blocked-{reason or 'word'}", first, re.compile(left + body + right))


def _fold(text: str) -> str:
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


def _has_boundary(character: str) -> bool:
    """Whether words are set apart by spaces where this character occurs. `words` takes each other one as a word."""
    return bool(re.match(r"\w", character)) and len(words(character * 2)) == 1


def _goes_on(text: str, end: int) -> bool:
    """Whether a combining mark follows, as the vowels of Hindi do: then the word is another one."""
    return end < len(text) and unicodedata.category(text[end]).startswith("M")


# The classifier


def classify(texts: Sequence[str], path: str) -> dict[str, list[float]]:
    """{label: the probability of it for each text}. Texts longer than the model reads are truncated."""
    import torch

    tokenizer, model, length = _load(path)
    encoded = [tokenizer(text, truncation=True, max_length=length) for text in texts]
    sizes = [len(row["input_ids"]) for row in encoded]
    order = sorted(range(len(texts)), key=lambda i: (-sizes[i], i))
    labels = [model.config.id2label[i] for i in range(model.config.num_labels)]
    columns: dict[str, list[float]] = {label: [0.0] * len(texts) for label in labels}
    several = model.config.problem_type == "multi_label_classification" or len(labels) == 1
    start = 0
    while start < len(order):
        # Of equal length, so that little is padding.
        batch = order[start : start + max(1, BATCH_TOKENS // max(1, sizes[order[start]]))]
        start += len(batch)
        inputs = tokenizer.pad([encoded[i] for i in batch], return_tensors="pt").to(model.device)
        with torch.inference_mode():
            logits = model(**inputs).logits.float()
        chances = (logits.sigmoid() if several else logits.softmax(-1)).cpu().tolist()
        for i, row in zip(batch, chances, strict=True):
            for label, chance in zip(labels, row, strict=True):
                columns[label][i] = chance
    return columns


@lru_cache(maxsize=1)
def _load(path: str) -> tuple[Any, Any, int]:
    """The tokenizer and the model, on the GPU if there is one, and the most tokens that it reads."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModelForSequenceClassification.from_pretrained(path)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    if model.config.pad_token_id is None:
        model.config.pad_token_id = tokenizer.pad_token_id
    model = model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    positions = getattr(model.config, "max_position_embeddings", None) or 512
    # RoBERTa's positions begin after the padding token's.
    if model.config.model_type in ("roberta", "xlm-roberta", "camembert", "longformer", "mpnet"):
        positions -= 2
    return tokenizer, model, min(tokenizer.model_max_length, positions)


# The settings


def find_in_settings(settings: Safety, where: str) -> list[Finding]:
    """no-words, missing-file, line-not-utf8, no-labels, wrong-choice. where: the place of the step in the recipe."""
    if settings.words is None and settings.classifier is None:
        fix = "give `words`, the path of a list, or `classifier` with `labels`"
        return [Finding.error("no-words", "safety has neither a list of words nor a classifier", fix, where)]
    findings = _faults_of_list(settings.words, where) if settings.words is not None else []
    if settings.classifier is None:
        return findings
    if not settings.labels:
        fix = "list the labels that are unsafe, such as `labels: [toxic]`"
        findings.append(Finding.error("no-labels", "safety.labels is empty: no label is unsafe", fix, where))
    if is_local(settings.classifier):
        config = Path(settings.classifier) / "config.json"
        if not config.is_file():
            near = near_path(settings.classifier)
            fix = (
                f"did you mean {near}?"
                if near
                else "give the directory of a saved model for text classification"
            )
            message = f"the classifier {settings.classifier} has no config.json"
            return [*findings, Finding.error("missing-file", message, fix, where)]
        findings += _unknown_labels(settings, _labels_of(config), where)
    return findings


def _labels_of(config: Path) -> list[str]:
    values = json.loads(config.read_text(encoding="utf-8"))
    count = values.get("num_labels", 2)
    return list((values.get("id2label") or {i: f"LABEL_{i}" for i in range(count)}).values())


def _unknown_labels(settings: Safety, known: Sequence[str], where: str) -> list[Finding]:
    findings = []
    for label in settings.labels:
        if label in known:
            continue
        folded = {name.lower(): name for name in known}
        near = folded.get(label.lower()) or next(iter(get_close_matches(label, known, 1, 0.6)), None)
        fix = f"did you mean {near}?" if near else f"write one of {', '.join(known[:12])}"
        findings.append(Finding.error("wrong-choice", f"the classifier has no label {label!r}", fix, where))
    return findings


def _faults_of_list(path: str, where: str) -> list[Finding]:
    if not os.path.isfile(path):
        near = near_path(path)
        fix = f"did you mean {near}?" if near else "give a text file with a word or phrase per line"
        return [Finding.error("missing-file", f"the list of words {path} does not exist", fix, where or path)]
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        return [Finding.error("line-not-utf8", f"{path} is not in UTF-8", "save it in UTF-8", where or path)]
    if not any(line.strip() and not line.strip().startswith("#") for line in lines):
        return [
            Finding.error(
                "no-words", f"the list of words {path} is empty", "add a word per line", where or path
            )
        ]
    return []

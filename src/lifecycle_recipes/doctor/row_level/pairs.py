"""Preference pairs and unpaired preferences: replies that do not belong together, and biased sets."""

import math

from ...data.row_faults import one_label
from ...data.row_sets import RowSet
from ...data.selection import content
from ...finding import Finding
from .overlap import numbers_of

# A model that is rewarded for length learns to write long replies. UltraFeedback's judge prefers the longer
# reply in about 60 % of its pairs; beyond these bounds (share of pairs, ratio of mean lengths, sigmas of a
# sign test) length alone predicts the preference.
LONGER_SHARE, LONGER_RATIO, SIGMAS = 0.65, 1.1, 3.0
# KTO (arXiv 2402.01306, section 4.2): desirable_weight * good : undesirable_weight * bad from 1:1 to 4:3.
# The tolerance is a tenth, so that 49 % of good replies are not reported.
LEAST_RATIO, MOST_RATIO, TOLERANCE = 1.0, 4 / 3, 1.1


def find_in_pairs(train_config: dict, row_sets: list[RowSet]) -> list[Finding]:
    """no-pairs, pair-conflict and length-bias of the training pairs. train_config: the train section."""
    train = [(s, i) for s in row_sets if s.use == "train" for i in range(len(s.rows))]
    pairs = [(s, i) for s, i in train if s.rows[i]["chosen"] != s.rows[i]["rejected"]]
    if not pairs:
        paths = ", ".join(dict.fromkeys(s.path for s, _ in train))
        message, fix = "chosen equals rejected in every pair", "provide pairs of two different replies"
        return [Finding.error("no-pairs", message, fix, paths)] if train else []
    per_token = train_config.get("loss_type") in ("sigmoid_norm", ["sigmoid_norm"])
    return [*_find_conflicts(pairs), *([] if per_token else _find_length_bias(pairs))]


def _find_conflicts(pairs: list[tuple[RowSet, int]]) -> list[Finding]:
    seen: dict[str, str] = {}
    found = []
    for row_set, i in pairs:
        row = row_set.rows[i]
        swapped = content(row | {"chosen": row["rejected"], "rejected": row["chosen"]})
        if swapped in seen:
            found.append((row_set, i, seen[swapped]))
        seen.setdefault(content(row), row_set.where(i))
    if not found:
        return []
    row_set, i, other = found[0]
    what = f"{len(found)} of {len(pairs)} pairs contradict another pair"
    message = f"{what}{numbers_of(found)}; the first contradicts {other}"
    return [Finding.warning("pair-conflict", message, "keep one of the two", row_set.where(i))]


def _find_length_bias(pairs: list[tuple[RowSet, int]]) -> list[Finding]:
    rows = [s.rows[i] for s, i in pairs]
    chosen, rejected = ([_length(row[c]) for row in rows] for c in ("chosen", "rejected"))
    longer = sum(c > r for c, r in zip(chosen, rejected, strict=True))
    shorter = sum(c < r for c, r in zip(chosen, rejected, strict=True))
    unequal = longer + shorter
    share = longer / unequal if unequal else 0.0
    ratio = sum(chosen) / max(sum(rejected), 1)
    # Without a bias, the longer reply is chosen in half of the pairs; the standard deviation is sqrt(n) / 2.
    certain = longer - unequal / 2 >= SIGMAS * math.sqrt(unequal) / 2
    if share < LONGER_SHARE or ratio < LONGER_RATIO or not certain:
        return []
    n = len(pairs)
    message = (
        f"chosen is longer than rejected in {share:.0%} of {unequal} pairs of unequal length "
        f"({sum(chosen) / n:.0f} against {sum(rejected) / n:.0f} characters on average)"
    )
    fix = "balance the lengths; in DPO, `loss_type: [sigmoid_norm]` compares per token"
    return [Finding.warning("length-bias", message, fix, ", ".join(dict.fromkeys(s.path for s, _ in pairs)))]


def _length(reply) -> int:
    """Characters of a reply, without the messages of the prompt."""
    if isinstance(reply, str):
        return len(reply)
    return sum(len(m.get("content") or "") for m in reply if m["role"] == "assistant")


def find_in_labels(train_config: dict, row_sets: list[RowSet]) -> list[Finding]:
    """one-label, label-conflict and label-weights of the training rows; train_config: the `train` section."""
    train = [(s, i) for s in row_sets if s.use == "train" for i in range(len(s.rows))]
    labels = [s.rows[i]["label"] for s, i in train]
    good, bad = labels.count(True), labels.count(False)
    paths = ", ".join(dict.fromkeys(s.path for s, _ in train))
    if labels and not (good and bad):
        if any(s.partly for s, _ in train):
            return _find_label_conflicts(train)  # the stage reads all labels, and refuses too (stages/kto.py)
        return [one_label(bool(good), paths)]
    return [*_find_label_conflicts(train), *_find_weights(good, bad, train_config, paths)] if labels else []


def _find_label_conflicts(train: list[tuple[RowSet, int]]) -> list[Finding]:
    seen: dict[str, tuple[bool, str]] = {}
    found = []
    for row_set, i in train:
        row = row_set.rows[i]
        key = content({k: v for k, v in row.items() if k != "label"})
        label, where = seen.setdefault(key, (row["label"], row_set.where(i)))
        if label != row["label"]:
            found.append((row_set, i, where))
    if not found:
        return []
    row_set, i, other = found[0]
    what = f"{len(found)} of {len(train)} replies have the opposite label in an earlier row"
    message = f"{what}{numbers_of(found)}; the first in {other}"
    return [Finding.warning("label-conflict", message, "keep one of the two", row_set.where(i))]


def _find_weights(good: int, bad: int, train_config: dict, paths: str) -> list[Finding]:
    weights = [train_config.get(f"{kind}_weight", 1.0) for kind in ("desirable", "undesirable")]
    if min(weights) <= 0:
        return []  # one side is disabled, which upstream supports
    ratio = weights[0] * good / (weights[1] * bad)
    if LEAST_RATIO / TOLERANCE <= ratio <= MOST_RATIO * TOLERANCE:
        return []
    # The weight of the smaller side is raised, to the middle of the range.
    middle = math.sqrt(LEAST_RATIO * MOST_RATIO)
    raised = (
        f"train.desirable_weight: {middle * bad / good:.2g}, undesirable_weight: 1.0"
        if good < bad
        else f"train.desirable_weight: 1.0, undesirable_weight: {good / bad / middle:.2g}"
    )
    message = (
        f"{good} good and {bad} bad replies, weighted {weights[0]:g} and {weights[1]:g}, are {ratio:.2g}:1;"
        " KTO recommends 1:1 to 4:3 (arXiv 2402.01306)"
    )
    return [Finding.warning("label-weights", message, f"set {raised}", paths)]

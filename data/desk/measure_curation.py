"""Measure a run of the curate stage on the desk's raw pile against the truth about what was planted in it.

    python data/desk/measure_curation.py runs/desk/01-curate [--world data/desk/world]

Precision and recall of each step. A step answers for the documents that reach it: what an earlier step left out
is in neither its hits nor its misses. Exit status 1 if a figure does not reach what is required of it.
"""

import argparse
import json
import re
import sys
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from lifecycle_recipes.curation.words import words

# The order in which a recipe has them; mixing and the rest come after all of these.
STEPS = [
    "exact_duplicates",
    "near_duplicates",
    "language",
    "quality",
    "perplexity",
    "personal_data",
    "safety",
    "decontamination",
]
THRESHOLD, SHINGLE = 0.8, 5
CODE = {"python", "javascript", "sql", "shell", "log", "yaml", "json", "table"}
# figure: (step, its name, at least or at most, value)
REQUIRED = [
    ("exact_duplicates", "recall", ">=", 1.0),
    ("exact_duplicates", "precision", ">=", 1.0),
    ("near_duplicates", "recall", ">=", 0.98),
    ("near_duplicates", "precision", ">=", 0.99),
    ("language", "recall", ">=", 0.99),
    ("language", "english removed", "<=", 0.005),
    ("language", "code removed", "<=", 0.005),
    ("quality", "recall", ">=", 0.95),
    ("quality", "good removed", "<=", 0.01),
    ("personal_data", "recall", ">=", 0.98),
    ("personal_data", "precision", ">=", 0.95),
    ("personal_data", "false friends untouched", ">=", 1.0),
    ("decontamination", "recall verbatim", ">=", 1.0),
    ("decontamination", "recall edited", ">=", 0.95),
]


@dataclass(frozen=True)
class Share:
    """`part` of `whole`; None as a number where there is nothing to measure."""

    part: int
    whole: int

    @property
    def value(self) -> float | None:
        return self.part / self.whole if self.whole else None

    def __str__(self) -> str:
        return f"{self.part} of {self.whole}"


@dataclass(frozen=True)
class Removal:
    """A raw document that was left out: the step, its first reason, and what the side file says besides."""

    step: str
    reason: str
    detail: dict


@dataclass(frozen=True)
class Outcome:
    """What became of the documents of raw.jsonl, by their position in it.

    edits: (step, start, end) of each document, in characters of its raw text.
    """

    raw: list[str]
    truth: dict[int, dict]
    output: dict[int, list[str]]
    left_out: dict[int, Removal]
    edits: dict[int, list[tuple[str, int, int]]]

    def arrives(self, position: int, step: str) -> bool:
        """Whether no earlier step left the document out."""
        removal = self.left_out.get(position)
        return removal is None or _place(removal.step) >= _place(step)

    def left_out_by(self, position: int, *steps: str) -> bool:
        return position in self.left_out and self.left_out[position].step in steps

    def planted(self, step: str, *defects: str) -> list[tuple[int, dict]]:
        """(position, truth) of the planted documents of these kinds that reach the step."""
        return [
            (i, truth)
            for i, truth in self.truth.items()
            if truth["defect"] in defects and self.arrives(i, step)
        ]

    def others(self, step: str, *defects: str) -> list[int]:
        """The documents that reach the step and are none of these kinds."""
        kinds = (self.truth.get(i, {}).get("defect") for i in range(len(self.raw)))
        return [i for i, kind in enumerate(kinds) if kind not in defects and self.arrives(i, step)]


def _place(step: str) -> int:
    return STEPS.index(step) if step in STEPS else len(STEPS)


def measure(run_dir: Path | str, world: Path | str) -> dict[str, dict[str, Share]]:
    """{step: {figure: share}}, and under "documents" whether each one is in the output or left out, and once."""
    outcome = read_outcome(Path(run_dir), Path(world))
    requests = [row for row in _rows(Path(world) / "requests_heldout.jsonl")]
    return {
        "documents": accounted(outcome),
        "exact_duplicates": exact_duplicates(outcome),
        "near_duplicates": near_duplicates(outcome),
        "language": language(outcome),
        "quality": quality(outcome),
        "personal_data": personal_data(outcome),
        "decontamination": decontamination(outcome, requests),
    }


def unmet(figures: dict[str, dict[str, Share]]) -> list[str]:
    """What is required and not reached, or not measured at all, one line each."""
    lines = []
    for step, name, sign, limit in REQUIRED:
        share = figures[step][name]
        value = share.value
        if value is None or (value < limit if sign == ">=" else value > limit):
            lines.append(f"{step}: {name} is {share}, required {sign} {limit:.1%}")
    whole = figures["documents"]["accounted for"]
    if whole.part != whole.whole:
        lines.append(f"documents: {whole} are in the output or left out, and not both")
    return lines


def read_outcome(run_dir: Path, world: Path) -> Outcome:
    """Raises ValueError for an id that is no line of raw.jsonl."""
    raw = [row["text"] for row in _rows(world / "raw.jsonl")]
    output, edits = defaultdict(list), defaultdict(list)
    left_out = {}
    for name in ("train.jsonl", "held_out.jsonl"):
        for row in _rows(run_dir / name):
            output[position(row["id"], len(raw))].append(row["text"])
    for row in _rows(run_dir / "left_out.jsonl"):
        removal = Removal(step_name(row["step"]), row["reason"], row.get("detail") or {})
        left_out[position(row["id"], len(raw))] = removal
    for row in _rows(run_dir / "edits.jsonl"):
        edit = (step_name(row["step"]), row["start"], row["end"])
        edits[position(row["id"], len(raw))].append(edit)
    # The rows of raw.jsonl are numbered in order, so an id of the truth is a position.
    truth = {row["id"]: row for row in _rows(world / "raw_truth.jsonl")}
    return Outcome(raw, truth, dict(output), left_out, dict(edits))


def _rows(path: Path) -> Iterable[dict]:
    """The rows of a JSONL file; none if there is no such file, as a run without edits has none."""
    if path.exists():
        with path.open(encoding="utf-8") as lines:
            yield from map(json.loads, lines)


def position(place: str, rows: int) -> int:
    """`raw.jsonl:17` -> 16."""
    path, _, line = place.rpartition(":")
    if Path(path).name != "raw.jsonl" or not line.isdecimal() or not 1 <= int(line) <= rows:
        raise ValueError(f"{place} is not a line of raw.jsonl, which has {rows}")
    return int(line) - 1


def step_name(step: str) -> str:
    return step.replace("-", "_")


def same_form(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def shingles(text: str) -> set[tuple[str, ...]]:
    found = words(text)
    return {tuple(found[i : i + SHINGLE]) for i in range(max(1, len(found) - SHINGLE + 1))}


def jaccard(one: str, other: str) -> float:
    a, b = shingles(one), shingles(other)
    return len(a & b) / len(a | b)


def accounted(outcome: Outcome) -> dict[str, Share]:
    """A document is in the output (as often as its weight asks) or left out, and never both."""
    once = [i for i in range(len(outcome.raw)) if (i in outcome.output) != (i in outcome.left_out)]
    return {"accounted for": Share(len(once), len(outcome.raw))}


def exact_duplicates(outcome: Outcome) -> dict[str, Share]:
    """Of each group of equal documents all but one must go, and every removal names the one that stays."""
    step = "exact_duplicates"
    groups = defaultdict(list)
    for i, text in enumerate(outcome.raw):
        groups[same_form(text)].append(i)
    removed = [i for i in range(len(outcome.raw)) if outcome.left_out_by(i, step)]
    right = []
    for i in removed:
        kept = _kept(outcome, i)
        equal = kept is not None and same_form(outcome.raw[i]) == same_form(outcome.raw[kept])
        if equal and not outcome.left_out_by(kept, step):
            right.append(i)
    found = sum(min(sum(outcome.left_out_by(i, step) for i in g), len(g) - 1) for g in groups.values())
    return {
        "recall": Share(found, len(outcome.raw) - len(groups)),
        "precision": Share(len(right), len(removed)),
    }


def near_duplicates(outcome: Outcome) -> dict[str, Share]:
    """A planted pair is found if one of the two is gone. A removal is right if the document that it names was
    kept and is as similar as the threshold asks: measured here, not taken from the run."""
    step = "near_duplicates"
    pairs = [
        (i, truth["of"], truth["jaccard"])
        for i, truth in outcome.planted(step, "near-duplicate")
        if outcome.arrives(truth["of"], step)
    ]
    bands: dict[str, list[bool]] = {"0.7": [], "0.8": [], "0.9": []}
    for copy, original, value in pairs:
        gone = outcome.left_out_by(copy, step) or outcome.left_out_by(original, step)
        bands["0.9" if value >= 0.9 else "0.8" if value >= THRESHOLD else "0.7"].append(gone)
    removed = [i for i in range(len(outcome.raw)) if outcome.left_out_by(i, step)]
    right = 0
    for i in removed:
        kept = _kept(outcome, i)
        stays = kept is not None and kept != i and not outcome.left_out_by(kept, STEPS[0], step)
        right += bool(stays and jaccard(outcome.raw[i], outcome.raw[kept]) >= THRESHOLD)
    above = bands["0.8"] + bands["0.9"]
    return {
        "recall": Share(sum(above), len(above)),
        "precision": Share(right, len(removed)),
        **{f"removed near {band}": Share(sum(gone), len(gone)) for band, gone in bands.items()},
    }


def _kept(outcome: Outcome, removed: int) -> int | None:
    """The document that a removal names as the one that was kept."""
    kept = outcome.left_out[removed].detail.get("kept")
    return None if kept is None else position(str(kept), len(outcome.raw))


def language(outcome: Outcome) -> dict[str, Share]:
    step = "language"
    planted = outcome.planted(step, "language")
    mixed = outcome.planted(step, "mixed-language")
    # What is spam or boilerplate is missed by nobody, whichever step takes it for another language.
    others = outcome.others(step, "language", "mixed-language", "spam", "boilerplate")
    code = [i for i in others if outcome.truth.get(i, {}).get("kind") in CODE]
    english = sorted(set(others) - set(code))
    figures = {
        "recall": _gone(outcome, (i for i, _ in planted), step),
        "english removed": _gone(outcome, english, step),
        "code removed": _gone(outcome, code, step),
        "two languages removed": _gone(outcome, (i for i, _ in mixed), step),
    }
    for name in sorted({truth["language"] for _, truth in planted}):
        figures[f"recall {name}"] = _gone(outcome, (i for i, t in planted if t["language"] == name), step)
    return figures


def _gone(outcome: Outcome, positions: Iterable[int], *steps: str) -> Share:
    fates = [outcome.left_out_by(i, *steps) for i in positions]
    return Share(sum(fates), len(fates))


def quality(outcome: Outcome) -> dict[str, Share]:
    """Spam and boilerplate, which quality rules or a safety step may find; and what else they take."""
    steps = ("quality", "safety")
    bad = outcome.planted("quality", "spam", "boilerplate")
    good = outcome.others("quality", "spam", "boilerplate", "language", "mixed-language")
    wrapped = [i for i, _ in outcome.planted("quality", "boilerplate-lines")]
    inside = [i for i in wrapped if i in outcome.output]
    figures = {
        "recall": _gone(outcome, (i for i, _ in bad), *steps),
        "good removed": _gone(outcome, good, *steps),
        "clean removed": _gone(outcome, (i for i in good if i not in outcome.truth), *steps),
        "page between boilerplate lines removed": _gone(outcome, wrapped, *steps),
        "page between boilerplate lines whole": Share(
            sum(all(outcome.truth[i]["clean"] in text for text in outcome.output[i]) for i in inside),
            len(inside),
        ),
        "its boilerplate lines removed": Share(
            sum(any(text != outcome.raw[i] for text in outcome.output[i]) for i in inside), len(inside)
        ),
    }
    for name in sorted({truth["kind"] for _, truth in bad}):
        figures[f"recall {name}"] = _gone(outcome, (i for i, t in bad if t["kind"] == name), *steps)
    return figures


def personal_data(outcome: Outcome) -> dict[str, Share]:
    """A secret is found if its string is in no output text of its document, or the step left the document out."""
    step = "personal_data"
    found, by_kind = Counter(), Counter()
    for i, truth in outcome.planted(step, "personal-data"):
        if i not in outcome.output and not outcome.left_out_by(i, step):
            continue  # a later step left it out: nobody knows what would have become of the secret
        for secret in truth["secrets"]:
            by_kind[truth["kind"]] += 1
            found[truth["kind"]] += all(secret not in text for text in outcome.output.get(i, []))
    edits = right = 0
    for i, spans in outcome.edits.items():
        if i not in outcome.output:
            continue
        secrets = outcome.truth.get(i, {}).get("secrets", [])
        for start, end in ((start, end) for name, start, end in spans if name == step):
            edits += 1
            right += any(_covers(outcome.raw[i], secret, start, end) for secret in secrets)
    dropped = [i for i in range(len(outcome.raw)) if outcome.left_out_by(i, step)]
    edits += len(dropped)
    right += sum(outcome.truth.get(i, {}).get("defect") == "personal-data" for i in dropped)
    friends = [
        i
        for i, truth in outcome.planted(step, "false-friend")
        if i in outcome.output or outcome.left_out_by(i, step)
    ]
    figures = {
        "recall": Share(sum(found.values()), sum(by_kind.values())),
        "precision": Share(right, edits),
        "false friends untouched": Share(sum(_untouched(outcome, i, step) for i in friends), len(friends)),
    }
    for kind in sorted(by_kind):
        figures[f"recall {kind}"] = Share(found[kind], by_kind[kind])
    return figures


def _covers(text: str, secret: str, start: int, end: int) -> bool:
    """Whether at least half of the characters [start, end) are in a place where `secret` is."""
    for match in re.finditer(re.escape(secret), text):
        common = min(end, match.end()) - max(start, match.start())
        if common > 0 and 2 * common >= end - start:
            return True
    return False


def _untouched(outcome: Outcome, i: int, step: str) -> bool:
    """Strings to keep are all there; a document without such strings has no edit of the step at all."""
    if i not in outcome.output:
        return False
    keep = outcome.truth[i]["keep"]
    if not keep:
        return all(name != step for name, _, _ in outcome.edits.get(i, []))
    return all(string in text for string in keep for text in outcome.output[i])


def decontamination(outcome: Outcome, requests: list[dict]) -> dict[str, Share]:
    """A leaked request is found if its document was left out, or the passage was cut from it."""
    step = "decontamination"
    prompts = {row["id"]: row["prompt"] for row in requests}
    fates: dict[str, list[bool]] = {"verbatim": [], "edited": []}
    for i, truth in outcome.planted(step, "leakage"):
        if truth["edited"]:
            gone = any(name == step for name, _, _ in outcome.edits.get(i, []))
        else:
            gone = all(prompts[truth["of_item"]] not in text for text in outcome.output.get(i, []))
        gone = gone if i in outcome.output else outcome.left_out_by(i, step)
        fates["edited" if truth["edited"] else "verbatim"].append(gone)
    # Some tickets ask for what the tests ask for: to leave these out is no mistake.
    asked = [" ".join(words(prompt)) for prompt in prompts.values()]
    others = outcome.others(step, "leakage")
    wrong = [
        i
        for i in others
        if outcome.left_out_by(i, step)
        and not any(f" {prompt} " in f" {' '.join(words(outcome.raw[i]))} " for prompt in asked)
    ]
    return {
        **{f"recall {name}": Share(sum(gone), len(gone)) for name, gone in fates.items()},
        "others removed": Share(len(wrong), len(others)),
    }


def table(figures: dict[str, dict[str, Share]]) -> str:
    """One line per figure: step, figure, percent, counts, and what is required."""
    required = {(step, name): f"{sign} {limit:.1%}" for step, name, sign, limit in REQUIRED}
    lines = [f"{'step':<18}{'figure':<40}{'measured':>9}  {'required':<11}count"]
    for step, shares in figures.items():
        for name, share in shares.items():
            value = "-" if share.value is None else f"{share.value:.1%}"
            lines.append(f"{step:<18}{name:<40}{value:>9}  {required.get((step, name), ''):<11}{share}")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    shape = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=shape, allow_abbrev=False)
    parser.add_argument("run_dir", type=Path, help="the output directory of the curate stage")
    parser.add_argument("--world", type=Path, default=Path(__file__).parent / "world")
    args = parser.parse_args(argv)
    figures = measure(args.run_dir, args.world)
    print(table(figures))
    lines = unmet(figures)
    print("\n".join(["", *lines]) if lines else "\nall figures reach what is required")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())

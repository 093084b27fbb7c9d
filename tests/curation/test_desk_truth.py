"""The curate stage finds what was planted in the desk's raw pile, and the measuring of that can fail."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
from repository import ROOT

DESK = ROOT / "data/desk"


def load(name: str):
    spec = importlib.util.spec_from_file_location(f"desk_{name}", DESK / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


measuring = load("measure_curation")

PAGE = (
    "Falcon page. Falcon handles invoices for the whole company and nobody else does. It is owned by the Atlas "
    "team, it stores its data in Postgres, it runs in Oslo behind two proxies, and it was written in Rust by "
    "people who have left since then, so please read the notes before you change any of it."
)
# One changed word in the first sentence, and five of them all over the page.
CLOSE, FAR = PAGE.replace("page.", "wiki."), PAGE.replace(" it ", " that ")
MAIL, CARD = "maya.holm@example.com", "4000 0012 3456 7899"
WRAPPED = f"Home | Contact\n{PAGE[40:200]}\nAll rights reserved."
ASKED = "List the database and region of Nimbus as bullets."
EDITED = "List the database plus region of Nimbus as bullets."
# (text, truth without the id; None for a clean page). The comments are the line numbers.
RAW = [
    (PAGE, None),  # 1
    ("  " + PAGE.upper(), {"defect": "duplicate", "of": 0}),  # 2
    (CLOSE, {"defect": "near-duplicate", "of": 0, "jaccard": 0.95}),  # 3
    (FAR, {"defect": "near-duplicate", "of": 0, "jaccard": 0.69}),  # 4
    ("Der Dienst ist seit heute gestört.", {"defect": "language", "language": "de"}),  # 5
    ("The service is down. Der Dienst ist gestört.", {"defect": "mixed-language", "language": "de"}),  # 6
    ("BUY NOW!!!", {"defect": "spam", "kind": "shouting"}),  # 7
    ("Accept all", {"defect": "boilerplate", "kind": "cookie-banner"}),  # 8
    (WRAPPED, {"defect": "boilerplate-lines", "clean": PAGE[40:200]}),  # 9
    (f"Write to {MAIL}.", {"defect": "personal-data", "kind": "email", "secrets": [MAIL]}),  # 10
    (f"Card {CARD}, paid.", {"defect": "personal-data", "kind": "card", "secrets": [CARD]}),  # 11
    ("Order 4000001234567890.", {"defect": "false-friend", "kind": "personal", "keep": ["4000001234567890"]}),
    ("def main(): pass", {"defect": "false-friend", "kind": "python", "keep": []}),  # 13
    (f"Asked: {ASKED}", {"defect": "leakage", "of_item": 3, "edited": False}),  # 14
    (f"Asked: {EDITED}", {"defect": "leakage", "of_item": 3, "edited": True}),  # 15
    ("Who owns Quill? The Lyra team.", None),  # 16
]
# What a run without a mistake leaves out: line -> (step, detail).
LEFT_OUT = {
    2: ("exact_duplicates", {"kept": "raw.jsonl:1"}),
    3: ("near_duplicates", {"kept": "raw.jsonl:1", "jaccard": 0.95}),
    5: ("language", {"language": "de"}),
    7: ("quality", {}),
    8: ("quality", {}),
    14: ("decontamination", {"item": 3}),
    15: ("decontamination", {"item": 3}),
}
MASKED = {10: (9, 9 + len(MAIL)), 11: (5, 5 + len(CARD))}


@pytest.fixture
def world(tmp_path) -> Path:
    folder = tmp_path / "world"
    folder.mkdir()
    write(folder / "raw.jsonl", [{"id": i, "text": text} for i, (text, _) in enumerate(RAW)])
    truth = [{"id": i, "of": None} | truth for i, (_, truth) in enumerate(RAW) if truth]
    write(folder / "raw_truth.jsonl", truth)
    write(folder / "requests_heldout.jsonl", [{"id": 3, "prompt": ASKED}])
    return folder


def write(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture
def measured(tmp_path, world):
    """Writes a run's output and returns its figures.

    left_out: as LEFT_OUT, None for a document that stays. edits: as MASKED. texts: line -> text in the output.
    """

    def run(left_out: dict | None = None, edits: dict | None = None, texts: dict | None = None):
        folder = tmp_path / "run"
        folder.mkdir()
        gone = {line: way for line, way in (LEFT_OUT | (left_out or {})).items() if way}
        masks = {line: span for line, span in (MASKED | (edits or {})).items() if span and line not in gone}
        rows = []
        for line, (text, _) in enumerate(RAW, 1):
            if line in masks:
                start, end = masks[line]
                text = text[:start] + "<MASK>" + text[end:]
            if line not in gone:
                rows.append(
                    {"id": f"data/desk/world/raw.jsonl:{line}", "text": (texts or {}).get(line, text)}
                )
        write(folder / "train.jsonl", rows[:-1])
        write(folder / "held_out.jsonl", rows[-1:])
        write(
            folder / "left_out.jsonl",
            [
                {"id": f"raw.jsonl:{line}", "step": step, "reason": "r", "detail": detail}
                for line, (step, detail) in gone.items()
            ],
        )
        write(
            folder / "edits.jsonl",
            [
                {"id": f"raw.jsonl:{line}", "step": "personal_data", "kind": "k", "start": start, "end": end}
                for line, (start, end) in masks.items()
            ],
        )
        return measuring.measure(folder, world)

    return run


def test_a_run_without_a_mistake_reaches_everything(measured):
    figures = measured()
    assert measuring.unmet(figures) == []
    assert figures["documents"]["accounted for"] == measuring.Share(16, 16)
    assert figures["near_duplicates"]["removed near 0.7"] == measuring.Share(0, 1)
    assert figures["quality"]["page between boilerplate lines whole"].value == 1


def test_steps_may_be_written_with_hyphens(measured):
    left_out = {2: ("exact-duplicates", {"kept": "raw.jsonl:1"})}
    assert measuring.unmet(measured(left_out)) == []


MISTAKES = {
    "a copy stays": ({2: None}, {}, {}, "exact_duplicates: recall"),
    "all copies go": (
        {1: ("exact_duplicates", {"kept": "raw.jsonl:2"})},
        {},
        {},
        "exact_duplicates: precision",
    ),
    "no copy at all": ({16: ("exact_duplicates", {"kept": "raw.jsonl:1"})}, {}, {}, "exact_duplicates: prec"),
    "a near copy stays": ({3: None}, {}, {}, "near_duplicates: recall"),
    "a copy below the threshold goes": (
        {4: ("near_duplicates", {"kept": "raw.jsonl:1", "jaccard": 0.9})},
        {},
        {},
        "near_duplicates: precision",
    ),
    "the kept one is gone": (
        {3: ("near_duplicates", {"kept": "raw.jsonl:2", "jaccard": 0.9})},
        {},
        {},
        "near_duplicates: precision",
    ),
    "German stays": ({5: None}, {}, {}, "language: recall"),
    "English goes": ({16: ("language", {})}, {}, {}, "language: english removed"),
    "code goes": ({13: ("language", {})}, {}, {}, "language: code removed"),
    "spam stays": ({7: None}, {}, {}, "quality: recall"),
    "a good page goes": ({9: ("quality", {})}, {}, {}, "quality: good removed"),
    "a secret stays": ({}, {10: None}, {}, "personal_data: recall"),
    "half a secret stays": ({}, {}, {11: f"Card <MASK>, paid. {CARD}"}, "personal_data: recall"),
    "an innocent string goes": ({}, {12: (6, 22)}, {}, "personal_data: false friends untouched"),
    "code is edited": ({}, {13: (0, 3)}, {}, "personal_data: false friends untouched"),
    "a mask is far too long": ({}, {10: (0, 500)}, {}, "personal_data: precision"),
    "a clean page is edited": ({}, {16: (0, 3)}, {}, "personal_data: precision"),
    "a leak stays": ({14: None}, {}, {}, "decontamination: recall verbatim"),
    "an edited leak stays": ({15: None}, {}, {}, "decontamination: recall edited"),
}


@pytest.mark.parametrize("left_out, edits, texts, line", MISTAKES.values(), ids=MISTAKES)
def test_each_mistake_is_seen(measured, left_out, edits, texts, line):
    assert line in "\n".join(measuring.unmet(measured(left_out, edits, texts)))


def test_a_document_of_an_earlier_step_is_not_missed_by_a_later_one(measured):
    """Quality left the leak out: decontamination never saw it, and has nothing to measure."""
    figures = measured({14: ("quality", {})})
    assert figures["decontamination"]["recall verbatim"] == measuring.Share(0, 0)
    assert any("recall verbatim is 0 of 0" in line for line in measuring.unmet(figures))


def test_a_lost_document_is_named(measured, tmp_path, world):
    measured()
    (tmp_path / "run/held_out.jsonl").unlink()
    lines = measuring.unmet(measuring.measure(tmp_path / "run", world))
    assert lines == ["documents: 15 of 16 are in the output or left out, and not both"]


def test_an_id_of_another_file_is_refused():
    for place in ("wiki.jsonl:3", "raw.jsonl", "raw.jsonl:0", "raw.jsonl:17"):
        with pytest.raises(ValueError, match="is not a line of raw.jsonl"):
            measuring.position(place, 16)


def test_the_command_prints_the_table_and_fails_with_what_is_missing(measured, tmp_path, world, capsys):
    measured({5: None})
    assert measuring.main([str(tmp_path / "run"), "--world", str(world)]) == 1
    shown = capsys.readouterr().out
    assert "near_duplicates   precision" in shown and "language: recall is 0 of 1, required >= 99.0%" in shown


@pytest.mark.slow
def test_the_stage_finds_what_is_planted_in_the_desk(tmp_path):
    world, out, recipes = tmp_path / "world", tmp_path / "runs", tmp_path / "recipes"
    subprocess.run([sys.executable, DESK / "generate.py", "--out", world], check=True, capture_output=True)
    recipes.mkdir()
    for recipe in (ROOT / "recipes/desk").glob("*.yaml"):  # the others name the evaluation data
        text = recipe.read_text(encoding="utf-8").replace("data/desk/world", str(world))
        (recipes / recipe.name).write_text(text.replace("runs/desk", str(out)), encoding="utf-8")
    command = [sys.executable, "-m", "lifecycle_recipes.cli", "run", recipes / "01-curate.yaml"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    figures = measuring.measure(out / "01-curate", world)
    assert measuring.unmet(figures) == [], "\n" + measuring.table(figures)

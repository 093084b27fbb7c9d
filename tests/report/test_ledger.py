"""`lifecycle ledger`: the tables of a run of curation, samples of a step, and runs that read curated rows."""

import json

import pytest
from curated import curate, write_rows

from lifecycle_recipes import cli
from lifecycle_recipes.record.parents import describe_parent

WORDS = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
STEPS = [
    {"exact_duplicates": {}},
    {"quality": {"gopher": {"min_words": 5}, "gopher_repetition": None, "fineweb": None}},
    {"near_duplicates": {"threshold": 0.7}},
    {"personal_data": {"action": "mask"}},
]


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A run on two sources in one directory; the first has one of everything."""
    folder = tmp_path_factory.mktemp("ledger")
    first = [
        f"The page number {n} of the first source is about the service that runs in the city."
        for n in range(20)
    ]
    first += [first[0], "Too few words.", f"the {WORDS} of it", f"the {WORDS} and of it"]
    first += ["Write to mail@example.org, and the people of the team will answer that in a day."]
    other = [
        f"Another text, the {n}th of its kind, with the words that it needs to be kept." for n in range(10)
    ]
    sources = [
        {"path": write_rows(folder / "raw/wiki.jsonl", [{"text": t} for t in first]), "license": "cc-by-4.0"},
        write_rows(folder / "raw/other.jsonl", [{"text": text} for text in other]),
    ]
    run = curate(folder / "run", sources, steps=STEPS, held_out={"fraction": 0.1, "similarity": 1.0})
    assert run.status == 0
    return run


@pytest.fixture
def shown(capsys):
    """Runs `lifecycle ledger` and returns (status, stdout, stderr)."""

    def show(*arguments) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            cli.main(["ledger", *map(str, arguments)])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return end.value.code or 0, out, err

    return show


def cells(text: str, *first: str) -> list[str]:
    """The cells of the row of a table that begins with these."""
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if "|" in line
    ]
    return next(row for row in rows if row[: len(first)] == list(first))


def test_every_step_and_source_has_a_line(done, shown):
    status, text, _ = shown(done.directory)
    assert status == 0
    head = text.splitlines()[0]
    raw = str(done.directory.parents[1] / "raw")
    assert head.startswith(f"{done.directory}: ") and head.endswith(f"; sources are in {raw}/")
    assert text.count(raw) == 1  # not in every line
    assert cells(text, "read", "wiki.jsonl")[2:5] == ["25", "0", "25"]
    assert cells(text, "exact-duplicates", "wiki.jsonl")[2:5] == ["25", "1", "24"]
    assert cells(text, "exact-duplicates", "wiki.jsonl")[-1] == "exact-duplicate 1"
    assert cells(text, "quality", "wiki.jsonl")[-1] == "gopher-too-few-words 1"
    assert cells(text, "near-duplicates", "wiki.jsonl")[-1] == "near-duplicate 1"
    assert cells(text, "personal-data", "wiki.jsonl")[-1] == "edited 1"
    assert cells(text, "personal-data", "other.jsonl")[2:5] == ["10", "0", "10"]
    assert "Held out: 3 documents" in text


def test_the_rules_are_shares_of_what_came_to_their_step(done, shown):
    text = shown(done.directory)[1].partition("each rule alone")[2]
    assert cells(text, "step", "rule") == ["step", "rule", "wiki.jsonl", "other.jsonl"]
    assert cells(text, "exact-duplicates", "exact-duplicate") == [
        "exact-duplicates",
        "exact-duplicate",
        "4.00%",
        "-",
    ]
    assert cells(text, "quality", "gopher-too-few-words")[2:] == ["4.17%", "-"]


def test_the_mixture_has_licences_and_shares(done, shown):
    text = shown(done.directory)[1].partition("The mixture")[2]
    assert cells(text, "wiki.jsonl")[1] == "cc-by-4.0" and cells(text, "other.jsonl")[1] == "not given"
    rows = [int(cells(text, name)[2]) for name in ("wiki.jsonl", "other.jsonl")]
    assert sum(rows) == len(done.train)
    shares = [float(cells(text, name)[5].rstrip("%")) for name in ("wiki.jsonl", "other.jsonl")]
    assert sum(shares) == pytest.approx(100, abs=0.1)


def test_many_reasons_are_not_all_in_the_first_table(done, shown, tmp_path):
    ledger = done.ledger
    entry = next(iter(ledger["steps"][1]["sources"].values()))
    entry["left_out"] = {
        f"language-{code}": [n + 1, 1, 1] for n, code in enumerate("de fr es it nl pl".split())
    }
    (tmp_path / "ledger.json").write_text(json.dumps(ledger))
    (tmp_path / "run.json").write_text(json.dumps(done.record))
    text = shown(tmp_path)[1]
    assert cells(text, "exact-duplicates", "wiki.jsonl")[-1] == (
        "language-pl 6, language-nl 5, language-it 4, 3 more reasons"
    )


def test_samples_mark_what_differs_from_the_kept_document(done, shown):
    status, text, _ = shown(done.directory, "--step", "near-duplicates", "--samples", "2")
    assert status == 0 and text.startswith("near-duplicates: 1 rows left out")
    assert "wiki.jsonl:24: near-duplicate, kept " in text and "wiki.jsonl:23, jaccard 0." in text
    assert f"... {' '.join(WORDS.split()[-12:])} [-and-] of it" in text


def test_samples_of_one_rule(done, shown):
    status, text, _ = shown(done.directory, "--step", "gopher-too-few-words")
    assert (
        status == 0 and text.startswith("gopher-too-few-words: 1 rows left out") and "Too few words." in text
    )


def test_samples_of_a_step_that_edits_show_what_was_written(done, shown):
    _, text, _ = shown(done.directory, "--step", "personal-data")
    assert "personal-data: 1 edits" in text
    assert "wiki.jsonl:25: email: 16 characters became <EMAIL>\nWrite to <EMAIL>, and the people" in text
    assert "mail@example.org" not in text


def test_samples_of_a_long_text_are_cut_around_the_edit(tmp_path, shown):
    long = " ".join(f"The sentence number {n} is that of the page." for n in range(200))
    file = write_rows(tmp_path / "a.jsonl", [{"text": f"{long} Write to mail@example.org. {long}"}])
    run = curate(tmp_path, [file], steps=[{"personal_data": {"action": "mask"}}])
    _, text, _ = shown(run.directory, "--step", "personal-data")
    assert "Write to <EMAIL>." in text and len(text) < 1200


def test_a_step_without_effect_says_so(done, shown):
    assert shown(done.directory, "--step", "mixture")[1] == "mixture: nothing was left out or edited\n"


@pytest.mark.parametrize("samples", ["0", "-1"])
def test_any_number_of_samples(done, shown, samples):
    assert shown(done.directory, "--step", "near-duplicates", "--samples", samples)[0] == 0


@pytest.fixture
def trained(done, tmp_path):
    """The record of a pretrain run that read the curated rows."""
    train = str(done.directory / "train.jsonl")
    sources = [{"path": train, "use": "train", "rows": len(done.train), "kept": len(done.train) - 2}]
    record = {"schema": 1, "status": "done", "stage": "pretrain", "gate": [], "metrics": {}}
    record["parents"] = {"data": describe_parent(str(done.directory), tmp_path)}
    rows = {"rows_in": len(done.train), "rows_out": len(done.train) - 2, "left_out": {"empty-text": 2}}
    record["data"] = rows | {"sources": sources}
    (tmp_path / "run.json").write_text(json.dumps(record))
    return tmp_path


def test_a_run_that_reads_curated_rows_shows_curation_first(done, trained, shown):
    status, text, _ = shown(trained)
    assert status == 0
    assert text.startswith(f"{done.directory}: ")
    own = text.index(f"{trained}: {len(done.train)} rows read, {len(done.train) - 2} used")
    assert text.index("The mixture") < own < text.index("empty-text")
    _, samples, _ = shown(trained, "--step", "exact-duplicates")
    assert samples.startswith("exact-duplicates: 1 rows left out")


def test_a_recipe_stands_for_its_run(done, shown):
    assert shown(done.directory.parent / "curate.yaml")[1] == shown(done.directory)[1]


def error(done_: tuple[int, str, str]) -> str:
    status, _, err = done_
    assert status == 2
    return err


def test_what_is_no_run_or_no_step_is_named(done, shown, tmp_path):
    assert "[no-record]" in error(shown(tmp_path / "nothing"))
    near = error(shown(done.directory, "--step", "near-duplicats"))
    assert "[unknown-step]" in near and "did you mean near-duplicates?" in near
    none = error(shown(done.directory, "--samples", "2"))
    assert "[unknown-step]" in none and "exact-duplicates, quality" in none
    record = done.record | {"status": "failed: [data-test-failed] `rows_out > 1`"}
    (tmp_path / "run.json").write_text(json.dumps(record))
    failed = error(shown(tmp_path))
    assert "[no-ledger]" in failed and "its status is failed: [data-test-failed]" in failed
    (tmp_path / "ledger.json").write_text('{"unit": ')
    assert "[no-ledger]" in error(shown(tmp_path))
    (tmp_path / "run.json").write_text(json.dumps({"status": "done", "stage": "evaluate", "parents": {}}))
    assert "[no-ledger]" in error(shown(tmp_path))
    assert "[no-ledger]" in error(shown(tmp_path, "--step", "quality"))

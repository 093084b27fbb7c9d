"""Bad input of the curate stage: one clear line without a traceback, or rows that are counted with their reason."""

import datetime
import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from curated import curate, run, write_recipe, write_rows

from lifecycle_recipes import cli

GOOD = [{"text": f"A good document, number {n}."} for n in range(5)]
OTHER = [{"text": f"Another document, with the number {n}."} for n in range(5)]


def lines(*items) -> bytes:
    return b"".join((i if isinstance(i, bytes) else json.dumps(i).encode()) + b"\n" for i in items)


def text_file(name: str, *items):
    """A function that writes a file of these lines into a folder and returns its path."""

    def write(folder: Path) -> str:
        (folder / name).write_bytes(lines(*items))
        return str(folder / name)

    return write


def bytes_file(name: str, content: bytes):
    def write(folder: Path) -> str:
        (folder / name).write_bytes(content)
        return str(folder / name)

    return write


def parquet(folder: Path, name: str, texts: list, **columns) -> str:
    folder.mkdir(exist_ok=True)
    pq.write_table(pa.table({"text": texts} | columns), folder / name, row_group_size=2)
    return str(folder / name)


def two_types(folder: Path) -> str:
    parquet(folder / "raw", "a.parquet", ["One text here.", "A second text."])
    parquet(folder / "raw", "b.parquet", [1, 2])
    return str(folder / "raw")


def with_other_files(folder: Path) -> str:
    write_rows(folder / "raw/a.jsonl", GOOD)
    (folder / "raw/README.md").write_text("# About this data\n")
    (folder / "raw/picture.png").write_bytes(b"\x89PNG")
    return str(folder / "raw")


MIXED = [*GOOD, b'{"text": "latin \xe9"}', '{"text": "wide"}'.encode("utf-16"), GOOD[0]]
# What a source holds -> the reasons of the rows that are left out of it.
COUNTED = {
    "encodings": (text_file("a.jsonl", *MIXED), {6: "line-not-utf8", 7: "line-not-utf8"}),
    "half-a-pair": (text_file("a.jsonl", *GOOD, b'{"text": "half \\ud83d"}'), {6: "bad-line"}),
    "long-row": (text_file("a.jsonl", *GOOD, {"text": "word " * 10_000_000}), {6: "too-long"}),
    "long-line": (text_file("a.jsonl", *GOOD, b"x" * 50_000_000), {6: "bad-line"}),
    "blank": (text_file("a.jsonl", *GOOD, {"text": " \n\t\u3000"}), {6: "empty-text"}),
    "null": (text_file("a.jsonl", *GOOD, {"text": None}, GOOD[1]), {6: "empty-text"}),
    "types": (text_file("a.jsonl", *GOOD, {"text": 5}, {"text": ["a"]}), {6: "not-text", 7: "not-text"}),
    "parquet-null": (
        lambda d: parquet(d, "a.parquet", ["One.", "Two.", None, " "]),
        {3: "empty-text", 4: "empty-text"},
    ),
    "parquet-types": (two_types, {1: "not-text", 2: "not-text"}),
    "other-files": (with_other_files, {}),
}


@pytest.mark.parametrize(("write", "reasons"), COUNTED.values(), ids=COUNTED)
def test_what_is_no_document_is_counted_with_its_reason(tmp_path, write, reasons):
    done = curate(tmp_path / "run", [write(tmp_path)])
    assert done.status == 0
    assert {int(id.rpartition(":")[2]): reason for id, reason in done.left_out.items()} == reasons
    assert done.record["metrics"]["rows_in"] == len(done.train) + len(reasons)


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


LONG = lines(*[{"text": f"Line {n} of many."} for n in range(20_000)])
# What is no source -> what the message must contain.
REFUSED = {
    "gzip-cut": (bytes_file("a.jsonl.gz", cut(gzip.compress(LONG))), "[unreadable-file]", "a.jsonl.gz"),
    "zstd-cut": (
        bytes_file("a.jsonl.zst", cut(pa.compress(LONG, codec="zstd", asbytes=True))),
        "[unreadable-file]",
        "a.jsonl.zst",
    ),
    "empty-directory": (lambda d: str(d), "[unknown-file-type]", "no file in this directory"),
    "glob": (lambda d: f"{d}/nothing*.jsonl", "[missing-file]", "no file matches this pattern"),
    "csv-row": (
        bytes_file("a.csv", b"text,n\nfirst row,1\nsecond row,2,3\n"),
        "[unreadable-file]",
        "row 2 has another number of cells than the header",
    ),
    "no-column": (text_file("a.jsonl", *[{"body": "x"}] * 3), "[missing-column]", "it has 'body'"),
    "all-blank": (text_file("a.jsonl", *[{"text": "\n"}] * 3), "[source-empty]", "mostly empty-text"),
}


def refused(capsys, done, *said: str) -> str:
    error = capsys.readouterr().err
    assert done.status == 2, error
    assert all(words in error for words in said), error
    assert "Traceback" not in error and error.count("error [") == 1, error
    assert not (done.directory / "train.jsonl").exists()
    return error


@pytest.mark.parametrize(("write", "code", "words"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_source_is_refused_in_one_line(tmp_path, capsys, write, code, words):
    (tmp_path / "raw").mkdir()
    done = curate(tmp_path / "run", [write(tmp_path / "raw")])
    refused(capsys, done, code, words)


# Settings that no run can follow -> what the message must contain. The source has five good documents.
SETTINGS = {
    "tokenizer": ({"tokenizer": "./runs/no-such-tokenizer"}, "[parent-missing]", "curate.yaml:"),
    "tokenizer-of-the-hub": ({"tokenizer": "nobody/nothing"}, "[not-cached]", "nobody/nothing"),
    "metric": ({"tests": ["rows_uot > 1"]}, "[gate-unknown]", "did you mean rows_out?"),
    "metric-of-no-step": ({"tests": ["share.en > 0.9"]}, "[gate-unknown]", "add the step `language`"),
    "label": (
        {"steps": [{"exact_duplicates": {}}], "tests": ["left_out.exact_duplicates < 0.5"]},
        "[gate-unknown]",
        "did you mean left_out.exact-duplicates?",
    ),
    "held-out": ({"held_out": {"fraction": 0.0001}}, "[no-rows]", "curate.held_out.fraction"),
    "held-out-group": ({"held_out": {"fraction": 0.2, "group_by": "url"}}, "[bad-value]", "`keep: [url]`"),
    "keep-text": ({"keep": ["text"]}, "[bad-value]", "curate.keep names 'text'"),
    "keep-id": ({"keep": ["id"]}, "[bad-value]", "curate.keep names 'id'"),
    "keep-source": ({"keep": ["source"]}, "[bad-value]", "curate.keep names 'source'"),
    "keep-language": (
        {"keep": ["language"], "steps": [{"language": {"keep": ["en"]}}]},
        "[bad-value]",
        "curate.keep names 'language'",
    ),
}


@pytest.mark.parametrize(("settings", "code", "words"), SETTINGS.values(), ids=SETTINGS)
def test_settings_that_no_run_can_follow(tmp_path, capsys, settings, code, words):
    done = curate(tmp_path, [write_rows(tmp_path / "a.jsonl", GOOD)], **settings)
    refused(capsys, done, code, words)


def test_a_directory_without_a_tokenizer_is_named_before_the_run(tmp_path, capsys):
    (tmp_path / "saved").mkdir()
    file = write_rows(tmp_path / "a.jsonl", GOOD)
    done = curate(tmp_path, [file], tokenizer=str(tmp_path / "saved"))
    refused(capsys, done, "[parent-no-weights]", "tokenizer.json")


def test_a_damaged_tokenizer_is_named(tmp_path, capsys):
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved/tokenizer.json").write_text('{"version": "1.0", ')
    file = write_rows(tmp_path / "a.jsonl", GOOD)
    done = curate(tmp_path, [file], tokenizer=str(tmp_path / "saved"))
    refused(capsys, done, "[tokenizer-unreadable]", f"{tmp_path}/saved")


def test_metrics_that_only_the_rows_tell_are_accepted(tmp_path):
    file = write_rows(
        tmp_path / "a.jsonl",
        [
            {
                "text": f"{row['text']} It is written in plain English, and says a little about the weather of today."
            }
            for row in GOOD
        ],
    )
    tests = ["share.en >= 0.9", "share.de < 0.1", "quality.mean_words > 3", "left_out.quality < 0.5"]
    steps = [{"language": {"keep": ["en"]}}, {"quality": {"gopher": None, "gopher_repetition": None}}]
    done = curate(tmp_path, [file], steps=steps, tests=tests)
    assert done.status == 0
    assert done.record["metrics"]["share.de"] == 0


def test_a_weight_of_a_source_that_the_steps_empty(tmp_path, capsys):
    one, same = write_rows(tmp_path / "a.jsonl", GOOD), write_rows(tmp_path / "b.jsonl", GOOD)
    sources = [{"path": one, "weight": 1}, {"path": same, "weight": 1}]
    done = curate(tmp_path, sources, steps=[{"exact_duplicates": {}}])
    refused(capsys, done, "[source-empty]", same, "exact-duplicates left out 5")


def test_a_weight_without_the_others(tmp_path, capsys):
    one, other = write_rows(tmp_path / "a.jsonl", GOOD), write_rows(tmp_path / "b.jsonl", OTHER)
    done = curate(tmp_path, [{"path": one, "weight": 1}, other])
    refused(capsys, done, "[weight-missing]", "data.sources[1]")


def test_two_recipes_with_one_output_dir(tmp_path, capsys):
    first = curate(tmp_path, [write_rows(tmp_path / "a.jsonl", GOOD)])
    before = (first.directory / "train.jsonl").read_bytes()
    recipe = write_recipe(tmp_path, [write_rows(tmp_path / "b.jsonl", OTHER)])
    assert run(recipe).status == 2
    assert "[output-dir-finished]" in capsys.readouterr().err
    assert (first.directory / "train.jsonl").read_bytes() == before
    both = [recipe, recipe.replace("curate.yaml", "again.yaml")]
    Path(both[1]).write_text(Path(recipe).read_text())
    with pytest.raises(SystemExit) as end:
        cli.main(["run", *both])
    assert end.value.code == 2 and "[output-dir-shared]" in capsys.readouterr().err


def test_kept_columns_of_any_type_are_written_as_json(tmp_path):
    when, numbers = [datetime.datetime(2020, 1, 2)] * 2, [1.5, float("nan")]
    file = parquet(tmp_path, "a.parquet", ["One text.", "Two texts."], when=when, n=numbers)
    done = curate(tmp_path, [file], keep=["when", "n", "when"])
    assert [(row["when"], row.get("n")) for row in sorted(done.train, key=lambda row: row["id"])] == [
        ("2020-01-02 00:00:00", 1.5),
        ("2020-01-02 00:00:00", None),
    ]
    assert "NaN" not in (done.directory / "train.jsonl").read_text()


def test_a_step_twice_has_two_labels(tmp_path):
    a = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
    file = write_rows(
        tmp_path / "a.jsonl", [{"text": text} for text in (a, a + " more", f"{a} more and more")]
    )
    steps = [{"near_duplicates": {"threshold": 0.9}}, {"near_duplicates": {"threshold": 0.7}}]
    done = curate(tmp_path, [file], steps=steps, tests=["left_out.near-duplicates-2 > 0"])
    assert done.status == 0
    assert [step["step"] for step in done.ledger["steps"]] == [
        "read",
        "near-duplicates",
        "near-duplicates-2",
        "mixture",
    ]
    assert done.step("near-duplicates-2")["left_out"]["near-duplicate"][0] == 1


@pytest.mark.parametrize("steps", [{"steps": []}, {}], ids=["empty", "none"])
def test_no_step_keeps_every_document(tmp_path, steps):
    done = curate(tmp_path, [write_rows(tmp_path / "a.jsonl", GOOD)], **steps)
    assert done.status == 0 and len(done.train) == 5 and not done.left_out

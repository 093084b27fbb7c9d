"""Raw rows as they come: what cannot be a document is left out and counted, never lost and never fatal."""

import datetime
import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from curated import curate, write_rows

GOOD = [{"text": f"A good document, number {n}."} for n in range(5)]


def lines(*items) -> bytes:
    return b"".join(
        i if isinstance(i, bytes) else json.dumps(i).encode()
        for i in (x for item in items for x in (item, b"\n"))
    )


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (b'{"text": "cut short', "bad-line"),
        (b'{"text": "latin \xe9"}', "line-not-utf8"),
        (b'["a list"]', "line-not-an-object"),
        ({"text": None}, "empty-text"),
        ({"text": " \n\t "}, "empty-text"),
        ({"text": 17}, "not-text"),
        ({"other": "column"}, "missing-column"),
        ({"text": "x" * 2001}, "too-long"),
    ],
)
def test_a_bad_row_is_left_out_with_its_reason(tmp_path, bad, reason):
    file = tmp_path / "raw.jsonl"
    file.write_bytes(lines(*GOOD, bad, {"text": "The last one."}))
    done = curate(tmp_path, [str(file)], max_characters=2000)
    assert done.status == 0
    assert done.left_out == {f"{file}:6": reason}
    assert len(done.train) == 6
    assert done.step("read")["left_out"][reason][0] == 1


def test_a_row_of_fifty_megabytes_is_left_out(tmp_path):
    file = tmp_path / "raw.jsonl"
    file.write_bytes(lines(*GOOD, {"text": "word " * 10_000_000}))
    done = curate(tmp_path, [str(file)])
    assert done.left_out == {f"{file}:6": "too-long"}


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("cut.jsonl.gz", gzip.compress(lines(*GOOD * 500))[:-400], "unreadable-file"),
        ("parquet.jsonl", b"PAR1" + b"\0" * 100, "bad-line"),
        ("empty.jsonl", b"", "no-rows"),
        ("blank.jsonl", b"\n\n\n", "no-rows"),
        ("not.parquet", b"text", "unreadable-file"),
        ("none.jsonl", b"not json\n" * 20, "source-empty"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_source_that_is_none_is_refused_by_name(tmp_path, capsys, name, content, code):
    (tmp_path / name).write_bytes(content)
    done = curate(tmp_path, [str(tmp_path / name)])
    error = capsys.readouterr().err
    assert done.status == 2 and f"[{code}]" in error and name in error and "Traceback" not in error


def test_files_of_several_types_in_a_directory(tmp_path):
    folder = tmp_path / "raw"
    write_rows(folder / "a.jsonl", GOOD[:2])
    (folder / "b.jsonl.gz").write_bytes(gzip.compress(lines(*GOOD[2:])))
    (folder / "c.json").write_text(json.dumps([{"text": "From a list of rows."}]))
    (folder / "d.txt").write_text("One paragraph\nof two lines.\n\nAnother paragraph.\n")
    done = curate(tmp_path, [{"path": str(folder), "text_by": "paragraph"}])
    assert len(done.train) == 8
    assert f"{folder}/d.txt:2" in {row["id"] for row in done.train}


def test_two_sources_of_one_path_have_names_of_their_own(tmp_path):
    file = write_rows(
        tmp_path / "a.jsonl", [{"text": "one", "other": "eins"}, {"text": "two", "other": "zwei"}]
    )
    done = curate(tmp_path, [file, {"path": file, "columns": {"text": "other"}}])
    assert [source["name"] for source in done.ledger["sources"]] == [f"{file}#1", f"{file}#2"]
    assert sorted(row["text"] for row in done.train) == ["eins", "one", "two", "zwei"]


def test_a_kept_date_of_a_parquet_file_is_written_as_text(tmp_path):
    file = tmp_path / "a.parquet"
    days = [datetime.date(2020, 1, n + 1) for n in range(5)]
    pq.write_table(pa.table({"text": [row["text"] for row in GOOD], "day": days}), file)
    done = curate(tmp_path, [str(file)], keep=["day"])
    assert done.status == 0
    assert {row["day"] for row in done.train} == {str(day) for day in days}


@pytest.fixture
def online(monkeypatch):
    """As if the Hub answered."""
    monkeypatch.setattr("lifecycle_recipes.doctor.recipe_level.hub.why_offline", lambda: "")


def test_a_dataset_of_the_hub_is_streamed_and_read_again_unless_its_commit_is_given(
    tmp_path, monkeypatch, online
):
    asked = []

    def load_dataset(path, name=None, **options):
        asked.append((path, name, options))
        return iter(GOOD)

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    source = {"path": "team/pages", "name": "en", "split": "train", "revision": "a" * 40}
    for times in (1, 1):
        done = curate(tmp_path, [source], "--replace")
        assert len(asked) == times
    assert asked[0][:2] == ("team/pages", "en") and asked[0][2]["streaming"] is True
    assert sorted(row["id"] for row in done.train) == [f"team/pages:train:{n}" for n in range(1, 6)]
    for times in (2, 3):  # the rows behind a branch may change
        curate(tmp_path, [source | {"revision": "main"}], "--replace")
        assert len(asked) == times


def test_a_dataset_that_the_hub_does_not_give_is_refused_with_the_cause(
    tmp_path, monkeypatch, capsys, online
):
    def load_dataset(*args, **options):
        raise FileNotFoundError("no such split\nmore")

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    done = curate(tmp_path, [{"path": "team/pages"}])
    error = capsys.readouterr().err
    assert done.status == 2 and "unreadable-source" in error and "no such split" in error

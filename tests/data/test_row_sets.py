"""A check reads the rows that a run trains on, and knows their lines, without datasets."""

import json

import pytest
from datasets import Dataset
from sound_rows import assistant, chat, chats, pairs, user

from lifecycle_recipes.data.config import DataConfig, Source
from lifecycle_recipes.data.provenance import ROW
from lifecycle_recipes.data.selection import sample, split
from lifecycle_recipes.data.sources import load_data
from lifecycle_recipes.doctor.row_level.rows import find_in_rows, read_row_sets
from lifecycle_recipes.recipe.read import RawRecipe


def test_a_check_sees_the_rows_that_the_run_trains_on(tmp_path):
    """Samples, splits, blank texts and renamed columns: as load_data chooses them, without datasets."""
    texts = [{"body": f"text {i}" if i % 7 else " "} for i in range(60)]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(t) + "\n" for t in texts))
    source = {"path": str(path), "max_rows": 30, "columns": {"text": "body"}}
    data = {"sources": [source, source | {"max_rows": 20}], "eval_fraction": 0.2, "seed": 5}
    raw = RawRecipe("r.yaml", "pretrain", {"data": data}, "", [], "")
    sets, findings = read_row_sets(raw)
    config = DataConfig(**data | {"sources": [Source(**s) for s in data["sources"]]})
    train, held_out, ledger = load_data(config, ["text"])
    assert findings == [] and [s["kept"] for s in ledger["sources"]] == [30, 20]
    for use, rows in (("train", train), ("eval", held_out)):
        # The split mixes the sources; each keeps its rows in the order of training.
        of_source = [
            [text for text, n in zip(rows["text"], rows[ROW], strict=True) if n // 60 == i] for i in (0, 1)
        ]
        assert [[row["text"] for row in s.rows] for s in sets if s.use == use] == of_source
    for row_set in sets:
        for i, row in enumerate(row_set.rows):
            assert texts[row_set.number(i) - 1]["body"] == row["text"]
            assert row_set.where(i) == f"{path}:{row_set.number(i)}"


def test_rows_that_are_left_out_do_not_shift_the_split(tmp_path):
    rows = pairs(40)
    for i in (3, 17):
        rows[i]["rejected"] = rows[i]["chosen"]
    rows[8]["chosen"] = [assistant("")]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    data, allow = {"sources": [{"path": str(path)}], "eval_fraction": 0.3}, {"empty-reply": "known"}
    sets, _ = read_row_sets(RawRecipe("r.yaml", "dpo", {"data": data}, "", [], "", allow=allow))
    config = DataConfig([Source(str(path))], eval_fraction=0.3)
    _, held_out, ledger = load_data(config, ["chosen", "rejected"], ["prompt"], allow)
    assert ledger["left_out"] == {"chosen equals rejected": 2, "empty-reply": 1}
    (mine,) = [s for s in sets if s.use == "eval"]
    assert [r["chosen"] for r in mine.rows] == held_out["chosen"][:]


def test_seeds_choose_as_upstream_does():
    rows = Dataset.from_dict({"i": list(range(101))})
    assert sample(101, 10, 3) == rows.shuffle(seed=3).select(range(10))["i"][:]
    parts = rows.train_test_split(test_size=0.15, seed=3)
    assert split(range(101), 0.15, 3) == (parts["train"]["i"][:], parts["test"]["i"][:])
    assert sample(5, None, 0) is None and sample(5, 5, 0) is None and sample(5, 0, 0) == []


@pytest.mark.parametrize(
    ("keys", "fraction", "held_out"),
    [
        ("aabbcdefgh", 0.4, 4),
        ("aaaaaaaabb", 0.1, 2),
        ("aaaaaaaabc", 0.1, 1),
        ("aabb", 0.25, 2),
        ("ab", 0.0, 0),
    ],
)
def test_equal_rows_are_on_one_side_of_a_split(keys, fraction, held_out):
    for seed in range(5):
        train, out = split(keys, fraction, seed)
        assert sorted(train + out) == list(range(len(keys))) and len(out) == held_out
        assert not {keys[i] for i in train} & {keys[i] for i in out}


@pytest.mark.parametrize("form", ["parquet", "list.json", "columns.json", "lines.json"])
def test_other_files_have_row_numbers(tmp_path, form):
    rows = [*chats(2), chat(user(), assistant(""))]
    path = tmp_path / f"rows.{form}"
    if form == "parquet":
        Dataset.from_list(rows).to_parquet(path)
    elif form == "lines.json":
        path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    else:
        column = {"messages": [r["messages"] for r in rows]}
        path.write_text(json.dumps(rows if form == "list.json" else column))
    raw = RawRecipe("r.yaml", "sft", {"data": {"sources": [{"path": str(path)}]}}, "", [], "")
    (finding,) = find_in_rows(raw, read_row_sets(raw)[0])
    where = ":3" if form == "lines.json" else ", row 3"
    assert (finding.code, finding.where) == ("empty-reply", f"{path}{where}")

"""Rows in the formats of public data sets, and in every form of file: what a stage makes of them."""

import csv
import gzip
import json
import re
from typing import get_args

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from repository import ROOT
from sound_rows import assistant, chats, sentence, user

from lifecycle_recipes.data.config import DataConfig, Format, Source, stage_columns
from lifecycle_recipes.data.provenance import ROW, Origins, take_off
from lifecycle_recipes.data.row_sets import read_row_sets
from lifecycle_recipes.data.sources import load_data
from lifecycle_recipes.doctor.recipe_level.files import find_in_files
from lifecycle_recipes.doctor.row_level.rows import find_in_rows
from lifecycle_recipes.finding import Refusal
from lifecycle_recipes.recipe.read import RawRecipe
from lifecycle_recipes.record.parents import hash_inputs


def system(text):
    return {"role": "system", "content": text}


def turn(name, text):
    return {"from": name, "value": text}


def raw_of(stage, *sources, **data) -> RawRecipe:
    return RawRecipe("r.yaml", stage, {"data": data | {"sources": list(sources)}, "train": {}}, "", [], "")


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return {"path": str(path)}


def trained_on(stage, *sources, allow=(), **data):
    """(rows, ledger) as the stage trains on them, without null cells."""
    config = DataConfig([Source(**source) for source in sources], **data)
    train, _, ledger = load_data(config, *stage_columns(stage, {}), allow)
    return [_filled(row) for row in take_off(train)], ledger


def checked(stage, *sources, **data):
    """The rows as the check before the run reads them, and its findings."""
    raw = raw_of(stage, *sources, **data)
    sets, findings = read_row_sets(raw)
    findings += find_in_rows(raw, sets)
    return [_filled(row) for s in sets for row in s.rows], findings


def _filled(value):
    """Without the nulls that Arrow puts where a key is missing."""
    if isinstance(value, dict):
        return {k: _filled(v) for k, v in value.items() if v is not None}
    return [_filled(v) for v in value] if isinstance(value, list) else value


Q, A, B = "How old is the sea?", "Four billion years.", "Old."
PAIR = {"prompt": [user(Q)], "chosen": [assistant(A)], "rejected": [assistant(B)]}
CHAT, THUMB, ASK = [user(Q), assistant(A)], {"prompt": [user(Q)], "completion": [assistant(A)]}, [user(Q)]
LABELS = {"label": True}
SHARE = [turn("human", Q), turn("gpt", A)]
HH_PROMPT = f"\n\nHuman: {Q}\n\nAssistant:"

# (format, stage) -> options of the source, a row as it is stored, the row of the stage
ROWS = {
    ("messages", "sft"): ({}, {"messages": CHAT}, {"messages": CHAT}),
    ("messages-json", "sft"): ({}, {"messages": json.dumps(CHAT)}, {"messages": CHAT}),
    ("messages-parts", "sft"): (
        {},
        {
            "messages": [
                user([{"type": "text", "text": "How old "}, {"type": "text", "text": Q[8:]}]),
                CHAT[1],
            ]
        },
        {"messages": CHAT},
    ),
    ("messages-roles", "sft"): (
        {"roles": {"User": "user", "bot": "assistant"}},
        {"messages": [{"role": "User", "content": Q}, {"role": "bot", "content": A}]},
        {"messages": CHAT},
    ),
    ("messages-system", "sft"): (
        {"system": "Be brief."},
        {"messages": CHAT},
        {"messages": [system("Be brief."), *CHAT]},
    ),
    ("sharegpt", "sft"): ({}, {"conversations": SHARE}, {"messages": CHAT}),
    ("sharegpt-system", "sft"): (
        {},
        {"conversations": SHARE, "system": "Be brief."},
        {"messages": [system("Be brief."), *CHAT]},
    ),
    ("sharegpt-roles", "sft"): (
        {"roles": {"asker": "user"}},
        {"conversations": [turn("asker", Q), turn("gpt", A)]},
        {"messages": CHAT},
    ),
    ("sharegpt", "dpo"): (
        {},
        {"conversations": [turn("human", Q)], "chosen": turn("gpt", A), "rejected": turn("gpt", B)},
        PAIR,
    ),
    ("sharegpt-whole", "reward"): (
        {},
        {"chosen": SHARE, "rejected": [turn("human", Q), turn("gpt", B)]},
        {"chosen": CHAT, "rejected": [user(Q), assistant(B)]},
    ),
    ("sharegpt", "kto"): ({}, {"conversations": SHARE, "label": True}, THUMB | LABELS),
    ("sharegpt", "ppo"): ({}, {"conversations": [turn("human", Q)]}, {"prompt": ASK}),
    ("alpaca", "sft"): ({}, {"instruction": Q, "input": "", "output": A}, {"messages": CHAT}),
    ("alpaca-input", "sft"): (
        {},
        {"instruction": "Translate.", "input": "Meer", "output": "sea", "system": "Be brief."},
        {"messages": [system("Be brief."), user("Translate.\n\nMeer"), assistant("sea")]},
    ),
    ("alpaca-dolly", "sft"): (
        {"columns": {"input": "context", "output": "response"}},
        {"instruction": Q, "context": "", "response": A},
        {"messages": CHAT},
    ),
    ("alpaca", "dpo"): ({}, {"instruction": Q, "chosen": A, "rejected": B}, PAIR),
    ("alpaca", "kto"): ({}, {"instruction": Q, "output": A, "label": True}, THUMB | LABELS),
    ("alpaca", "ppo"): ({}, {"instruction": Q}, {"prompt": ASK}),
    ("prompt_completion", "sft"): ({}, {"prompt": Q, "completion": f" {A}"}, {"messages": CHAT}),
    ("prompt_completion-messages", "sft"): (
        {},
        {"prompt": [system("Be brief."), user(Q)], "completion": [assistant(A)]},
        {"messages": [system("Be brief."), *CHAT]},
    ),
    ("prompt_completion", "reward"): ({}, {"prompt": Q, "chosen": A, "rejected": B}, PAIR),
    ("prompt_completion", "kto"): ({}, {"prompt": Q, "completion": A, "label": True}, THUMB | LABELS),
    ("prompt_completion", "ppo"): ({}, {"prompt": Q}, {"prompt": ASK}),
    ("question_answer", "sft"): (
        {"columns": {"question": "q", "answer": "a"}, "system": "Be brief."},
        {"q": Q, "a": A},
        {"messages": [system("Be brief."), *CHAT]},
    ),
    ("question_answer", "dpo"): ({}, {"question": Q, "chosen": A, "rejected": B, "system": ""}, PAIR),
    ("question_answer", "kto"): ({}, {"question": Q, "answer": A, "label": True}, THUMB | LABELS),
    ("question_answer", "ppo"): ({}, {"question": Q}, {"prompt": ASK}),
    ("hh", "sft"): ({"columns": {"text": "chosen"}}, {"chosen": f"{HH_PROMPT} {A}"}, {"messages": CHAT}),
    ("hh", "dpo"): ({}, {"chosen": f"{HH_PROMPT} {A}", "rejected": f"{HH_PROMPT} {B}"}, PAIR),
    ("hh-turns", "reward"): (
        {},
        {
            "chosen": f"{HH_PROMPT} {B}\n\nHuman: In years?\n\nAssistant: {A}",
            "rejected": f"{HH_PROMPT} {B}\n\nHuman: In years?\n\nAssistant: {B}",
        },
        PAIR | {"prompt": [user(Q), assistant(B), user("In years?")]},
    ),
    ("hh", "kto"): ({}, {"text": f"{HH_PROMPT} {A}", "label": True}, THUMB | LABELS),
    ("hh", "ppo"): ({}, {"text": HH_PROMPT}, {"prompt": ASK}),
}


@pytest.mark.parametrize(("name", "stage"), ROWS, ids=["-".join(key) for key in ROWS])
def test_a_row_of_every_format_becomes_the_row_of_its_stage(tmp_path, name, stage):
    options, row, wanted = ROWS[name, stage]
    source = write(tmp_path / "rows.jsonl", [row, row]) | {"format": name.split("-")[0]} | options
    assert checked(stage, source)[0] == [wanted, wanted]
    rows, ledger = trained_on(stage, source)
    assert rows == [wanted, wanted]
    assert ledger["rows_in"] == ledger["rows_out"] == 2


# format -> stage, a sound row, a wrong one, the code and what the message says
WRONG = {
    "messages": ("sft", {"messages": CHAT}, {"messages": "[1"}, "not-messages", "not JSON"),
    "messages-image": (
        "sft",
        {"messages": CHAT},
        {"messages": [user([{"type": "image_url", "image_url": {}}]), CHAT[1]]},
        "content-not-text",
        "message 1 (user) has a part of type image_url",
    ),
    "sharegpt": (
        "sft",
        {"conversations": SHARE},
        {"conversations": [turn("human", Q), turn("function_call", A)]},
        "unknown-role",
        "message 2 has the role 'function_call'",
    ),
    "sharegpt-keys": (
        "sft",
        {"conversations": SHARE},
        {"conversations": CHAT},
        "wrong-format",
        "message 1 has no `from` and `value`; it has 'role', 'content'",
    ),
    "sharegpt-reply": (
        "kto",
        {"conversations": SHARE, "label": True},
        {"conversations": SHARE[:1], "label": False},
        "prompt-only",
        "not a reply",
    ),
    "alpaca": (
        "sft",
        {"instruction": Q, "output": A},
        {"instruction": Q},
        "wrong-format",
        "output is missing",
    ),
    "prompt_completion": (
        "sft",
        {"prompt": Q, "completion": A},
        {"prompt": Q, "completion": " "},
        "empty-reply",
        "",
    ),
    "question_answer": (
        "sft",
        {"question": Q, "answer": A},
        {"question": 7, "answer": A},
        "wrong-format",
        "question is int, not a string",
    ),
    "hh": (
        "dpo",
        {"chosen": f"{HH_PROMPT} {A}", "rejected": f"{HH_PROMPT} {B}"},
        {"chosen": f"{HH_PROMPT} {A}", "rejected": f"\n\nHuman: What?\n\nAssistant: {B}"},
        "pair-prompts-differ",
        "before the last reply",
    ),
    "hh-single line breaks": (
        "dpo",
        {"chosen": f"{HH_PROMPT} {A}", "rejected": f"{HH_PROMPT} {B}"},
        {"chosen": f"\n\nHuman: {Q}\nAssistant: {A}", "rejected": f"\n\nHuman: {Q}\nAssistant: {B}"},
        "wrong-format",
        "a blank line separates two turns, and here `Assistant:` follows a single line break",
    ),
    "hh-one single line break": (
        "dpo",
        {"chosen": f"{HH_PROMPT} {A}", "rejected": f"{HH_PROMPT} {B}"},
        {"chosen": f"{HH_PROMPT} {A}\nHuman: Why?\n\nAssistant: {A}", "rejected": f"{HH_PROMPT} {B}"},
        "pair-prompts-differ",
        "a blank line separates two turns, and here `Human:` follows a single line break",
    ),
    "hh-text": (
        "dpo",
        {"chosen": f"{HH_PROMPT} {A}", "rejected": f"{HH_PROMPT} {B}"},
        {"chosen": A, "rejected": B},
        "wrong-format",
        "chosen does not start with 'Human:'",
    ),
}


@pytest.mark.parametrize(("stage", "sound", "wrong", "code", "message"), WRONG.values(), ids=WRONG)
def test_a_row_of_another_shape_is_refused_by_file_and_line(
    tmp_path, request, stage, sound, wrong, code, message
):
    name = request.node.callspec.id.split("-")[0]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, [sound, sound, wrong, sound])).replace("\n", "\n\n", 1))
    source = {"path": str(path), "format": name}
    (finding,) = [f for f in checked(stage, source)[1] if f.severity == "error" and f.code != "one-label"]
    assert (finding.code, finding.where) == (code, f"{path}:4") and message in finding.message
    with pytest.raises(Refusal) as refusal:
        trained_on(stage, source)
    assert refusal.value.findings[0].code == code
    assert refusal.value.findings[0].where.endswith("row 3")
    rows, ledger = trained_on(stage, source, allow={code: "known"})
    assert len(rows) == 3 and ledger["left_out"] == {code: 1}
    assert ledger["rows_in"] == ledger["rows_out"] + 1


# Rows in a format that the recipe does not name: (stage, row, the fix)
UNNAMED = [
    ("sft", {"conversations": SHARE}, "`format: sharegpt`"),
    ("sft", {"items": SHARE}, "`format: sharegpt` and `columns: {conversations: items}`"),
    ("sft", {"conversation": CHAT}, "`columns: {messages: conversation}`"),
    ("sft", {"instruction": Q, "output": A}, "`format: alpaca`"),
    ("sft", {"prompt": Q, "completion": A}, "`format: prompt_completion`"),
    ("sft", {"question": Q, "answer": A}, "`format: question_answer`"),
    ("sft", {"chosen": f"{HH_PROMPT} {A}"}, "`format: hh` and `columns: {text: chosen}`"),
    ("kto", {"instruction": Q, "output": A, "label": True}, "`format: alpaca`"),
    ("dpo", {"prompt": Q, "chosen": A}, "`columns: {rejected: <its name>}`"),
    ("dpo", {"good": A, "bad": B}, "`columns: {chosen: <its name>, rejected: <its name>}`"),
    # Rows for which no name of a column or format helps.
    ("tokenizer", {"conversations": SHARE}, "'conversations' holds conversations, which the sft stage reads"),
    ("pretrain", {"messages": CHAT}, "'messages' holds conversations, which the sft stage reads"),
    (
        "sft",
        {"q": Q, "a": A},
        "`format: question_answer` and `columns: {question: <its name>, answer: <its name>}`",
    ),
    ("sft", {"text": A}, "these rows hold text, no conversation: train on text with the pretrain stage"),
    ("dpo", {"messages": CHAT}, "no pairs of replies: train on them with the sft stage"),
    ("reward", {"instruction": Q, "output": A}, "no pairs of replies: train on them with the sft stage"),
    ("kto", {"messages": CHAT}, "no labels of replies: train on them with the sft stage"),
    (
        "kto",
        {"messages": CHAT, "label": True},
        "write the messages of 'messages' as `prompt`, and the last one",
    ),
]


@pytest.mark.parametrize(("stage", "row", "fix"), UNNAMED)
def test_an_unnamed_format_is_refused_with_its_name(tmp_path, stage, row, fix):
    source = write(tmp_path / "rows.jsonl", [row])
    (finding,) = checked(stage, source)[1]
    assert finding.code == "missing-column" and fix in finding.fix
    assert [name for name in row if repr(name) not in finding.message] == []
    with pytest.raises(Refusal, match="missing-column"):
        trained_on(stage, source)


@pytest.mark.parametrize(
    ("name", "text", "fix"),
    [
        ("rows.csv", "q,a\nx,y\n", "`format: question_answer`"),
        ("rows.txt", "x\n", "train on text with the pretrain"),
    ],
)
def test_a_file_of_text_for_sft_is_refused_with_what_fits(tmp_path, name, text, fix):
    (tmp_path / name).write_text(text)
    source = {"path": str(tmp_path / name)}
    raw = raw_of("sft", source)
    findings = [*checked("sft", source)[1], *find_in_files(raw)]
    assert [(f.code, fix in f.fix) for f in findings if f.code == "missing-column"] == [
        ("missing-column", True)
    ] * 2


OPTIONS = [
    ("pretrain", {"format": "alpaca"}, "format-not-for-stage"),
    ("sft", {"roles": {"human": "usr"}}, "bad-value"),
    ("sft", {"format": "hh", "roles": {"human": "user"}}, "no-effect"),
    ("sft", {"field": "data"}, "no-effect"),
    ("sft", {"text_by": "file"}, "no-effect"),
    ("pretrain", {"system": "Be brief."}, "no-effect"),
]


@pytest.mark.parametrize(("stage", "options", "code"), OPTIONS)
def test_an_option_that_does_not_fit_is_refused(tmp_path, stage, options, code):
    source = write(tmp_path / "rows.jsonl", [{"text": A, "messages": CHAT}]) | options
    assert [f.code for f in checked(stage, source)[1]] == [code]
    with pytest.raises(Refusal, match=code):
        trained_on(stage, source)


# Files


def _zstd(path, data):
    with pa.CompressedOutputStream(str(path), "zstd") as file:
        file.write(data)


def _csv(path, rows):
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.writer(file)
        writer.writerow(["messages"])
        writer.writerows([[json.dumps(row["messages"], indent=1)] for row in rows])


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


# Name of the file -> how it is written, options of its source
FILES = {
    "a.jsonl": (lambda path, rows: path.write_bytes(lines(rows)), {}),
    "bom.jsonl": (lambda path, rows: path.write_bytes(b"\xef\xbb\xbf" + lines(rows)), {}),
    "a.jsonl.gz": (lambda path, rows: path.write_bytes(gzip.compress(lines(rows))), {}),
    "a.jsonl.zst": (lambda path, rows: _zstd(path, lines(rows)), {}),
    "list.json": (lambda path, rows: path.write_text(json.dumps(rows, indent=1)), {}),
    "list.json.gz": (lambda path, rows: path.write_bytes(gzip.compress(json.dumps(rows).encode())), {}),
    "key.json": (lambda path, rows: path.write_text(json.dumps({"v": 1, "data": rows})), {"field": "data"}),
    "columns.json": (
        lambda path, rows: path.write_text(
            json.dumps({"messages": [r["messages"] for r in rows], "n": [0] * 5})
        ),
        {},
    ),
    "a.csv": (_csv, {}),
    "a.parquet": (lambda path, rows: pq.write_table(pa.Table.from_pylist(rows), path), {}),
}


@pytest.mark.parametrize("name", FILES)
def test_every_form_of_file_holds_the_same_rows(tmp_path, name):
    rows, (write_file, options) = chats(5), FILES[name]
    write_file(tmp_path / name, rows)
    source = {"path": str(tmp_path / name)} | options
    assert checked("sft", source) == (rows, [])
    assert trained_on("sft", source)[0] == rows


ONE_ROW = [
    ("sft", {"messages": CHAT}, {}),
    ("sft", {"conversations": SHARE}, {"format": "sharegpt"}),
    ("dpo", {"prompt": CHAT[:1], "chosen": CHAT[1:], "rejected": [assistant("No.")]}, {}),
    ("sft", {"messages": CHAT, "tools": [{"type": "function", "function": {"name": "f"}}]}, {}),
]


@pytest.mark.parametrize("indent", [None, 1], ids=["one line", "lines"])
@pytest.mark.parametrize(("stage", "row", "options"), ONE_ROW)
def test_one_object_in_a_json_file_is_one_row(tmp_path, stage, row, options, indent):
    (tmp_path / "a.json").write_text(json.dumps(row, indent=indent))
    source = {"path": str(tmp_path / "a.json")} | options
    rows, findings = checked(stage, source)
    assert (len(rows), findings) == (1, []) and trained_on(stage, source)[0] == rows


def test_columns_of_different_lengths_are_not_cut_to_the_shortest(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"text": ["One.", "Two."], "id": [1]}))
    source = {"path": str(tmp_path / "a.json")}
    assert [f.code for f in checked("pretrain", source)[1]] == ["not-text"]
    with pytest.raises(Refusal, match="not-text"):
        trained_on("pretrain", source)


@pytest.mark.parametrize(
    ("name", "place", "code"),
    [("a.json", ", row 2", "bad-line"), ("a.jsonl", ":2", "bad-line"), ("text.jsonl", ":2", "not-messages")],
)
def test_half_a_surrogate_pair_is_found_before_the_run(tmp_path, name, place, code):
    rows = [CHAT, [user("half \ud83d"), assistant("Yes.")]]
    stored = [{"messages": json.dumps(row) if name == "text.jsonl" else row} for row in rows]
    (tmp_path / name).write_text(json.dumps(stored) if name == "a.json" else lines(stored).decode())
    source = {"path": str(tmp_path / name)}
    (finding,) = checked("sft", source)[1]
    assert (finding.code, finding.where) == (code, f"{tmp_path / name}{place}")
    assert "\\ud83d is half of a surrogate pair" in finding.message
    with pytest.raises(Refusal, match="half of a surrogate pair"):
        trained_on("sft", source)


@pytest.mark.parametrize("option", [{"field": "data"}, {"text_by": "file"}])
@pytest.mark.parametrize("path", ["rows", "rows/*", "owner/set"])
def test_an_option_that_no_file_of_a_source_reads_is_refused(tmp_path, monkeypatch, path, option):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows").mkdir()
    write(tmp_path / "rows" / "a.jsonl", chats(2))
    source = {"path": path} | option
    assert [f.code for f in find_in_files(raw_of("sft", source))] == ["no-effect"]
    name = "b.json" if "field" in option else "b.txt"
    (tmp_path / "rows" / name).write_text(json.dumps({"data": chats(2)}))
    if path != "owner/set":
        assert "no-effect" not in [f.code for f in find_in_files(raw_of("sft", source))]


@pytest.mark.parametrize("path", ["data", "data/*.jsonl*"])
def test_the_files_of_a_directory_are_one_source_and_keep_their_lines(tmp_path, path):
    rows, place = chats(7), tmp_path / "data"
    place.mkdir()
    (place / "1.jsonl").write_bytes(lines(rows[:3]))
    (place / "2.jsonl.gz").write_bytes(gzip.compress(b"\n" + lines(rows[3:])))
    (place / "README.md").write_text("not rows")
    source = {"path": str(tmp_path / path), "max_rows": 5}
    found, findings = checked("sft", source)
    train, _, ledger = load_data(DataConfig([Source(**source)]), ["messages"], ["tools"])
    assert findings == [] and found == [_filled(row) for row in take_off(train)]
    origins = Origins(train.select_columns(ROW), ledger["sources"])
    for i, row in enumerate(found):
        number = rows.index(row)
        where = f"1.jsonl:{number + 1}" if number < 3 else f"2.jsonl.gz:{number - 3 + 2}"
        assert str(origins.of(i)[0]).endswith(where)
    (place / "2.jsonl.gz").write_bytes(gzip.compress(lines([*rows[3:5], {"messages": []}])))
    source.pop("max_rows")
    (finding,) = checked("sft", source)[1]
    assert (finding.code, finding.where) == ("no-messages", f"{place}/2.jsonl.gz:3")
    with pytest.raises(Refusal, match="2.jsonl.gz, row 3"):
        trained_on("sft", source)


@pytest.mark.parametrize("path", ["a.csv", "", "*.csv"])
def test_labels_of_a_csv_are_true_or_false(tmp_path, path):
    (tmp_path / "a.csv").write_text('prompt,completion,label\n"a, b",c,True\nd,e,false\n')
    source = {"path": str(tmp_path / path), "format": "prompt_completion"}
    rows, _ = trained_on("kto", source)
    assert [row["label"] for row in rows] == [True, False] and rows == checked("kto", source)[0]
    assert rows[0]["prompt"] == [user("a, b")]


def test_a_text_is_divided_as_the_source_asks(tmp_path):
    (tmp_path / "a.txt").write_text("One.\nTwo.\n\n\nThree.\n")
    wanted = {
        "line": ["One.", "Two.", "Three."],
        "paragraph": ["One.\nTwo.", "Three."],
        "file": ["One.\nTwo.\n\n\nThree.\n"],
    }
    for text_by, texts in wanted.items():
        source = {"path": str(tmp_path / "a.txt"), "text_by": text_by}
        assert [row["text"] for row in checked("pretrain", source)[0]] == texts
        assert [row["text"] for row in _text_rows(source)] == texts


def _text_rows(source, **data):
    return take_off(load_data(DataConfig([Source(**source)], **data), ["text"])[0])


@pytest.mark.parametrize("path", ["a.txt", "", "*.txt"])
def test_the_end_of_a_text_is_held_out(tmp_path, path):
    texts = [sentence(i) for i in range(20)]
    (tmp_path / "a.txt").write_text("\n\n".join(texts))
    source = {"path": str(tmp_path / path), "text_by": "paragraph"}
    assert [row["text"] for row in _text_rows(source, eval_fraction=0.1)] == texts[:18]
    sets, _ = read_row_sets(raw_of("pretrain", source, eval_fraction=0.1))
    assert [[row["text"] for row in s.rows] for s in sets] == [texts[:18], texts[18:]]


DISGUISED = {
    "gzip": (gzip.compress(lines(chats(2))), "compressed by gzip", ".jsonl.gz"),
    "zstd": (b"\x28\xb5\x2f\xfd" + bytes(9), "compressed by zstd", ".jsonl.zst"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git-lfs pointer", "git lfs pull"),
    "list": (json.dumps(chats(2), indent=2).encode(), "one JSON document over several lines", ".json"),
    "surrogate": (b'{"messages": "\\ud83d"}\n', "\\ud83d is half of a surrogate pair", "correct or remove"),
}


@pytest.mark.parametrize(("data", "message", "fix"), DISGUISED.values(), ids=DISGUISED)
def test_what_only_looks_like_json_lines_is_named(tmp_path, data, message, fix):
    (tmp_path / "rows.jsonl").write_bytes(data)
    source = {"path": str(tmp_path / "rows.jsonl")}
    finding = checked("sft", source)[1][0]
    assert finding.code in ("bad-line", "line-not-utf8") and finding.where.endswith("rows.jsonl:1")
    assert message in finding.message and fix in finding.fix
    with pytest.raises(Refusal) as refusal:
        trained_on("sft", source)
    assert refusal.value.findings == [finding]


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.json.zst", "a.csv.gz"])
def test_a_damaged_compressed_file_is_named(tmp_path, name):
    data = gzip.compress(lines(chats(50)))[:200]
    (tmp_path / name).write_bytes(data)
    source = {"path": str(tmp_path / name)}
    assert [f.code for f in checked("sft", source)[1]] == ["unreadable-file"]
    with pytest.raises(Refusal, match="unreadable-file"):
        trained_on("sft", source)


def test_a_list_under_an_unnamed_key_is_refused_with_its_field(tmp_path):
    for document in ({"data": chats(2)}, {"version": 1, "data": chats(2)}):
        (tmp_path / "a.json").write_text(json.dumps(document))
        (finding,) = checked("sft", {"path": str(tmp_path / "a.json")})[1]
        assert (finding.code, "`field: data`" in finding.fix) == ("missing-column", True)
    (finding,) = checked("sft", {"path": str(tmp_path / "a.json"), "field": "rows"})[1]
    assert "no key 'rows'; it has 'version', 'data'" in finding.message


# Joining


def test_sources_whose_messages_differ_in_keys_and_types_are_joined(tmp_path):
    call = {"type": "function", "function": {"name": "f", "arguments": {"x": "1"}}}
    parts = [
        [{"messages": CHAT}],
        [{"messages": [{"name": "ann", **user(Q)}, {"weight": 1, **assistant(A)}]}],
        [
            {
                "messages": [
                    user(Q),
                    {**assistant(None), "tool_calls": [call]},
                    {"role": "tool", "content": "1"},
                    CHAT[1],
                ]
            }
        ],
    ]
    sources = [write(tmp_path / f"{i}.jsonl", rows) for i, rows in enumerate(parts)]
    large = pa.table(
        {
            "messages": pa.array(
                [CHAT], pa.large_list(pa.struct({"role": pa.large_string(), "content": pa.large_string()}))
            )
        }
    )
    pq.write_table(large, tmp_path / "large.parquet")
    sources.append({"path": str(tmp_path / "large.parquet")})
    sources.append(write(tmp_path / "share.jsonl", [{"conversations": SHARE}]) | {"format": "sharegpt"})
    rows, ledger = trained_on("sft", *sources)
    assert rows == [
        *map(_filled, (row for part in parts for row in part)),
        {"messages": CHAT},
        {"messages": CHAT},
    ]
    assert rows == checked("sft", *sources)[0] and ledger["rows_out"] == 5


def function(name, **properties):
    parameters = {"type": "object", "properties": {key: {"type": kind} for key, kind in properties.items()}}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


@pytest.mark.parametrize("files", ["one source", "sources"])
def test_tools_that_only_some_files_have_are_kept_as_they_are(tmp_path, files):
    place = tmp_path / "rows"
    place.mkdir()
    rows = [{"messages": CHAT}] + [
        {"messages": CHAT, "tools": [tool]} for tool in (function("f", x="string"), function("g", y="number"))
    ]
    sources = [write(place / f"{i}.jsonl", [row]) for i, row in enumerate(rows)]
    sources = [{"path": str(place)}] if files == "one source" else sources
    assert trained_on("sft", *sources)[0] == checked("sft", *sources)[0] == rows
    train, _, _ = load_data(DataConfig([Source(**s) for s in sources]), ["messages"], ["tools"])
    # Not only without null cells: a template would write a null into the prompt.
    assert [row["tools"] for row in train] == [row.get("tools") for row in rows]


def test_a_file_of_a_directory_that_holds_no_rows_is_named_with_the_pattern_without_it(tmp_path):
    place = tmp_path / "rows"
    place.mkdir()
    write(place / "a.jsonl", chats(2))
    (place / "README.txt").write_text("Chats of the harbour.\n")
    source = {"path": str(place)}
    with pytest.raises(Refusal) as refusal:
        trained_on("sft", source)
    for finding in (
        refusal.value.findings[0],
        checked("sft", source)[1][0],
        *find_in_files(raw_of("sft", source)),
    ):
        assert finding.code == "missing-column" and str(place / "README.txt") in str(finding)
        assert f"`path: {place}/*.jsonl`" in finding.fix
    assert trained_on("sft", {"path": str(place / "*.jsonl")})[0] == chats(2)


def test_sources_that_cannot_be_joined_are_named(tmp_path):
    a = write(tmp_path / "a.jsonl", [{"messages": CHAT}])
    one = write(tmp_path / "b.jsonl", [{"messages": [{**user(Q), "name": "ann"}, {**CHAT[1], "name": "bo"}]}])
    two = write(tmp_path / "c.jsonl", [{"messages": [{**user(Q), "name": ["ann"]}, {**CHAT[1], "name": []}]}])
    with pytest.raises(Refusal, match="sources-differ") as refusal:
        trained_on("sft", a, one, two)
    assert refusal.value.findings[0].where == two["path"]
    assert "messages[].name is a string" in refusal.value.findings[0].message
    whole = write(tmp_path / "d.jsonl", [{"chosen": CHAT, "rejected": [user(Q), assistant(B)]}])
    pairs = write(tmp_path / "e.jsonl", [PAIR]), whole
    with pytest.raises(Refusal, match="no column 'prompt'"):
        trained_on("dpo", *pairs)
    assert ("missing-column", whole["path"]) in [(f.code, f.where) for f in checked("dpo", *pairs)[1]]


# The documented rows


FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.M | re.S)
DOCUMENTED = FENCE.findall((ROOT / "docs/data.md").read_text(encoding="utf-8"))
EXAMPLES = [
    (recipe, json.loads(stored), json.loads(read))
    for (a, recipe), (b, stored), (c, read) in zip(DOCUMENTED, DOCUMENTED[1:], DOCUMENTED[2:], strict=False)
    if (a, b, c) == ("yaml", "json", "json")
]


@pytest.mark.parametrize(("recipe", "stored", "wanted"), EXAMPLES)
def test_documented_rows_are_read_as_shown(tmp_path, recipe, stored, wanted):
    (source,) = yaml.safe_load(recipe)["data"]["sources"]
    source |= write(tmp_path / "rows.jsonl", [stored])
    stage = "sft" if "messages" in wanted else "dpo"
    assert checked(stage, source)[0] == [wanted]
    assert trained_on(stage, source)[0] == [wanted]


def test_every_format_is_documented():
    assert len(EXAMPLES) >= 9
    named = {source.get("format", "messages") for recipe, *_ in EXAMPLES for source in _sources(recipe)}
    assert named == set(get_args(Format))


def _sources(recipe):
    return yaml.safe_load(recipe)["data"]["sources"]


# What else depends on the files of a source


def test_the_files_behind_a_directory_or_glob_are_inputs_of_the_run(tmp_path):
    for name in ("1.jsonl", "2.jsonl"):
        write(tmp_path / name, chats(2))
    for path in (tmp_path, tmp_path / "*.jsonl"):
        found = hash_inputs({"data": {"sources": [{"path": str(path)}]}})
        assert sorted(found) == [str(tmp_path / "1.jsonl"), str(tmp_path / "2.jsonl")]


def test_a_file_of_a_trained_directory_is_no_held_out_source(tmp_path):
    place = tmp_path / "rows"
    place.mkdir()
    source = write(place / "1.jsonl", chats(4))
    raw = raw_of("sft", {"path": str(place)}, eval_sources=[source])
    assert [f.code for f in find_in_files(raw)] == ["eval-is-train"]
    raw = raw_of("sft", {"path": str(place / "*.json")})
    assert [f.code for f in find_in_files(raw)] == ["missing-file"]


def test_a_whole_file_cannot_be_split(tmp_path):
    (tmp_path / "a.txt").write_text("One.\n\nTwo.\n")
    with pytest.raises(Refusal, match="text_by: paragraph"):
        _text_rows({"path": str(tmp_path / "a.txt"), "text_by": "file"}, eval_fraction=0.1)

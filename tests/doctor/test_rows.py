"""Level 2 on rows: each planted fault has its code and its place, and sound rows give no finding."""

import json
import random
import subprocess
import sys
import time

import pytest
from exact_shingles import shingles
from sound_rows import assistant, chat, chats, pairs, sentence, thumbs, user

from lifecycle_recipes.data.config import DataConfig, Source, stage_columns
from lifecycle_recipes.data.row_faults import MISLEADING, UNTRAINABLE, severity
from lifecycle_recipes.data.sources import load_data
from lifecycle_recipes.doctor.check import find_in_data
from lifecycle_recipes.doctor.codes import CODES
from lifecycle_recipes.doctor.row_level import overlap
from lifecycle_recipes.doctor.row_level.rows import find_in_rows, read_row_sets
from lifecycle_recipes.recipe.read import RawRecipe


@pytest.fixture
def find(tmp_path):
    """Write rows, read them as a stage would and return {code: Finding}."""

    def write(name, rows):
        text = "".join(r if isinstance(r, str) else json.dumps(r) + "\n" for r in rows)
        (tmp_path / name).write_bytes(text.encode("utf-8", "surrogateescape"))
        return {"path": str(tmp_path / name)}

    def run(stage, rows, held_out=None, source=None, train=None, **data):
        data["sources"] = [write("train.jsonl", rows) | (source or {})]
        if held_out:
            data["eval_sources"] = [write("eval.jsonl", held_out)]
        raw = RawRecipe("r.yaml", stage, {"data": data, "train": train or {}}, "", [], "")
        row_sets, findings = read_row_sets(raw)
        findings += find_in_rows(raw, row_sets)
        codes = [f.code for f in findings]
        assert len(codes) == len(set(codes)), codes
        return {f.code: f for f in findings}

    return run


PAIR = {"prompt": [user()], "chosen": [assistant("A.")], "rejected": [assistant("B.")]}


THUMB = {"prompt": [user()], "completion": [assistant()], "label": True}


FAULTY = {
    "no-messages": ("sft", chat(), "no messages"),
    "not-messages": ("sft", {"messages": "a: b"}, "is a string"),
    "from-value-messages": ("sft", chat({"from": "human", "value": "a"}), "`from` and `value`"),
    "unknown-role": ("sft", chat({"role": "bot", "content": "a"}), "message 1 has the role 'bot'"),
    "empty-reply": ("sft", chat(user(), assistant(" ")), "message 2 (assistant) has no content"),
    "empty-turn": ("sft", chat(user(None), assistant()), "message 1 (user) has no content"),
    "content-not-text": ("sft", chat(user([{"type": "text"}]), assistant()), "text part without text"),
    "prompt-only": ("sft", chat(user()), "no assistant message"),
    "assistant-first": ("sft", chat({"role": "system", "content": "s"}, assistant()), "message 2"),
    "roles-out-of-order": ("sft", chat(user(), user(), assistant()), "message 2 (user) follows user"),
    "ends-with-user": ("sft", chat(user(), assistant(), user()), "from user"),
    "empty-prompt": ("ppo", {"prompt": []}, "no prompt"),
    "bad-label": ("kto", THUMB | {"label": "good"}, "'good', not true or false"),
    "same-pair": ("dpo", PAIR | {"rejected": PAIR["chosen"]}, "are equal"),
    "mixed-formats": ("kto", THUMB | {"prompt": "Where?"}, "prompt is a string"),
    "prompt-repeated": ("dpo", PAIR | {"chosen": [user(), assistant("A.")]}, "begins with the prompt"),
    "pair-prompts-differ": (
        "reward",
        {"chosen": [user("a"), assistant("A.")], "rejected": [user("b"), assistant("B.")]},
        "different prompts",
    ),
    "empty-text": ("pretrain", {"text": None}, "text is empty"),
    "not-text": ("pretrain", {"text": ["a"]}, "text is list"),
    "bad-tools": ("sft", chat(user(), assistant()) | {"tools": "[{"}, "tools is a string that is not JSON"),
    "bad-turn-weight": ("sft", chat(user(), assistant() | {"weight": 0.5}), "has weight 0.5, not 0 or 1"),
    "turn-weight-unused": ("ppo", {"prompt": [user() | {"train": False}]}, "train false, which only the sft"),
}


SOUND = {
    "sft": chats(12),
    "dpo": pairs(12),
    "reward": [
        {"chosen": p["prompt"] + p["chosen"], "rejected": p["prompt"] + p["rejected"]} for p in pairs(12)
    ],
    "kto": thumbs(12),
    "ppo": [{"prompt": p["prompt"]} for p in pairs(12)],
    "pretrain": [{"text": sentence(i)} for i in range(12)],
}


@pytest.mark.parametrize(
    ("code", "stage", "row", "message"), [(c, *f) for c, f in FAULTY.items()], ids=FAULTY
)
def test_a_faulty_row_is_named_with_its_lines(find, code, stage, row, message):
    rows = SOUND[stage]
    found = find(stage, [*rows[:3], row, "\n", *rows[3:6], *[row] * 7])
    assert set(found) - {"duplicate-rows", "label-weights"} == {code}
    finding = found[code]
    assert finding.where.endswith("train.jsonl:4") and message in finding.message
    assert "8 lines: 4, 9, 10, 11, 12 and 3 more" in finding.message
    assert finding.fix and code in CODES


OTHER_FAULTS = {
    "an empty optional prompt, a list": ("empty-prompt", "dpo", PAIR | {"prompt": []}),
    "an empty optional prompt, a string": (
        "empty-prompt",
        "dpo",
        {"prompt": "", "chosen": "a", "rejected": "b"},
    ),
    "a prompt missing in one row": ("empty-prompt", "dpo", PAIR | {"prompt": None}),
    "an unknown role in a prompt": (
        "unknown-role",
        "dpo",
        PAIR | {"prompt": [{"role": "x", "content": "a"}]},
    ),
    "no turn is trained": ("prompt-only", "sft", chat(user(), assistant() | {"weight": 0})),
    "train is a number": ("bad-turn-weight", "sft", chat(user(), assistant() | {"train": 1})),
    "tools are an object": ("bad-tools", "dpo", PAIR | {"tools": {"name": "add"}}),
    "weight and train disagree": (
        "bad-turn-weight",
        "sft",
        chat(user(), assistant() | {"weight": 0, "train": True}),
    ),
    "a user's turn is to be trained": (
        "turn-weight-unused",
        "sft",
        chat(user() | {"train": True}, assistant()),
    ),
    "a weight in pairs": ("turn-weight-unused", "dpo", PAIR | {"chosen": [assistant("A.") | {"weight": 0}]}),
}


@pytest.mark.parametrize(("code", "stage", "row"), OTHER_FAULTS.values(), ids=OTHER_FAULTS)
def test_a_fault_has_its_own_code(find, code, stage, row):
    found = find(stage, [*SOUND[stage], row])
    assert set(found) == {code}
    assert found[code].where.endswith(f"train.jsonl:{len(SOUND[stage]) + 1}")


SPOKEN = [
    chat({"role": role, "content": "a"}, assistant()) for role in ("Boss", "Customer", "Customer", "user")
]


@pytest.mark.parametrize("held_out", ["eval_fraction", "the same file", "none"])
def test_the_faults_of_a_file_are_reported_once_in_its_order(find, tmp_path, held_out):
    rows = [*chats(5), *SPOKEN * 5]
    data = {"eval_fraction": 0.5} if held_out == "eval_fraction" else {}
    if held_out == "the same file":
        data = {"eval_sources": [{"path": str(tmp_path / "train.jsonl")}]}
    found = find("sft", rows, **data)  # each code once
    assert found["unknown-role"].where.endswith("train.jsonl:6")
    assert found["unknown-role"].message == (
        "messages: message 1 has the role 'Boss', not one of system, user, assistant, tool; "
        "15 lines: 6, 7, 8, 10, 11 and 10 more; the unknown roles and their lines: 'Customer' (10), 'Boss' (5)"
    )


def test_all_unknown_roles_of_another_format_are_named(find):
    rows = [
        {"conversations": [{"from": r, "value": "a"}, {"from": "gpt", "value": "b"}]}
        for r in ("Boss", "Clerk")
    ]
    found = find("sft", rows, source={"format": "sharegpt"})
    assert "'Boss' (1), 'Clerk' (1)" in found["unknown-role"].message


NO_PROMPT = {
    "kto": THUMB | {"prompt": []},
    "dpo": PAIR | {"prompt": []},
}


@pytest.mark.parametrize(("stage", "offered"), [("kto", False), ("dpo", True)])
def test_only_an_optional_prompt_may_be_left_unread(find, stage, offered):
    found = find(stage, [*SOUND[stage], NO_PROMPT[stage]])
    assert ('`columns: {prompt: ""}`' in found["empty-prompt"].fix) == offered


def test_a_row_without_a_trained_reply_is_told_which_key_to_change(find):
    found = find("sft", [*chats(3), chat(user(), assistant() | {"train": False})])
    assert "every reply has weight 0 or train: false" in found["prompt-only"].message
    assert "give one reply weight 1 (train: true)" in found["prompt-only"].fix


@pytest.mark.parametrize("weights", [{"weight": 0}, {"weight": 1}, {"train": False}, {"train": True}])
def test_a_turn_may_be_kept_out_of_the_loss(find, weights):
    row = chat(user("A?"), assistant("B.") | weights, user("C?"), assistant("D."))
    assert find("sft", [*chats(3), row]) == {}


def test_every_row_fault_is_planted_above():
    # wrong-format needs a `format:`: data/test_formats.py
    assert {*FAULTY, "wrong-format"} == {*UNTRAINABLE, *MISLEADING}


WAIVABLE = sorted(c for c in FAULTY if severity(c) == "error")


@pytest.mark.parametrize("code", WAIVABLE)
def test_a_waived_row_is_left_out_and_the_tokens_of_the_others_are_checked(tmp_path, chat_model, code):
    stage, faulty, _ = FAULTY[code]
    rows = SOUND[stage] + [faulty]
    smuggled = json.loads(json.dumps(rows[0]).replace("marsh", "marsh<|im_end|>"))
    assert smuggled != rows[0]
    file, config = tmp_path / "rows.jsonl", chat_model / "config.json"
    file.write_text("".join(json.dumps(row) + "\n" for row in [*rows, smuggled]))
    config.write_text(json.dumps(json.loads(config.read_text()) | {"max_position_embeddings": 512}))
    values = {"data": {"sources": [{"path": str(file)}]}, "train": {"max_length": 512}}
    values |= {"model": {"model_name_or_path": str(chat_model)}}
    raw = RawRecipe("r.yaml", stage, values, "", [], "", allow={code: "known"})
    found = {f.code: f for f in find_in_data(raw)}
    assert set(found) - {"label-weights"} == {code, "control-token-in-text"}
    assert found["control-token-in-text"].where == f"{file}:{len(rows) + 1}"
    config = DataConfig([Source(str(file))])
    train, _, ledger = load_data(config, *stage_columns(stage, values), raw.allow)
    assert ledger["left_out"] == {code: 1} and len(train) == len(rows)


@pytest.mark.parametrize("stage", SOUND)
def test_sound_rows_give_no_finding(find, stage):
    assert find(stage, SOUND[stage]) == {}


def test_tool_calls_need_no_words_and_tools_may_return_nothing(find):
    call = {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"function": {"name": "f", "arguments": {}}}],
    }
    row = chat(user(), call, {"role": "tool", "content": ""}, {"role": "tool", "content": "1"}, assistant())
    assert find("sft", [*chats(3), row]) == {}


def test_pairs_in_a_kto_recipe_have_a_hint(find, tmp_path):
    (tmp_path / "pairs.jsonl").write_text(json.dumps(PAIR))
    values = {"data": {"sources": [{"path": str(tmp_path / "pairs.jsonl")}]}}
    (finding,) = read_row_sets(RawRecipe("r.yaml", "kto", values, "", [], ""))[1]
    assert finding.code == "missing-column" and "pairs" in finding.message and "dpo" in finding.fix


def test_lines_that_cannot_be_read(find):
    broken = ['{"messages": [\n', "[1]\n", '{"text": "\udcff"}\n', "{,}\n", "[2]\n"]
    found = find("sft", [*chats(2), *broken])
    lines = {code: (f.where.rpartition(":")[2], f.severity) for code, f in found.items()}
    errors = {"bad-line": ("3", "error"), "line-not-an-object": ("4", "error")}
    assert lines == errors | {"line-not-utf8": ("5", "error")}
    assert (
        "2 lines: 3, 6" in found["bad-line"].message
        and "2 lines: 4, 7" in found["line-not-an-object"].message
    )
    assert "byte 0xff" in found["line-not-utf8"].message


def test_what_cannot_be_read_at_all(find):
    assert set(find("sft", [])) == {"empty-file"}
    assert set(find("sft", [{"text": "a"}])) == {"missing-column"}
    assert set(find("sft", chats(1), source={"columns": {"mesages": "m"}})) == {"unread-column"}
    assert set(find("pretrain", [{"text": " "}])) == {"no-rows"}


def test_repeated_rows_are_named_from_one_in_a_hundred(find):
    rows = chats(200)
    assert find("sft", [*rows, rows[0]]) == {}
    found = find("sft", [*rows, rows[0], *rows[:2]])["duplicate-rows"]
    assert found.severity == "warning" and found.where.endswith(":201")
    assert "3 of 203 training rows (1.5%)" in found.message and found.message.endswith("train.jsonl:1")


def test_a_source_that_is_named_twice_is_no_repeat(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in chats(5)))
    values = {"data": {"sources": [{"path": str(path)}, {"path": str(path)}]}}
    raw = RawRecipe("r.yaml", "sft", values, "", [], "")
    assert find_in_rows(raw, read_row_sets(raw)[0]) == []


@pytest.mark.parametrize(("repeated", "codes"), [(5, set()), (0, {"duplicate-rows"})])
def test_a_curated_mixture_may_repeat_its_rows(find, tmp_path, repeated, codes):
    (tmp_path / "ledger.json").write_text("{}")
    record = {"stage": "curate", "status": "done", "metrics": {"rows_repeated": repeated}}
    (tmp_path / "run.json").write_text(json.dumps(record))
    assert set(find("sft", chats(5) * 2)) == codes
    other = tmp_path / "other"
    other.mkdir()
    (other / "raw.jsonl").write_text("".join(json.dumps(row) + "\n" for row in chats(5)))
    values = {
        "data": {"sources": [{"path": str(tmp_path / "train.jsonl")}, {"path": str(other / "raw.jsonl")}]}
    }
    raw = RawRecipe("r.yaml", "sft", values, "", [], "")
    found = find_in_rows(raw, read_row_sets(raw)[0])
    assert [f.code for f in found] == ["duplicate-rows"]
    assert f"{5 if repeated else 10} of 15 training rows" in found[0].message


def test_held_out_rows_that_are_trained_on(find):
    copy, near, far = chats(3, start=90)
    reply = near["messages"][1]["content"].split()
    changed = chat(near["messages"][0], assistant(" ".join([*reply[:-1], "pond"])))
    found = find("sft", [*chats(20), copy, near], [*chats(3, start=50), far, copy, changed])
    assert set(found) == {"eval-overlap", "eval-near-overlap"}
    exact, almost = found["eval-overlap"], found["eval-near-overlap"]
    assert (exact.severity, almost.severity) == ("error", "warning")
    assert exact.where.endswith("eval.jsonl:5") and exact.message.endswith("train.jsonl:21")
    assert almost.where.endswith("eval.jsonl:6") and "train.jsonl:22" in almost.message
    assert "1 of 6 held-out rows" in exact.message and "1 of 6 held-out rows" in almost.message


def test_a_split_leaves_equal_rows_together(find, tmp_path):
    rows = [chats(1, start=i // 2)[0] for i in range(40)]
    assert set(find("sft", rows, eval_fraction=0.5)) == {"duplicate-rows"}
    assert set(find("sft", chats(40), eval_fraction=0.5)) == set()
    config = DataConfig([Source(str(tmp_path / "train.jsonl"))], eval_fraction=0.5)
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    train, held_out, _ = load_data(config, ["messages"])
    trained, measured = ({json.dumps(m) for m in part["messages"]} for part in (train, held_out))
    assert not trained & measured and (len(train), len(held_out)) == (20, 20)


def test_near_copies_are_those_that_a_full_comparison_finds(find):
    """The index, its prefix filter and the early dismissal lose no pair of Jaccard NEAR or more."""
    rng = random.Random(3)
    train, held_out = chats(40), []
    for row in train:
        row["messages"][1]["content"] *= 3
        for _ in range(3):  # three variants: what one of them lacks is in the index through another
            reply = row["messages"][1]["content"].split()
            for i in rng.sample(range(len(reply)), rng.randrange(1, 9)):
                reply[i] = f"other{rng.random()}"
            held_out.append(chat(row["messages"][0], assistant(" ".join(reply))))
    sets = [[shingles(overlap.words(r), overlap.SHINGLE) for r in rows] for rows in (train, held_out)]
    wanted = sum(any(len(a & b) / len(a | b) >= overlap.NEAR for a in sets[0]) for b in sets[1])
    assert 30 < wanted < 90
    assert f"{wanted} of 120 held-out rows" in find("sft", train, held_out)["eval-near-overlap"].message


def test_pairs_that_contradict_each_other(find):
    row = pairs(1)[0]
    swapped = row | {"chosen": row["rejected"], "rejected": row["chosen"]}
    found = find("dpo", [*pairs(5), swapped])["pair-conflict"]
    assert (
        found.severity == "warning" and found.where.endswith(":6") and found.message.endswith("train.jsonl:1")
    )


def test_pairs_without_any_preference(find):
    found = find("dpo", [p | {"rejected": p["chosen"]} for p in pairs(3)])
    assert found["no-pairs"].severity == "error" and found["same-pair"].severity == "warning"


def test_length_bias_is_named_with_its_figures(find):
    longer = [p | {"chosen": [assistant(sentence(f"c{i}", 40))]} for i, p in enumerate(pairs(30))]
    found = find("dpo", longer)["length-bias"]
    assert (
        found.severity == "warning" and "100% of 30 pairs" in found.message and "characters" in found.message
    )
    # Half of them, or too few to tell: no bias.
    shorter = [p | {"chosen": p["rejected"], "rejected": p["chosen"]} for p in longer]
    assert find("dpo", [*longer[:15], *shorter[15:]]) == {}
    assert find("dpo", longer[:5]) == {}


def test_length_is_that_of_the_reply_not_of_the_prompt(find):
    rows = [
        {"chosen": p["prompt"] + p["chosen"], "rejected": p["prompt"] + [assistant(sentence(i, 8))]}
        for i, p in enumerate(pairs(20))
    ]
    assert "100% of 20 pairs" in find("reward", rows)["length-bias"].message


def test_labels(find):
    assert find("kto", thumbs(20)) == {}
    assert find("kto", thumbs(20, good=1))["one-label"].severity == "error"
    row = thumbs(1)[0]
    conflict = find("kto", [*thumbs(20), row | {"label": not row["label"]}])["label-conflict"]
    assert conflict.where.endswith(":21") and conflict.message.endswith("train.jsonl:1")


@pytest.mark.parametrize(
    ("good", "weights", "fix"),
    [
        (0.75, {}, "desirable_weight: 1.0, undesirable_weight: 2.6"),
        (0.25, {}, "desirable_weight: 3.5, undesirable_weight: 1.0"),
        (0.5, {"desirable_weight": 3.0}, "desirable_weight: 1.0"),
    ],
)
def test_skewed_labels_are_told_the_weights_that_balance_them(find, good, weights, fix):
    found = find("kto", thumbs(40, good), train=weights)["label-weights"]
    assert found.severity == "warning" and fix in found.fix


def test_the_suggested_weights_silence_the_warning(find):
    weights = {"desirable_weight": 1.0, "undesirable_weight": 2.6}
    assert find("kto", thumbs(40, 0.75), train=weights) == {}


def test_a_file_too_large_to_read_is_read_in_part_and_says_so(find, monkeypatch):
    monkeypatch.setattr("lifecycle_recipes.data.row_sets.MOST_ROWS", 10)
    rows = chats(25)
    found = find("sft", rows, [rows[2], *chats(3, start=40)])  # lines 3, 6, 9, ... are read
    assert found["eval-overlap"].message.endswith("train.jsonl:3")
    repeated = find("sft", [chats(1)[0]] * 25)["duplicate-rows"]
    assert "7 of 8 training rows" in repeated.message


def test_labels_of_a_file_read_in_part_are_left_to_the_stage(find, monkeypatch):
    """Every second label is bad: of every second line all are good, and the run would have both."""
    monkeypatch.setattr("lifecycle_recipes.data.row_sets.MOST_ROWS", 12)
    assert "one-label" not in find("kto", [row | {"label": i % 2 == 0} for i, row in enumerate(thumbs(24))])


def test_ten_thousand_chats_take_seconds_and_no_import_of_datasets(find):
    rows = [chat(user(sentence(i, 40)), assistant(sentence(-i, 160))) for i in range(2000)]
    started = time.process_time()
    assert find("sft", rows, chats(100, start=3000)) == {}
    assert time.process_time() - started < 3  # a fifth of the rows in a fifth of the time


def test_importing_the_checks_imports_nothing_heavy():
    code = "import sys, lifecycle_recipes.doctor.row_level.rows; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "datasets", "transformers", "pyarrow", "numpy"} & set(done.stdout.split())

"""The curate stage from its sources to its files: books that balance, the same bytes each time, nothing lost."""

import hashlib
import json
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from curated import curate, run, write_recipe, write_rows

from lifecycle_recipes.curation import writing
from lifecycle_recipes.data.row_files import find_files
from lifecycle_recipes.record import parents
from lifecycle_recipes.record.parents import find_parents, hash_weights
from lifecycle_recipes.report.ledger import show_ledger

TEXTS = [
    f"Service {n} writes its log to disk {n % 7} and answers on port {8000 + n} for team {n % 5}."
    for n in range(300)
]
LONG = " ".join(f"word{n}" for n in range(60))


@pytest.fixture
def rows(tmp_path):
    """Two files: `a` with 300 texts, three of them twice, and a near-duplicate; `b` repeats ten of them."""
    a = [{"text": text} for text in [*TEXTS, *TEXTS[:3], LONG, LONG + " more"]]
    b = [
        {"text": text}
        for text in [*TEXTS[5:15], *(f"Page {n} of the second source, number {n * n}." for n in range(90))]
    ]
    return [write_rows(tmp_path / "a.jsonl", a), write_rows(tmp_path / "b.jsonl", b)]


STEPS = [{"exact_duplicates": {}}, {"near_duplicates": {"threshold": 0.8}}]


def test_every_row_is_in_the_output_or_left_out_with_a_reason(tmp_path, rows):
    done = curate(tmp_path, rows, steps=STEPS, held_out={"fraction": 0.1})
    assert done.status == 0
    ids = [row["id"] for row in [*done.train, *done.rows("held_out"), *done.rows("left_out")]]
    assert sorted(ids) == sorted(
        [f"{rows[0]}:{n}" for n in range(1, 306)] + [f"{rows[1]}:{n}" for n in range(1, 101)]
    )
    assert done.left_out[f"{rows[0]}:301"] == "exact-duplicate"
    assert done.left_out[f"{rows[1]}:1"] == "exact-duplicate"  # of the first source, which stays
    assert done.left_out[f"{rows[0]}:305"] == "near-duplicate"
    assert done.step("exact-duplicates", 0)["left_out"]["exact-duplicate"][0] == 3
    assert done.step("exact-duplicates", 1)["left_out"]["exact-duplicate"][0] == 10
    assert done.record["metrics"]["rows_in"] == 405
    assert done.record["metrics"]["rows_out"] == len(done.train)
    assert done.record["data"]["ledger_sha256"] == sha256(done.directory / "ledger.json")


def sha256(file):
    return hashlib.sha256(file.read_bytes()).hexdigest()


def output(directory) -> dict[str, str]:
    names = ("train.jsonl", "held_out.jsonl", "left_out.jsonl", "edits.jsonl", "ledger.json")
    return {name: sha256(directory / name) for name in names if (directory / name).exists()}


def test_the_same_bytes_with_one_worker_and_two(tmp_path, rows, monkeypatch):
    found = []
    for workers in (1, 2):
        monkeypatch.setenv("LIFECYCLE_CACHE", str(tmp_path / f"cache{workers}"))
        done = curate(tmp_path, rows, steps=STEPS, executor={"workers": workers})
        found.append(output(done.directory))
        done.directory.rename(tmp_path / f"out{workers}")
    assert found[0] == found[1]


def test_a_changed_threshold_decides_again_and_scores_nothing_again(tmp_path, rows, monkeypatch):
    from lifecycle_recipes.curation import near_duplicates

    curate(tmp_path, rows, steps=STEPS)
    monkeypatch.setattr(near_duplicates, "score", lambda texts, settings: pytest.fail("scored again"))
    changed = curate(tmp_path, rows, "--replace", steps=[STEPS[0], {"near_duplicates": {"threshold": 0.999}}])
    assert changed.status == 0
    assert f"{rows[0]}:305" not in changed.left_out


def test_an_edited_source_is_read_again(tmp_path, rows):
    first = curate(tmp_path, rows, steps=STEPS)
    with open(rows[0], "a") as file:
        file.write(json.dumps({"text": "A row that was not there before."}) + "\n")
    again = curate(tmp_path, rows, "--replace", steps=STEPS)
    assert len(again.train) == len(first.train) and any(
        "not there before" in row["text"] for row in again.train
    )


def test_max_rows_leaves_out_and_counts(tmp_path, rows):
    done = curate(tmp_path, [{"path": rows[0], "max_rows": 100}, rows[1]])
    assert done.step("read")["left_out"]["max_rows"][0] == 205
    assert len(done.train) == 200


def test_a_test_of_the_data_that_fails_writes_no_training_data(tmp_path, rows, capsys):
    done = curate(tmp_path, rows, steps=STEPS, tests=["rows_out > 10000"])
    assert done.status == 3
    assert "data-test-failed" in capsys.readouterr().err
    assert not (done.directory / "train.jsonl").exists()
    assert done.record["status"].startswith("failed")
    # What was left out can be looked at.
    assert "a test of the data failed" in show_ledger(str(done.directory))
    assert "exact-duplicate" in show_ledger(str(done.directory), "exact-duplicates", 1)


def test_after_a_failed_test_of_the_data_a_refused_run_blocks_nothing(tmp_path, rows):
    assert curate(tmp_path, rows, steps=STEPS, tests=["rows_out > 10000"]).status == 3
    (tmp_path / "out/gate.failed").write_text("{}")
    assert curate(tmp_path, rows, steps=STEPS, tests=["rows_outt > 1"]).status == 2
    done = curate(tmp_path, rows, steps=STEPS, tests=["rows_out > 1"])
    assert done.status == 0 and not (tmp_path / "out/gate.failed").exists()


def test_files_that_are_not_of_curation_are_not_overwritten(tmp_path, rows, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/left_out.jsonl").write_text("mine\n")
    assert curate(tmp_path, rows, steps=STEPS).status == 2
    assert "output-dir-not-ours" in capsys.readouterr().err
    assert (tmp_path / "out/left_out.jsonl").read_text() == "mine\n"


def test_a_file_of_which_most_rows_lack_the_column_is_reported(tmp_path, capsys):
    rows = [{"body": f"The good text number {n}."} for n in range(3)] + [{"txt": "Else."}] * 5
    done = curate(tmp_path, [{"path": write_rows(tmp_path / "a.jsonl", rows), "columns": {"text": "body"}}])
    assert set(done.left_out.values()) == {"missing-column"} and len(done.left_out) == 5
    assert "rule-takes-most" in capsys.readouterr().err


def test_a_source_of_which_nothing_is_left_is_refused_with_the_step(tmp_path, rows, capsys):
    copy = write_rows(tmp_path / "copy.jsonl", [{"text": text} for text in TEXTS])
    done = curate(tmp_path, [rows[0], copy], steps=STEPS)
    error = capsys.readouterr().err
    assert done.status == 2 and "source-empty" in error and "exact-duplicates" in error


def test_kept_columns_and_the_source_are_written_beside_the_text(tmp_path):
    file = write_rows(
        tmp_path / "a.jsonl", [{"body": "One text.", "url": "u1"}, {"body": "Another text.", "n": 2}]
    )
    done = curate(tmp_path, [{"path": file, "columns": {"text": "body"}}], keep=["url"])
    found = sorted(done.train, key=lambda row: row["id"])
    assert found[0] == {"text": "One text.", "url": "u1", "id": f"{file}:1", "source": file}
    assert found[1] == {"text": "Another text.", "id": f"{file}:2", "source": file}


def test_conversations_are_curated_as_rows(tmp_path):
    def chat(question, answer):
        return {"conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]}

    same = "The answer is always the same long sentence about the moon."
    rows = [
        chat("What is it?", same),
        chat("What is it?", same),
        chat("And now?", same),
        chat("Else?", "No."),
    ]
    file = write_rows(tmp_path / "chats.jsonl", rows)
    source = {"path": file, "format": "sharegpt"}
    done = curate(tmp_path, [source], kind="messages", steps=[{"exact_duplicates": {}}])
    assert sorted(row["id"] for row in done.train) == [f"{file}:{n}" for n in (1, 3, 4)]
    assert done.train[0]["messages"][0]["role"] == "user"
    done = curate(
        tmp_path, [source], "--replace", kind="messages", steps=[{"exact_duplicates": {"by": "reply"}}]
    )
    assert sorted(row["id"] for row in done.train) == [f"{file}:{n}" for n in (1, 4)]


def test_a_stage_reads_curated_rows_only_from_a_run_whose_gate_holds(tmp_path, rows, capsys):
    from lifecycle_recipes.record.parents import check_parent, find_parents, hash_weights

    done = curate(tmp_path, rows, steps=STEPS)
    train = str(done.directory / "train.jsonl")
    parents = find_parents({"data": {"sources": [{"path": train}]}})
    assert parents == {"data": str(done.directory)}
    check_parent("data", parents["data"], hash_weights(parents["data"]), False)
    with open(train, "a") as file:
        file.write('{"text": "smuggled in"}\n')
    with pytest.raises(Exception, match="parent-changed"):
        check_parent("data", parents["data"], hash_weights(parents["data"]), False)


def test_curation_without_models_imports_no_torch(tmp_path, rows):
    recipe = write_recipe(tmp_path, rows, steps=STEPS)
    code = (
        "import sys; from lifecycle_recipes.stages.curate import main; main([sys.argv[1]]);"
        "print([name for name in ('torch', 'transformers', 'trl', 'datasets') if name in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code, recipe], capture_output=True, text=True, check=True)
    assert shown.stdout.splitlines()[-1] == "[]"


def test_the_run_is_repeated_to_the_same_bytes(tmp_path, rows):
    recipe = write_recipe(tmp_path, rows, steps=STEPS, held_out={"fraction": 0.05})
    first = output(run(recipe).directory)
    assert output(run(recipe, "--replace").directory) == first


@pytest.mark.parametrize("path", ["out", "out/*.jsonl", "out/left_out.jsonl"])
def test_the_directory_of_a_run_is_no_source(tmp_path, rows, path):
    """Its left-out rows have a text, too."""
    curate(tmp_path, rows, steps=STEPS)
    with pytest.raises(Exception, match=r"left_out.jsonl holds the rows that curation left out"):
        find_files(str(tmp_path / path))


@pytest.mark.parametrize("wanted", ["written_rows", "write_left_out"])
def test_a_row_that_is_lost_in_writing_fails_the_stage(tmp_path, rows, monkeypatch, capsys, wanted):
    from lifecycle_recipes.curation import decide

    whole = writing.written_rows
    if wanted == "written_rows":
        monkeypatch.setattr(writing, wanted, lambda *given: (row for row in whole(*given) if row[0] != 7))
    else:
        monkeypatch.setattr(decide, wanted, lambda *given: None)
    done = curate(tmp_path, rows, steps=STEPS)
    assert done.status == 1 and "books-unbalanced" in capsys.readouterr().err
    assert not (done.directory / "train.jsonl").exists()


def test_a_conversation_whose_question_is_cut_is_left_out(tmp_path):
    question = "What is the capital city of the far away land of Oz and who rules there today my dear friend?"
    tests = write_rows(tmp_path / "test.jsonl", [{"question": question}])
    reply = "The wizard rules the emerald city, as everybody knows who has read the books by Baum, which are many. "
    asked = [question, f"I have read a book that I like. {question}", "Hello!"]
    file = write_rows(
        tmp_path / "chats.jsonl",
        [
            {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": reply * 2}]}
            for text in asked
        ],
    )
    cut = {"decontamination": {"against": [tests], "life": False, "action": "cut"}}
    done = curate(tmp_path, [file], kind="messages", steps=[cut])
    assert done.left_out == {f"{file}:1": "nothing-left"}
    assert {row["messages"][0]["content"].strip() for row in done.train} == {
        "I have read a book that I like.",
        "Hello!",
    }


def test_the_share_of_a_language_that_no_document_has_is_zero(tmp_path, rows):
    done = curate(tmp_path, rows, steps=[{"language": {}}], tests=["share.de <= 0.02"])
    assert done.status == 0
    done = curate(tmp_path, rows, "--replace", steps=[{"language": {}}], tests=["share.de >= 0.02"])
    assert done.status == 3


def test_a_mean_is_over_all_documents_that_have_the_score(tmp_path):
    """The first one has none, since its replies are equal."""
    pairs = [{"prompt": "Why?", "chosen": "the same", "rejected": "the same"}]
    pairs += [{"prompt": f"Why {n}?", "chosen": f"since {n} it is", "rejected": "so"} for n in range(4)]
    file = write_rows(tmp_path / "pairs.jsonl", pairs)
    done = curate(tmp_path, [file], kind="pairs", steps=[{"preferences": {"same_pair": False}}])
    assert done.record["metrics"]["preferences.mean_longer_chosen"] == 1


def test_rows_are_bound_to_their_run_however_they_are_named(tmp_path, rows, monkeypatch):
    done = curate(tmp_path, rows, steps=STEPS)
    monkeypatch.chdir(tmp_path)
    for path in ("out/train.jsonl", "ou?/train.jsonl", "*/train.jsonl"):
        assert list(find_parents({"data": {"sources": [{"path": path}]}}).values()) == ["out"]
    monkeypatch.chdir(done.directory)
    assert find_parents({"data": {"sources": [{"path": "train.jsonl"}]}}) == {"data": "."}


def test_one_changed_row_of_a_large_file_is_seen(tmp_path, monkeypatch):
    monkeypatch.setattr(parents, "BLOCK", 1 << 10)
    monkeypatch.setattr(parents, "BLOCKS", 4)
    (tmp_path / "ledger.json").write_text("{}")
    with (tmp_path / "train.jsonl").open("wb") as file:
        file.truncate(300 << 10)
    before = hash_weights(tmp_path)
    with (tmp_path / "train.jsonl").open("r+b") as file:
        file.seek((1 << 10) + 1000)  # between two of the blocks that are hashed of weights
        file.write(b"smuggled in")
    assert hash_weights(tmp_path) != before


def test_a_run_is_another_one_with_another_test_set_or_tokenizer(tmp_path, rows, tiny_tokenizer_dir):
    folder = tmp_path / "sets"
    write_rows(folder / "a.jsonl", [{"question": "What is the capital city of the land of Oz?"}])
    steps = [{"decontamination": {"against": [str(folder)], "life": False}}]
    tokenizer = shutil.copytree(tiny_tokenizer_dir, tmp_path / "tokenizer")
    found = []
    for n in range(3):
        done = curate(tmp_path, rows, steps=steps, tokenizer=str(tokenizer))
        assert done.status == 0
        found.append(done.record["identity"])
        done.directory.rename(tmp_path / f"out{n}")
        if n == 0:
            write_rows(folder / "b.jsonl", [{"question": "Who wrote the book about the wizard of Oz?"}])
        else:
            (tokenizer / "tokenizer.json").write_text((tokenizer / "tokenizer.json").read_text() + " ")
    assert len(set(found)) == 3


def test_a_shuffle_of_more_buckets_than_a_process_may_open(tmp_path, rows, monkeypatch):
    monkeypatch.setattr(writing, "BUCKET", 64)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # Earlier tests have left files of models and tables open in this process.
    opened = max(int(entry.name) for entry in Path("/dev/fd").iterdir())
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (opened + 64, hard))
        done = curate(tmp_path, rows)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert done.status == 0 and len(done.train) == 405
    assert [row["id"] for row in done.train] != sorted(row["id"] for row in done.train)


def test_a_reply_with_another_label_is_no_copy(tmp_path):
    thumb = {"prompt": "Can cats fly over houses?", "completion": "Yes, all of them can fly."}
    rows = [{**thumb, "label": label} for label in (False, True, True, True)]
    file = write_rows(tmp_path / "thumbs.jsonl", [*rows, {**thumb, "prompt": "Else?", "label": True}])
    done = curate(tmp_path, [file], kind="thumbs", steps=[{"exact_duplicates": {}}, {"preferences": {}}])
    assert done.left_out == {
        f"{file}:1": "contradicting-labels",
        f"{file}:3": "exact-duplicate",
        f"{file}:4": "exact-duplicate",
    }
    done = curate(
        tmp_path, [file], "--replace", kind="thumbs", steps=[{"exact_duplicates": {"by": "prompt"}}]
    )
    assert sorted(done.left_out) == [f"{file}:{n}" for n in (2, 3, 4)]


def test_near_duplicates_that_judge_the_opposite_stay(tmp_path):
    def reply(last):
        return " ".join([*(f"word{n}" for n in range(60)), last])

    good, bad = reply("good"), " ".join(f"other{n}" for n in range(60))
    pairs = [("p", good, bad), ("p", bad, good), ("p", reply("fine"), bad), ("p", bad, reply("nice"))]
    file = write_rows(
        tmp_path / "pairs.jsonl",
        [dict(zip(("prompt", "chosen", "rejected"), row, strict=True)) for row in pairs],
    )
    done = curate(tmp_path, [file], kind="pairs", steps=[{"near_duplicates": {}}])
    assert done.left_out == {f"{file}:3": "near-duplicate", f"{file}:4": "near-duplicate"}
    kept = {row["id"]: row["detail"]["kept"] for row in done.rows("left_out")}
    assert kept == {f"{file}:3": f"{file}:1", f"{file}:4": f"{file}:2"}
    both = [{"near_duplicates": {}}, {"preferences": {}}]  # finds equal replies only
    assert curate(tmp_path, [file], "--replace", kind="pairs", steps=both).left_out == done.left_out
    asked = curate(tmp_path, [file], "--replace", kind="pairs", steps=[{"near_duplicates": {"by": "prompt"}}])
    assert sorted(asked.left_out) == [f"{file}:{n}" for n in (2, 3, 4)]
    thumbs = [(good, True), (reply("fine"), False), (reply("nice"), False)]
    file = write_rows(
        tmp_path / "thumbs.jsonl",
        [{"prompt": "p", "completion": text, "label": label} for text, label in thumbs],
    )
    done = curate(tmp_path, [file], "--replace", kind="thumbs", steps=[{"near_duplicates": {}}])
    assert done.left_out == {f"{file}:3": "near-duplicate"}


def test_swapped_replies_of_the_same_words_are_no_copy(tmp_path):
    def turn(text, role="assistant"):
        return [{"role": role, "content": text}]

    prompt = turn(" ".join(f"word{n}" for n in range(80)), "user")
    one, other = turn("two is more than one"), turn("one is more than two")
    rows = [
        {"prompt": prompt, "chosen": one, "rejected": other},
        {"prompt": prompt, "chosen": other, "rejected": one},
    ]
    file = write_rows(tmp_path / "pairs.jsonl", rows)
    assert curate(tmp_path, [file], kind="pairs", steps=[{"near_duplicates": {}}]).left_out == {}


def test_kept_columns_named_as_replies_do_not_matter(tmp_path):
    rows = [{"text": " ".join(f"word{n}" for n in range(60)), "completion": n, "chosen": n} for n in range(2)]
    file = write_rows(tmp_path / "a.jsonl", rows)
    done = curate(tmp_path, [file], keep=["completion", "chosen"], steps=[{"near_duplicates": {}}])
    assert done.left_out == {f"{file}:2": "near-duplicate"}


def test_the_last_line_of_a_conversation_is_no_button(tmp_path):
    talk = [
        {
            "role": "user",
            "content": "Where does this question belong? I cannot log in.\nSupport\nPress\nShop",
        },
        {"role": "assistant", "content": "Support"},
    ]
    file = write_rows(tmp_path / "a.jsonl", [{"messages": talk}])
    steps = [{"quality": {"gopher": None, "gopher_repetition": None, "fineweb": None, "spam": None}}]
    done = curate(tmp_path, [file], kind="messages", steps=steps)
    assert done.left_out == {} and done.train[0]["messages"] == talk


def test_a_kept_label_of_a_text_does_not_matter(tmp_path):
    file = write_rows(tmp_path / "a.jsonl", [{"text": "The same text.", "label": n} for n in range(2)])
    done = curate(tmp_path, [file], keep=["label"], steps=[{"exact_duplicates": {}}])
    assert done.left_out == {f"{file}:2": "exact-duplicate"}


def test_samples_show_where_a_near_duplicate_differs(tmp_path):
    long = [f"word{n}" for n in range(400)]
    texts = [" ".join(long), " ".join([*long[:350], "changed", *long[351:]])]
    file = write_rows(tmp_path / "a.jsonl", [{"text": text} for text in [*texts, *TEXTS[:5]]])
    curate(tmp_path, [file], steps=[{"near_duplicates": {}}])
    shown = show_ledger(str(tmp_path / "out"), "near-duplicates", 1)
    assert "word349 [-changed-] {+word350+} word351" in shown and len(shown) < 1000


def test_samples_mark_the_passage_of_a_conversation(tmp_path):
    question = "What is the capital city of the far away land of Oz and who rules there today my dear friend?"
    tests = write_rows(tmp_path / "test.jsonl", [{"question": question}])
    replies = [f"A question for you. {question} Think about it.", "Nothing."]
    rows = [
        {"messages": [{"role": "user", "content": "Ask me."}, {"role": "assistant", "content": reply}]}
        for reply in replies
    ]
    file = write_rows(tmp_path / "a.jsonl", rows)
    step = {"decontamination": {"against": [tests], "life": False, "by": "reply"}}
    curate(tmp_path, [file], kind="messages", steps=[step])
    shown = show_ledger(str(tmp_path / "out"), "decontamination", 1)
    assert f"A question for you. >>>{question[:-1]}<<<? Think about it." in shown

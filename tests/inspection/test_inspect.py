"""`lifecycle inspect`: what it shows of sft and pretrain is what the trainer gets, on page and terminal."""

import json
import re
from html.parser import HTMLParser

import pytest
import torch
from inspected import ids_in, seen, summary
from preference_runs import message, user, write_recipe, write_rows

from lifecycle_recipes.cli import main
from lifecycle_recipes.doctor.trainer_level.trial_build import built_trainer
from lifecycle_recipes.finding import Refusal
from lifecycle_recipes.inspection.inspect import inspect
from lifecycle_recipes.inspection.page import page
from lifecycle_recipes.inspection.sequences import all_batches, first_batches, sequences
from lifecycle_recipes.inspection.terminal import Paint, text

HOSTILE = "<script>alert('x')</script> & \x1b[31mred \u202e \N{GRINNING FACE}\N{CJK UNIFIED IDEOGRAPH-6C34}"


@pytest.fixture(scope="module")
def sft(tmp_path_factory, tiny_model_dir, tiny_chat_rows):
    """path, Inspection, trainer, folder. Second source: a long row, one that never fits, a hostile one."""
    folder = tmp_path_factory.mktemp("sft")
    long = {"messages": [*user(1), *message("red, green, blue, white, black, amber. " * 6)]}
    lost = {"messages": [{"role": "user", "content": "Please! " * 60}, *message("No.")]}
    hostile = {"messages": [*user(2), *message(HOSTILE)]}
    second = write_rows(folder / "second.jsonl", [long, lost, hostile])
    data = {"sources": [{"path": str(folder / "train.jsonl")}, {"path": second}]}
    data["eval_sources"] = [{"path": str(folder / "eval.jsonl")}]
    train = {"max_length": 128, "per_device_train_batch_size": 5}
    path = write_recipe(folder, "sft", tiny_chat_rows, tiny_model_dir, data=data, train=train)
    return path, *seen(path, rows=40), folder


def test_sft_marks_exactly_the_assistants_tokens(sft, tiny_tokenizer):
    _, inspection, trainer, _, _ = sft
    assert len(inspection.rows) == 34
    for row in inspection.rows:
        (part,) = row.parts
        shown = [i for piece in part.pieces for i in piece.ids if piece.state != "cut"]
        labels = next(r["labels"] for r in trainer.train_dataset if r["input_ids"] == shown)
        assert ids_in(part, "trained") == [i for i in labels if i != -100]
        assert not {p.text for p in part.pieces if p.state == "trained"} & {"<|im_start|>", "user"}


def test_a_row_names_its_source_and_shows_what_truncation_took(sft, tiny_tokenizer):
    _, inspection, _, _, folder = sft
    (row,) = [r for r in inspection.rows if r.where == f"{folder}/second.jsonl:1"]
    (part,) = row.parts
    messages = json.loads((folder / "second.jsonl").read_text().splitlines()[0])["messages"]
    whole = tiny_tokenizer.apply_chat_template(messages, return_dict=False)
    assert [i for piece in part.pieces for i in piece.ids] == whole
    assert ids_in(part, "cut") == whole[128:] and part.facts.endswith(f"{len(whole) - 128} truncated")
    found = {row.where for row in inspection.rows}
    assert found == {f"{folder}/train.jsonl:{n}" for n in range(1, 33)} | {
        f"{folder}/second.jsonl:{n}" for n in (1, 3)
    }


def test_the_sums_account_for_every_row_and_token(sft, tiny_tokenizer):
    _, inspection, trainer, _, folder = sft
    found = summary(inspection)
    sizes = [len(row["input_ids"]) for row in trainer.train_dataset]
    first = sum(
        len(tiny_tokenizer.apply_chat_template(json.loads(line)["messages"], return_dict=False))
        for line in (folder / "train.jsonl").read_text().splitlines()
    )
    trained = sum(label != -100 for row in trainer.train_dataset for label in row["labels"])
    assert f"train.jsonl: 32 of 32 rows, {first:,} tokens ({first / sum(sizes):.1%})" in found["sources"]
    assert f"second.jsonl: 2 of 3 rows, {sum(sizes) - first:,} tokens" in found["sources"]
    assert found["tokens"].startswith(f"{sum(sizes):,} per epoch, {trained / sum(sizes):.1%} of them")
    long = json.loads((folder / "second.jsonl").read_text().splitlines()[0])["messages"]
    lost = len(tiny_tokenizer.apply_chat_template(long, return_dict=False)) - 128
    assert f"1 truncated: {lost} tokens lost" in found["rows"]
    assert "1 left out: no assistant token within" in found["rows"]
    assert f"dropped: {folder}/second.jsonl:2 (" in found["rows"]
    assert "44 read: 34 for training, 9 held out" in found["rows"]
    assert (
        f"shortest {min(sizes)}" in found["lengths"] and "longest 128 tokens\nlimit 128" in found["lengths"]
    )
    ends = "<|im_end|>: supervised at the end of 33 of 34 sequences"  # one was truncated
    assert found["end-of-turn token"] == ends
    assert found["documents"] == "one per row"
    batch = "global batch 5 rows: 5 per process x 1 accumulation steps x 1"
    assert f"2 steps, 0.29 epochs\n{batch}" in found["steps"]


def test_packed_documents_are_counted_traced_and_measured(sft):
    path, unpacked, _, _, folder = sft
    inspection, trainer, _ = seen(path, ["--train.packing", "true"], rows=40)
    found = summary(inspection)
    # `bfd` keeps the row whose reply does not fit: its documents are 32 + 3.
    assert found["documents"].startswith(f"35 in {len(trainer.train_dataset)} rows")
    assert re.search(r"^isolated: .* 0\.0%$", found["documents"], re.M)
    assert "2 truncated" in found["rows"] and "second.jsonl: 3 of 3 rows" in found["sources"]
    opened = sum(piece.opens for row in inspection.rows for part in row.parts for piece in part.pieces)
    assert opened == 35 - len(trainer.train_dataset)
    assert "--- document ---" in text(inspection, colours=False, width=100)
    assert re.search(r"train.jsonl, lines \d+, \d+", " ".join(row.where for row in inspection.rows))


def test_nothing_is_read_again_where_nothing_was_cut_or_dropped(sft, pretrain, monkeypatch):
    from lifecycle_recipes.data import sources

    def load_again(*args, **kwargs):
        raise AssertionError("the sources were read again")

    monkeypatch.setattr(sources, "load_data", load_again)
    seen(pretrain[0])
    with pytest.raises(AssertionError, match="read again"):
        seen(sft[0])


def test_equal_rows_are_told_apart_and_only_the_rows_in_question_are_tokenised(sft, tmp_path, monkeypatch):
    from lifecycle_recipes.inspection import trace as origin

    path, _, _, _, folder = sft
    rows = (folder / "second.jsonl").read_text().splitlines()
    (tmp_path / "twice.jsonl").write_text("\n".join([*rows, *rows]))
    whole, asked = origin.whole_rows, []
    monkeypatch.setattr(
        origin,
        "whole_rows",
        lambda stage, trainer, rows: asked.append(len(rows)) or whole(stage, trainer, rows),
    )
    inspection, _, _ = seen(path, ["--data.sources", f"[{{path: {tmp_path}/twice.jsonl}}]"], rows=4)
    assert {row.where for row in inspection.rows} == {f"{tmp_path}/twice.jsonl:{n}" for n in (1, 3, 4, 6)}
    found = summary(inspection)["rows"]
    assert "2 truncated" in found and "twice.jsonl:2 (" in found and "twice.jsonl:5 (" in found
    assert asked == [1, 1, 2, 2]  # each cut row that is shown; all that were cut; all that were dropped


def test_wrapped_documents_are_reported_as_not_separated(sft):
    inspection, trainer, _ = seen(sft[0], ["--train.packing", "true", "--train.packing_strategy", "wrapped"])
    found = summary(inspection)
    tokens = sum(map(len, trainer.train_dataset["input_ids"]))
    assert found["tokens"].startswith(f"{tokens:,} per epoch") and "not separated" in found["documents"]
    assert "tokens per source are unknown" in found["sources"] and ", lines " in inspection.rows[0].where
    assert "left out" not in found["rows"] and "truncated" not in found["rows"]


def test_split_documents_lose_nothing(sft):
    flags = ["--train.packing", "true", "--train.packing_strategy", "bfd_split", "--train.max_length", "64"]
    found = summary(seen(sft[0], flags, rows=0)[0])
    assert "3 of 3 rows" in found["sources"] and "32 of 32 rows" in found["sources"]
    assert "35 for training" in found["rows"] and "left out" not in found["rows"]


def test_rows_of_an_eval_fraction_are_not_called_missing(sft):
    path, _, _, _, folder = sft
    inspection, _, _ = seen(path, ["--data.eval_sources", "[]", "--data.eval_fraction", "0.5"])
    gone = [line for line in dict(inspection.summary)["rows"] if line.startswith("dropped")]
    assert len(gone) == 1 and f"{folder}/second.jsonl:2" in gone[0]


@pytest.fixture(scope="module")
def pretrain(tmp_path_factory, tiny_model_dir, tiny_texts):
    folder = tmp_path_factory.mktemp("pretrain")
    rows = [{"text": t} for t in tiny_texts] + [{"text": " ".join(tiny_texts[:9])}]
    path = write_recipe(folder, "pretrain", rows, tiny_model_dir, text={"block_size": 64})
    return path, *seen(path), folder


def test_pretrain_agrees_with_the_ledger(pretrain):
    _, inspection, trainer, notes, _ = pretrain
    counts, found = notes["data"]["train"], summary(inspection)
    share = counts["predicted_tokens"] / counts["tokens"]
    assert found["tokens"].startswith(f"{counts['tokens']:,} per epoch, {share:.1%} of them supervised")
    assert f"65 of 65 rows, {counts['tokens']:,} tokens (100.0%)" in found["sources"]
    assert "isolated: changing" in found["documents"] and "NOT" not in found["documents"]
    assert "<|endoftext|>: supervised at the end of 65 of" in found["end-of-turn token"]
    assert "truncated" not in found["rows"]


@pytest.mark.parametrize("flatten", [False, True])
def test_blocks_are_read_alike_in_rows_and_flattened(pretrain, flatten):
    _, _, trainer, _, _ = pretrain
    trainer.data_collator.flatten = flatten
    found = [s for rows, batch in all_batches(trainer, 7) for (s,) in sequences(trainer, rows, batch)]
    for row, sequence in zip(trainer.train_dataset, found, strict=True):
        assert sequence.ids == row["input_ids"] and sequence.padding == 64 - len(row["input_ids"])
        assert len(sequence.starts) == len(row["seq_lengths"])
        assert [k for k, t in enumerate(sequence.trained) if not t] == sequence.starts
    trainer.data_collator.flatten = False


def test_an_inspected_trainer_starts_with_the_rows_that_were_shown(sft, pretrain):
    """Nothing that inspect does may change the order of training, or show another one."""
    for path, *_ in (sft, pretrain):
        with built_trainer(path, ["--train.max_steps", "1"]) as (_, trainer, _):
            batches = first_batches(trainer)
            shown = next(batches)[1]["input_ids"]
            batches.close()
            trained, step = [], trainer.training_step
            trainer.training_step = lambda model, inputs, *rest, step=step, trained=trained: (
                trained.append(inputs["input_ids"].clone()) or step(model, inputs, *rest)
            )
            trainer.train()
        assert torch.equal(trained[0].cpu(), shown.cpu())


class Reader(HTMLParser):
    """Text of a page, and every tag and attribute in it."""

    def __init__(self, html):
        super().__init__()
        self.text, self.tags, self.attributes = "", set(), []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.text += data


def test_the_page_is_escaped_and_needs_nothing_else(sft):
    _, inspection, _, _, _ = sft
    html = page(inspection)
    found = Reader(html)
    assert "<script>alert('x')</script> & \\x1b[31mred \\u202e \N{GRINNING FACE}" in found.text
    assert not found.tags & {"script", "img", "link", "iframe"}
    assert not [name for name, _ in found.attributes if name in ("src", "href") or name.startswith("on")]
    assert "\x1b" not in html and "\u202e" not in html
    assert re.search(r'<span class="cut" title="\d+: id [\d, ]+, truncated">', html)


def test_no_data_can_steer_the_terminal(sft):
    _, inspection, _, _, _ = sft
    plain = text(inspection, colours=False, width=100)
    assert "\x1b" not in plain and "\u202e" not in plain and "\\x1b[31mred" in plain
    coloured = text(inspection, colours=True, width=100)
    assert "\\x1b[31mred" in re.sub(r"\x1b\[[\d;]*m", "", coloured)
    assert coloured.count("\x1b[0m") > 100 and coloured.endswith("\x1b[0m")


def test_what_no_trainer_can_be_built_with_is_refused_by_name(sft):
    with pytest.raises(Refusal, match="two-eval-splits"):
        inspect(sft[0], ["--data.eval_fraction", "0.1"])


def test_without_colours_brackets_hold_the_trained_text(sft, tiny_tokenizer):
    _, inspection, _, _, _ = sft
    plain = text(inspection, colours=False, width=10_000)
    assert "⟦It is red.<|im_end|>⟧" in plain
    assert "tokens:  ⟦supervised⟧  not supervised  ⟨truncated⟩" in plain
    assert Paint(False, "ascii").brackets["trained"] == ("[[", "]]")


def test_the_command_writes_the_page_and_nothing_else(sft, tmp_path, capsys):
    path, _, _, _, folder = sft
    before = sorted(folder.rglob("*"))
    with pytest.raises(SystemExit) as stopped:
        main(
            ["inspect", path, "--rows", "2", "--html", str(tmp_path / "page.html"), "--learning_rate", "2e-5"]
        )
    assert stopped.value.code == 0 and sorted(folder.rglob("*")) == before
    out, err = capsys.readouterr()
    assert re.search(rf"^page +{tmp_path}/page.html$", out, re.M) and "===" not in out
    assert "building the trainer" in err
    assert Reader((tmp_path / "page.html").read_text()).text.count("batch 1, row") == 2


def test_a_page_that_cannot_be_written_is_refused_before_the_trainer_is_built(sft, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["inspect", sft[0], "--html", str(tmp_path / "none" / "page.html")])
    assert stopped.value.code == 2
    err = capsys.readouterr().err
    assert "[html-unwritable]" in err and "building" not in err and "Traceback" not in err


def test_a_stage_without_a_trainer_is_refused(tmp_path):
    (tmp_path / "r.yaml").write_text(
        f"stage: tokenizer\ntokenizer: {{output_dir: {tmp_path}/t, vocab_size: 300}}\n"
        "data: {sources: [{path: a.jsonl}]}\n"
    )
    with pytest.raises(Exception, match="no-trainer"):
        inspect(str(tmp_path / "r.yaml"))


def test_a_converted_row_is_shown_as_it_is_stored_and_as_it_is_read(tmp_path, tiny_model_dir, tiny_chat_rows):
    asked, reply = "What is <b>red</b>?", "It is red. " * 40
    source = write_rows(tmp_path / "alpaca.jsonl", [{"instruction": asked, "output": reply}] * 2)
    data = {"sources": [{"path": source, "format": "alpaca"}]}
    path = write_recipe(tmp_path, "sft", tiny_chat_rows, tiny_model_dir, data=data)
    inspection, _, _ = seen(path, rows=1)
    (row,) = inspection.rows
    stored, read = (shown for _, shown in row.stored)
    assert stored.startswith('{"instruction": "What is <b>red</b>?"') and "characters)" in stored
    assert read.startswith('{"messages": [{"role": "user", "content": "What is <b>red</b>?"}')
    plain = text(inspection, colours=False, width=100)
    assert f"stored:  {stored}" in plain and f"read as: {read}" in plain
    assert "<b>" not in page(inspection) and stored in Reader(page(inspection)).text

"""Rows in, rows out: sources, splits, refusals, packed blocks."""

import json
import os

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer

from lifecycle_recipes.data.config import DataConfig, Source
from lifecycle_recipes.data.packing import BlockCollator, pack_documents, text_measures, token_losses
from lifecycle_recipes.data.provenance import number_rows, take_off
from lifecycle_recipes.data.sources import load_data
from lifecycle_recipes.finding import Refusal

GOOD = b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n'


def config(path, **options) -> DataConfig:
    return DataConfig(sources=[Source(str(path))], **options)


def write_texts(path, texts):
    path.write_text("".join(json.dumps({"text": t}) + "\n" for t in texts), encoding="utf-8")
    return path


BAD_FILES = {
    "empty-file": ("rows.jsonl", b"", "messages", "rows.jsonl", "empty"),
    "blank-file": ("rows.jsonl", b"\n \n", "messages", "rows.jsonl", "empty"),
    "bad-json": ("rows.jsonl", GOOD * 3 + b'{"messages": [\n' + GOOD, "messages", "rows.jsonl:4", "not JSON"),
    "not-an-object": ("rows.jsonl", GOOD + b"[1]\n", "messages", "rows.jsonl:2", "not a JSON object"),
    "not-utf8": ("rows.jsonl", GOOD + GOOD.replace(b"b", b"\xff"), "messages", "rows.jsonl:2", "byte 0xff"),
    "not-utf8-text": ("rows.txt", b"a\nb\xfe\n", "text", "rows.txt:2", "byte 0xfe"),
    "missing-column": ("rows.jsonl", b'{"prompt": "a"}\n', "messages", "rows.jsonl", "it has 'prompt'"),
    "no-messages": ("rows.jsonl", GOOD + b'{"messages": []}\n', "messages", "row 2", "no messages"),
    "null-messages": ("rows.jsonl", GOOD + b'{"messages": null}\n', "messages", "row 2", "no messages"),
    "absent-messages": ("rows.jsonl", GOOD + b'{"kind": "x"}\n', "messages", "row 2", "no messages"),
    "unknown-role": ("rows.jsonl", GOOD + GOOD.replace(b"user", b"usr"), "messages", "row 2", "'usr'"),
    "blank-reply": ("rows.jsonl", GOOD + GOOD.replace(b'"b"', b'" "'), "messages", "row 2", "has no content"),
    "null-reply": ("rows.jsonl", GOOD + GOOD.replace(b'"b"', b"null"), "messages", "row 2", "has no content"),
    "no-assistant": (
        "rows.jsonl",
        GOOD + GOOD.replace(b"assistant", b"user"),
        "messages",
        "row 2",
        "no assist",
    ),
    "text-null": ("rows.jsonl", b'{"text": "a"}\n{"text": null}\n', "text", "row 2", "text is empty"),
    "label-not-bool": ("rows.jsonl", b'{"label": 1}\n', "label", "row 1", "not true or false"),
    "file-type": ("./rows.xlsx", b"text\na\n", "text", "rows.xlsx", ".parquet"),
    "csv-cells": ("rows.csv", b"text,a\na,b,c\n", "text", "rows.csv", "row 1 has another number of cells"),
}


@pytest.mark.parametrize(("name", "content", "column", "where", "message"), BAD_FILES.values(), ids=BAD_FILES)
def test_bad_input_is_refused_with_its_place(tmp_path, name, content, column, where, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(Refusal) as refusal:
        load_data(config(tmp_path / name), [column])
    finding = refusal.value.findings[0]
    assert finding.where.endswith(where) and message in finding.message


def test_missing_file_and_two_eval_splits_are_refused(tmp_path):
    with pytest.raises(Refusal, match="missing-file"):
        load_data(config(tmp_path / "none.jsonl"), ["text"])
    both = config("a.jsonl", eval_fraction=0.1)
    both.eval_sources = [Source("b.jsonl")]
    with pytest.raises(Refusal, match="two-eval-splits"):
        load_data(both, ["text"])


def test_every_row_is_accounted_for(tmp_path):
    path = write_texts(tmp_path / "a.jsonl", [f"text {i}" if i % 10 else " " for i in range(100)])
    data = config(path, eval_fraction=0.2)
    data.sources[0].max_rows = 50
    train, held_out, ledger = load_data(data, ["text"])
    assert ledger["left_out"] == {"empty text": 10, "max_rows": 40}
    assert ledger["rows_in"] == 100 == ledger["rows_out"] + 50
    assert (len(train), len(held_out), ledger["eval_rows"]) == (40, 10, 10)
    assert not set(train["text"]) & set(held_out["text"])


def test_a_file_is_read_again_however_old_it_looks(tmp_path):
    """Upstream's cache would give the first rows: it knows a file by its path and time of change."""
    path = write_texts(tmp_path / "a.jsonl", ["first"])
    before = os.stat(path)
    assert load_data(config(path), ["text"])[0]["text"] == ["first"]
    write_texts(path, ["other"])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert load_data(config(path), ["text"])[0]["text"] == ["other"]


def test_the_split_is_seeded_and_the_fingerprint_follows_content(tmp_path):
    path = write_texts(tmp_path / "a.jsonl", [f"text {i}" for i in range(50)])
    first, again = (load_data(config(path, eval_fraction=0.2), ["text"]) for _ in range(2))
    assert first[1]["text"] == again[1]["text"]
    assert first[2]["fingerprint"] == again[2]["fingerprint"]
    other_seed = load_data(config(path, eval_fraction=0.2, seed=1), ["text"])
    assert other_seed[1]["text"] != first[1]["text"]
    write_texts(path, [f"text {i}!" for i in range(50)])
    assert load_data(config(path, eval_fraction=0.2), ["text"])[2]["fingerprint"] != first[2]["fingerprint"]


def test_a_sample_is_not_the_head_of_the_file(tmp_path):
    path = write_texts(tmp_path / "a.jsonl", [f"text {i}" for i in range(100)])
    data = config(path)
    data.sources[0].max_rows = 10
    train, _, _ = load_data(data, ["text"])
    assert set(train["text"]) != {f"text {i}" for i in range(10)}


def test_sources_are_joined_and_an_optional_column_is_null_where_a_source_lacks_it(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a", "kind": "x", "only": 1}\n')
    (tmp_path / "b.jsonl").write_text('{"text": "b", "kind": "y"}\n')
    data = DataConfig(sources=[Source(str(tmp_path / "a.jsonl")), Source(str(tmp_path / "b.jsonl"))])
    train, _, _ = load_data(data, ["text"], ["kind", "only"])
    one = {"text": "a", "kind": "x", "only": 1}
    assert take_off(train).to_list() == [one, {"text": "b", "kind": "y", "only": None}]


def test_columns_are_read_under_our_names(tmp_path):
    row = {"conversations": json.loads(GOOD)["messages"], "messages": "not these", "tools": "[]"}
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n")
    data = config(tmp_path / "a.jsonl")
    data.sources[0].columns = {"messages": "conversations", "tools": ""}
    train, _, ledger = load_data(data, ["messages"], ["tools"])
    assert take_off(train).to_list() == [{"messages": row["conversations"]}]
    other = {"path": str(tmp_path / "a.jsonl"), "split": "train", "rows": 1, "use": "train"}
    assert ledger["sources"] == [other | {"kept": 1, "characters": 2}]
    mistakes = {
        "missing-column": {"messages": "conversation"},
        "unread-column": {"mesages": "conversations"},
        "column-read-twice": {"messages": "conversations", "tools": "conversations"},
    }
    for code, columns in mistakes.items():
        data.sources[0].columns = columns
        with pytest.raises(Refusal, match=code):
            load_data(data, ["messages"], ["tools"])


def test_rows_with_an_allowed_fault_are_left_out_and_counted(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(GOOD * 2 + GOOD.replace(b'"b"', b'" "') * 3 + GOOD)
    with pytest.raises(Refusal, match="3 rows: 3, 4, 5"):
        load_data(config(path), ["messages"])
    train, _, ledger = load_data(config(path), ["messages"], allow={"empty-reply": "known"})
    assert len(train) == 3 and ledger["left_out"] == {"empty-reply": 3}
    assert (ledger["rows_in"], ledger["sources"][0]["kept"]) == (6, 3)


def test_rows_that_a_sample_leaves_out_are_not_judged(tmp_path):
    path = write_texts(tmp_path / "a.jsonl", [f"text {i}" for i in range(9)] + [None])
    data = config(path)
    data.sources[0].max_rows = 5
    seeds = {}
    for data.seed in range(8):
        try:
            seeds[data.seed] = len(load_data(data, ["text"])[0])
        except Refusal as refusal:
            seeds[data.seed] = refusal.findings[0].where.rpartition(", ")[2]
    assert set(seeds.values()) == {5, "row 10"}


@pytest.fixture(scope="module")
def tokenizer(tiny_tokenizer_dir):
    return AutoTokenizer.from_pretrained(tiny_tokenizer_dir)


def pack(tokenizer, texts, block_size, packing="bfd"):
    rows = number_rows(Dataset.from_dict({"text": texts}), 0)
    return pack_documents(rows, tokenizer, "text", block_size, packing)


@pytest.mark.parametrize("packing", ["bfd", "none"])
def test_every_token_of_every_document_is_predicted_exactly_once(tokenizer, tiny_texts, packing):
    texts = [t * (1 + i % 5) for i, t in enumerate(tiny_texts)]
    packed, counts = pack(tokenizer, texts, 48, packing)
    batch = BlockCollator(tokenizer.pad_token_id, 48)(packed.to_list())
    assert batch["input_ids"].shape == batch["labels"].shape == (counts["blocks"], 48)
    assert "attention_mask" not in batch
    predicted = sorted(batch["labels"][batch["labels"] != -100].tolist())
    eos = tokenizer.eos_token_id
    wanted = [i for ids in tokenizer(texts, add_special_tokens=False)["input_ids"] for i in [*ids, eos]]
    assert predicted == sorted(wanted)
    assert counts["predicted_tokens"] == len(wanted)
    assert counts["bytes"] == sum(len(t.encode()) for t in texts)


def test_eos_is_trained_once_per_document_even_where_it_is_also_the_padding(tokenizer, tiny_texts):
    packed, _ = pack(tokenizer, tiny_texts, 100)
    batch = BlockCollator(tokenizer.eos_token_id, 100)(packed.to_list())
    assert (batch["labels"] == tokenizer.eos_token_id).sum() == len(tiny_texts)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_packed_documents_do_not_see_each_other(tokenizer, tiny_model_dir, tiny_texts, attention):
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir, attn_implementation=attention).eval()
    rows, _ = pack(tokenizer, tiny_texts[:8], 120)
    row = next(r for r in rows.to_list() if len(r["seq_lengths"]) > 1 and len(r["input_ids"]) < 120)
    batch = BlockCollator(tokenizer.pad_token_id, 120)([row])
    start = row["seq_lengths"][0]
    end = start + row["seq_lengths"][1]
    inputs = {"input_ids": batch["input_ids"], "position_ids": batch["position_ids"], "use_cache": False}
    with torch.no_grad():
        alone = model(input_ids=batch["input_ids"][:, start:end]).logits[0]
        packed = model(**inputs).logits[0, start:end]
        leaking = model(**inputs, attention_mask=torch.ones(1, 120)).logits[0, start:end]
    assert (packed - alone).abs().max() < 1e-5
    # The trap that the missing mask avoids; if this fails, the test above proves nothing.
    assert (leaking - alone).abs().max() > 1e-3


def test_bits_per_byte_is_the_exact_sum_over_tokens(tokenizer, tiny_model_dir, tiny_texts):
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir).eval()
    texts = tiny_texts[:5]
    rows, counts = pack(tokenizer, texts, 100)
    batch = BlockCollator(tokenizer.pad_token_id, 100)(rows.to_list())
    with torch.no_grad():
        logits = model(
            input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False
        ).logits
        sums = token_losses(logits, batch["labels"]).numpy()
        nats = tokens = 0
        for text in texts:
            ids = tokenizer.encode(f"<|endoftext|>{text}<|endoftext|>", return_tensors="pt")
            nats += model(input_ids=ids, labels=ids).loss.item() * (ids.shape[1] - 1)
            tokens += ids.shape[1] - 1
    measured = text_measures(counts["bytes"])(type("P", (), {"predictions": sums}))
    assert measured["bits_per_byte"] == pytest.approx(nats / 0.6931471805599453 / counts["bytes"], rel=1e-5)
    assert measured["perplexity"] == pytest.approx(2.718281828459045 ** (nats / tokens), rel=1e-4)

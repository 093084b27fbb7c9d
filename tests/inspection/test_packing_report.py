"""The packing report: rows and tokens of each strategy, from the lengths alone, are those of the real packing."""

import random

import pytest
from datasets import Dataset
from inspected import seen, summary
from preference_runs import write_recipe
from trl import pack_dataset

from lifecycle_recipes.data.packing import pack_documents
from lifecycle_recipes.data.provenance import ROW
from lifecycle_recipes.inspection.packing import joined, of_blocks, of_rows
from lifecycle_recipes.inspection.page import page


def lengths_of(seed: int, count: int, longest: int) -> list[int]:
    random.seed(seed)
    return [min(longest, int(random.lognormvariate(3, 1)) + 1) for _ in range(count)]


@pytest.mark.parametrize(("seed", "limit"), [(0, 16), (1, 64), (2, 100), (3, 1)])
@pytest.mark.parametrize("strategy", ["bfd", "bfd_split", "wrapped"])
def test_rows_and_tokens_are_those_of_upstream(strategy, seed, limit):
    """2,300 rows: upstream packs 1,000 of them at a time."""
    lengths = lengths_of(seed, 2_300, 200)
    packed = pack_dataset(Dataset.from_dict({"input_ids": [[7] * n for n in lengths]}), limit, strategy)
    (found,) = [row for row in of_rows(lengths, limit, 8) if row.name == strategy]
    kept = sum(map(len, packed["input_ids"]))
    assert (found.rows, found.kept, found.cut) == (len(packed), kept, sum(lengths) - kept)
    assert found.filled == pytest.approx(kept / (len(packed) * limit))
    assert (found.cut > 0) == (strategy == "bfd")
    sizes = [len(row) for row in packed["input_ids"]]
    padding = sum(
        max(sizes[i : i + 8]) * len(sizes[i : i + 8]) - sum(sizes[i : i + 8]) for i in range(0, len(sizes), 8)
    )
    assert found.padding == (padding if strategy == "wrapped" else 0)


@pytest.mark.parametrize("packing", ["bfd", "none"])
@pytest.mark.parametrize("block_size", [16, 64])
def test_blocks_are_those_of_the_pretrain_stage(tiny_tokenizer, packing, block_size):
    random.seed(block_size)
    texts = [
        " ".join("red green port".split()[: random.randint(1, 3)] * random.randint(1, 40)) for _ in range(90)
    ]
    rows = Dataset.from_dict({"text": texts, ROW: range(90)})
    packed, counts = pack_documents(rows, tiny_tokenizer, "text", block_size, packing)
    lengths = [len(ids) + 2 for ids in tiny_tokenizer(texts, add_special_tokens=False)["input_ids"]]
    (found,) = [row for row in of_blocks(lengths, block_size) if row.name == packing]
    assert (found.rows, found.kept, found.cut) == (len(packed), sum(lengths), 0)
    assert found.filled == pytest.approx(counts["fill"])
    assert found.padding == len(packed) * block_size - counts["tokens"]
    assert found.split == sum(length > block_size for length in lengths) > 0


def test_no_row_is_ever_better_than_full():
    for row in [*of_rows(lengths_of(5, 500, 90), 32, 4), *of_blocks(lengths_of(5, 500, 90), 32)]:
        assert 0 < row.filled <= 1 and row.padding >= 0 and row.cut >= 0


def test_copies_of_a_repeated_document_are_told_apart():
    assert joined([16, 16, 5], 16, 1) == [35]
    assert joined([16, 5, 16, 5], 16, 1) == [20, 20]
    assert joined([9, 9, 9], 16, 0) == [9, 9, 9]
    assert joined([16, 16], 16, 0) == [32]


def strategies(found: str) -> dict[str, list[str]]:
    """Name -> cells of a line of the report."""
    lines = [line.split("  ") for line in found.splitlines()]
    return {line[0]: [cell.strip() for cell in line[1:] if cell.strip()] for line in lines}


@pytest.fixture(scope="module")
def conversations(tmp_path_factory, tiny_model_dir, tiny_chat_rows):
    folder = tmp_path_factory.mktemp("packed")
    train = {"max_length": 40, "per_device_train_batch_size": 4, "packing": True}
    return write_recipe(folder, "sft", tiny_chat_rows, tiny_model_dir, train=train)


@pytest.mark.parametrize("strategy", ["bfd", "bfd_split"])
def test_inspect_shows_the_strategy_that_the_recipe_uses_as_it_is(conversations, strategy):
    inspection, trainer, notes = seen(conversations, ["--train.packing_strategy", strategy], rows=0)
    found = strategies(summary(inspection)["packing"])
    ours = found[f"{strategy} (this recipe)"]
    tokens = sum(map(len, trainer.train_dataset["input_ids"]))
    assert ours[:3] == [
        f"{len(trainer.train_dataset):,}",
        f"{tokens / len(trainer.train_dataset) / 40:.1%}",
        f"{tokens:,}",
    ]
    assert (ours[3] == "0") == (strategy == "bfd_split")
    # What is kept and what is lost is all of the text, whichever strategy the recipe uses.
    every = {int(row[2].replace(",", "")) + int(row[3].replace(",", "")) for row in list(found.values())[1:]}
    assert len(every) == 1 and len(found) == 5
    assert "<pre>strategy" in page(inspection)


def test_the_same_documents_are_found_whatever_the_strategy_of_the_recipe(conversations):
    flags = [["--train.packing_strategy", name] for name in ("bfd", "bfd_split", "wrapped")]
    flags.append(["--train.packing", "false"])
    found = [strategies(summary(seen(conversations, flag, rows=0)[0])["packing"]) for flag in flags]
    plain = [{name.removesuffix(" (this recipe)"): row for name, row in report.items()} for report in found]
    # Without packing, rows without a supervised token are dropped; here every row has one.
    assert plain[0] == plain[1] and plain[0].keys() == plain[3].keys()
    assert [plain[2][name][2:4] for name in ("bfd", "none")] == [
        plain[0][name][2:4] for name in ("bfd", "none")
    ]


def test_inspect_reports_the_blocks_of_pretraining(tmp_path, tiny_model_dir, tiny_texts):
    rows = [{"text": t} for t in tiny_texts] + [{"text": " ".join(tiny_texts[:9])}] * 2
    path = write_recipe(tmp_path, "pretrain", rows, tiny_model_dir, text={"block_size": 64})
    inspection, trainer, notes = seen(path, rows=0)
    counts, found = notes["data"]["train"], strategies(summary(inspection)["packing"])
    ours = found["bfd (this recipe)"]
    assert ours[:2] == [f"{counts['blocks']:,}", f"{counts['fill']:.1%}"] and ours[3] == "0"
    assert ours[4] == f"{counts['blocks'] * 64 - counts['tokens']:,}" and ours[5] == "2"
    unpacked = seen(path, ["--text.packing", "none"], rows=0)[2]["data"]["train"]
    assert found["none"][0] == f"{unpacked['blocks']:,}"


def test_other_stages_have_no_report(stage_recipe):
    assert "packing" not in summary(seen(stage_recipe("dpo"), rows=0)[0])

"""Every row of a built training set names the line that it comes from, and no trainer sees the number."""

import json
import math
import re

import pytest
import yaml
from cached_rows import STAGES, build
from datasets import Dataset
from preference_runs import COMMON, write_recipe

from lifecycle_recipes.data.prepare import only_data
from lifecycle_recipes.data.provenance import ROW, Origins, line_of_row, places
from lifecycle_recipes.doctor.trainer_level.forward import row_ids
from lifecycle_recipes.finding import Refusal
from lifecycle_recipes.recipe.read import load_recipe
from lifecycle_recipes.recipe.schema import recipe_class
from lifecycle_recipes.record.run import Run

pytestmark = pytest.mark.usefixtures("own_cache")


def row_of(stage: str, number: int, times: int = 1) -> dict:
    """A row whose text says `case N!` throughout."""
    case = " ".join([f"case {number}!"] * times)
    asks, message = [{"role": "user", "content": case}], [{"role": "assistant", "content": case}]
    return {
        "pretrain": {"text": case},
        "sft": {"messages": asks + message},
        "reward": {"prompt": asks, "chosen": message, "rejected": [{**message[0], "content": case + " no"}]},
        "dpo": {"prompt": asks, "chosen": message, "rejected": [{**message[0], "content": case + " no"}]},
        "kto": {"prompt": asks, "completion": message, "label": number % 2 == 0},
        "ppo": {"prompt": asks},
    }[stage]


@pytest.fixture
def sources_of(tmp_path, chat_model, tiny_reward_dir):
    """Writes a recipe on two files: blank lines and a row too long in the first, a sample of the second."""

    def write(stage: str, **sections) -> str:
        lines = [json.dumps(row_of(stage, n, 40 if n == 12 else 1 + n % 4)) for n in range(24)]
        lines[5:5], lines[9] = ["", "  "], lines[2]  # a repeated row, too
        (tmp_path / "first.jsonl").write_text("\n".join(lines) + "\n")
        Dataset.from_list([row_of(stage, 100 + n) for n in range(20)]).to_parquet(tmp_path / "second.parquet")
        sources = [{"path": str(tmp_path / "first.jsonl")}]
        sources += [{"path": str(tmp_path / "second.parquet"), "max_rows": 15}]
        train = {"output_dir": str(tmp_path / "run"), **COMMON, "use_cpu": True}
        train |= {"max_length": 64} if stage not in ("pretrain", "ppo") else {}
        if stage == "ppo":
            train |= {"response_length": 8, "num_mini_batches": 1}
            sections["reward"] = {"model_name_or_path": tiny_reward_dir}
        if stage == "pretrain":
            sections.setdefault("text", {"block_size": 64})
        recipe = {
            "stage": stage,
            "model": {"model_name_or_path": str(chat_model)},
            "data": {"sources": sources, "eval_fraction": 0.2},
            "train": train | sections.pop("train", {}),
        }
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe | sections))
        return str(tmp_path / "recipe.yaml")

    return write


def cases(tokenizer, ids) -> set[int]:
    return {int(n) for n in re.findall(r"case (\d+)!", tokenizer.decode(ids))}


def case_at(place) -> int:
    """The case in the row that a place names, read from the source itself."""
    if place.path.endswith("second.parquet"):
        assert place.unit == "rows"
        row = Dataset.from_parquet(place.path)[place.number - 1]
    else:
        assert place.unit == "lines"
        with open(place.path) as file:
            row = json.loads(file.read().splitlines()[place.number - 1])
    return int(re.search(r"case (\d+)!", json.dumps(row)).group(1))


def pieces(row: dict) -> list[list[int]]:
    ids, starts = row_ids(row), [0]
    for length in row.get("seq_lengths") or [len(ids)]:
        starts.append(starts[-1] + length)
    return [ids[a:b] for a, b in zip(starts, starts[1:], strict=False)]


@pytest.mark.parametrize("stage", STAGES)
def test_every_row_lies_where_it_is_said_to(sources_of, stage):
    path = sources_of(stage)
    for hit in (False, True):
        trainer, run = build(path)
        assert run.notes["data_cache"]["hit"] is hit
        named = []
        for number, row in enumerate(trainer.train_dataset):
            found = run.origins.of(number)
            for piece, place in zip(pieces(row), found, strict=True):
                assert cases(trainer.processing_class, piece) <= {case_at(place)}
            assert {n for piece in pieces(row) for n in cases(trainer.processing_class, piece)}
            named += found
        ledger = run.notes["data"]
        assert len(set(named)) == ledger["rows_out"] - ledger["eval_rows"]
        assert len({place.path for place in named}) == 2


@pytest.mark.parametrize("stage", STAGES)
def test_no_trainer_gets_the_number(sources_of, stage):
    trainer, _ = build(sources_of(stage, train={"remove_unused_columns": False}))
    assert ROW not in trainer.train_dataset.column_names
    assert trainer.eval_dataset is None or ROW not in trainer.eval_dataset.column_names


@pytest.mark.parametrize("strategy", ["bfd", "bfd_split", "wrapped"])
def test_a_packed_row_names_all_that_it_holds(sources_of, strategy):
    train = {"packing": True, "packing_strategy": strategy, "shuffle_dataset": True, "max_length": 48}
    trainer, run = build(sources_of("sft", train=train))
    for number, row in enumerate(trainer.train_dataset):
        found = [case_at(place) for place in run.origins.of(number)]
        if strategy == "wrapped":  # a row begins and ends in the middle of a document
            assert cases(trainer.processing_class, row["input_ids"]) <= set(found)
            continue
        for piece, case in zip(pieces(row), found, strict=True):
            assert cases(trainer.processing_class, piece) <= {case}
    named = {place for row in range(len(trainer.train_dataset)) for place in run.origins.of(row)}
    assert len(named) == 31


def test_documents_that_are_not_packed_name_their_line(sources_of):
    trainer, run = build(sources_of("pretrain", text={"block_size": 64, "packing": "none"}))
    for number, row in enumerate(trainer.train_dataset):
        (place,) = run.origins.of(number)
        assert cases(trainer.processing_class, row["input_ids"]) <= {case_at(place)}


def test_rows_for_the_liger_kernel_keep_their_number(sources_of, tiny_tokenizer, tmp_path):
    """Upstream then drops every column that its model does not read."""
    from lifecycle_recipes.stages.sft import prepare_rows

    recipe = only_data(load_recipe(recipe_class("sft"), [sources_of("sft")]))
    recipe.train.use_liger_kernel = recipe.train.assistant_only_loss = True
    (tmp_path / "steps").mkdir()
    train, _, ledger = prepare_rows(recipe, tiny_tokenizer, tmp_path / "steps")
    assert recipe.train.use_liger_kernel and len(train) == 30
    for row in train:
        place = Origins(None, ledger["sources"]).place(row[ROW])
        assert cases(tiny_tokenizer, row["input_ids"]) == {case_at(place)}


def test_lines_count_blank_ones_and_rows_are_named_where_lines_do_not_tell(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text('\n{"a": 1}\n\n\n{"a": 2}\n{"a": 3}\n \n{"a": 4}')
    line = line_of_row(str(file), 4)
    assert [line(row) for row in range(4)] == [2, 5, 6, 8]
    assert line_of_row(str(file), 5) is None  # the file has changed since
    (tmp_path / "a.txt").write_text("one\n\ntwo\n")
    assert [line_of_row(str(tmp_path / "a.txt"), 3)(row) for row in range(3)] == [1, 2, 3]
    sources = [{"path": str(file), "rows": 5}, {"path": "owner/name", "rows": 9}]
    origins = Origins(Dataset.from_dict({ROW: [[4, 5], [13]]}), sources)
    assert places(origins.of(0)) == f"{file}, row 5 and owner/name, row 1"
    assert places(origins.of(1)) == "owner/name, row 9"


def test_places_of_one_file_stand_together():
    origins = Origins(Dataset.from_dict({ROW: [[7, 2, 7, 3, 11]]}), [{"path": "a", "rows": 10}] * 2)
    assert places(origins.of(0)) == "a, rows 8, 3, 4, 2"
    assert places(origins.of(0), most=2) == "a, rows 8, 3 and 2 more"


@pytest.mark.parametrize("packing", [False, True])
def test_the_rows_of_a_nan_are_named_where_they_lie(tmp_path, tiny_model_dir, tiny_chat_rows, packing):
    from lifecycle_recipes.stages.sft import SFTRecipe, build_trainer
    from lifecycle_recipes.training.train import train_and_save

    train = {"use_cpu": True, "per_device_train_batch_size": 2, "packing": packing, "max_length": 192}
    recipe = load_recipe(
        SFTRecipe, [write_recipe(tmp_path, "sft", tiny_chat_rows, tiny_model_dir, train=train)]
    )
    file = tmp_path / "train.jsonl"
    file.write_text("\n\n" + file.read_text())
    with (
        pytest.raises(Refusal) as refusal,
        Run(recipe.raw) as run,
    ):
        trainer = build_trainer(recipe, run)
        compute = trainer.compute_loss
        trainer.compute_loss = lambda *args, **kwargs: compute(*args, **kwargs) * math.nan
        train_and_save(trainer, recipe, run)
    stopped = json.loads((tmp_path / "run/run.json").read_text())["stopped_at"]
    lines, named = file.read_text().splitlines(), []
    for row, where in zip(stopped["rows"], stopped["places"], strict=True):
        path, numbers = re.fullmatch(r"(.*?)(?::|, lines )([\d, ]+)", where).groups()
        assert path == str(file)
        text = trainer.processing_class.decode(trainer.train_dataset[row]["input_ids"])
        for number in numbers.split(", "):
            assert json.loads(lines[int(number) - 1])["messages"][-1]["content"] in text
            named.append(number)
    assert (len(named) > len(stopped["rows"])) == packing
    message = refusal.value.findings[0].message
    assert f"of the built training set: {file}, lines {', '.join(named[:8])}" in message

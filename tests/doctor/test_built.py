"""Level 3: real trainers on a tiny model, each sound until a fault is put in, which is then named."""

import errno
import re
from pathlib import Path

import pytest
import torch
import yaml
from preference_runs import LORA, write_rows
from transformers import SchedulerType

from lifecycle_recipes.doctor.trainer_level.level import find_in_trainer
from lifecycle_recipes.doctor.trainer_level.loss_mask import find_in_batches
from lifecycle_recipes.doctor.trainer_level.packing_leaks import find_in_packing
from lifecycle_recipes.doctor.trainer_level.step_count import find_in_steps
from lifecycle_recipes.doctor.trainer_level.trial_build import built_trainer, upstream_refusals
from lifecycle_recipes.finding import Refusal
from lifecycle_recipes.stages import kto


def codes(findings) -> list[str]:
    return [finding.code for finding in findings]


def errors(findings) -> list[str]:
    return [finding.code for finding in findings if finding.severity == "error"]


@pytest.fixture
def text_recipe(tmp_path, tiny_model_dir, tiny_texts):
    def write(**sections):
        raw = {
            "stage": "pretrain",
            "model": {"model_name_or_path": str(tiny_model_dir)},
            "text": {"block_size": 128},
            "data": {
                "sources": [{"path": write_rows(tmp_path / "t.jsonl", [{"text": t} for t in tiny_texts])}]
            },
            "train": {
                "output_dir": str(tmp_path / "run"),
                "max_steps": 2,
                "use_cpu": True,
                "report_to": "none",
            },
        }
        for name, values in sections.items():
            raw[name] = {**raw[name], **values}
        path = tmp_path / "pretrain.yaml"
        path.write_text(yaml.safe_dump(raw))
        return str(path)

    return write


# Building


@pytest.mark.parametrize("stage", ["sft", "dpo", "reward", "kto", "ppo"])
def test_a_sound_recipe_builds_gives_no_error_and_leaves_no_trace(
    stage_recipe, stage, tiny_reward_dir, tmp_path
):
    sections = {"reward": {"model_name_or_path": str(tiny_reward_dir)}} if stage == "ppo" else {}
    path = stage_recipe(stage, **sections)
    before = sorted(tmp_path.rglob("*"))
    with built_trainer(path) as (built, trainer, run):
        modes = [m.training for m in trainer.model.modules()]
        state = torch.get_rng_state()
        assert errors(find_in_trainer(trainer, built, run.origins)) == []
        assert torch.equal(state, torch.get_rng_state())
        assert [m.training for m in trainer.model.modules()] == modes
        assert run.notes["data"]["rows_in"] >= 24
        scratch = Path(trainer.args.output_dir)
        assert scratch.is_dir()
    assert not scratch.exists() and sorted(tmp_path.rglob("*")) == before


def test_pretraining_is_sound_too(text_recipe):
    with built_trainer(text_recipe()) as (built, trainer, run):
        assert len(trainer.train_dataset[0]["seq_lengths"]) > 1
        assert errors(find_in_trainer(trainer, built, run.origins)) == []


def test_a_stage_without_a_trainer_says_so(repo_root):
    with (
        pytest.raises(Refusal, match="no-trainer"),
        built_trainer(repo_root / "recipes/desk/02-tokenizer.yaml"),
    ):
        pass


def test_what_upstream_refuses_is_no_traceback(stage_recipe):
    path = stage_recipe("sft", train={"packing": True, "max_length": None})
    with pytest.raises(Refusal, match="trainer-refused.*max_length"), built_trainer(path):
        pass


def test_a_stage_that_upstream_refuses_exits_2_without_a_traceback(stage_recipe, capsys):
    path = stage_recipe("kto", train={"per_device_train_batch_size": 1})
    with pytest.raises(SystemExit) as ended:
        kto.main([str(path)])
    said = capsys.readouterr().err
    assert ended.value.code == 2 and "trainer-refused" in said and "Traceback" not in said


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("no memory"), OSError(errno.ENOSPC, "disk full")])
def test_a_machine_that_fails_is_not_the_recipes_fault(error):
    with pytest.raises(type(error)), upstream_refusals("recipe.yaml"):
        raise error


def test_a_lora_target_that_does_not_exist_is_named_with_those_that_do(stage_recipe):
    path = stage_recipe("sft", model={**LORA, "lora_target_modules": ["q_proj", "v_prj"]})
    with pytest.raises(Refusal) as refusal, built_trainer(path):
        pass
    (finding,) = refusal.value.findings
    assert finding.code == "lora-target-missing" and "'v_prj'" in finding.message
    assert "did you mean v_proj?" in finding.fix and "down_proj" in finding.fix
    assert "[all-linear]" in finding.fix
    assert "norm" not in finding.fix, "PEFT would refuse it"


def test_a_single_lora_target_is_a_name(stage_recipe):
    with built_trainer(stage_recipe("sft", model={**LORA, "lora_target_modules": ["q_proj"]})) as (
        _,
        trainer,
        _,
    ):
        trained = {
            n.split(".lora_")[0].rpartition(".")[2]
            for n, p in trainer.model.named_parameters()
            if p.requires_grad
        }
    assert trained == {"q_proj"}


def test_weights_that_would_be_random_are_refused(stage_recipe, tiny_reward_dir):
    with (
        pytest.raises(Refusal, match="weights-missing.*lm_head"),
        built_trainer(stage_recipe("sft", tiny_reward_dir)),
    ):
        pass


# Steps


def test_no_step_and_too_few_rows(stage_recipe):
    few = {"num_train_epochs": 1, "max_steps": -1, "per_device_train_batch_size": 64}
    with built_trainer(stage_recipe("sft", train=few)) as (_, trainer, _):
        (finding,) = find_in_steps(trainer)
        assert finding.code == "rows-below-batch" and re.findall(r"\d+", finding.message) == ["32", "64"]
        trainer.args.dataloader_drop_last = True
        (finding,) = find_in_steps(trainer)
        assert (finding.code, finding.severity) == ("no-steps", "error") and "drop_last" in finding.fix
        trainer.args.dataloader_drop_last = False
        trainer.args.warmup_steps, trainer.args.lr_scheduler_type = 10, SchedulerType.LINEAR
        assert codes(find_in_steps(trainer)) == ["rows-below-batch", "all-warmup"]
        trainer.args.max_steps, trainer.args.per_device_train_batch_size = 20, 8
        assert find_in_steps(trainer) == []


def test_ppo_with_fewer_prompts_than_a_batch_would_never_start(stage_recipe, tiny_reward_dir):
    train = {"per_device_train_batch_size": 32}
    with built_trainer(
        stage_recipe("ppo", reward={"model_name_or_path": str(tiny_reward_dir)}, train=train)
    ) as (
        _,
        trainer,
        _,
    ):
        (finding,) = find_in_steps(trainer)
    assert finding.code == "no-steps" and "24 prompts" in finding.message


def test_a_frozen_model(stage_recipe):
    with built_trainer(stage_recipe("sft")) as (_, trainer, _):
        trainer.model.requires_grad_(False)
        assert errors(find_in_steps(trainer)) == ["nothing-trainable"]


# Batches


def test_replies_that_the_collator_cuts_away(stage_recipe):
    with built_trainer(stage_recipe("dpo", train={"per_device_train_batch_size": 24})) as (_, trainer, run):
        assert find_in_batches(trainer, run.origins) == []
        lengths = sorted(map(len, trainer.train_dataset["prompt_ids"]))
        trainer.data_collator.max_length = lengths[-1]  # the longest prompts leave no room
        (finding,) = find_in_batches(trainer, run.origins)
        assert finding.code == "rows-without-loss" and finding.severity == "warning"
        trainer.data_collator.max_length = lengths[0] - 1
        (finding,) = find_in_batches(trainer, run.origins)
        assert finding.code == "zero-label-batch" and "train.jsonl, lines " in finding.message
        assert finding.message.endswith("and 19 more): its loss is 0")
        (finding,) = find_in_batches(trainer, None)  # a trainer that no stage has built
        assert "rows 0, 1, 2, 3, 4 and 19 more of the built set" in finding.message


def test_a_collator_that_masks_the_end(text_recipe):
    from transformers import DataCollatorForLanguageModeling

    with built_trainer(text_recipe(text={"block_size": 128, "packing": "none"})) as (_, trainer, _):
        assert find_in_batches(trainer, None) == []
        tokenizer = trainer.processing_class
        tokenizer.pad_token = tokenizer.eos_token  # as upstream's own scripts do
        trainer.data_collator = DataCollatorForLanguageModeling(tokenizer, mlm=False)
        trainer.train_dataset = trainer.train_dataset.remove_columns("seq_lengths")
        (finding,) = find_in_batches(trainer, None)
    assert finding.code == "eos-masked" and "also the pad token" in finding.message


def test_a_bos_that_stands_twice(stage_recipe):
    with built_trainer(stage_recipe("sft")) as (_, trainer, _):
        tokenizer = trainer.processing_class
        tokenizer.add_special_tokens({"bos_token": "<|system|>"})
        bos = tokenizer.bos_token_id

        def twice(row):
            return {"input_ids": [bos, bos, *row["input_ids"]], "labels": [-100, -100, *row["labels"]]}

        columns = ["input_ids", "labels"]
        trainer.train_dataset = trainer.train_dataset.select_columns(columns).map(twice)
        assert errors(find_in_batches(trainer, None)) == ["double-bos"]


@pytest.mark.parametrize("stage", ["sft", "dpo", "reward", "kto"])
def test_a_row_beyond_the_positions_is_found_in_every_row(stage_recipe, rows_of_stage, stage):
    """Level 2 reads a sample of a large set; upstream ends in an index error, or trains on untrained positions."""
    rows = [dict(row) for row in rows_of_stage[stage]]
    if stage == "kto":
        rows = [row | {"label": bool(i % 2)} for i, row in enumerate(rows)]
    column = {"sft": "messages", "kto": "completion"}.get(stage, "rejected")
    *before, last = rows[-1][column]
    rows[-1] = rows[-1] | {column: [*before, last | {"content": "Red, or so. " * 80}]}
    path = stage_recipe(stage, data=rows, train={"max_length": None})
    with built_trainer(path) as (built, trainer, run):
        (finding,) = find_in_trainer(trainer, built, run.origins)
    assert finding.code == "block-too-long" and f"train.jsonl:{len(rows)}" in finding.message


# Packing

PACKED = {"packing": True, "max_length": 128, "max_steps": -1, "num_train_epochs": 1}


def test_a_packed_row_is_found_behind_many_full_ones():
    """Best-fit packing puts the rows that one text fills first."""
    from datasets import Dataset

    from lifecycle_recipes.doctor.trainer_level.packing_leaks import two_documents

    rows = [{"input_ids": [1, 2, 3, 4], "seq_lengths": [4]}] * 12_000
    assert two_documents(Dataset.from_list(rows), False) is None
    packed = {"input_ids": [5, 6, 7, 8], "seq_lengths": [1, 3]}
    found = two_documents(Dataset.from_list([*rows, packed]), False)
    assert found == ([{"input_ids": [5, 6, 7, 8], "seq_lengths": [1, 3]}], 1, 3)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_packed_documents_are_apart_and_a_mask_of_ones_is_found_out(stage_recipe, attention):
    path = stage_recipe("sft", model={"attn_implementation": attention}, train=PACKED)
    with built_trainer(path) as (_, trainer, _):
        assert find_in_packing(trainer) == []
        collate = trainer.data_collator

        def with_mask(rows):
            batch = collate(rows)
            return batch | {"attention_mask": torch.ones_like(batch["input_ids"])}

        trainer.data_collator = with_mask
        assert errors(find_in_packing(trainer)) == ["packing-leaks"]


def test_blocks_that_leak_are_found_out(text_recipe):
    with built_trainer(text_recipe()) as (_, trainer, _):
        assert find_in_packing(trainer) == []
        collate = trainer.data_collator
        trainer.data_collator = lambda rows: {k: v for k, v in collate(rows).items() if k != "position_ids"}
        assert errors(find_in_packing(trainer)) == ["packing-leaks"]


def test_packing_that_cuts_and_packing_into_one_row(stage_recipe):
    with built_trainer(stage_recipe("sft", train=PACKED | {"max_length": 40})) as (_, trainer, _):
        (finding,) = find_in_packing(trainer)
        assert finding.code == "packing-discards" and "of 32 texts" in finding.message
    with built_trainer(
        stage_recipe("sft", train=PACKED | {"max_length": 40, "packing_strategy": "bfd_split"})
    ) as (
        _,
        t,
        _,
    ):
        assert find_in_packing(t) == []
    with built_trainer(stage_recipe("sft", train=PACKED | {"max_length": 4096})) as (_, trainer, _):
        (finding,) = find_in_steps(trainer)
    assert finding.code == "one-packed-row" and "all 32 documents" in finding.message

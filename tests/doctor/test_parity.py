"""The chat template of a run: the same one in training, beside its weights and in the stages after it."""

import json
import shutil

import pytest
from repository import ROOT


class TestParity:
    def test_a_sound_run(self, chat_model):
        from lifecycle_recipes.doctor.row_level.template_report import parity

        text, findings = parity(str(chat_model))
        assert findings == []
        assert [line[:4] for line in text.splitlines() if "generation_config.eos_token_id" in line] == [
            "ok  "
        ]
        assert "FAIL" not in text

    def test_a_run_that_would_not_stop(self, chat_model):
        from lifecycle_recipes.doctor.row_level.template_report import parity

        (chat_model / "generation_config.json").write_text(json.dumps({"eos_token_id": 1}))
        text, findings = parity(str(chat_model))
        assert [finding.code for finding in findings] == ["stop-token-missing"]
        assert "<|im_end|>" in findings[0].message
        assert "FAIL  the end-of-turn token is in" in text

    def test_another_template_in_training(self, chat_model):
        from lifecycle_recipes.doctor.row_level.template_report import parity

        _, findings = parity(str(chat_model), str(ROOT / "chat_templates/llama3.jinja"))
        assert {finding.code for finding in findings} >= {"template-differs", "control-token-split"}

    def test_a_template_that_was_changed_after_the_run(self, chat_model):
        from lifecycle_recipes.doctor.row_level.template_report import parity

        record = {"stage": "sft", "status": "done", "template_sha256": "0" * 64, "metrics": {}, "schema": 1}
        (chat_model / "run.json").write_text(json.dumps(record))
        _, findings = parity(str(chat_model))
        assert [finding.code for finding in findings] == ["template-changed"]

    def test_no_template_is_refused(self, chat_model):
        from lifecycle_recipes.doctor.row_level.template_report import parity
        from lifecycle_recipes.finding import Refusal

        (chat_model / "chat_template.jinja").unlink()
        with pytest.raises(Refusal) as refusal:
            parity(str(chat_model))
        assert refusal.value.findings[0].code == "no-chat-template"

    def test_the_command(self, chat_model, capsys):
        from lifecycle_recipes.cli import main

        with pytest.raises(SystemExit) as end:
            main(["template", str(chat_model)])
        assert end.value.code == 0
        assert "at most one bos token" in capsys.readouterr().out
        (chat_model / "generation_config.json").write_text(json.dumps({"eos_token_id": 1}))
        with pytest.raises(SystemExit) as end:
            main(["template", str(chat_model)])
        assert end.value.code == 2
        assert "[stop-token-missing]" in capsys.readouterr().err


class TestTravels:
    """A template named in the recipe of a base model's first chat stage is what all later ones find."""

    @pytest.fixture
    def base(self, tmp_path, tiny_model_dir):
        """The tiny model as a base: its tokenizer has the tokens, like Llama 3's, but no template."""
        shutil.copytree(tiny_model_dir, tmp_path / "base")
        (tmp_path / "base/chat_template.jinja").unlink()
        config = tmp_path / "base/tokenizer_config.json"
        values = json.loads(config.read_text())
        del values["extra_special_tokens"]  # only tokenizer.json says that they are special
        config.write_text(json.dumps(values))
        return tmp_path / "base"

    @pytest.fixture
    def options(self, tmp_path):
        named = {"chat_template_path": str(ROOT / "chat_templates/chatml.jinja"), "max_steps": 1}
        quiet = {"use_cpu": True, "bf16": False, "report_to": "none", "save_strategy": "no"}
        return named | quiet | {"output_dir": str(tmp_path / "run"), "disable_tqdm": True}

    def test_through_sft(self, base, options, tmp_path, tiny_chat_rows):
        from fake_runs import with_raw
        from transformers import AutoTokenizer, GenerationConfig
        from trl import ModelConfig, SFTConfig

        from lifecycle_recipes.data.config import DataConfig, Source
        from lifecycle_recipes.doctor.row_level.template_report import parity
        from lifecycle_recipes.record.parents import hash_file
        from lifecycle_recipes.record.run import Run, read_record
        from lifecycle_recipes.stages.sft import SFTRecipe, build_trainer
        from lifecycle_recipes.training.train import train_and_save

        rows = tmp_path / "rows.jsonl"
        rows.write_text("".join(json.dumps(row) + "\n" for row in tiny_chat_rows))
        model, train = ModelConfig(model_name_or_path=str(base)), SFTConfig(**options)
        recipe = SFTRecipe(model=model, data=DataConfig([Source(str(rows))]), train=train)
        with Run(with_raw(recipe, "sft").raw) as run:
            train_and_save(build_trainer(recipe, run), recipe, run)
        saved = AutoTokenizer.from_pretrained(train.output_dir)
        assert saved.chat_template == (ROOT / "chat_templates/chatml.jinja").read_text(encoding="utf-8")
        assert saved.eos_token == "<|im_end|>"
        assert saved.eos_token_id in GenerationConfig.from_pretrained(train.output_dir).eos_token_id
        template = tmp_path / "run/chat_template.jinja"
        assert read_record(train.output_dir)["template_sha256"] == hash_file(template)
        assert parity(train.output_dir)[1] == []

    def test_through_reward(self, base, options, tmp_path, tiny_chat_rows):
        from fake_runs import with_raw
        from trl import ModelConfig, RewardConfig

        from lifecycle_recipes.data.config import DataConfig, Source
        from lifecycle_recipes.record.run import Run
        from lifecycle_recipes.stages.reward import RewardRecipe, build_trainer

        rows = tmp_path / "pairs.jsonl"
        pairs = [
            {
                "chosen": row["messages"],
                "rejected": [*row["messages"][:-1], {"role": "assistant", "content": f"N{i}"}],
            }
            for i, row in enumerate(tiny_chat_rows)
        ]
        rows.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
        model, train = ModelConfig(model_name_or_path=str(base)), RewardConfig(**options)
        recipe = RewardRecipe(model=model, data=DataConfig([Source(str(rows))]), train=train)
        with Run(with_raw(recipe, "reward").raw) as run:
            trainer = build_trainer(recipe, run)
        tokenizer = trainer.processing_class
        assert tokenizer.decode(trainer.train_dataset[0]["chosen_ids"]).endswith("<|im_end|>")

"""Upstream's private names that src/ relies on, by name and signature: what a new version has to be held against."""

import dataclasses
import importlib
import inspect
import re

import pytest
from repository import ROOT

from lifecycle_recipes.models.config_keys import config_classes, config_defaults

# module, name, parameters without self -> what it is used for.
CALLED = {
    "trl.trainer.sft_trainer:SFTTrainer._prepare_dataset": (
        "dataset processing_class args packing formatting_func dataset_name",
        "rows come from the cache; inspection tokenises the source rows",
    ),
    "trl.trainer.dpo_trainer:DPOTrainer._prepare_dataset": (
        "dataset processing_class args dataset_name",
        "as for SFT",
    ),
    "trl.trainer.kto_trainer:KTOTrainer._prepare_dataset": (
        "dataset processing_class args dataset_name",
        "as for SFT",
    ),
    "trl.trainer.reward_trainer:RewardTrainer._prepare_dataset": (
        "dataset processing_class args dataset_name",
        "as for SFT",
    ),
    "trl.trainer.kto_trainer:KTOTrainer._compute_kl_logps": (
        "model batch",
        "the KL of a whole batch, however it is split",
    ),
    "transformers.cli.serving.chat_completion:ChatCompletionHandler._streaming": (
        "request_id model processor model_id inputs gen_config gen_manager tools",
        "lifecycle serve: a reply to a prompt that we rendered",
    ),
    "transformers.cli.serving.chat_completion:ChatCompletionHandler._non_streaming": (
        "request_id model processor model_id inputs gen_config gen_manager tools",
        "as above",
    ),
    "transformers.cli.serving.completion:CompletionHandler._streaming": (
        "request_id model processor model_id inputs gen_config gen_manager suffix",
        "as above",
    ),
    "transformers.cli.serving.completion:CompletionHandler._non_streaming": (
        "request_id model processor model_id inputs gen_config gen_manager suffix",
        "as above",
    ),
    "transformers.cli.serving.utils:BaseHandler._resolve_model": ("body", "the name of the one model"),
    "transformers.cli.serving.utils:GenerationState.get_manager": (
        "model_id use_cb",
        "the batch of a request",
    ),
    "transformers.cli.serving.utils:CBGenerateManager.init_cb": (
        "model gen_config",
        "continuous batching with the model's own settings, before a request",
    ),
    "transformers:GenerationMixin._get_logits_processor": (
        "generation_config input_ids_seq_length encoder_input_ids prefix_allowed_tokens_fn logits_processor "
        "device model_kwargs negative_prompt_ids negative_prompt_attention_mask",
        "the settings that continuous batching would leave out",
    ),
    "transformers:Trainer._get_grad_norm": ("model grad_norm", "the norm of each step, logged or not"),
    "transformers:Trainer._get_num_items_in_batch": ("batch_samples device", "tokens of a step"),
    "transformers:Trainer._prepare_inputs": ("inputs", "a batch on the trainer's device"),
    "transformers:Trainer._remove_unused_columns": ("dataset description", "what the collator receives"),
    "transformers:Trainer._set_signature_columns_if_needed": ("", "columns that reach the model"),
    "transformers:Trainer._run_epoch": (
        "model epoch train_dataloader steps_in_epoch num_update_steps_per_epoch trial ignore_keys_for_eval "
        "start_time resume_from_checkpoint epochs_trained steps_trained_in_current_epoch",
        "no step beyond the last one",
    ),
    "transformers:Trainer._finalize_training": (
        "trial num_train_samples start_time",
        "train_loss of the whole run, not of the steps since a resume",
    ),
    "transformers:Trainer._save_checkpoint": (
        "model trial",
        "old checkpoints go after the new one is complete",
    ),
    "transformers:Trainer._load_from_checkpoint": (
        "resume_from_checkpoint model",
        "a checkpoint is loaded in the dtypes that are trained",
    ),
    "transformers:Trainer._load_rng_state": (
        "checkpoint",
        "the random state of a checkpoint of the last step",
    ),
    "transformers:Trainer._wrap_model": ("model training dataloader", "KL before the first step"),
    "deepspeed.runtime.engine:DeepSpeedEngine._get_ckpt_name": (
        "checkpoints_path tag mp_placeholder pp_placeholder",
        "files that a whole checkpoint has",
    ),
    "deepspeed.runtime.engine:DeepSpeedEngine._get_zero_ckpt_name": (
        "checkpoints_path tag",
        "files that a whole checkpoint has",
    ),
    "torch.distributed.distributed_c10d:_get_default_store": ("", "ranks wait outside the process group"),
    "lm_eval.models.huggingface:HFLM._loglikelihood_tokens": (
        "requests disable_tqdm override_bs",
        "no progress bar",
    ),
    "lm_eval.tasks._yaml_loader:load_yaml": (
        "path resolve_func recursive _seen",
        "task files as lm-eval reads",
    ),
    "evaluate:Metric._info": ("", "our metrics describe themselves"),
    "evaluate:Metric._compute": ("predictions references kwargs", "our metrics"),
}
# module:text that its source has -> what it is used for.
SET = {
    "transformers.cli.serving.utils:self._cb = model.init_continuous_batching": "lifecycle serve: what it batches",
    "transformers.trainer:self._signature_columns = ": "columns that reach the model",
    "transformers.trainer:self._tr_loss = ": "the loss before it is logged",
    "transformers.trainer:self._total_loss_scalar = ": "train_loss of a resumed run",
    "transformers.trainer:self._globalstep_last_logged = ": "the first logged loss of a resumed run",
    "transformers.trainer:self._initial_global_step = ": "train_loss of a resumed run",
    "trl.trainer.sft_trainer:self._total_train_tokens = ": "tokens in the log of a resumed run",
    "transformers.training_args:self._n_gpu = ": "a trial build on one device",
    "transformers.modeling_utils:_keys_to_ignore_on_save": "tensors that a save leaves out",
    "transformers.configuration_utils:def _attn_implementation(": "whether rows in a block see each other",
    "transformers.integrations.deepspeed:_hf_deepspeed_config_weak_ref = ": "loading outside of ZeRO-3's init",
    "trl.trainer.sft_trainer:self._metrics = {": "metrics of an evaluation",
    "trl.trainer.dpo_trainer:self._metrics = {": "metrics of an evaluation",
    "trl.trainer.kto_trainer:self._metrics = {": "metrics of an evaluation",
    "trl.trainer.reward_trainer:self._metrics = {": "metrics of an evaluation",
    "accelerate.accelerator:self._models = ": "whether a model was prepared",
    "accelerate.data_loader:self._drop_last = ": "the last, short batch counts once",
    "deepspeed.runtime.engine:self._config = ": "whole weights are gathered for a save",
    "datasets.arrow_dataset:self._fingerprint": "Hub rows in the cache's key",
    "torch.utils._pytree:is an Enum subclass": "a warning of its logger that is hidden",
    "tqdm.std:_instances = ": "progress bars are closed before an error is shown",
    "accelerate.commands.launch:def simple_launcher(args)": "the stage in place of a child process",
}


@pytest.mark.model
@pytest.mark.parametrize("name", CALLED)
def test_what_is_called_has_its_signature(name):
    module, _, path = name.partition(":")
    found = importlib.import_module(module)
    for part in path.split("."):
        found = getattr(found, part)
    assert [p for p in inspect.signature(found).parameters if p != "self"] == CALLED[name][0].split()


@pytest.mark.model
@pytest.mark.parametrize("name", SET)
def test_what_is_read_or_set_is_there(name):
    module, _, text = name.partition(":")
    assert text in inspect.getsource(importlib.import_module(module))


@pytest.mark.model
@pytest.mark.parametrize(
    "kind", "llama qwen3 mistral mixtral gemma3_text gpt2 gpt-sw3 opt mamba deepseek_v3 layoutlm".split()
)
def test_the_keys_of_a_config_class_are_read_from_its_source(kind):
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    fields = [f for f in dataclasses.fields(CONFIG_MAPPING[kind]) if f.init]
    found = config_defaults(kind)
    assert found.keys() == {f.name for f in fields}
    assert {k: v for k, v in found.items() if v is not None}.items() <= {
        (f.name, f.default) for f in fields if isinstance(f.default, int | float | str)
    }
    assert set(config_classes()) == set(CONFIG_MAPPING)


def test_the_tables_are_complete():
    """Every private name that src/ reads from something other than self, cls and super()."""
    used = set()
    for file in (ROOT / "src").rglob("*.py"):
        for line in file.read_text().splitlines():
            code = line.partition("  # ")[0]
            if not code.lstrip().startswith("#"):
                used |= set(re.findall(r"(?<!self)(?<!cls)\.(_[a-z]\w*)", code))
    known = set(re.findall(r"\b_[a-z]\w*", " ".join([*CALLED, *SET])))
    assert used - known == {"_exit", "_functions"}  # of os, and documented; the name of a logger

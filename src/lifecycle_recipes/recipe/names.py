"""Keys that a recipe may get wrong: renamed ones, removed ones, other tools', and those without an effect.

The tables contain only what cannot be read from the upstream dataclasses (schema.py reads the rest). They are
checked against the installed versions in tests/recipe/test_recipe_schema.py. No torch.
"""

# Old upstream name -> today's. Sources: transformers 5 MIGRATION_GUIDE_V5.md and training_args.py, TRL's
# release notes 0.8 to 1.0. `gradient_checkpointing` still works in transformers 5.24 and warns.
RENAMED = {
    "activation_checkpoint": "activation_checkpointing",
    "evaluation_strategy": "eval_strategy",
    "gradient_checkpointing": "activation_checkpointing",
    "gradient_checkpointing_kwargs": "activation_checkpointing_kwargs",
    "max_seq_length": "max_length",
    "no_cuda": "use_cpu",
    "per_gpu_eval_batch_size": "per_device_eval_batch_size",
    "per_gpu_train_batch_size": "per_device_train_batch_size",
    "push_to_hub_model_id": "hub_model_id",
    "torch_dtype": "dtype",
    "use_liger": "use_liger_kernel",
    "xpu_backend": "ddp_backend",
    # axolotl, LLaMA-Factory and unsloth
    "base_model": "model_name_or_path",
    "cutoff_len": "max_length",
    "enable_liger_kernel": "use_liger_kernel",
    "epochs": "num_train_epochs",
    "gradient_clipping": "max_grad_norm",
    "lora_rank": "lora_r",
    "lr_scheduler": "lr_scheduler_type",
    "max_seq_len": "max_length",
    "model_name": "model_name_or_path",
    "num_epochs": "num_train_epochs",
    "optimizer": "optim",
    "sample_packing": "packing",
    "sequence_len": "max_length",
    "target_modules": "lora_target_modules",
    "use_gradient_checkpointing": "activation_checkpointing",
}

# Removed upstream: key -> what to do instead (one clause, after "was removed:").
REMOVED = {
    "adafactor": "write `optim: adafactor`",
    "dataset_batch_size": "remove it",
    "fp16_backend": "write `bf16: true` or `fp16: true`",
    "generate_during_eval": "list `evaluate.prompts` to see replies",
    "group_by_length": "write `train_sampling_strategy: group_by_length`",
    "half_precision_backend": "write `bf16: true` or `fp16: true`",
    "include_inputs_for_metrics": "write `include_for_metrics: [inputs]`",
    "jit_mode_eval": "remove it",
    "logging_dir": "set the environment variable TENSORBOARD_LOGGING_DIR",
    "max_completion_length": "`max_length` covers prompt and completion",
    "max_prompt_length": "`max_length` covers prompt and completion",
    "max_target_length": "`max_length` covers prompt and completion",
    "num_of_sequences": "remove it",
    "overwrite_output_dir": "start the stage with --replace, which renames the old directory",
    "processing_class": "the tokenizer saved with the model is used",
    "ref_model_init_kwargs": "the reference model is loaded with the settings of the model section",
    "reference_free": "remove it",
    "rpo_alpha": "write `loss_type: [sigmoid, sft]` with `loss_weights: [1.0, alpha]`",
    "save_safetensors": "remove it: safetensors is the only format",
    "tokenizer_name_or_path": "the tokenizer saved with the model is used",
    "tpu_num_cores": "remove it",
    "use_mps_device": "remove it: the device is chosen from the hardware",
    "warmup_ratio": "write `warmup_steps` with the fraction (0.1 is a tenth of all steps)",
}

# What users of axolotl, LLaMA-Factory, unsloth, the alignment-handbook and TRL's scripts write: key -> what
# to write here, or why there is no such key (one clause, after "is not a key here:").
_BATCH = "write `train.per_device_train_batch_size`"
_HELD_OUT = "write `data.eval_fraction`, or list files in `data.eval_sources`"
_SOURCES = "list the files or ids in `data.sources`"
_STOPPING = "write `early_stopping: {patience: 3}` at the top level of the recipe"
_ATTENTION = "write `model.attn_implementation: flash_attention_2`"
_TEMPLATE = "the template saved with the model is used; write `train.chat_template_path` to set another"
_MASK = "SFT trains on what the chat template marks with `{% generation %}`"
_CACHE = "prepared rows are cached by their content; LIFECYCLE_CACHE sets the directory"
_LAYOUT = "processes and sharding belong to the layout: --layout, --processes"
_SPEED = "models are loaded with transformers; write `train.use_liger_kernel: true` for fused kernels"
_WANDB = (
    "set the environment variable of wandb (WANDB_PROJECT, WANDB_ENTITY); a run is named by `train.run_name`"
)
_WHOLE = "sources are read whole and tokenised once"
_SHAPE = "map columns in `data.sources[].columns`"
OTHER_TOOLS = {
    "adapter": "write `model.use_peft: true` for LoRA, for QLoRA also `model.load_in_4bit: true`",
    "adapter_name_or_path": "`model.model_name_or_path` may be the directory of an adapter",
    "additional_target": "write `model.lora_modules_to_save`",
    "batch_size": _BATCH,
    "chat_template": _TEMPLATE,
    "compute_dtype": "write `model.dtype`, and `train.bf16` or `train.fp16`",
    "data_files": "write one source per file, with its `path`",
    "dataset": _SOURCES,
    "dataset_config": "write `data.sources[].name`",
    "dataset_configs": "write `data.sources[].name`",
    "dataset_dir": _SOURCES,
    "dataset_mixer": "list the files or ids in `data.sources`, each with a `weight`",
    "dataset_mixture": _SOURCES,
    "dataset_name": _SOURCES,
    "dataset_prepared_path": _CACHE,
    "dataset_split": "write `data.sources[].split`",
    "dataset_splits": "write `data.sources[].split`",
    "dataset_streaming": _WHOLE,
    "dataset_test_split": _HELD_OUT,
    "dataset_train_split": "write `data.sources[].split`",
    "datasets": _SOURCES,
    "dpo_beta": "write `train.beta`",
    "ds_type": "the type of a file is that of its name",
    "early_stopping_patience": _STOPPING,
    "early_stopping_threshold": _STOPPING,
    "eval_batch_size": "write `train.per_device_eval_batch_size`",
    "eval_dataset": "list it in `data.eval_sources`",
    "eval_sample_packing": "write `train.eval_packing`",
    "evals_per_epoch": "write `train.eval_steps`; below 1 it is a fraction of all steps",
    "field_messages": _SHAPE,
    "file_name": "write `path`",
    "finetuning_type": "write `model.use_peft: true` for LoRA; without it every weight is trained",
    "flash_attention": _ATTENTION,
    "flash_attn": _ATTENTION,
    "flash_attn_2": _ATTENTION,
    "full_finetuning": "every weight is trained unless `model.use_peft` is true",
    "grad_accum": "write `train.gradient_accumulation_steps`, or `global_batch_size`",
    "hf_hub_url": "write `path`",
    "interleave_probs": "write `data.sources[].weight`: shares of the tokens",
    "kto_chosen_weight": "write `train.desirable_weight`",
    "kto_rejected_weight": "write `train.undesirable_weight`",
    "lora_target": "write `model.lora_target_modules` with a list of names; `all` is `[all-linear]`",
    "lora_target_linear": "leave `model.lora_target_modules` out: every linear layer is then a target",
    "lr": "write `train.learning_rate`",
    "mask_history": _MASK,
    "max_samples": "write `data.sources[].max_rows`",
    "message_property_mappings": _SHAPE,
    "micro_batch_size": _BATCH,
    "mix_strategy": "write `data.sources[].weight`: shares of the tokens",
    "neat_packing": "write `train.packing: true`: packed rows do not attend to each other",
    "num_samples": "write `max_rows`",
    "overwrite_cache": _CACHE,
    "pad_to_sequence_len": "batches are padded to their longest row; `train.packing: true` fills them",
    "plot_loss": "write `train.report_to: [tensorboard]`",
    "pref_beta": "write `train.beta`",
    "pref_loss": "write `train.loss_type`",
    "preprocessing_num_workers": "write `train.dataset_num_proc`",
    "quantization_bit": "write `model.load_in_4bit: true`, or load_in_8bit",
    "random_state": "write `train.seed`",
    "rl": "write `stage: dpo`, `kto` or `ppo`",
    "roles_to_train": _MASK,
    "rope_scaling": "set it in the model's config.json, or in `architecture.config` of a new model",
    "saves_per_epoch": "write `train.save_steps`; below 1 it is a fraction of all steps",
    "sequence_parallel_degree": _LAYOUT,
    "streaming": _WHOLE,
    "subset": "write `name`",
    "template": _TEMPLATE,
    "tensor_parallel_size": _LAYOUT,
    "test_datasets": "list them in `data.eval_sources`",
    "text_column": "write `text.column` for pretraining, or `columns` of a source",
    "train_batch_size": _BATCH,
    "train_on_eos": _MASK,
    "train_on_inputs": _MASK,
    "train_on_responses_only": _MASK,
    "type": "name the shape of the rows with `format`",
    "unfrozen_parameters": "every weight is trained, or with `model.use_peft` an adapter",
    "unsloth": _SPEED,
    "use_unsloth": _SPEED,
    "val_set_size": _HELD_OUT,
    "val_size": _HELD_OUT,
    "wandb_entity": _WANDB,
    "wandb_name": _WANDB,
    "wandb_project": _WANDB,
    "world_size": _LAYOUT,
}

# (stage or "*", section, key) of upstream dataclasses that have no effect in a stage here, so that they are
# rejected. Sources: help texts of training_args.py ("Not directly used by Trainer"), ppo_trainer.py lines
# 459-480 (computed fields are overwritten), design: the topology is configured only in the layout.
_ONLY_EXAMPLE_SCRIPTS = "the Trainer never reads it"
_COMPUTED = "PPO computes it from per_device_train_batch_size, gradient_accumulation_steps and the layout"
# fmt: off
NO_EFFECT = {
    ("*", "train", "do_train"): f"{_ONLY_EXAMPLE_SCRIPTS}; remove it",
    ("*", "train", "do_eval"):
        f"{_ONLY_EXAMPLE_SCRIPTS}; write `eval_strategy: steps` or `eval_strategy: epoch`",
    ("*", "train", "do_predict"): f"{_ONLY_EXAMPLE_SCRIPTS}; use the `evaluate` section",
    ("*", "train", "resume_from_checkpoint"):
        "run the same command again: an unfinished run resumes from its last checkpoint",
    ("*", "train", "local_rank"): "the launcher sets it",
    ("*", "train", "parallelism_config"): "the layout belongs in accelerate_configs/",
    ("sft", "train", "dataset_text_field"): "SFT reads `messages`; to train on plain text, use the pretrain stage",
    ("sft", "train", "completion_only_loss"): "SFT always trains on the assistant's tokens only; remove it",
    ("ppo", "train", "sft_model_path"): "write `model.model_name_or_path`",
    ("ppo", "train", "reward_model_path"): "write `reward.model_name_or_path`",
    ("ppo", "train", "world_size"): _COMPUTED,
    ("ppo", "train", "num_total_batches"): _COMPUTED,
    ("ppo", "train", "micro_batch_size"): _COMPUTED,
    ("ppo", "train", "local_batch_size"): _COMPUTED,
    ("ppo", "train", "batch_size"): _COMPUTED,
    ("ppo", "train", "local_mini_batch_size"): _COMPUTED,
    ("ppo", "train", "mini_batch_size"): _COMPUTED,
    ("*", "evaluate", "output_dir"):
        "only the evaluate stage has this key; other stages write to `train.output_dir`",
}
# fmt: on


def has_no_effect(stage: str, section: str, key: str) -> str | None:
    """Why `key` has no effect in that section of that stage; None if it has one."""
    if (stage, section) == ("evaluate", "evaluate"):
        return None
    return NO_EFFECT.get((stage, section, key)) or NO_EFFECT.get(("*", section, key))


# Keys that must be written although upstream has a default: `output_dir` would become `trainer_output`,
# and a model config without a model cannot start. By (stage, section); "*" is any.
REQUIRED = {
    ("*", "train"): ["output_dir"],
    ("*", "model"): ["model_name_or_path"],
    ("*", "reward"): ["model_name_or_path"],
    ("*", "value"): ["model_name_or_path"],
    ("evaluate", "evaluate"): ["output_dir"],
}


def required_keys(stage: str, section: str) -> list[str]:
    """Keys of that section that must be given although the dataclass has a default."""
    return REQUIRED.get(("*", section), []) + REQUIRED.get((stage, section), [])


# Choices that upstream checks only during training, by (dataclass, field) of the class that declares them.
# fmt: off
CHOICES = {
    ("*", "report_to"): [  # integration_utils.py, INTEGRATION_TO_CALLBACK; all, none: training_args.py
        "all", "none", "azure_ml", "clearml", "codecarbon", "comet_ml", "dagshub", "dvclive", "flyte",
        "kubeflow", "mlflow", "neptune", "swanlab", "tensorboard", "trackio", "wandb",
    ],
    ("*", "include_num_input_tokens_seen"): ["all", "non_padding", "no"],  # training_args.py, help
    ("*", "include_for_metrics"): ["inputs", "loss"],  # training_args.py, help
    ("*", "debug"): ["", "underflow_overflow", "tpu_metrics_debug"],  # debug_utils.py, DebugOption
    ("SFTConfig", "loss_type"): ["nll", "dft", "chunked_nll"],  # sft_trainer.py, SFTTrainer.__init__
    ("DPOConfig", "loss_type"): [  # dpo_trainer.py, DPOTrainer._compute_loss
        "sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard", "aot",
        "aot_unpaired", "apo_zero", "apo_down", "discopop", "sft", "sigmoid_norm",
    ],
    ("DPOConfig", "f_divergence_type"): [  # dpo_trainer.py, DPOTrainer._compute_loss
        "reverse_kl", "forward_kl", "js_divergence", "alpha_divergence",
    ],
    ("ModelConfig", "lora_task_type"): [  # peft/utils/peft_types.py, TaskType
        "SEQ_CLS", "SEQ_2_SEQ_LM", "CAUSAL_LM", "TOKEN_CLS", "QUESTION_ANS", "FEATURE_EXTRACTION",
    ],
}
# fmt: on

# Top-level keys without a dataclass whose docstring could describe them.
HELP = {
    "stage": {"description": "The stage that the recipe configures."},
    "gate": {"description": "Conditions on the measured result: METRIC OP TERM, such as `eval_loss < 2.5`."},
    "allow": {"description": "Waived findings: code -> reason. The record and the card show them."},
    "global_batch_size": {
        "description": "Rows per optimizer step over all processes; missing batch keys of `train` are computed."
    },
    "pinned": {"description": "Dataset or model id -> revision, if its own section has none."},
}

# Fields that accept more types than their annotation: (dataclass, field) -> what else.
ALSO = {
    ("DPOConfig", "loss_type"): str,  # dpo_config.py, __post_init__: a string becomes a list of one
    ("*", "fsdp"): bool,  # training_args.py, metadata `const: True`: "Pass `fsdp=True`"
}

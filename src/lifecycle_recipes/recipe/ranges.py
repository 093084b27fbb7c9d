"""The range of every number in a recipe. A name means the same number in every section that has it. No torch.

schema.py writes the ranges into the schemas, as keywords of JSON Schema; check.py checks them from there.
Upstream checks few of these, and most of them only when the trainer is built.
"""

from typing import Any

POSITIVE = {"exclusiveMinimum": 0}
NOT_NEGATIVE = {"minimum": 0}
FROM_1 = {"minimum": 1}
BELOW_1 = {"minimum": 0, "exclusiveMaximum": 1}
UP_TO_1 = {"minimum": 0, "maximum": 1}
SEED = {"minimum": 0, "maximum": 2**32 - 1}  # numpy.random.seed

_NAMES: list[tuple[dict[str, Any], str]] = [
    # With a rate, a length of training or a temperature of 0 nothing is learnt. beta: of DPO and KTO, whose
    # loss is constant at 0.
    (POSITIVE, "learning_rate num_train_epochs temperature beta adam_epsilon cliprange cliprange_value"),
    (POSITIVE, "weight save_steps eval_steps logging_steps discopop_tau f_alpha_divergence_coef"),
    (NOT_NEGATIVE, "warmup_steps eval_delay weight_decay max_grad_norm kl_coef vf_coef missing_eos_penalty"),
    (NOT_NEGATIVE, "center_rewards_coefficient router_aux_loss_coef neftune_noise_alpha threshold"),
    (NOT_NEGATIVE, "desirable_weight undesirable_weight dataloader_num_workers num_sample_generations"),
    (NOT_NEGATIVE, "stop_token_id samples"),
    (FROM_1, "global_batch_size per_device_train_batch_size per_device_eval_batch_size"),
    (FROM_1, "gradient_accumulation_steps eval_accumulation_steps precompute_ref_batch_size"),
    (FROM_1, "batch_size local_rollout_forward_batch_size num_mini_batches num_ppo_epochs total_episodes"),
    (FROM_1, "max_rows limit max_length max_new_tokens response_length vocab_size pad_to_multiple_of"),
    (FROM_1, "lora_r lora_alpha save_total_limit patience ref_model_sync_steps torch_empty_cache_steps"),
    (FROM_1, "dataloader_prefetch_factor dataset_num_proc ddp_bucket_cap_mb ddp_timeout"),
    (FROM_1, "max_repetition sweep sweep_hidden_size svd_rank calibration_rows"),
    # Curation.
    (FROM_1, "max_tokens tokens max_characters shingle batch_tokens min_shared_words keep_words"),
    (
        FROM_1,
        "workers tasks cpus_per_task mem_per_cpu_gb min_words max_words min_sentences",
    ),
    (POSITIVE, "passes max_nats_per_byte"),
    (NOT_NEGATIVE, "max_found max_matches shortest short_line min_stop_words min_mean_word_length"),
    (
        NOT_NEGATIVE,
        "max_mean_word_length max_word_length max_hashes_per_word max_ellipses_per_word max_newlines_per_word",
    ),
    (
        NOT_NEGATIVE,
        "max_exclamations_per_word max_prices_per_word max_pitches_per_100_words",
    ),
    (UP_TO_1, "similarity min_score max_other max_bullet_lines max_ellipsis_lines min_alpha_words"),
    (UP_TO_1, "max_duplicate_lines max_duplicate_paragraphs max_duplicate_line_characters"),
    (UP_TO_1, "max_duplicate_paragraph_characters min_line_punctuation max_short_lines"),
    (UP_TO_1, "max_repeated_line_characters max_capital_words max_repeated_sentences max_links_per_word"),
    (UP_TO_1, "max_boilerplate_lines"),
    (UP_TO_1, " ".join(f"max_top_{n}_gram" for n in (2, 3, 4))),
    (UP_TO_1, " ".join(f"max_duplicate_{n}_gram" for n in range(5, 11))),
    # Below 0.4 a coverage is not stored (curation/decontamination.py).
    ({"minimum": 0.4, "maximum": 1}, "coverage"),
    ({"minimum": 3}, "ngram"),
    ({"exclusiveMinimum": 0, "exclusiveMaximum": 1}, "fraction levels"),
    (BELOW_1, "drop_highest drop_lowest"),
    # One token predicts nothing.
    ({"minimum": 2}, "block_size"),
    (BELOW_1, "eval_fraction adam_beta1 adam_beta2 lora_dropout label_smoothing_factor"),
    # dpo_config.py: at 0.5 a pair says nothing about which reply is better.
    ({"minimum": 0, "exclusiveMaximum": 0.5}, "label_smoothing"),
    ({"exclusiveMinimum": 0, "maximum": 1}, "density"),
    (UP_TO_1, "recovery gamma lam ld_alpha ref_model_mixup_alpha"),
    (SEED, "seed data_seed"),
    # training_args.py: -1 leaves the length to num_train_epochs.
    ({"minimum": -1, "not": {"const": 0}}, "max_steps"),
]
RANGES: dict[str, dict[str, Any]] = {name: limits for limits, names in _NAMES for name in names.split()}


def outside(limits: dict[str, Any], value: float) -> str:
    """The range in words if `value` is outside it, else empty. limits: a schema with some of the keywords."""
    low, above = limits.get("minimum"), limits.get("exclusiveMinimum")
    high, below = limits.get("maximum"), limits.get("exclusiveMaximum")
    but = (limits.get("not") or {}).get("const")
    inside = (low is None or value >= low) and (above is None or value > above)
    inside &= (high is None or value <= high) and (below is None or value < below)
    if inside and (but is None or value != but):
        return ""
    words = {"at least": low, "above": above, "at most": high, "below": below, "not": but}
    return " and ".join(f"{word} {limit}" for word, limit in words.items() if limit is not None)

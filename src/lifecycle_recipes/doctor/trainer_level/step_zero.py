"""The step-0 check: a stage starts from the final weights of its parent, and its reference is the parent.

A run records the output of its trained model for one short text: the mean log-probability of its tokens, or a
reward model's score (`probe` in run.json). A child's model must reproduce it before its first step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...finding import Finding, Refusal
from ...models.adapters import adapter_base, is_adapter
from ...recipe.stage_recipe import StageRecipe

if TYPE_CHECKING:
    from transformers import PreTrainedModel, Trainer

PROBE_TOKENS = 128
# Tolerance in nats per token, by the precision of both sides. With exact precision, any larger difference
# means another model; otherwise the child must also be nearer to the start of its parent.
EXACT, HALF, QUANTISED = 1e-3, 0.05, 0.3
# A parent without a recorded probe is loaded a second time, up to this many parameters.
LARGEST_LOADED = 500_000_000


@dataclass(frozen=True)
class Reading:
    """The output of a model for a probe's text. loose: the tolerance of a comparison.

    logits: float32 on the CPU, [tokens, vocabulary] or [1]; None if only a loss can be computed.
    """

    value: float
    loose: float
    unit: str = "nats per token"
    logits: Any = None


def find_in_chain(trainer: Trainer, recipe: StageRecipe) -> list[Finding]:
    """tokenizer-differs, base-differs, parent-dropped and reference-differs of a built trainer."""
    from .step_count import is_ppo

    findings = []
    for role in ("model", "reward", "value"):
        path = named_model(recipe, role)
        if path and Path(path).is_dir():
            findings += find_in_parent(role, path)
    findings += step_0_differs(trainer, recipe)
    if is_ppo(trainer):
        findings += _other_tokenizer(recipe)
    return findings + reference_differs(trainer)


def named_model(recipe: StageRecipe, role: str) -> str | None:
    """The path or id of the parent in this role (`model`, `reward`, `value`); None without one."""
    config = recipe.section(role)
    return config.model_name_or_path if config is not None else None


def find_in_parent(role: str, path: str) -> list[Finding]:
    """tokenizer-differs and base-differs: files of a parent that were changed after its run. No torch."""
    from ...record.file import read_record
    from ...record.parents import hash_file, hash_weights

    try:
        record = read_record(path)
    except Refusal:  # a model without a record
        return []
    findings = []
    tokenizer, saved = Path(path) / "tokenizer.json", record.get("tokenizer_sha256")
    if saved and tokenizer.is_file() and hash_file(tokenizer) != saved:
        message = f"the {role} parent's tokenizer.json was changed after its run"
        fix = "restore the file, or run that stage again"
        findings.append(Finding.error("tokenizer-differs", message, fix, path))
    base = adapter_base(path)
    trained_on = (record.get("parents") or {}).get("model") or {}
    if base and Path(base).resolve() == Path(trained_on.get("path", "")).resolve():
        now, then = hash_weights(base), trained_on.get("weights_sha256")
        if then and now and now != then:
            message = f"the adapter was trained on other weights than those now in {base}"
            fix = "run the adapter's stage again on this base, or restore the base"
            findings.append(Finding.error("base-differs", message, fix, path))
    return findings


def _other_tokenizer(recipe: StageRecipe) -> list[Finding]:
    """A reward model reads ids, not text: with another vocabulary its scores are meaningless."""
    from ...models.load import load_tokenizer

    ours = load_tokenizer(recipe.model.model_name_or_path, recipe.model.model_revision).get_vocab()
    findings = []
    for role in ("reward", "value"):
        config = recipe.section(role)
        if config is None or config.model_name_or_path == recipe.model.model_name_or_path:
            continue
        theirs = load_tokenizer(config.model_name_or_path, config.model_revision).get_vocab()
        if wrong := [token for token, i in ours.items() if theirs.get(token) != i]:
            message = (
                f"{len(wrong)} token ids differ between the policy and the {role} model, {wrong[0]!r} first"
            )
            fix = "train the reward model on a parent with the policy's tokenizer"
            where = config.model_name_or_path
            findings.append(Finding.error("tokenizer-differs", message, fix, where))
    return findings


def step_0_differs(trainer: Trainer, recipe: StageRecipe) -> list[Finding]:
    """parent-dropped: at step 0 the output does not match the parent's record."""
    from .forward import can_run, language_model

    policy = language_model(trainer)
    pairs = [("model", policy)] if is_causal(policy) else []
    if hasattr(trainer, "reward_model"):
        pairs.append(("reward", trainer.accelerator.unwrap_model(trainer.reward_model)))
    found = []
    for role, model in pairs:
        path = named_model(recipe, role)
        probe = parent_probe(path, trainer, model) if can_run(model) else None
        if probe is not None:
            found += compare(read(model, probe["ids"], trainer), probe, path)
    return found


def read_prepared(trainer: Trainer, ids: list[int]) -> Reading:
    """The output of the trainer's model, prepared for training, for `ids`. Collective under ZeRO-3."""
    from .forward import language_model, no_trace, prepared_model

    with no_trace(trainer), prepared_model(trainer) as runs:
        return read(language_model(trainer), ids, trainer, runs)


def differs_from_parent(trainer: Trainer, path: str | None) -> list[Finding]:
    """parent-dropped, from the parent's record, for a model that is prepared for training in any layout."""
    from .forward import language_model

    probe = recorded_probe(path)
    if probe is None or not is_causal(language_model(trainer)):
        return []
    return compare(read_prepared(trainer, probe["ids"]), probe, path)


def recorded_probe(path: str | None) -> dict | None:
    """{ids, value, start, loose} in the record of the run at `path`; None for a model without a record."""
    from ...record.file import read_record

    if not path or not Path(path).is_dir():
        return None
    try:
        return read_record(path).get("probe")
    except Refusal:
        return None


def parent_probe(path: str | None, trainer: Trainer, model: PreTrainedModel) -> dict | None:
    """The probe in a parent's record; for an adapter without a record, a probe is measured here."""
    if probe := recorded_probe(path):
        return probe
    return _measure_adapter(path, trainer) if path and is_adapter(path) and is_causal(model) else None


def _measure_adapter(path: str, trainer: Trainer) -> dict | None:
    """The probe of an adapter without a record: loaded as a user would, with and without it."""
    from ...models.saved import load_saved
    from .forward import mean_log_probability

    if sum(getattr(p, "ds_numel", p.numel()) for p in trainer.model.parameters()) > LARGEST_LOADED:
        return None
    ids = probe_ids(trainer)
    saved = load_saved(path)
    value = mean_log_probability(saved.model, ids)
    with saved.model.disable_adapter():
        start = mean_log_probability(saved.model, ids)
    return {"ids": ids, "value": value, "start": start, "loose": looseness(saved.model, trainer)}


def compare(reading: Reading, probe: dict, path: str) -> list[Finding]:
    """parent-dropped, if a model's reading of its parent's probe does not match the recorded one."""
    loose = max(reading.loose, probe.get("loose") or EXACT)
    away = abs(reading.value - probe["value"])
    if away <= loose:
        return []
    start = probe.get("start")
    if loose > EXACT and start is not None and abs(reading.value - start) > away:
        return []
    message = (
        f"step-0 {'reward' if reading.unit == 'reward' else 'log-probability'} does not match the "
        f"parent's record ({reading.value:.4f} against"
    )
    message += f" {probe['value']:.4f} {reading.unit}): the parent's weights were not loaded"
    if start is not None and abs(reading.value - start) < away:
        message += f"; {start:.4f} is the value before the parent's training"
    fix = "set the parent to the run directory itself; merge an adapter before adding a new one"
    return [Finding.error("parent-dropped", message, fix, path)]


def reference_differs(trainer: Trainer) -> list[Finding]:
    """reference-differs: at step 0 the reference of DPO, KTO or PPO must equal the policy."""
    from .forward import can_run, language_model

    policy = language_model(trainer)
    reference = getattr(trainer, "ref_model", None)
    if not hasattr(trainer, "ref_model") or not is_causal(policy) or not can_run(policy):
        return []
    ids = probe_ids(trainer)
    if reference is not None:
        reference = trainer.accelerator.unwrap_model(reference)
        if not can_run(reference):
            return []
        theirs = read(reference, ids, trainer)
    elif hasattr(policy, "disable_adapter"):
        with policy.disable_adapter():
            theirs = read(policy, ids, trainer)
    else:
        return []  # precomputed with the policy
    ours = read(policy, ids, trainer)
    if abs(ours.value - theirs.value) <= max(ours.loose, theirs.loose):
        return []
    message = f"step-0 reference log-probability does not match the policy ({theirs.value:.4f} against"
    message += f" {ours.value:.4f} nats per token): the reference is not the parent"
    fix = "remove the reference settings: the stage loads the parent as the reference"
    return [Finding.error("reference-differs", message, fix)]


def read(model: PreTrainedModel, ids: list[int], trainer: Trainer, runs: Any = None) -> Reading:
    """The output of `model` for `ids`: nats per token of a causal LM, the score of a reward model.

    runs: the wrapper to call instead of `model`, if one is needed.
    """
    from .forward import logits, mean_log_probability_by_loss, mean_of

    causal = is_causal(model)
    if causal and runs is not None and runs is not model:
        value, found = mean_log_probability_by_loss(runs, ids)
    else:
        found = logits(runs or model, ids)
        value = mean_of(found, ids) if causal else found[0].item()
    unit = "nats per token" if causal else "reward"
    found = None if found is None else found.float().cpu()
    return Reading(value if math.isfinite(value) else math.inf, looseness(model, trainer), unit, found)


def looseness(model: PreTrainedModel, trainer: Trainer) -> float:
    """The tolerance between two readings of one model, by its precision."""
    import torch

    if getattr(model, "is_quantized", False) or getattr(model, "is_loaded_in_4bit", False):
        return QUANTISED
    whole_precision = all(p.dtype == torch.float32 for p in model.parameters())
    return EXACT if whole_precision and trainer.accelerator.mixed_precision == "no" else HALF


def is_causal(model: PreTrainedModel) -> bool:
    """Whether a model predicts tokens; a reward model scores."""
    return getattr(model.config, "num_labels", None) != 1 and model.get_output_embeddings() is not None


def probe_ids(trainer: Trainer) -> list[int]:
    """The tokens of a run's probe: the first training row, truncated to PROBE_TOKENS."""
    from .forward import row_ids

    return row_ids(trainer.train_dataset[0])[:PROBE_TOKENS]

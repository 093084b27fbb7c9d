"""Level 1, values: settings that contradict each other, or have no effect beside another one. No torch.

Upstream rejects some of these after it has loaded the model, warns of others, and accepts the rest silently.
"""

from dataclasses import replace
from typing import Any

from ...finding import Finding, Refusal
from ...recipe.read import RawRecipe

# Keys of trl.ModelConfig that have no effect without an adapter or a quantised base.
ADAPTER_KEYS = ("lora_", "use_rslora", "use_dora", "load_in_", "bnb_", "use_bnb_")
MODEL_SECTIONS = ("model", "reward", "value")


def find_in_settings(raw: RawRecipe) -> list[Finding]:
    """Every contradiction between values of this recipe."""
    findings = []
    for section in MODEL_SECTIONS:
        if raw.values.get(section):
            findings += [*_adapter(raw, section), *_quantisation(raw, section)]
    findings += [*_start(raw), *_vocabulary(raw), *_truncation(raw), *_weights(raw)]
    if "train" in raw.values:
        findings += [*_precision(raw), *_evaluation(raw), *_lengths(raw), *_packing(raw), *_conflicts(raw)]
    return findings


def _adapter(raw: RawRecipe, section: str) -> list[Finding]:
    given = raw.values[section]
    keys = [
        key
        for key, value in given.items()
        if key.startswith(ADAPTER_KEYS)
        and key != "lora_task_type"
        and (value or value != raw.default(f"{section}.{key}"))  # `load_in_4bit: false` asks for nothing
    ]
    if raw.setting(f"{section}.use_peft") or not keys:
        return []
    # PPO only reads a reward or value model; a quantised one is refused separately.
    if section != "model" or raw.stage == "evaluate":
        return []
    names = ", ".join(f"{section}.{key}" for key in keys)
    message = f"{names} set without {section}.use_peft: the run would train every weight"
    where = raw.place(f"{section}.{keys[0]}")
    return [Finding.error("lora-without-peft", message, "add `use_peft: true`, or remove these keys", where)]


def _quantisation(raw: RawRecipe, section: str) -> list[Finding]:
    given = raw.values[section]
    bits = [key for key in ("load_in_4bit", "load_in_8bit") if given.get(key)]
    where = raw.place(*(f"{section}.{key}" for key in bits))
    if len(bits) == 2:
        message = f"{section} sets both load_in_4bit and load_in_8bit"
        return [Finding.error("two-quantizations", message, "keep one of the two", where)]
    if bits and raw.stage == "ppo":
        message = "PPO cannot train quantised models"
        return [Finding.error("ppo-no-quantization", message, "remove load_in_4bit, load_in_8bit", where)]
    if bits and given.get("dtype") == "float32":
        message = (
            f"{section}.{bits[0]} with dtype: float32 computes every layer in float32, which is slow and "
            "needs more memory"
        )
        fix = "write `dtype: bfloat16`, or remove the quantisation"
        return [Finding.warning("qlora-full-precision", message, fix, raw.place(f"{section}.dtype"))]
    return []


def _start(raw: RawRecipe) -> list[Finding]:
    if raw.stage == "sft" and (raw.values.get("train") or {}).get("assistant_only_loss") is False:
        message = "this stage trains on assistant tokens only; assistant_only_loss: false has no effect"
        fix = "remove it; to train on whole texts, use the pretrain stage"
        return [Finding.error("no-effect", message, fix, raw.place("train.assistant_only_loss"))]
    if raw.stage != "pretrain":
        return []
    if bool(raw.values.get("model")) == bool(raw.values.get("architecture")):
        message = (
            "a pretrain recipe needs exactly one of `architecture` (random weights) and "
            "`model.model_name_or_path`"
        )
        return [Finding.error("no-single-start", message, "give one of the two", raw.place("model"))]
    if raw.setting("model.use_peft"):
        message = "pretraining trains every weight; model.use_peft has no effect"
        return [Finding.error("pretrain-no-adapter", message, "remove it", raw.place("model.use_peft"))]
    return []


def _truncation(raw: RawRecipe) -> list[Finding]:
    """data.truncation: reward and ppo drop rows that are too long anyway, pretraining cuts none short."""
    given = (raw.values.get("data") or {}).get("truncation")
    if given in (None, "cut") or raw.stage in ("sft", "dpo", "kto"):
        return []
    message = f"data.truncation: {given} has no effect in this stage, which truncates no row"
    return [Finding.error("no-effect", message, "remove it", raw.place("data.truncation"))]


def _weights(raw: RawRecipe) -> list[Finding]:
    """Weights of sources: all or none, on sources to train on."""
    data = raw.values.get("data") or {}
    sources = data.get("sources") or []
    given = [i for i, source in enumerate(sources) if source.get("weight") is not None]

    def unused(why: str, key: str) -> list[Finding]:
        message = f"{key} has no effect: {why}"
        return [Finding.error("no-effect", message, "remove it", raw.place(key))]

    for i, source in enumerate(data.get("eval_sources") or []):
        if source.get("weight") is not None:
            return unused(
                "rows to evaluate on are neither repeated nor left out", f"data.eval_sources[{i}].weight"
            )
    if given and len(sources) == 1:
        return unused("a single source has all of the text", "data.sources[0].weight")
    if data.get("max_repetition", 1) != 1 and not given:
        return unused("only sources with a weight are repeated", "data.max_repetition")
    if given and (without := [i for i in range(len(sources)) if i not in given]):
        message = f"data.sources[{without[0]}] has no weight, but data.sources[{given[0]}] has one"
        where = raw.place(f"data.sources[{without[0]}]")
        fix = "give every source a weight, or none: they are shares, relative to each other"
        return [Finding.error("weight-missing", message, fix, where)]
    return []


def _vocabulary(raw: RawRecipe) -> list[Finding]:
    """Keys of the tokenizer stage: sizes that are too small, and those of a new or an extended one in the other."""
    if raw.stage != "tokenizer":
        return []
    given = raw.values["tokenizer"]
    extends = given.get("extend")
    for key in _NEW_TOKENIZER if extends else _EXTENSION:
        if given.get(key) not in (None, []):
            without = "tokenizer.extend keeps the tokenizer" if extends else "tokenizer.extend is not set"
            message = f"tokenizer.{key} has no effect: {without}"
            return [Finding.error("no-effect", message, "remove it", raw.place(f"tokenizer.{key}"))]
    if extends:
        return _extension(raw, given)
    if given.get("vocab_size") is None:
        message = "tokenizer.vocab_size is missing"
        fix = "give the size of a new tokenizer, or the one to `extend`"
        return [Finding.error("missing-key", message, fix, raw.place("tokenizer"))]
    if given.get("sweep_hidden_size") and not given.get("sweep"):
        message = "tokenizer.sweep_hidden_size has no effect: tokenizer.sweep is empty"
        place = raw.place("tokenizer.sweep_hidden_size")
        return [Finding.error("no-effect", message, "give the sizes of `sweep`, or remove it", place)]
    sizes = {"vocab_size": given["vocab_size"]}
    sizes |= {f"sweep[{i}]": size for i, size in enumerate(given.get("sweep") or [])}
    findings = [_size(raw, key, size) for key, size in sizes.items()]
    return next(filter(None, findings), [])


# Keys of a new tokenizer, and those of one that is extended.
_NEW_TOKENIZER = ("vocab_size", "kind", "special_tokens", "chat_template", "sweep", "sweep_hidden_size")
_EXTENSION = ("new_tokens", "new_special_tokens", "resize_model", "new_rows", "extend_revision")
_EXTENSION += ("resize_model_revision",)


def _size(raw: RawRecipe, key: str, size: int) -> list[Finding]:
    from ...models.special_tokens import check_vocabulary

    try:
        check_vocabulary(raw.setting("tokenizer.special_tokens"), size, key)
    except Refusal as refusal:
        at = {"vocab-too-small": f"tokenizer.{key}"}
        return [
            replace(f, where=raw.place(at.get(f.code, "tokenizer.special_tokens"), "tokenizer.sweep"))
            for f in refusal.findings
        ]
    return []


def _extension(raw: RawRecipe, given: dict) -> list[Finding]:
    """An extension needs new tokens, or a model that lacks rows; `new_rows` needs a model."""
    new = [*(given.get("new_tokens") or []), *(given.get("new_special_tokens") or [])]
    if "" in new:
        message, place = (
            "a new token is empty",
            raw.place("tokenizer.new_tokens", "tokenizer.new_special_tokens"),
        )
        return [Finding.error("bad-value", message, "remove it", place)]
    if not new and not given.get("resize_model"):
        message = "tokenizer.extend has no effect: there are no new tokens"
        fix = "give `new_tokens` or `new_special_tokens`"
        return [Finding.error("no-effect", message, fix, raw.place("tokenizer.extend"))]
    if given.get("new_rows") and not given.get("resize_model"):
        message = "tokenizer.new_rows has no effect: tokenizer.resize_model is not set"
        return [Finding.error("no-effect", message, "remove it", raw.place("tokenizer.new_rows"))]
    return []


def _precision(raw: RawRecipe) -> list[Finding]:
    train = raw.values["train"]
    if train.get("bf16") and train.get("fp16"):
        message = "train.bf16 and train.fp16 are both true"
        return [
            Finding.error(
                "two-precisions", message, "keep one: bf16 if the GPU supports it", raw.place("train.fp16")
            )
        ]
    return []


def _evaluation(raw: RawRecipe) -> list[Finding]:
    """Evaluation during training: settings that need it, and settings without effect if there is none."""
    train, findings = raw.values["train"], []
    strategy = raw.setting("train.eval_strategy")
    data = raw.values.get("data") or {}
    if raw.stage == "ppo":
        if strategy != "no":
            message = "PPO runs no evaluation during training"
            where = raw.place("train.eval_strategy")
            fix = "remove train.eval_strategy: the `evaluate` section measures after the training"
            findings.append(Finding.error("ppo-no-eval", message, fix, where))
        elif raw.values.get("early_stopping"):
            message = "PPO runs no evaluation during training, so early_stopping has no effect"
            findings.append(Finding.error("ppo-no-eval", message, "remove it", raw.place("early_stopping")))
        return findings
    if strategy != "no" and not data.get("eval_sources") and not data.get("eval_fraction"):
        message = f"`eval_strategy: {strategy}`, but no held-out data is configured"
        fix = "set data.eval_sources or data.eval_fraction, or remove eval_strategy"
        findings.append(Finding.error("eval-without-data", message, fix, raw.place("train.eval_strategy")))
    if strategy == "no":
        best = _asks_for_best(raw)
        if best:
            message = f"train.{best} needs evaluations, but train.eval_strategy is no"
            fix = "write `eval_strategy: steps` (or epoch)"
            if best == "load_best_model_at_end":
                fix = "write `eval_strategy: steps` and `save_strategy: steps` (or epoch for both)"
            findings.append(Finding.error("best-without-eval", message, fix, raw.place(f"train.{best}")))
        elif raw.values.get("early_stopping"):
            message = "early_stopping needs evaluations, but train.eval_strategy is no"
            fix = "write `eval_strategy: steps` (or epoch)"
            findings.append(Finding.error("best-without-eval", message, fix, raw.place("early_stopping")))
        elif unread := [k for k in ("eval_steps", "eval_delay", "eval_on_start") if train.get(k)]:
            message = f"train.{unread[0]} has no effect while train.eval_strategy is no"
            fix = "write `eval_strategy: steps`, or remove it"
            findings.append(Finding.error("eval-keys-unused", message, fix, raw.place(f"train.{unread[0]}")))
    else:
        findings += _best(raw, strategy)
    return findings


def _asks_for_best(raw: RawRecipe) -> str | None:
    """The key that makes training depend on evaluations."""
    train = raw.values["train"]
    if train.get("load_best_model_at_end"):
        return "load_best_model_at_end"
    if train.get("lr_scheduler_type") in ("reduce_lr_on_plateau", "greedy"):
        return "lr_scheduler_type"
    if train.get("save_strategy") == "best":
        return "save_strategy"
    return "metric_for_best_model" if train.get("metric_for_best_model") else None


def _best(raw: RawRecipe, evaluates: str) -> list[Finding]:
    """The best model can only be loaded if each evaluation has its checkpoint (training_args.py)."""
    saves = raw.setting("train.save_strategy")
    if raw.values.get("early_stopping") and not raw.values["train"].get("load_best_model_at_end"):
        message = (
            "early_stopping without train.load_best_model_at_end would save the last model, not the best"
        )
        fix = "write `load_best_model_at_end: true`"
        return [Finding.error("best-not-saved", message, fix, raw.place("early_stopping"))]
    if not raw.values["train"].get("load_best_model_at_end") or saves == "best":
        return []
    where = raw.place("train.load_best_model_at_end")
    if saves != evaluates:
        message = (
            f"load_best_model_at_end needs the same strategy for both: eval_strategy is {evaluates}, "
            f"save_strategy {saves}"
        )
        fix = f"write `save_strategy: {evaluates}`, or `save_strategy: best`"
        return [Finding.error("best-not-saved", message, fix, where)]
    every, step = raw.setting("train.save_steps"), raw.setting("train.eval_steps")
    step = step or raw.setting("train.logging_steps")
    if evaluates == "steps" and step and step >= 1 and every % step:
        message = f"load_best_model_at_end, but save_steps {every} is not a multiple of eval_steps {step}"
        return [Finding.error("best-not-saved", message, f"write `save_steps: {step}`", where)]
    return []


def _lengths(raw: RawRecipe) -> list[Finding]:
    """Settings of the training length."""
    train = raw.values["train"]
    steps = train.get("max_steps") or -1
    if raw.stage == "ppo" and steps > 0 and train.get("total_episodes") is not None:
        message = "train.max_steps and train.total_episodes both set the training length"
        return [Finding.error("two-lengths", message, "keep one", raw.place("train.total_episodes"))]
    findings = []
    if steps > 0 and "num_train_epochs" in train and raw.stage != "ppo":
        message = "train.num_train_epochs has no effect: train.max_steps sets the training length"
        where = raw.place("train.num_train_epochs")
        findings.append(Finding.warning("epochs-unused", message, "keep one of the two", where))
    return findings


def _packing(raw: RawRecipe) -> list[Finding]:
    if raw.stage != "sft" or not raw.setting("train.packing"):
        return []
    if raw.setting("train.packing_strategy") == "wrapped":
        message = (
            "packing_strategy: wrapped joins rows without separating them: each attends to the rows before it"
        )
        fix = "write `packing_strategy: bfd_split`, which separates them and loses no token"
        return [
            Finding.error("packing-leaks", message, fix, raw.place("train.packing_strategy", "train.packing"))
        ]
    return []


def _conflicts(raw: RawRecipe) -> list[Finding]:
    """Pairs of keys that upstream rejects only after the model is loaded (sft_trainer.py, dpo_trainer.py)."""
    train = raw.values["train"]
    get = lambda key: raw.setting(f"train.{key}")  # noqa: E731
    losses = train.get("loss_type") or []
    losses = [losses] if isinstance(losses, str) else losses
    conflicts = {
        ("packing", "max_length"): raw.stage == "sft" and get("packing") and get("max_length") is None,
        ("padding_free", "max_length"): raw.stage == "sft"
        and get("padding_free")
        and not get("packing")
        and get("max_length") is not None,
        ("loss_type", "use_liger_kernel"): "chunked_nll" in losses and get("use_liger_kernel"),
        ("precompute_ref_log_probs", "use_liger_kernel"): get("precompute_ref_log_probs")
        and get("use_liger_kernel"),
        ("loss_type", "label_smoothing"): "exo_pair" in losses and not get("label_smoothing"),
        ("loss_type", "loss_weights"): get("loss_weights") and len(get("loss_weights")) != len(losses or [1]),
        ("loss_type", "use_weighting"): {"aot", "aot_unpaired"} & set(losses) and get("use_weighting"),
        ("dataloader_prefetch_factor", "dataloader_num_workers"): get("dataloader_prefetch_factor")
        and not get("dataloader_num_workers"),
    }
    fixes = {
        ("packing", "max_length"): "packing needs max_length: set it to a number",
        ("padding_free", "max_length"): "without packing, write `max_length: null`, or add `packing: true`",
        ("loss_type", "use_liger_kernel"): "write `loss_type: nll`, or remove use_liger_kernel",
        ("precompute_ref_log_probs", "use_liger_kernel"): "remove one of the two",
        ("loss_type", "label_smoothing"): "exo_pair needs `label_smoothing: 0.001` (its paper's value)",
        ("loss_type", "loss_weights"): "set one entry of loss_weights per loss",
        ("loss_type", "use_weighting"): "aot sorts the rows: remove use_weighting",
        ("dataloader_prefetch_factor", "dataloader_num_workers"): "set dataloader_num_workers, or remove it",
    }
    return [
        Finding.error(
            "conflicting-keys",
            f"train.{a} {_shown(get(a))} cannot be combined with train.{b} {_shown(get(b))}",
            fixes[a, b],
            raw.place(f"train.{a}", f"train.{b}"),
        )
        for (a, b), wrong in conflicts.items()
        if wrong
    ]


def _shown(value: Any) -> str:
    return (
        {True: "true", False: "false", None: "null"}.get(value, str(value))
        if not isinstance(value, list)
        else str(value)
    )

"""Level 1, the batch: can this layout divide global_batch_size, and is the training then the same?"""

from ...finding import Finding
from ...recipe.batch_size import KEY, batch_settings, find_in_batch_size, find_undeclared, processes_here
from ...recipe.read import RawRecipe

PAIRWISE = ("reward", "dpo", "kto")
# dpo_trainer.py: losses that depend on the other rows of a micro-batch, and how.
BY_MICRO_BATCH = {
    "aot": "sorts the rows of each micro-batch",
    "aot_unpaired": "sorts the rows of each micro-batch",
}

# Settings of train.accelerator_config (accelerate/data_loader.py).
ACCELERATOR = {
    (
        "use_seedable_sampler",
        False,
    ): "the row order then depends on a random generator that differs between layouts",
    ("dispatch_batches", True): "rank 0 fills the last batch with repeated rows, and the loss includes them",
    ("even_batches", False): "some processes may get one batch more than others and then hang",
}


def find_in_global_batch(raw: RawRecipe) -> list[Finding]:
    """Findings about the batch for the processes that the layout requests, else for those of this launch."""
    processes = raw.layout.data_parallel if raw.layout else processes_here()
    findings = [*find_in_batch_size(raw, processes), *find_undeclared(raw, processes)]
    if findings or raw.values.get(KEY) is None:
        return findings
    return find_what_the_layout_changes(raw, processes, batch_settings(raw, processes))


def find_what_the_layout_changes(raw: RawRecipe, processes: int, batch: dict[str, int]) -> list[Finding]:
    """batch-depends-on-layout: results that differ from those of one process with the whole batch."""
    divided = processes > 1 or batch["gradient_accumulation_steps"] > 1
    findings = []
    if processes > 1:
        findings += _across_processes(raw)
    if raw.stage == "dpo" and divided:
        findings += _in_dpo(raw)
    if (
        raw.stage in PAIRWISE
        and divided
        and raw.setting("train.train_sampling_strategy") == "batch_rebalance"
    ):
        message = (
            "batch_rebalance makes micro-batches of unequal size, but each has the same weight in the loss"
        )
        fix = "write `train_sampling_strategy: group_by_length`"
        findings.append(_warning(raw, message, fix, "train.train_sampling_strategy"))
    return findings


def _across_processes(raw: RawRecipe) -> list[Finding]:
    findings = []
    if raw.stage in ("pretrain", "sft") and raw.setting("train.average_tokens_across_devices") is False:
        message = (
            "each process would average over its own tokens: those of a process with few tokens weigh more"
        )
        fix = "remove `average_tokens_across_devices: false`"
        findings.append(_warning(raw, message, fix, "train.average_tokens_across_devices"))
    config = raw.values["train"].get("accelerator_config")
    for (key, value), message in ACCELERATOR.items():
        if isinstance(config, dict) and config.get(key) is value:
            fix = f"remove `{key}: {str(value).lower()}`"
            findings.append(_warning(raw, message, fix, "train.accelerator_config"))
    if raw.stage == "ppo":
        message = (
            "the prompts of an update are the same on every layout, but each process samples its own "
            "replies and whitens"
        )
        message += " their advantages separately"
        fix = "compare only runs of one layout; each run alone is correct"
        findings.append(_warning(raw, message, fix, KEY))
    return findings


def _in_dpo(raw: RawRecipe) -> list[Finding]:
    losses = raw.setting("train.loss_type") or []
    losses = [losses] if isinstance(losses, str) else losses
    return [
        _warning(
            raw,
            f"loss_type {loss} {BY_MICRO_BATCH[loss]}, and this layout makes them smaller",
            "set train.per_device_train_batch_size to the whole batch of one process, or accept the difference",
            "train.loss_type",
        )
        for loss in losses
        if loss in BY_MICRO_BATCH
    ]


def _warning(raw: RawRecipe, message: str, fix: str, *keys: str) -> Finding:
    return Finding.warning("batch-depends-on-layout", message, fix, raw.place(*keys, KEY))

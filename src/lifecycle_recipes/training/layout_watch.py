"""The layout check on the prepared model: sharding, dtypes and attention, requested and in effect."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from ..finding import Finding, Refusal
from ..layouts.effective import effective_layout, layout_record
from ..layouts.layout import Layout

if TYPE_CHECKING:
    from transformers import PreTrainedModel, Trainer

    from ..recipe.stage_recipe import TrainingRecipe
    from ..record.run import Run


class LayoutWatch(TrainerCallback):
    """Raises Refusal with exit status 2 on every rank, before the first optimizer step is taken.

    Completes `layout` in the record: sharded, optimizer_sharded, attention, dtypes of weights, master
    weights, gradients and optimizer state. Its time is added to `check_seconds`.
    """

    def __init__(self, trainer: Trainer, recipe: TrainingRecipe, run: Run):
        self.trainer, self.recipe, self.run = trainer, recipe, run
        asked, runs = recipe.raw.layout, effective_layout(trainer.args)
        self.wanted = asked or runs
        self.layout = layout_record(trainer.args, asked, runs)
        self.seconds = 0.0
        self.hooks: list = []

    def on_train_begin(self, args, state, control, **kwargs):
        started = time.monotonic()
        model = self.recipe.section("model")
        attention = model.attn_implementation if model is not None else None
        facts, findings = find_in_prepared(self.trainer, self.wanted, attention)
        findings += find_changed_dtype(self.run.earlier_layout, facts)
        self.layout |= facts
        self.seconds += time.monotonic() - started
        self._note(findings)
        optimizer = inner_optimizer(self.trainer.optimizer)
        self.hooks = [
            optimizer.register_step_pre_hook(lambda *_: self._before_step()),
            optimizer.register_step_post_hook(lambda *_: self._after_step()),
        ]

    def _before_step(self) -> None:
        started = time.monotonic()
        self.hooks.pop(0).remove()
        dtypes, findings = find_in_optimizer(self.trainer, self.wanted, self._wants_float32())
        self.layout["dtypes"] |= dtypes
        self.seconds += time.monotonic() - started
        self._note(findings)

    def _wants_float32(self) -> bool:
        """Whether every model that this recipe trains is loaded in float32; PPO also trains a value model."""
        section = self.recipe.section
        trained = [section("model"), section("value") or section("reward")]
        return all(config is None or config.dtype in (None, "float32") for config in trained)

    def _after_step(self) -> None:
        started = time.monotonic()
        self.hooks.pop().remove()
        self.layout["dtypes"]["optimizer_state"] = optimizer_state_dtype(self.trainer)
        self.seconds += time.monotonic() - started
        self._note([])

    def _note(self, findings: list[Finding]) -> None:
        checked = self.recipe.raw.checked
        if checked is not None:  # on rank 0
            before = checked.seconds.get("layout", 0.0)
            checked.seconds["layout"] = round(before + self.seconds, 3)
            self.seconds = 0.0
            self.run.note(check_seconds=checked.seconds)
        self.run.note(layout=self.layout)
        if findings:
            raise Refusal(*findings)


def prepared_model(trainer: Trainer) -> Any:
    """The object that the training loop calls: a DDP module, DeepSpeed engine, FSDP module or plain model."""
    wrapped = getattr(trainer, "model_wrapped", None)
    return wrapped if wrapped is not None else trainer.model


def find_in_prepared(trainer: Trainer, wanted: Layout, attention: str | None) -> tuple[dict, list[Finding]]:
    """(facts for the record, errors) of a trainer whose model and optimizer have been prepared.

    wanted: the requested layout, or else the one in effect. attention: as requested in the recipe.
    layout-not-sharded, layout-parallel, layout-precision, layout-attention.
    """
    model = prepared_model(trainer)
    parameter = largest_trained(trainer.model)
    uses = attention_of(trainer)
    facts = {
        "sharded": is_sharded(trainer, parameter),
        "optimizer_sharded": is_optimizer_sharded(trainer),
        "dtypes": {"weights": name_of(parameter.dtype)},
        "attention": uses,
    }
    findings = [*_sharding(model, wanted, facts), *_parallel(trainer, wanted)]
    findings += _amp(trainer)
    if attention and uses and not _same_attention(attention, uses):
        message = f"attention {attention} was requested, but the model uses {uses}"
        fix = "set model.attn_implementation to one that this model and machine support"
        findings.append(Finding.error("layout-attention", message, fix))
    return facts, findings


def find_changed_dtype(earlier: dict | None, facts: dict) -> list[Finding]:
    """resume-layout-differs: the weights are not trained in the dtype in which the checkpoint was trained.

    earlier: `layout` in the record of the run that wrote the checkpoint. facts: of `find_in_prepared`.
    """
    was, now = ((layout or {}).get("dtypes", {}).get("weights") for layout in (earlier, facts))
    if was in (None, now):
        return []
    message = f"the checkpoint was trained in {was}, this launch trains {now}"
    fix = "resume with the packages and the layout of the first launch, or start again with --replace"
    return [Finding.error("resume-layout-differs", message, fix)]


def largest_trained(model: PreTrainedModel) -> Any:
    """The trained parameter with the most elements, counted over all ranks."""
    return max((p for p in model.parameters() if p.requires_grad), key=whole_size)


def whole_size(parameter) -> int:
    """Number of elements of a parameter over all ranks: under ZeRO-3 the parameter itself is empty."""
    return getattr(parameter, "ds_numel", None) or parameter.numel()


def is_sharded(trainer: Trainer, parameter) -> bool:
    """Whether this rank holds only a part of `parameter`."""
    from torch.distributed.fsdp import FullyShardedDataParallel
    from torch.distributed.tensor import DTensor

    if hasattr(parameter, "ds_tensor"):
        return parameter.ds_tensor.numel() < parameter.ds_numel
    if isinstance(parameter, DTensor):
        return parameter.to_local().numel() < parameter.numel()
    return any(isinstance(module, FullyShardedDataParallel) for module in prepared_model(trainer).modules())


def is_optimizer_sharded(trainer: Trainer) -> bool:
    """Whether this rank's optimizer updates only a part of the trained weights."""
    optimizer = inner_optimizer(trainer.optimizer)
    held = sum(_local_size(p) for group in optimizer.param_groups for p in group["params"])
    trained = sum(whole_size(p) for p in trainer.model.parameters() if p.requires_grad)
    return held < trained


def _local_size(parameter) -> int:
    return parameter.to_local().numel() if hasattr(parameter, "to_local") else parameter.numel()


def inner_optimizer(optimizer) -> Any:
    """The torch optimizer inside the wrappers of accelerate and DeepSpeed."""
    while getattr(optimizer, "optimizer", None) is not None:
        optimizer = optimizer.optimizer
    return optimizer


def _sharding(model: PreTrainedModel, wanted: Layout, facts: dict) -> list[Finding]:
    from torch.nn.parallel import DistributedDataParallel

    if wanted.processes == 1:
        return []
    whole = wanted.kind == "fsdp" or wanted.zero_stage == 3 or wanted.tp > 1
    if whole and not facts["sharded"]:
        message = "every rank holds the full weights"
    elif wanted.zero_stage in (1, 2) and not facts["optimizer_sharded"]:
        message = "every rank holds the full optimizer state"
    elif wanted.kind == "ddp" and wanted.tp == 1 and not isinstance(model, DistributedDataParallel):
        message = (
            f"the model is not wrapped for data parallelism ({type(model).__name__}): weights would differ "
            "between ranks"
        )
    else:
        return []
    fix = "the launch settings did not reach the trainer: start it with `lifecycle run` (docs/layouts.md)"
    return [Finding.error("layout-not-sharded", f"{wanted} is not in effect: {message}", fix)]


def _parallel(trainer: Trainer, wanted: Layout) -> list[Finding]:
    """Sizes in the parallelism config; accelerate ignores one for which it has no plugin."""
    config = trainer.accelerator.parallelism_config
    for name in ("tp", "cp", "sp"):
        asked, size = getattr(wanted, name), getattr(config, f"{name}_size", 1) if config else 1
        if asked != size:
            message = f"{wanted} requests {name}_size {asked}, but {size} is in effect"
            fix = "correct parallelism_config in the layout"
            return [Finding.error("layout-parallel", message, fix)]
    return []


def _amp(trainer: Trainer) -> list[Finding]:
    """accelerate accepts fp16 on a device without support, and then computes in float32."""
    accelerator = trainer.accelerator
    engine_decides = accelerator.distributed_type.value == "DEEPSPEED"
    if accelerator.mixed_precision == "no" or engine_decides or accelerator.native_amp:
        return []
    message = f"precision {accelerator.mixed_precision} is set, but this device does not compute in it"
    return [Finding.error("layout-precision", message, "use bf16, or remove both keys")]


def find_in_optimizer(trainer: Trainer, wanted: Layout, float32: bool) -> tuple[dict, list[Finding]]:
    """(dtypes of the updated weights and their gradients, errors), just before an optimizer step.

    float32: the recipe loads the model in float32. Mixed precision in DeepSpeed and FSDP also requests
    float32 master weights.
    """
    parameters = [p for group in inner_optimizer(trainer.optimizer).param_groups for p in group["params"]]
    parameter = max(parameters, key=lambda p: p.numel(), default=None)
    if parameter is None:
        return {}, []
    dtypes = {"master_weights": name_of(parameter.dtype)}
    if parameter.grad is not None:
        dtypes["gradients"] = name_of(parameter.grad.dtype)
    sharded_mixed = wanted.kind == "fsdp" and trainer.accelerator.mixed_precision != "no"
    promised = wanted.kind == "deepspeed" or sharded_mixed or float32
    if not promised or parameter.dtype.itemsize >= 4 or has_adapter(trainer.model):
        return dtypes, []
    message = f"the optimizer updates {dtypes['master_weights']} weights, but float32 weights were requested"
    fix = "remove model.dtype, and set the precision with train.bf16 or train.fp16"
    return dtypes, [Finding.error("layout-precision", message, fix)]


def has_adapter(model: PreTrainedModel) -> bool:
    """Whether PEFT wraps the model: PEFT then sets the dtype of the trained weights."""
    return any(hasattr(part, "peft_config") for part in (model, getattr(model, "policy", None)))


def optimizer_state_dtype(trainer: Trainer) -> str | None:
    """The dtype of the largest tensor in the optimizer's state; None if it has none (sgd)."""
    import torch

    states = inner_optimizer(trainer.optimizer).state.values()
    tensors = [t for state in states for t in state.values() if isinstance(t, torch.Tensor)]
    return name_of(max(tensors, key=lambda t: t.numel()).dtype) if tensors else None


def attention_of(trainer: Trainer) -> str | None:
    """The attention implementation that the model uses; None if its config does not name one."""
    model = trainer.accelerator.unwrap_model(prepared_model(trainer))
    model = getattr(model, "policy", model)  # PPO trains a pair
    return getattr(getattr(model, "config", None), "_attn_implementation", None)


def _same_attention(asked: str, uses: str) -> bool:
    from transformers.modeling_flash_attention_utils import FLASH_ATTN_KERNEL_FALLBACK

    return uses in (asked, FLASH_ATTN_KERNEL_FALLBACK.get(asked))


def name_of(dtype) -> str:
    """`float32` for torch.float32."""
    return str(dtype).removeprefix("torch.")

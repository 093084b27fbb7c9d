"""Save weights for from_pretrained under every layout, and compare every save with the trained model."""

from __future__ import annotations

import time
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from transformers import TrainerCallback

from ..doctor.trainer_level.forward import language_model
from ..finding import FAILED, Finding, Refusal
from ..models.safetensors_files import find_pickles
from ..models.saved import Saved
from .ranks import true_anywhere
from .reload import compare_reloaded
from .saved_files import find_in_saved, wanted_of

if TYPE_CHECKING:
    from transformers import Trainer, TrainingArguments

    from ..recipe.stage_recipe import TrainingRecipe
    from ..record.run import Run
    from .resume import Resume


class Saves(TrainerCallback):
    """Checks every checkpoint; makes and checks the final save. Create it before training wraps the model.

    Raises Refusal with exit status 1, on every rank: nothing-saved, saved-incomplete, saved-pickled,
    saved-differs, non-finite. Reports saved-not-compared to `run`; notes `saved` in its record.
    reloaded: the final save as the comparison loaded it.
    """

    def __init__(self, trainer: Trainer, recipe: TrainingRecipe, run: Run, resume: Resume):
        self.trainer, self.recipe, self.run, self.resume = trainer, recipe, run, resume
        self.reloaded: Saved | None = None
        self.wanted = wanted_of(language_model(trainer))

    def on_save(self, args, state, control, **kwargs):
        """Right after upstream has written checkpoint-<step>; also called for PPO and after a signal."""
        directory = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        found = find_lost_shards(self.trainer, directory)
        if args.should_save and saves_whole_tensors(self.trainer):
            found += find_in_saved(str(directory), self.wanted)
        raise_together(found, args)
        self.resume.complete(directory, args)

    def finish(self, reading, ids: list[int]) -> None:
        """The final save, to output_dir, on every rank. reading: the trained model's outputs for `ids`."""
        trainer, args = self.trainer, self.trainer.args
        consolidate(trainer)
        # Upstream would push to the Hub at once; here the check comes first.
        trainer.save_model(args.output_dir, True)
        found = []
        if args.should_save:
            trainer.save_state()
            # PEFT saves only the adapter; the stop tokens must be saved beside it.
            if getattr(trainer.model, "generation_config", None) is not None:
                trainer.model.generation_config.save_pretrained(args.output_dir)
            found = self._check(reading, ids)
        raise_together(found, args)
        if args.push_to_hub:
            trainer.push_to_hub("Model save", revision=args.hub_revision)

    def _check(self, reading, ids: list[int]) -> list[Finding]:
        directory, started = self.trainer.args.output_dir, time.perf_counter()
        found = [*find_in_saved(directory, self.wanted), *find_pickles(directory)]
        if found or not self.trainer.is_world_process_zero():
            return found
        files_seconds = time.perf_counter() - started
        told = compare_reloaded(self.trainer, self.recipe, reading, ids, self.wanted.size)
        seconds = time.perf_counter() - started
        self.run.note(
            saved={
                "tensors": len(self.wanted.groups),
                "compared": "logits" if reading.logits is not None else "log-probability",
                "differs": told.differs,
                "allowed": told.allowed,
                "files_seconds": round(files_seconds, 3),
                "seconds": round(seconds, 3),
            }
        )
        errors = [finding for finding in told.findings if finding.severity == "error"]
        self.run.report([finding for finding in told.findings if finding.severity == "warning"])
        if told.saved is not None and not errors:
            self.reloaded = told.saved.set_aside()
        return errors


def consolidate(trainer: Trainer) -> None:
    """Make the next save write unsharded tensors, regardless of the checkpoint type in the layout.

    FSDP with SHARDED_STATE_DICT would write nothing (transformers' Trainer.save_model saves FULL_STATE_DICT
    only); ZeRO-3 without stage3_gather_16bit_weights_on_model_save would write pickled shards.
    """
    state = trainer.accelerator.state
    if getattr(trainer, "is_fsdp_enabled", False):
        state.fsdp_plugin.set_state_dict_type("FULL_STATE_DICT")
    engine = getattr(trainer, "deepspeed", None)
    if engine is not None:
        engine._config.zero_config.gather_16bit_weights_on_model_save = True


def saves_whole_tensors(trainer: Trainer) -> bool:
    """Whether checkpoints also contain a consolidated model; some layouts save only shards until the end."""
    if getattr(trainer, "is_fsdp_enabled", False):
        return "FULL_STATE_DICT" in str(trainer.accelerator.state.fsdp_plugin.state_dict_type)
    engine = getattr(trainer, "deepspeed", None)
    sharded = engine is not None and engine.zero_optimization_partition_weights()
    return not sharded or engine.zero_gather_16bit_weights_on_model_save()


def find_lost_shards(trainer: Trainer, directory: Path) -> list[Finding]:
    """saved-incomplete: state that this rank should have written to a sharded checkpoint is missing.

    DeepSpeed: by the file names of its engine. FSDP: any empty file, or no table of contents.
    """
    engine = getattr(trainer, "deepspeed", None)
    lost = []
    if engine is not None and not trainer.args.save_only_model:
        tag = f"global_step{engine.global_steps}"
        names = [engine._get_ckpt_name] if engine.save_non_zero_checkpoint else []
        names += [engine._get_zero_ckpt_name] if engine.save_zero_checkpoint else []
        lost = [file for name in names if not _is_whole(file := Path(name(str(directory), tag)))]
    for part in (*directory.glob("pytorch_model_fsdp_*/"), *directory.glob("optimizer_*/")):
        files = [part / ".metadata", *part.glob("*.distcp")]
        lost += [file for file in files if not file.is_file() or not file.stat().st_size]
    if not lost:
        return []
    message = f"{len(lost)} files of the sharded state are missing, empty or truncated, {lost[0].name} first"
    fix = "this checkpoint cannot be resumed: check the disk, and that all nodes share output_dir"
    return [Finding.error("saved-incomplete", message, fix, str(directory))]


def _is_whole(file: Path) -> bool:
    # torch.save writes zip archives, whose table of contents comes last.
    return file.is_file() and zipfile.is_zipfile(file)


def raise_together(found: list[Finding], args: TrainingArguments) -> None:
    """Raise a Refusal on every rank if any rank has a finding. Collective."""
    if true_anywhere(bool(found), args):
        other = Finding.error(
            "saved-incomplete", "another process found its save incomplete", "see the message of that process"
        )
        raise Refusal(*(found or [other]), status=FAILED)

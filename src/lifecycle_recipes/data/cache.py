"""Prepared rows on disk. Their key is a hash of all that determines them. No torch.

<cache>/rows/<key>/ holds train/ and eval/ (as `Dataset.save_to_disk` writes them), ledger.json and
manifest.json: the parts of the key, and the size, hash and modification time of every other file. An entry is
written elsewhere and then renamed, so it is never incomplete; later damage is found when it is read.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import tempfile
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..record.file import plain, write_json
from ..record.parents import hash_file, hash_inputs
from ..redact import redact
from .scratch import scratch_directory

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ..recipe.stage_recipe import TrainingRecipe

MANIFEST, LEDGER = "manifest.json", "ledger.json"
# Training arguments that affect no row. The code that prepares rows does not see them, and the key leaves
# them out. It contains every other argument, also one that a later upstream release adds.
NOT_ROWS = frozenset(
    """
    output_dir report_to run_name project trackio_space_id trackio_bucket_id trackio_static_space_id
    log_level log_level_replica log_on_each_node logging_strategy logging_steps logging_first_step
    logging_nan_inf_filter include_num_input_tokens_seen disable_tqdm skip_memory_metrics debug
    eval_strategy eval_steps eval_delay eval_on_start eval_accumulation_steps eval_do_concat_batches
    eval_use_gather_object per_device_eval_batch_size prediction_loss_only batch_eval_metrics
    save_strategy save_steps save_only_model save_on_each_node save_total_limit enable_jit_checkpoint
    load_best_model_at_end metric_for_best_model greater_is_better resume_from_checkpoint ignore_data_skip
    restore_callback_states_from_checkpoint push_to_hub hub_token hub_private_repo hub_model_id hub_strategy
    hub_always_push hub_revision do_train do_eval do_predict
    num_train_epochs max_steps learning_rate lr_scheduler_type lr_scheduler_kwargs warmup_steps
    optim optim_args optim_target_modules weight_decay adam_beta1 adam_beta2 adam_epsilon max_grad_norm
    per_device_train_batch_size gradient_accumulation_steps average_tokens_across_devices
    auto_find_batch_size neftune_noise_alpha label_smoothing_factor data_seed
    bf16 fp16 bf16_full_eval fp16_full_eval tf32 use_cpu torch_compile torch_compile_backend
    torch_compile_mode torch_empty_cache_steps activation_checkpointing activation_checkpointing_kwargs
    gradient_checkpointing gradient_checkpointing_kwargs activation_offloading full_determinism
    accelerator_config parallelism_config fsdp fsdp_config deepspeed local_rank
    ddp_find_unused_parameters ddp_bucket_cap_mb ddp_broadcast_buffers ddp_static_graph ddp_backend
    ddp_timeout dataloader_drop_last dataloader_num_workers dataloader_pin_memory
    dataloader_persistent_workers dataloader_prefetch_factor dataloader_multiprocessing_context
    dataloader_in_order train_sampling_strategy
    beta label_smoothing loss_weights ld_alpha center_rewards_coefficient disable_dropout
    precompute_ref_log_probs precompute_ref_batch_size sync_ref_model ref_model_mixup_alpha
    ref_model_sync_steps desirable_weight undesirable_weight router_aux_loss_coef
    num_ppo_epochs num_mini_batches total_episodes kl_coef kl_estimator cliprange cliprange_value vf_coef
    gamma lam whiten_rewards temperature missing_eos_penalty local_rollout_forward_batch_size
    num_sample_generations ds3_gather_for_generation world_size num_total_batches micro_batch_size
    local_batch_size batch_size local_mini_batch_size mini_batch_size
    """.split()
)
# The code that turns the rows of a file into those of a trainer, besides data/ and the stage.
ROW_CODE = ("models/load.py", "models/special_tokens.py", "models/turn_end.py", "evals/pairs.py")
PACKAGES = ("datasets", "jinja2", "pyarrow", "tokenizers", "transformers", "trl")


@dataclass
class Rows:
    """train, held_out (or None): `datasets.Dataset`s for a trainer. ledger: every row accounted for."""

    train: Any
    held_out: Any
    ledger: dict


# The key


def describe(recipe: TrainingRecipe, tokenizer: PreTrainedTokenizerBase, stage: Path, facts: dict) -> dict:
    """All that determines the rows of `recipe`, as plain values; a file is described by its content.

    stage: the file of the module that prepares them. facts: other values that this module uses.
    Raises Refusal for a missing source.
    """
    from .row_files import check_local
    from .sources import read_hub

    data = recipe.data
    train = {f.name: getattr(recipe.train, f.name, None) for f in fields(recipe.train)}
    train = plain({name: value for name, value in train.items() if name not in NOT_ROWS})
    sources = [*data.sources, *data.eval_sources]
    parts = {
        "stage": stage.stem,
        "data": asdict(data),
        "text": asdict(recipe.text) if hasattr(recipe, "text") else None,
        "train": train,
        "allow": sorted(recipe.allow),
        "facts": facts,
        "files": hash_inputs([asdict(data), train]),
        # A split's fingerprint depends on the commit that is read; a revision may be a branch.
        "hub": [read_hub(source)._fingerprint for source in sources if not check_local(source.path)],
        "tokenizer": hash_tokenizer(tokenizer),
        "template": _hash_template_source(train.get("chat_template_path")),
        "code": _hash_code(stage),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
    }
    return plain(parts)


def key_of(parts: dict) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:40]


def hash_tokenizer(tokenizer: PreTrainedTokenizerBase) -> str:
    """A hash of the tokenizer in memory, with its template and special tokens, wherever it came from."""
    with tempfile.TemporaryDirectory() as directory:
        tokenizer.save_pretrained(directory)
        return _hash_files(Path(directory), Path(directory).rglob("*"))


def _hash_template_source(path: str | None) -> str | None:
    """A hash of the tokenizer whose template is used, if train.chat_template_path is not a file."""
    if not path or os.path.isfile(path):
        return None
    from transformers import AutoTokenizer

    return hash_tokenizer(AutoTokenizer.from_pretrained(path))


def _hash_code(stage: Path) -> str:
    """A hash of the modules here that turn files into rows: a commit that changes one makes new entries."""
    package = Path(__file__).parents[1]
    files = [*package.glob("data/*.py"), *(package / name for name in ROW_CODE)]
    return _hash_files(package, [*files, stage])


def _hash_files(root: Path, files) -> str:
    digest = hashlib.sha256()
    for file in sorted(file for file in files if file.is_file()):
        digest.update(f"{os.path.relpath(file, root)}\0{hash_file(file)}\0".encode())
    return digest.hexdigest()


# Entries


def entry_of(key: str) -> Path:
    return rows_directory() / key


def rows_directory() -> Path:
    return cache_directory() / "rows"


def cache_directory() -> Path:
    """$LIFECYCLE_CACHE, by default ~/.cache/lifecycle_recipes."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lifecycle_recipes"
    return Path(os.environ.get("LIFECYCLE_CACHE") or home).expanduser()


def find_damage(entry: Path) -> str:
    """What is wrong with an existing entry; empty if nothing.

    A file whose size and modification time are in the manifest is trusted, since hashing an entry would take
    minutes at every start. A file with another time (in a copied cache) is hashed.
    LIFECYCLE_CHECK_CACHE=1 hashes every file.
    """
    thorough = os.environ.get("LIFECYCLE_CHECK_CACHE") == "1"
    try:
        manifest = json.loads((entry / MANIFEST).read_text(encoding="utf-8"))
        now = {}
        for name, (size, digest, mtime_ns) in manifest["files"].items():
            found = (entry / name).stat()
            if found.st_size != size:
                return f"{name} has {found.st_size} bytes, not {size}"
            if (thorough or found.st_mtime_ns != mtime_ns) and hash_file(entry / name) != digest:
                return f"{name} does not match its hash"
            now[name] = [size, digest, found.st_mtime_ns]
        if now != manifest["files"]:  # of a copied cache, which the next start need not hash again
            with suppress(OSError):
                write_json(entry / MANIFEST, manifest | {"files": now})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{MANIFEST} or a file that it lists cannot be read: {error}"
    return ""


def read_entry(entry: Path) -> Rows:
    """The rows of an undamaged entry, mapped into memory."""
    from datasets import load_from_disk

    held_out = load_from_disk(str(entry / "eval")) if (entry / "eval").is_dir() else None
    ledger = json.loads((entry / LEDGER).read_text(encoding="utf-8"))
    return Rows(load_from_disk(str(entry / "train")), held_out, ledger)


def workplace(key: str) -> Path:
    """A new directory beside the entries, which the caller removes. Raises OSError.

    Directories that killed processes of this machine left behind are removed first.
    """
    root = rows_directory()
    root.mkdir(parents=True, exist_ok=True)
    return scratch_directory(root, key)


def write_entry(key: str, rows: Rows, parts: dict, place: Path) -> None:
    """Make the entry in `place` and rename it. Raises OSError.

    An undamaged entry that another process has made meanwhile is kept.
    """
    fresh, entry = place / "entry", entry_of(key)
    fresh.mkdir()
    rows.train.save_to_disk(str(fresh / "train"))
    if rows.held_out is not None:
        rows.held_out.save_to_disk(str(fresh / "eval"))
    (fresh / LEDGER).write_text(json.dumps(rows.ledger), encoding="utf-8")
    files = {
        str(file.relative_to(fresh)): [file.stat().st_size, hash_file(file), file.stat().st_mtime_ns]
        for file in sorted(fresh.rglob("*"))
        if file.is_file()
    }
    (fresh / MANIFEST).write_text(json.dumps({"parts": redact(parts), "files": files}, indent=1))
    if entry.exists() and find_damage(entry):
        with suppress(FileNotFoundError):  # another process moved it
            os.rename(entry, place / "damaged")
    try:
        os.rename(fresh, entry)
    except OSError:
        if find_damage(entry):
            raise

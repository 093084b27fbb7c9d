"""The global batch: rows per optimizer step over all processes, declared once. No torch.

`global_batch_size` of a recipe = train.per_device_train_batch_size x train.gradient_accumulation_steps x the
number of processes with different rows. If the recipe leaves out one of the two keys, it is computed from the
other values, so that the recipe describes the same training on any number of processes.
"""

import os
from typing import Any

from ..finding import Finding, Refusal
from ..layouts.effective import rows_per_step

KEY = "global_batch_size"
ROWS, STEPS = "per_device_train_batch_size", "gradient_accumulation_steps"
UPSTREAM = 8  # TrainingArguments' per_device_train_batch_size: the largest value used if none is given
# KTO estimates its KL from replies to the other prompts of a micro-batch (kto_trainer.py rejects one row).
KTO_ROWS = 2


def processes_here() -> int:
    """Number of processes of this launch with different rows: a tensor or context group shares its rows."""
    shared = 1
    for name in ("TP", "CP", "SP"):
        shared *= int(os.environ.get(f"PARALLELISM_CONFIG_{name}_SIZE") or 1)
    return max(1, int(os.environ.get("WORLD_SIZE") or 1) // shared)


def batch_settings(raw: Any, processes: int) -> dict[str, int]:
    """Both keys of `train` for that many processes; {} if the recipe declares no global batch.

    Raises Refusal: batch-does-not-divide, batch-inconsistent.
    """
    if raw.values.get(KEY) is None:
        return {}
    if findings := find_in_batch_size(raw, processes):
        raise Refusal(*findings)
    rows, steps = share_out(raw.values[KEY], processes, *given(raw), least_rows(raw))
    return {ROWS: rows, STEPS: steps}


def given(raw: Any) -> tuple[int | None, int | None]:
    """(rows per process, accumulation) as set in the recipe, else None."""
    train = raw.values.get("train") or {}
    return train.get(ROWS), train.get(STEPS)


def least_rows(raw: Any) -> int:
    """The smallest number of rows in a micro-batch of one process."""
    needs_kl = (raw.values.get("train") or {}).get("loss_type", "kto") == "kto"
    return KTO_ROWS if raw.stage == "kto" and needs_kl else 1


def share_out(
    total: int, processes: int, rows: int | None = None, steps: int | None = None, least: int = 1
) -> tuple[int, int] | None:
    """(rows per process, accumulation) whose product with `processes` is `total`; None if none exists.

    rows, steps: the values in the recipe. Without steps, rows is an upper limit (what fits a device): a
    process with a smaller share uses that share. With neither: the largest divisor up to upstream's default
    of 8.
    """
    if total % processes:
        return None
    own = total // processes
    if rows is None:
        most = UPSTREAM if steps is None else own
        fits = [n for n in range(least, min(own, most) + 1) if own % n == 0 and steps in (None, own // n)]
        rows = max(fits, default=None)
    elif steps is None:
        rows = min(rows, own)
    if rows is None or rows < least or own % rows or steps not in (None, own // rows):
        return None
    return rows, own // rows


def find_in_batch_size(raw: Any, processes: int) -> list[Finding]:
    """batch-does-not-divide, batch-inconsistent and mini-batches-merged, for that many processes."""
    total, (rows, steps) = raw.values.get(KEY), given(raw)
    if total is None:
        return []
    if other := _other_forms(raw):
        return other
    found = share_out(total, processes, rows, steps, least_rows(raw))
    if found is None:
        return [_inconsistent(raw, processes) if rows and steps else _does_not_divide(raw, processes)]
    return _in_mini_batches(raw, processes, *found) if raw.stage == "ppo" else []


def find_undeclared(raw: Any, processes: int) -> list[Finding]:
    """batch-undeclared: the batch size changes with the number of processes."""
    if processes == 1 or raw.values.get(KEY) is not None or "train" not in raw.values:
        return []
    rows, steps = given(raw)
    total = (rows or UPSTREAM) * (steps or 1) * processes
    message = f"an optimizer step uses {total} rows on {processes} processes, but {total // processes} on one"
    fix = f"write `{KEY}: {total}`: {STEPS} is then computed from the number of processes"
    return [Finding.warning("batch-undeclared", message, fix, _place(raw, f"train.{ROWS}"))]


def find_in_effective(raw: Any, args: Any, processes: int) -> list[Finding]:
    """batch-differs: the built trainer's global batch is not the one that the recipe declares."""
    total = raw.values.get(KEY)
    if total is None or rows_per_step(args, processes) == total:
        return []
    message = f"an optimizer step would use {rows_per_step(args, processes)} rows:"
    message += f" {args.train_batch_size} per process x"
    message += (
        f" {args.gradient_accumulation_steps} accumulation steps x {processes}, not the declared {total}"
    )
    fix = "start it with `lifecycle run` or `accelerate launch`: each process must use one GPU"
    return [_error(raw, "batch-differs", message, fix)]


def _other_forms(raw: Any) -> list[Finding]:
    """Other settings that change the batch size."""
    train = raw.values.get("train") or {}
    config = train.get("accelerator_config")
    config = config if isinstance(config, dict) else {}
    forms = {
        "auto_find_batch_size": train.get("auto_find_batch_size"),
        "accelerator_config.split_batches": config.get("split_batches"),
        "accelerator_config.gradient_accumulation_kwargs.num_steps": (
            config.get("gradient_accumulation_kwargs") or {}
        ).get("num_steps"),
    }
    return [
        _error(
            raw,
            "batch-inconsistent",
            f"train.{name} sets the batch size as well",
            "keep one of the two",
            name,
        )
        for name, value in forms.items()
        if value
    ]


def _inconsistent(raw: Any, processes: int) -> Finding:
    rows, steps = given(raw)
    message = (
        f"train.{ROWS} {rows} x train.{STEPS} {steps} x {_count(processes)} is {rows * steps * processes}"
    )
    message += f" rows, not {KEY} {raw.values[KEY]}"
    return _error(
        raw, "batch-inconsistent", message, f"remove train.{STEPS}: it is computed from the other values"
    )


def _does_not_divide(raw: Any, processes: int) -> Finding:
    total, (rows, steps) = raw.values[KEY], given(raw)
    fixed = [f"{_count(processes)}"]
    fixed += [f"train.{name} {value}" for name, value in ((ROWS, rows), (STEPS, steps)) if value]
    least = least_rows(raw)
    if least > 1 and not rows:
        fixed.append(f"at least {least} rows per micro-batch, for the KL estimate")
    message = f"{KEY} {total} cannot be divided evenly over {' x '.join(fixed)}"

    def fits(total: int, processes: int) -> bool:
        return total > 0 and share_out(total, processes, rows, steps, least) is not None

    unit = processes * max(rows or 1, least) * (steps or 1)  # its multiples fit
    near = [n for n in range(total - unit, total + unit + 1) if fits(n, processes)]
    nearest = [*[n for n in near if n < total][-1:], *[n for n in near if n > total][:1]]
    fix = f"write {' or '.join(map(str, nearest))}"
    own = total // processes
    if rows and total % processes == 0:
        fitting = max((n for n in range(least, min(own, rows) + 1) if own % n == 0), default=None)
        fix += f", or train.{ROWS}: {fitting}" if fitting else ""
    if fewer := next((n for n in range(processes - 1, 0, -1) if fits(total, n)), None):
        fix += f", or use {_count(fewer)}"
    return _error(raw, "batch-does-not-divide", message, fix)


def _in_mini_batches(raw: Any, processes: int, rows: int, steps: int) -> list[Finding]:
    """PPO splits the rows of a process into num_mini_batches, and each of these into micro-batches."""
    parts = (raw.values.get("train") or {}).get("num_mini_batches") or 1
    own = rows * steps
    if own % parts:
        message = f"{own} rows on each of {_count(processes)} cannot be split into {parts} mini-batches"
        unit = processes * parts * rows
        near = [n for n in (own * processes // unit * unit, own * processes // unit * unit + unit) if n]
        fix = f"write {' or '.join(map(str, near))}, or lower train.num_mini_batches"
        return [_error(raw, "batch-does-not-divide", message, fix)]
    if parts > 1 and steps > 1:
        # ppo_trainer.py steps once per `gradient_accumulation_steps` micro-batches, mini-batch or not.
        message = (
            f"PPO would run {max(1, parts // steps)} optimizer steps per epoch for {parts} mini-batches,"
        )
        message += f" because {steps} micro-batches are accumulated: the number depends on the layout"
        fix = f"write `{ROWS}: {own}` or `num_mini_batches: 1`"
        return [_error(raw, "mini-batches-merged", message, fix, "train.num_mini_batches")]
    return []


def _count(processes: int) -> str:
    return f"{processes} process" + ("es" if processes > 1 else "")


def _error(raw: Any, code: str, message: str, fix: str, *keys: str) -> Finding:
    return Finding.error(code, message, fix, _place(raw, *keys, KEY))


def _place(raw: Any, *keys: str) -> str:
    return next((raw.places[key] for key in keys if key in raw.places), raw.path)

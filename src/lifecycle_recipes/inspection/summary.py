"""The totals of an inspection as text: (name, lines), for the terminal and for the page."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..doctor.trainer_level.packing_leaks import change_behind_a_boundary, two_documents
from ..doctor.trainer_level.step_count import is_ppo
from .packing import packing_lines
from .totals import SourceTotals, Totals, quantiles
from .trace import Trace

if TYPE_CHECKING:
    from transformers import Trainer

    from ..recipe.stage_recipe import TrainingRecipe

PACKING = "packing"  # its lines are a table
SHOWN = 5  # dropped rows that are listed


def summarise(trace: Trace, totals: Totals, run: dict, ends: set[int]) -> list[tuple[str, list[str]]]:
    """In order: model, rows, sources, tokens, lengths, end of turn, documents, packing, steps.

    run: the result of totals.steps. ends: ids of end-of-turn tokens.
    """
    recipe, trainer = trace.recipe, trace.trainer
    lines = [
        ("model", [f"{recipe_model(recipe)}, trained by {trainer_name(trainer)}"]),
        ("rows", row_lines(trace.ledger, trace, totals)),
        ("sources", source_lines(totals)),
        ("tokens", token_lines(trainer, totals, run)),
        ("lengths", length_lines(trainer, totals)),
        ("end-of-turn token", end_lines(trainer, totals, ends)),
        ("documents", document_lines(trainer, totals)),
        (PACKING, packing_lines(trace, totals)),
        ("steps", step_lines(trainer, totals, run)),
    ]
    return [(name, found) for name, found in lines if found]


def recipe_model(recipe: TrainingRecipe) -> str:
    architecture = recipe.section("architecture")
    return f"a new {architecture.model_type}" if architecture else recipe.model.model_name_or_path


def trainer_name(trainer: Trainer) -> str:
    """The name of upstream's class, which our subclasses only correct."""
    return next(c.__name__ for c in type(trainer).__mro__ if not c.__module__.startswith("lifecycle_recipes"))


def row_lines(ledger: dict, trace: Trace, totals: Totals) -> list[str]:
    kept = ledger["rows_out"] - ledger["eval_rows"]
    lines = [f"{ledger['rows_in']:,} read: {kept:,} for training, {ledger['eval_rows']:,} held out"]
    if "repeated" in ledger:
        lines.append(f"{ledger['repeated']:,} repeated to meet the weights")
    lines += [f"{rows:,} left out: {reason}" for reason, rows in ledger["left_out"].items()]
    if totals.truncated:
        share = totals.cut_tokens / max(totals.tokens + totals.cut_tokens, 1)
        lines.append(f"{totals.truncated:,} truncated: {totals.cut_tokens:,} tokens lost ({share:.1%})")
    for number, parts in trace.whole(totals.gone[:SHOWN]).items():
        lines.append(f"dropped: {trace.origins.place(number)} ({sum(map(len, parts)):,} tokens)")
    if len(totals.gone) > SHOWN:
        lines.append(f"dropped: {len(totals.gone) - SHOWN:,} more")
    if totals.labels:
        lines.append(", ".join(f"{rows:,} {label}" for label, rows in sorted(totals.labels.items())))
    return lines


def source_lines(totals: Totals) -> list[str]:
    if totals.unattributed == totals.documents:
        lines = [f"{source.path}: {source.rows:,} rows" for source in totals.sources]
        return [*lines, "tokens per source are unknown: packing_strategy wrapped ignores document boundaries"]
    every = max(sum(source.tokens for source in totals.sources), 1)
    lines = [
        f"{source.path}: {source.trained:,} of {source.rows:,} rows, {source.tokens:,} tokens"
        f" ({source.tokens / every:.1%}{weight(source)})"
        for source in totals.sources
    ]
    return lines


def weight(source: SourceTotals) -> str:
    """What its weight asks for, and how often its rows are seen in one epoch; empty without a weight."""
    return f", weight {source.wanted:.1%}, seen {source.epochs:g} times" if source.wanted is not None else ""


def token_lines(trainer: Trainer, totals: Totals, run: dict) -> list[str]:
    lines = [f"{totals.tokens:,} per epoch"]
    if is_ppo(trainer):
        lines[0] += (
            f", in prompts; replies of up to {trainer.args.response_length} tokens are sampled in training"
        )
    elif totals.trained:
        lines[0] += f", {totals.trained / totals.tokens:.1%} of them supervised"
    else:
        lines[0] += "; the reward is read at the last token of each sequence"
    lines.append(f"{run['padding']:.1%} padding in the first batches")
    return lines


def length_lines(trainer: Trainer, totals: Totals) -> list[str]:
    limit = getattr(trainer.args, "max_length", None) or getattr(trainer.data_collator, "block_size", None)
    lines = []
    for title, lengths in totals.lengths.items():
        least, half, most, nearly, longest = quantiles(lengths)
        name = f"{title}: " if title else ""
        lines.append(
            f"{name}shortest {least:,}, median {half:,}, 90 % within {most:,}, 99 % within {nearly:,}, "
            f"longest {longest:,} tokens"
        )
    return lines + ([f"limit {limit:,}"] if limit else [])


def end_lines(trainer: Trainer, totals: Totals, ends: set[int]) -> list[str]:
    name = trainer.processing_class.convert_ids_to_tokens
    if is_ppo(trainer):
        return [f"{name(trainer.stop_token_id)}: sampled replies stop at it"]
    verb = "supervised" if totals.trained else "scored"
    lines = [
        f"{name(i)}: {verb} at the end of {n:,} of {totals.sequences:,} sequences"
        for i, n in totals.ends.most_common()
    ]
    return lines or [f"none of {' '.join(map(name, sorted(ends)))} is {verb} at the end of any sequence"]


def document_lines(trainer: Trainer, totals: Totals) -> list[str]:
    rows = two_documents(trainer.train_dataset, getattr(trainer, "padding_free", False))
    if rows is None:
        packing = getattr(trainer.args, "packing", False)
        if packing and trainer.args.packing_strategy == "wrapped":
            return ["not separated: rows are filled and split at max_length"]
        return ["one per row" + (": no two fit into one" if packing else "")]
    lines = [f"{totals.documents:,} in {totals.rows:,} rows"]
    change = change_behind_a_boundary(trainer, *rows)
    if change is None:
        lines.append("isolation not measured: the weights are sharded, or not on this machine")
    else:
        verdict = "isolated" if change < 1e-3 else "NOT isolated"
        lines.append(f"{verdict}: changing one changes the activations of the next by {change:.1%}")
    return lines


def step_lines(trainer: Trainer, totals: Totals, run: dict) -> list[str]:
    args, batch = trainer.args, run["global_batch"]
    kind = "updates" if is_ppo(trainer) else "steps"
    tokens = round(totals.tokens * batch / max(totals.rows, 1))
    declared = ", as declared" if run["declared"] else ""
    return [
        f"{run['steps']:,} {kind}, {run['epochs']:.2f} epochs",
        f"global batch {batch:,} rows{declared}: {args.per_device_train_batch_size} per process"
        f" x {args.gradient_accumulation_steps} accumulation steps x {run['processes']} process"
        + ("es" if run["processes"] > 1 else ""),
        f"{tokens:,} {'prompt ' if is_ppo(trainer) else ''}tokens per step",
    ]

"""`lifecycle inspect`: the input of the loss, token by token, and the totals of the training set."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..data.provenance import places
from ..doctor.codes import NEVER_WAIVED
from ..doctor.recipe_level.hub import leave_silent_hub
from ..doctor.recipe_level.level import find_in_recipe
from ..doctor.trainer_level.loss_mask import end_ids
from ..doctor.trainer_level.trial_build import TrialRun, built_trainer
from ..finding import Refusal, refuse
from ..recipe.read import read_recipe
from .sequences import Sequence, first_batches, sequences
from .stored_row import stored_and_read
from .summary import summarise
from .token_text import Piece, pieces
from .totals import count, steps
from .trace import Trace

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, Trainer

    from ..recipe.stage_recipe import TrainingRecipe


@dataclass(frozen=True)
class Part:
    """One sequence of a row. pieces: its tokens in order. facts: lengths and counts, as text."""

    title: str
    pieces: list[Piece]
    facts: str


@dataclass(frozen=True)
class Row:
    """A row of the trainer's dataset. where: the source rows in it. note: its label.

    stored: (title, text) of a converted row as it is stored and as it is read.
    """

    title: str
    where: str
    note: str
    parts: list[Part]
    stored: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Inspection:
    """path, stage: of the recipe. summary: (name, lines) in order. rows: from the first batches."""

    path: str
    stage: str
    summary: list[tuple[str, list[str]]]
    rows: list[Row] = field(default_factory=list)


def inspect(path: str, overrides: list[str] | None = None, rows: int = 3, html: str | None = None) -> str:
    """Build the trainer of a recipe; show its first `rows` rows and the totals of the training set.

    Returns text, with colours if stdout is a terminal and NO_COLOR is not set. html: write the rows to this
    HTML file instead. Raises Refusal: html-unwritable, and whatever building the trainer raises.
    """
    from .page import page
    from .terminal import text

    if html:
        require_writable(html)
    require_buildable(path, overrides)
    print(f"{path}: building the trainer ...", file=sys.stderr)
    with built_trainer(path, overrides) as (recipe, trainer, run):
        print(f"{path}: reading {len(trainer.train_dataset):,} training rows ...", file=sys.stderr)
        inspection = look(path, recipe, trainer, run, rows)
    if html:
        Path(html).write_text(page(inspection), encoding="utf-8")
        inspection = replace(inspection, summary=[*inspection.summary, ("page", [html])], rows=[])
    return text(inspection, sys.stdout.isatty() and not os.environ.get("NO_COLOR"))


def require_buildable(path: str, overrides: list[str] | None) -> None:
    """Raise Refusal for what no trainer can be built with; other faults can be inspected."""
    found = [f for f in find_in_recipe(read_recipe(path, overrides)) if f.code in NEVER_WAIVED]
    leave_silent_hub()
    if found:
        raise Refusal(*found)


def require_writable(html: str) -> None:
    """Raises Refusal html-unwritable. Called before the trainer is built."""
    try:
        with open(html, "a", encoding="utf-8"):
            pass
    except OSError as error:
        message = f"the page cannot be written: {error.strerror}"
        raise refuse("html-unwritable", message, "give a file in an existing directory", html) from error


def look(path: str, recipe: TrainingRecipe, trainer: Trainer, run: TrialRun, rows: int) -> Inspection:
    """The Inspection of a built trainer."""
    trace = Trace(recipe, trainer, run)
    ends = end_ids(trainer) | turn_end_ids(trainer.processing_class)
    shown = first_rows(trainer, trace, rows)
    totals = count(trainer, trace, ends)
    summary = summarise(trace, totals, steps(trainer, recipe.global_batch_size), ends)
    return Inspection(str(path), recipe.raw.stage, summary, shown)


def turn_end_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """The end-of-turn token of the chat template, which may differ from the tokenizer's eos."""
    from ..models.turn_end import turn_end_token

    end = turn_end_token(tokenizer)
    return {tokenizer.convert_tokens_to_ids(end)} if end else set()


def first_rows(trainer: Trainer, trace: Trace, count: int) -> list[Row]:
    """The first `count` rows in the order of training."""
    found = []
    if count <= 0:
        return found
    for step, (rows, batch, numbers) in enumerate(first_batches(trainer), start=1):
        shown = zip(numbers, rows, sequences(trainer, rows, batch), strict=True)
        for place, (number, row, parts) in enumerate(shown, start=1):
            found.append(show_row(trainer, trace, number, row, parts, f"batch {step}, row {place}"))
            if len(found) == count:
                return found
    return found


def show_row(
    trainer: Trainer, trace: Trace, number: int, row: dict, parts: list[Sequence], title: str
) -> Row:
    """number: of the row in the training set."""
    (held,) = trace.origins.numbers_of(number, number + 1)
    for part in parts:
        if len(held) == 1 and trace.may_be_cut(len(part.ids)):
            give_back_cut(part, trace.whole(held)[held[0]][0])
    note = f"label: {'good' if row['label'] else 'bad'}" if "label" in row else ""
    shown = [Part(p.title, pieces(trainer.processing_class, p), facts(p)) for p in parts]
    stored = stored_and_read(trace, held[0]) if len(held) == 1 else []
    return Row(title, places(trace.origins.of(number)), note, shown, stored)


def give_back_cut(part: Sequence, whole: list[int]) -> None:
    """Truncated tokens are not in the batch if the dataset was truncated: restore them from the source."""
    from .sequences import cut_of

    part.cut, part.cut_at = cut_of(whole, part.ids)


def facts(part: Sequence) -> str:
    found = [f"{len(part.ids)} tokens"]
    if part.scored:
        found.append("score read at the last token")
    elif part.extra:
        found.append("no gradient")
    else:
        found.append(f"{sum(part.trained)} supervised")
    if part.cut:
        found.append(f"{len(part.cut)} truncated")
    if part.padding:
        found.append(f"{part.padding} padding")
    if len(part.starts) > 1:
        found.append(f"{len(part.starts)} documents")
    return ", ".join(found)

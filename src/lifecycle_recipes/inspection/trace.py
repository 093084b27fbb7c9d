"""Which source rows are in the built trainer's dataset, which are truncated and which are dropped."""

from __future__ import annotations

from copy import copy
from functools import cached_property
from typing import TYPE_CHECKING

from ..data.config import stage_columns
from ..data.provenance import ROW
from ..data.shares import has_weights, in_characters
from ..doctor.trainer_level.trial_build import TrialRun
from ..evals.pairs import tokenize_pairs
from ..models.turn_end import prompt_ids

if TYPE_CHECKING:
    from transformers import Trainer

    from ..recipe.stage_recipe import TrainingRecipe


class Trace:
    """The training rows of a recipe and of its built trainer. Rows are identified by number (ROW).

    The sources are read only if rows were truncated or dropped, and only those rows are tokenised again.
    """

    def __init__(self, recipe: TrainingRecipe, trainer: Trainer, run: TrialRun):
        self.recipe, self.trainer = recipe, trainer
        self.origins = run.origins
        self.ledger: dict = run.notes["data"]

    @property
    def documents_end(self) -> bool:
        """Whether the documents of a row can be distinguished: not if rows are `wrapped`."""
        args = self.trainer.args
        return not (getattr(args, "packing", False) and args.packing_strategy == "wrapped")

    @property
    def splits(self) -> bool:
        """Whether a document that is too long is divided into pieces, which are all in the set."""
        args = self.trainer.args
        if self.recipe.raw.stage == "pretrain":
            return True
        return getattr(args, "packing", False) and args.packing_strategy == "bfd_split"

    def may_be_cut(self, tokens: int) -> bool:
        """Whether a document with this number of tokens may have been longer before its dataset was prepared.

        Only sft truncates there, and discards the rest; a preference trainer truncates in its collator.
        """
        args = self.trainer.args
        if self.recipe.raw.stage != "sft" or tokens != args.max_length:
            return False
        return not args.packing or args.packing_strategy == "bfd"

    def whole(self, numbers: list[int]) -> dict[int, tuple[list[int], ...]]:
        """number -> ids of that row before truncation: (document,), or a prompt and its reply or replies."""
        if not numbers:
            return {}
        wanted = sorted(set(numbers))
        rows = self.read.select([self.at[number] for number in wanted])
        return dict(zip(wanted, whole_rows(self.recipe.raw.stage, self.trainer, rows), strict=True))

    @cached_property
    def read(self):
        """The training rows as the stage reads them, before the trainer drops any."""
        from ..data.sources import load_data

        raw = self.recipe.raw
        data = in_characters(self.recipe.data, self.ledger)
        return load_data(data, *stage_columns(raw.stage, raw.values), raw.allow)[0]

    @cached_property
    def at(self) -> dict[int, int]:
        """number -> index of that row in `read`."""
        return {number: i for i, number in enumerate(self.read[ROW])}

    def missing(self) -> list[int]:
        """Numbers of the training rows that are not in the trainer's dataset."""
        used = self.used()
        if len(used) == self._rows_read():
            return []
        return sorted(set(self.at) - used)

    def used(self) -> set[int]:
        """Numbers of the source rows in the trainer's dataset."""
        rows, step = len(self.trainer.train_dataset), 10_000
        parts = (self.origins.numbers_of(first, first + step) for first in range(0, rows, step))
        return {number for part in parts for numbers in part for number in numbers}

    def _rows_read(self) -> int:
        """The number of training rows that were read; more if the trainer dropped held-out rows of the same files."""
        if has_weights(self.recipe.data):
            return len(self.at)
        kept = sum(source["kept"] for source in self.ledger["sources"] if source["use"] == "train")
        return kept - self.ledger["eval_rows"] if self.recipe.data.eval_fraction else kept


def whole_rows(stage: str, trainer: Trainer, rows) -> list[tuple[list[int], ...]]:
    """Ids of each row before truncation: (document,), (chosen, rejected), (prompt, chosen, rejected), ..."""
    tokenizer = trainer.processing_class
    if stage == "ppo":
        return [(prompt_ids(tokenizer, prompt),) for prompt in rows["prompt"]]
    columns = {
        "sft": ["input_ids"],
        "reward": ["chosen_ids", "rejected_ids"],
        "dpo": ["prompt_ids", "chosen_ids", "rejected_ids"],
        "kto": ["prompt_ids", "completion_ids"],
    }[stage]
    if stage == "reward":
        rows = tokenize_pairs(rows, tokenizer)
    rows = prepared(trainer, stage, rows)
    return list(zip(*(rows[column] for column in columns), strict=True))


def prepared(trainer: Trainer, stage: str, rows):
    """`rows` after the trainer's own preparation, without truncation, packing and shuffling."""
    args = copy(trainer.args)
    args.max_length = None
    if stage != "sft":
        return trainer._prepare_dataset(rows, trainer.processing_class, args, "source")
    args.shuffle_dataset = False
    return trainer._prepare_dataset(rows, trainer.processing_class, args, False, None, "source")

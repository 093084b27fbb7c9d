"""Rows are tokenised once, by one process, into the cache (cache.py); the other processes read them."""

from __future__ import annotations

import logging
import shutil
import sys
from collections.abc import Callable
from copy import copy, deepcopy
from dataclasses import MISSING, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..finding import Finding, refuse
from .cache import NOT_ROWS, Rows, describe, entry_of, find_damage, key_of, read_entry, workplace, write_entry
from .provenance import ROW, Origins, take_off, with_packed_numbers
from .shares import count_tokens, meet_weights
from .sources import until_exit
from .waiting import Turn, no_barriers

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ..recipe.stage_recipe import TrainingRecipe
    from ..record.run import Run
    from .config import DataConfig

# Sections of a recipe that affect no row.
NOT_DATA = ("model", "reward", "value", "architecture", "evaluate", "gate", "pinned", "raw")


def prepared_rows(
    recipe: TrainingRecipe,
    tokenizer: PreTrainedTokenizerBase,
    prepare: Callable[..., tuple],
    run: Run,
    **facts,
) -> Rows:
    """The rows of `recipe`, from the cache if it has them; `run` gets ledger, origins and data_cache.

    prepare: `(recipe, tokenizer, scratch, **facts) -> (train, held-out or None, ledger)` of a stage. It gets
    only those values of the recipe that are in the key. scratch: the directory for its temporary files. It
    keeps the column ROW of the training rows.
    Called on every rank: one process prepares, and the others wait without a time limit. If the cache cannot
    be used, every process prepares its own rows, and `run` gets a finding. Weights of sources are met in
    tokens (shares.py).
    Raises Refusal: what `prepare` raises, machines-differ, rows-not-prepared.
    """
    turn = Turn()

    def describe_inputs() -> dict:
        return describe(only_data(recipe), tokenizer, Path(prepare.__code__.co_filename), facts)

    with turn.together():
        parts = describe_inputs() if turn.first else None
        told = turn.wait()
        if told and parts and told != parts:
            raise machines_differ(told, parts)
        parts = parts or told
        key = key_of(parts)
        rows, problem = find(key)
        if problem:
            run.report([damaged(key, problem)])
        hit = rows is not None
        if not hit:
            if turn.main and turn.processes > 1:
                print(
                    f"rank 0 prepares the rows for {turn.processes} processes; the others poll",
                    file=sys.stderr,
                )

            def make(scratch: Path) -> Rows:
                max_length = getattr(recipe.train, "max_length", None)

                def prepare_with(data: DataConfig, again: bool) -> tuple:
                    own, place = only_data(recipe), scratch / "again" if again else scratch
                    own.data = data
                    place.mkdir(exist_ok=True)
                    return prepare(own, deepcopy(tokenizer), place, **facts)

                def count(rows: Any, source_rows: list[int]) -> list[int] | None:
                    return count_tokens(rows, source_rows, max_length)

                with no_barriers():
                    return Rows(*meet_weights(recipe.data, prepare_with, count))

            rows = make_entry(key, parts, make, describe_inputs, run)
        turn.tell(parts)
    run.note(data=rows.ledger, data_cache={"key": key, "hit": hit})
    run.origins = Origins(rows.train.select_columns(ROW), rows.ledger["sources"])
    return Rows(take_off(rows.train), take_off(rows.held_out), rows.ledger)


def only_data(recipe: TrainingRecipe) -> Any:
    """A copy of `recipe` in which the values that are not in the key are unset."""
    own = copy(recipe)
    for name in NOT_DATA:
        if hasattr(own, name):
            setattr(own, name, None)
    own.train = copy(recipe.train)
    for field in fields(own.train):
        if field.name in NOT_ROWS:
            default = field.default if field.default_factory is MISSING else field.default_factory()
            setattr(own.train, field.name, None if default is MISSING else default)
    return own


def find(key: str) -> tuple[Rows | None, str]:
    """(the rows of an undamaged entry or None, what is wrong with a damaged one)."""
    entry = entry_of(key)
    try:
        if not entry.exists():
            return None, ""
        problem = find_damage(entry)
        return (None, problem) if problem else (read_entry(entry), "")
    except OSError as error:
        return None, str(error)


def make_entry(
    key: str, parts: dict, make: Callable[[Path], Rows], again: Callable[[], dict], run: Run
) -> Rows:
    """Prepare rows and keep them; if that fails, prepare them for this process alone and report it.

    again: describes the inputs once more, since a file may change while it is read.
    """
    try:
        place = workplace(key)
    except OSError as error:
        return make_alone(make, error, run)
    try:
        (place / "steps").mkdir()
        rows = make(place / "steps")
        if again() != parts:
            raise OSError("an input changed while the rows were made from it")
        write_entry(key, rows, parts, place)
        return read_entry(entry_of(key))
    except OSError as error:
        return make_alone(make, error, run)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def make_alone(make: Callable[[Path], Rows], error: OSError, run: Run) -> Rows:
    """Rows for this process, in files that are removed when it ends."""
    run.report([unusable(error)])
    return make(Path(until_exit()))


def rows_of_trainer(
    trainer_class, args, tokenizer: PreTrainedTokenizerBase, train, held_out, tokenize: Callable | None = None
) -> tuple:
    """(train, held-out) as the `trainer_class` of TRL prepares them.

    tokenize: for TRL's SFTTrainer, `(rows, upstream, template or None, train or eval) -> tokenised rows`, called
    before they are truncated or packed. `upstream(rows)` tokenises what is not tokenised yet.
    Its constructor runs up to that point, with a tiny model: no weights are read and no device is used. In
    the constructor of the real trainer the same would happen after the model is loaded: a bad row would then
    be refused late, and a long tokenisation on one rank would hold every GPU.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 1, "num_hidden_layers": 1}
    config = LlamaConfig(**sizes, vocab_size=len(tokenizer), num_labels=1)
    done, logger = {}, logging.getLogger(trainer_class.__module__)
    level = logger.level

    class Preparing(trainer_class):
        def _prepare_dataset(self, dataset, *arguments):
            logger.setLevel(level)
            prepare, name = super()._prepare_dataset, arguments[-1]
            if tokenize:
                begin = partial(tokenize, template=self.chat_template, name=name)
                prepare = partial(prepare_in_two_steps, prepare, begin)
            done[name] = prepare(dataset, *arguments)
            if held_out is None or "eval" in done:
                raise _Prepared
            return done[name]

    # With it, upstream drops all columns that the model does not read, the row numbers included.
    if getattr(args, "use_liger_kernel", False):
        args = copy(args)
        args.use_liger_kernel = False
    # The real trainer logs the same messages once more when it is built.
    logger.setLevel(logging.ERROR)
    try:
        Preparing(
            model=LlamaForCausalLM(config),
            args=args,
            train_dataset=train,
            eval_dataset=held_out,
            processing_class=tokenizer,
        )
    except _Prepared:
        return done["train"], done.get("eval")
    finally:
        logger.setLevel(level)
    raise RuntimeError(f"{trainer_class.__name__} has prepared no rows")


def prepare_in_two_steps(
    prepare: Callable, tokenize: Callable, dataset, tokenizer, args, packing, formatting, name: str
):
    """`prepare(dataset, ...)` of TRL's SFTTrainer, which truncates or packs the rows of `tokenize(dataset, ...)`.

    The row numbers of packed training rows are packed in the same way.
    """
    apart = copy(args)
    apart.max_length, apart.shuffle_dataset = None, False
    rows = tokenize(dataset, lambda rows: prepare(rows, tokenizer, apart, False, formatting, name))

    def finish(rows):
        return prepare(rows, tokenizer, args, packing, formatting, name)

    done = finish(rows)
    return with_packed_numbers(done, rows, finish) if packing and name == "train" else done


class _Prepared(Exception):
    """Both sets of rows are prepared."""


def over_prepared(trainer_class) -> type:
    """A subclass of TRL's `trainer_class` that does not prepare rows again that are already prepared."""

    class OverPrepared(trainer_class):
        def __init__(self, *, args, **parts):
            masked = getattr(args, "assistant_only_loss", None)
            if masked:  # SFT masks while it prepares rows, and rejects rows that are not conversations
                args.assistant_only_loss = False
            try:
                super().__init__(args=args, **parts)
            finally:
                if masked:
                    args.assistant_only_loss = True

        def _prepare_dataset(self, dataset, *arguments):
            ready = {"input_ids", "prompt_ids", "chosen_ids"} & set(dataset.column_names or [])
            return dataset if ready else super()._prepare_dataset(dataset, *arguments)

    OverPrepared.__name__ = OverPrepared.__qualname__ = trainer_class.__name__  # upstream's messages name it
    return OverPrepared


def machines_differ(theirs: dict, ours: dict):
    names = [name for name in ours if ours[name] != theirs.get(name)]
    message = f"this machine would prepare other rows than rank 0: {', '.join(names)} differ"
    return refuse("machines-differ", message, "install the same files and packages on every machine")


def damaged(key: str, problem: str) -> Finding:
    message = f"an entry of the data cache is damaged: {problem}"
    return Finding.warning(
        "cache-entry-damaged", message, "none needed: the rows are prepared again", str(entry_of(key))
    )


def unusable(error: OSError) -> Finding:
    message = f"the data cache cannot be used: {error}"
    fix = "free disk space, or set LIFECYCLE_CACHE to a writable directory; now every process tokenises separately"
    return Finding.warning("cache-unusable", message, fix, str(entry_of("").parent))

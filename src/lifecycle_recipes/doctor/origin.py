"""Where the rows of the built trainer come from, how long they were whole, and which are missing."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from copy import copy
from dataclasses import dataclass, field

SHOWN = 5


@dataclass(frozen=True)
class Origin:
    """A row of a source. source: counts data.sources from 0. number: its `unit` in the file, from 1.

    tokens: before truncation. ids: whole, where truncation took some.
    """

    source: int
    path: str
    number: int
    unit: str
    tokens: int
    ids: tuple[int, ...] = ()


@dataclass
class Origins:
    """The training rows of every source, found by the ids that the trainer has of them.

    known: key of the ids -> the rows with those ids, in order. partly: a source was too large to trace whole.
    """

    known: dict[int, list[Origin]] = field(default_factory=lambda: defaultdict(list))
    taken: Counter = field(default_factory=Counter)
    partly: bool = False

    def find(self, key: int) -> Origin | None:
        """The first row with these ids."""
        return next(iter(self.known.get(key, ())), None)

    def take(self, key: int) -> Origin | None:
        """The next row with these ids: equal rows are given one after the other."""
        rows, at = self.known.get(key, ()), self.taken[key]
        self.taken[key] += 1
        return rows[at] if at < len(rows) else None

    def missing(self) -> list[Origin]:
        """Rows of which nothing was taken, in the order of the sources."""
        used = {row for key, rows in self.known.items() for row in rows[: self.taken[key]]}
        rows = dict.fromkeys(row for rows in self.known.values() for row in rows)
        return [row for row in rows if row not in used]


def trace(recipe, trainer) -> Origins:
    """Tokenise the training rows of every source as the trainer did, but whole; note what each becomes."""
    from datasets import Dataset

    row_sets = training_rows(recipe.raw)
    stage, origins = recipe.raw.stage, Origins(partly=any(row_set.partly for row_set in row_sets))
    parts = [Dataset.from_list(list(row_set.rows)) for row_set in row_sets]
    # As in training: a column that one source lacks is read from none.
    columns = [part.column_names for part in parts if len(part)]
    shared = [c for c in columns[0] if all(c in others for others in columns)]
    for source, (row_set, rows) in enumerate(zip(row_sets, parts, strict=True)):
        if not len(rows):
            continue
        for i, ids in enumerate(whole_rows(stage, recipe, trainer, rows.select_columns(shared))):
            kept = kept_parts(trainer, stage, ids)
            cut = len(ids) == len(kept) == 1 and len(kept[0][0]) < len(ids[0])
            row = Origin(
                source=source,
                path=row_set.path,
                number=row_set.number(i),
                unit=row_set.unit,
                tokens=sum(map(len, ids)),
                ids=tuple(ids[0]) if cut else (),
            )
            for part in kept:
                origins.known[key_of(part)].append(row)
    return origins


def training_rows(raw) -> list:
    """The RowSets to train on, one per source, without the rows that reading leaves out."""
    from ..data.config import stage_columns
    from ..data.row_faults import why_left_out
    from .row_sets import read_row_sets

    required = stage_columns(raw.stage, raw.values)[0]
    found = []
    for row_set in read_row_sets(raw)[0]:
        if row_set.use == "train":
            rows = enumerate(row_set.rows)
            kept = [i for i, row in rows if not why_left_out(row, raw.allow, required)]
            found.append(row_set.pick(kept, "train"))
    return found


def places(origins: Iterable[Origin | None]) -> str:
    """`file:4 and other.parquet, rows 2, 7`; at most SHOWN rows of each file are named."""
    files: dict[tuple[str, str], list[int]] = {}
    for row in origins:
        if row:
            files.setdefault((row.path, row.unit), []).append(row.number)
    found = []
    for (path, unit), numbers in files.items():
        more = f" and {len(numbers) - SHOWN} more" if len(numbers) > SHOWN else ""
        shown = ", ".join(map(str, numbers[:SHOWN])) + more
        if len(numbers) == 1 and unit == "lines":
            found.append(f"{path}:{shown}")
        else:
            found.append(f"{path}, {unit if len(numbers) > 1 else unit.removesuffix('s')} {shown}")
    return " and ".join(found) or "source unknown"


def key_of(parts) -> int:
    """One number for the ids of a row: of (document,), (prompt, reply) or (prompt, chosen, rejected)."""
    return hash(tuple(map(tuple, parts)))


def row_keys(row: dict, starts: list[int]) -> list[int]:
    """Keys of what a row of the trainer's dataset holds: one for a pair or a reply, else one per document."""
    for columns in (("chosen_ids", "rejected_ids"), ("completion_ids",)):
        if columns[0] in row:
            return [key_of((row.get("prompt_ids", ()), *(row[column] for column in columns)))]
    ids = row["input_ids"]
    return [key_of((ids[a:b],)) for a, b in zip(starts, [*starts[1:], len(ids)], strict=True)]


def whole_rows(stage: str, recipe, trainer, rows) -> Iterator[tuple[list[int], ...]]:
    """Per row its ids before truncation: (document,), (prompt, chosen, rejected) or (prompt, reply)."""
    tokenizer = trainer.processing_class
    if stage == "pretrain":
        from ..data.blocks import pack_documents

        # A block without end: no document is cut.
        whole, _ = pack_documents(rows, tokenizer, recipe.text.column, 1 << 40, "none")
        return ((ids,) for ids in whole["input_ids"])
    if stage == "ppo":
        return ((prompt_ids(tokenizer, prompt),) for prompt in rows["prompt"])
    columns = {
        "sft": ["input_ids"],
        "reward": ["chosen_ids", "rejected_ids"],
        "dpo": ["prompt_ids", "chosen_ids", "rejected_ids"],
        "kto": ["prompt_ids", "completion_ids"],
    }[stage]
    if stage == "reward":
        rows = scored_pairs(tokenizer, rows)
    rows = prepared(trainer, stage, rows)
    whole = zip(*(rows[column] for column in columns), strict=True)
    return ((([], *pair) if stage == "reward" else pair) for pair in whole)


def prepared(trainer, stage: str, rows):
    """`rows` through the trainer's own preparation, with nothing truncated, packed or shuffled."""
    args = copy(trainer.args)
    args.max_length = None
    if stage != "sft":
        return trainer._prepare_dataset(rows, trainer.processing_class, args, "source")
    args.shuffle_dataset = False
    return trainer._prepare_dataset(rows, trainer.processing_class, args, False, None, "source")


def scored_pairs(tokenizer, rows):
    """Pairs as the reward stage reads them: up to the turn end. Text is left to upstream."""
    from ..data.turns import scored_ids
    from ..models.load import turn_end

    if isinstance(rows[0]["chosen"], str):
        return rows
    end = tokenizer.convert_tokens_to_ids(turn_end(tokenizer) or tokenizer.eos_token)

    def tokenize(row):
        prompt = row.get("prompt") or []
        return {f"{k}_ids": scored_ids(tokenizer, prompt + row[k], end) for k in ("chosen", "rejected")}

    return rows.map(tokenize, remove_columns=rows.column_names)


def prompt_ids(tokenizer, prompt) -> list[int]:
    """A prompt as the ppo stage reads it."""
    if isinstance(prompt, str):
        return tokenizer(prompt)["input_ids"]
    return tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=False)


def kept_parts(trainer, stage: str, ids: tuple) -> list[tuple]:
    """What the trainer's dataset holds of a whole row: tuples of ids; none where that cannot be told."""
    args = trainer.args
    if stage == "pretrain":
        document, size = ids[0], trainer.data_collator.block_size
        # As pack_documents cuts: pieces overlap by one token.
        return [(document[i : i + size],) for i in range(0, max(len(document) - 1, 1), size - 1)]
    if stage != "sft" or args.max_length is None:
        return [ids]
    if not args.packing:
        cut = slice(-args.max_length, None) if args.truncation_mode == "keep_end" else slice(args.max_length)
        return [(ids[0][cut],)]
    if args.packing_strategy == "bfd":
        return [(ids[0][: args.max_length],)]
    if args.packing_strategy == "bfd_split":
        return [(ids[0][i : i + args.max_length],) for i in range(0, len(ids[0]), args.max_length)]
    return []  # wrapped: documents are cut wherever a row ends

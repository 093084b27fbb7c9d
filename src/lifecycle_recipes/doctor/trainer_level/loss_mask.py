"""The tokens in the loss: rows of the built dataset after the trainer's collator."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ...data.provenance import Origins, places
from ...finding import Finding

if TYPE_CHECKING:
    from transformers import Trainer

ROWS, TOKENS = 128, 200_000  # sampled, at most
SHOWN = 5


def find_in_batches(trainer: Trainer, origins: Origins | None) -> list[Finding]:
    """zero-label-batch, rows-without-loss, eos-masked and double-bos, in a seeded sample of the rows."""
    sample = sample_rows(trainer.train_dataset, trainer.args.seed)
    findings = _double_bos(trainer, sample, origins)
    if not hasattr(trainer, "reward_model"):  # PPO's loss is over the rollouts
        findings += _unlabelled(trainer, sample, origins)
    return findings


def sample_rows(dataset, seed: int) -> list[tuple[int, dict[str, Any]]]:
    """(row number, row) of up to ROWS rows and TOKENS tokens, in the order of the dataset."""
    import random

    from .forward import row_ids

    numbers = sorted(random.Random(seed).sample(range(len(dataset)), min(len(dataset), ROWS)))
    found, tokens = [], 0
    for number in numbers:
        row = dataset[number]
        tokens += len(row_ids(row))
        if found and tokens > TOKENS:
            break
        found.append((number, row))
    return found


def collate(trainer: Trainer, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """A batch as the training data loader makes it."""
    columns = None
    if trainer.args.remove_unused_columns:
        trainer._set_signature_columns_if_needed()
        columns = set(trainer._signature_columns or ())
    kept = [{k: v for k, v in row.items() if columns is None or k in columns} for row in rows]
    return trainer.data_collator(kept)


def trained_mask(batch: dict[str, Any]):
    """Which tokens of a batch are supervised, shaped as input_ids; None if the loss is not over tokens."""
    ids, labels = batch["input_ids"], batch.get("labels")
    if labels is not None and labels.shape == ids.shape:
        return labels != -100
    mask = batch.get("completion_mask")
    return None if mask is None else mask.bool()


def _unlabelled(trainer: Trainer, sample, origins) -> list[Finding]:
    size = trainer.args.train_batch_size
    empty, ends, trained_ends, no_batch = [], 0, 0, None
    eos = end_ids(trainer)
    for start in range(0, len(sample), size):
        part = sample[start : start + size]
        batch = collate(trainer, [row for _, row in part])
        mask = trained_mask(batch)
        if mask is None:
            return []
        if not mask.any():
            no_batch = no_batch or [number for number, _ in part]
        # A batch has the chosen rows, then the rejected ones: row i is also row i + size.
        if mask.shape[0] % len(part) == 0:
            counts = mask.sum(1).view(-1, len(part)).amin(0)
            empty += [number for (number, _), count in zip(part, counts, strict=True) if not count]
        for ids, trained in documents(batch, mask):
            found = [i for i in range(max(len(ids) - 2, 0), len(ids)) if ids[i] in eos]
            ends += bool(found)
            trained_ends += any(trained[i] for i in found)
    return [
        *_no_labels(sample, empty, no_batch, origins),
        *_masked_ends(trainer, ends, trained_ends if not no_batch else ends),
    ]


def _no_labels(sample, empty: list[int], no_batch: list[int] | None, origins) -> list[Finding]:
    fix = "raise train.max_length, or remove the rows whose reply does not fit"
    if no_batch is not None:
        message = f"a batch has no supervised token ({named(origins, no_batch)}): its loss is 0"
        return [Finding.error("zero-label-batch", message, fix)]
    if not empty:
        return []
    message = f"{len(empty)} of {len(sample)} sampled rows have no supervised token"
    message += f" ({named(origins, empty)}; all labels -100): they add compute and no loss"
    return [Finding.warning("rows-without-loss", message, fix)]


def _masked_ends(trainer: Trainer, ends: int, trained: int) -> list[Finding]:
    if not ends or trained:
        return []
    tokenizer = trainer.processing_class
    message = f"the collator masks the end-of-turn token ({tokenizer.eos_token!r}) in all {ends} texts"
    fix = (
        "the model would never stop: put the end-of-turn token inside the {% generation %} block of the template, "
        "or set train.chat_template_path to a template of chat_templates/"
    )
    if tokenizer.pad_token_id == tokenizer.eos_token_id:
        message += ": it is also the pad token"
        fix = "the model would never stop: set a separate pad token in the tokenizer"
    return [Finding.error("eos-masked", message, fix)]


def _double_bos(trainer: Trainer, sample, origins) -> list[Finding]:
    from .forward import row_ids

    bos = trainer.processing_class.bos_token_id
    if bos is None or bos in end_ids(trainer):  # one token with both roles may occur twice
        return []
    twice = [number for number, row in sample if row_ids(row)[:2] == [bos, bos]]
    if not twice:
        return []
    token = trainer.processing_class.bos_token
    message = f"{len(twice)} of {len(sample)} sampled rows begin with {token} twice ({named(origins, twice)})"
    fix = "the tokenizer adds it: remove it from the chat template or the text"
    return [Finding.error("double-bos", message, fix)]


def documents(batch: dict[str, Any], mask) -> Iterator[tuple[list[int], list[bool]]]:
    """(ids, supervised) of each text of a batch, without padding; a packed row contains several texts."""
    positions, attention = (
        batch[key].tolist() if key in batch else None for key in ("position_ids", "attention_mask")
    )
    for i, (ids, trained) in enumerate(zip(batch["input_ids"].tolist(), mask.tolist(), strict=True)):
        kept = range(len(ids))
        if attention is not None:
            kept = [j for j in kept if attention[i][j]]
        starts = [0, len(kept)]
        if positions is not None:
            starts = [n for n, j in enumerate(kept) if positions[i][j] == 0] + [len(kept)]
        for start, end in zip(starts, starts[1:], strict=False):
            part = [kept[n] for n in range(start, end)]
            yield [ids[j] for j in part], [trained[j] for j in part]


def end_ids(trainer: Trainer) -> set[int]:
    """Every token that ends a text: the tokenizer's eos and the stop tokens."""
    from ...models.turn_end import stop_ids_of
    from .forward import language_model

    stops = getattr(getattr(language_model(trainer), "generation_config", None), "eos_token_id", None)
    return set(stop_ids_of(stops, trainer.processing_class.eos_token_id))


def named(origins: Origins | None, numbers: list[int]) -> str:
    """The first few rows of the built set, by file and line if their place is known."""
    if origins:
        return places([place for number in numbers for place in origins.of(number)], SHOWN)
    more = f" and {len(numbers) - SHOWN} more" if len(numbers) > SHOWN else ""
    return f"rows {', '.join(map(str, numbers[:SHOWN]))}{more} of the built set"

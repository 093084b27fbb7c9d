"""Several texts in one row: can one attend to another, and was any text truncated by packing?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...finding import Finding

if TYPE_CHECKING:
    from transformers import PreTrainedModel, Trainer

DOCUMENT = 16  # tokens of each of the two documents that the probe packs


def find_in_packing(trainer: Trainer) -> list[Finding]:
    """packing-leaks and packing-discards; nothing if every row contains one text."""
    args = trainer.args
    packing = getattr(args, "packing", False)
    return [*(_discards(trainer) if packing else []), *_leaks(trainer)]


def _discards(trainer: Trainer) -> list[Finding]:
    """bfd truncates a text at max_length and discards the rest; bfd_split keeps the rest as another text."""
    args = trainer.args
    if args.packing_strategy != "bfd":
        return []
    from .loss_mask import end_ids

    lengths = list(trainer.train_dataset["seq_lengths"])
    # A truncated text fills a row alone.
    full = [i for i, row in enumerate(lengths) if row == [args.max_length]]
    ends = end_ids(trainer)
    cut = sum(not ends & set(ids[-2:]) for ids in trainer.train_dataset.select(full)["input_ids"])
    if not cut:
        return []
    texts = sum(map(len, lengths))
    message = f"packing truncated {cut} of {texts} texts at train.max_length {args.max_length} and discarded"
    fix = "raise train.max_length, or set packing_strategy: bfd_split"
    return [Finding.warning("packing-discards", f"{message} the rest", fix)]


def _leaks(trainer: Trainer) -> list[Finding]:
    rows = two_documents(trainer.train_dataset, getattr(trainer, "padding_free", False))
    if rows is None:
        return []
    change = change_behind_a_boundary(trainer, *rows)
    # A masked token has weight exactly 0; the rest is rounding in the kernel.
    if change is None or change < 1e-3:
        return []
    implementation = trainer.model.config._attn_implementation
    message = (
        "packed texts attend to each other: changing one text changes the activations of the next by "
        f"{change:.1%}"
    )
    fix = f"set model.attn_implementation (now {implementation}) to one that separates them, or turn packing off"
    return [Finding.error("packing-leaks", message, fix)]


def two_documents(dataset, padding_free: bool) -> tuple[list[dict[str, Any]], int, int] | None:
    """(rows to collate, length of the first document, of the second), shortened; None if there are none."""
    columns = getattr(dataset, "column_names", None) or []
    if "seq_lengths" in columns:
        number = _first_packed(dataset)
        if number is None:
            return None
        row = dataset[number]
        first, second = row["seq_lengths"][:2]
        a, b = min(first, DOCUMENT), min(second, DOCUMENT)
        cut = {k: [*v[:a], *v[first : first + b]] for k, v in row.items() if _per_token(k, v, row)}
        return [{**cut, "seq_lengths": [a, b]}], a, b
    if not padding_free or "input_ids" not in columns or len(dataset) < 2:
        return None
    rows = [dataset[0], dataset[1]]
    cut = [{k: v[:DOCUMENT] for k, v in row.items() if _per_token(k, v, row)} for row in rows]
    return cut, *(len(row["input_ids"]) for row in cut)


def _first_packed(dataset, step: int = 10_000) -> int | None:
    """The number of the first row with several documents. Best-fit packing puts full rows first."""
    lengths = dataset.select_columns("seq_lengths")
    for start in range(0, len(dataset), step):
        for i, row in enumerate(lengths[start : start + step]["seq_lengths"]):
            if len(row) > 1:
                return start + i
    return None


def _per_token(key: str, value, row: dict[str, Any]) -> bool:
    return key != "seq_lengths" and isinstance(value, list) and len(value) == len(row["input_ids"])


def change_behind_a_boundary(trainer: Trainer, rows: list[dict], first: int, second: int) -> float | None:
    """Relative change of the second document's last hidden states if the first document changes.

    Measured in the trainer's loss, with its collator; None if the model cannot run here.
    """
    from .forward import can_run, language_model

    model = language_model(trainer)
    if not can_run(model):
        return None
    before = _hidden_states(trainer, model, rows, first, second)
    changed = [dict(row) for row in rows]
    vocabulary = model.config.get_text_config().vocab_size
    ids = changed[0]["input_ids"]
    changed[0]["input_ids"] = [(i + 7) % vocabulary for i in ids[:first]] + ids[first:]
    after = _hidden_states(trainer, model, changed, first, second)
    return ((after - before).abs().max() / before.abs().max().clamp(min=1e-12)).item()


def _hidden_states(trainer: Trainer, model: PreTrainedModel, rows: list[dict], first: int, second: int):
    """(second, width): the backbone's last hidden states of the second document, in the trainer's loss."""
    from .loss_mask import collate

    seen = []
    whole_model = model.get_base_model() if hasattr(model, "get_base_model") else model
    backbone = whole_model.base_model
    hook = backbone.register_forward_hook(lambda module, inputs, output: seen.append(output[0].detach()))
    try:
        batch = collate(trainer, rows)
        trainer.compute_loss(trainer.model, trainer._prepare_inputs(dict(batch)))
    finally:
        hook.remove()
    width = seen[0].shape[-1]
    return seen[0].reshape(-1, width)[first : first + second].float()

"""The rows to which GPTQ and AWQ are fitted: read, checked, and as token ids. No torch."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from ..data.config import Source
from ..data.row_faults import Faults, cell_fault
from ..data.row_files import read_file
from ..finding import Finding, Refusal, refuse
from ..models.config_file import longest_sequence, model_config
from ..models.turn_end import render
from .config import ExportConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MOST_TOKENS = 2048  # of a row
# Faults of training that do no harm here: nothing is learnt from the row.
HARMLESS = ("prompt-only", "bad-turn-weight")
FIX = "give rows such as those of training: messages, prompt with or without completion, or text"


def read_calibration(path: str) -> tuple[dict[str, dict], list[Finding]]:
    """(place -> row, findings) of a file: empty-file, bad-row, and what reading finds."""
    try:
        rows, numbers, by_line, findings = read_file(path, Source(path))
    except Refusal as refusal:
        return {}, refusal.findings
    faults = Faults("lines" if by_line else "rows")
    placed = {f"{path}:{n}" if by_line else f"{path}, row {n}": r for n, r in zip(numbers, rows, strict=True)}
    for number, (place, row) in zip(numbers, placed.items(), strict=True):
        if fault := row_fault(row):
            faults.add("bad-row", fault, place, number)
    findings = [*findings, *faults.findings({"bad-row": FIX})]
    if not rows and not findings:
        findings = [Finding.error("empty-file", "the file has no rows", "add rows", path)]
    return placed, findings


def row_fault(row: dict) -> str | None:
    """Why a row has no text; None if it has one, be it empty."""
    columns = next((names for names in (("text",), ("messages",), ("prompt",)) if names[0] in row), ())
    if not columns:
        return f"a row has none of messages, prompt and text; its keys are {', '.join(row) or 'none'}"
    if columns == ("prompt",) and row.get("completion") is not None:
        columns = ("prompt", "completion")
    if all(isinstance(row[column], str) for column in columns) and columns != ("messages",):
        return None
    faults = (cell_fault(column, row[column]) for column in columns)
    return next((detail for code, detail in filter(None, faults) if code not in HARMLESS), None)


def find_too_few(rows: int, wanted: int) -> list[Finding]:
    """bad-value if the file has fewer rows than `calibration_rows`."""
    if rows >= wanted:
        return []
    message = f"export.calibration has {rows} rows, and export.calibration_rows is {wanted}"
    return [Finding.error("bad-value", message, f"set calibration_rows: {rows}, or give more rows")]


def calibration_ids(path: str, config: ExportConfig, revision: str = "main") -> list[list[int]]:
    """Token ids of a seeded sample of the calibration rows, each truncated to the length of the model at `path`.

    Rows without a token are left out. Raises Refusal: what `read_calibration` and `find_too_few` find, bad-row.
    """
    from ..models.load import load_tokenizer

    tokenizer = load_tokenizer(path, revision)
    rows, findings = read_calibration(config.calibration)
    if findings := findings or find_too_few(len(rows), config.calibration_rows):
        raise Refusal(*findings)
    sample = dict(random.Random(config.seed).sample(list(rows.items()), config.calibration_rows))
    longest = min(longest_sequence(model_config(path, revision)) or MOST_TOKENS, MOST_TOKENS)
    chat = bool(tokenizer.chat_template)
    texts = [_rendered(tokenizer, row, place) for place, row in sample.items()]
    ids = [tokenizer(text, add_special_tokens=not chat)["input_ids"] for text in texts]
    if not any(ids):
        raise refuse("bad-row", "none of the sampled rows has a token", FIX, config.calibration)
    return [row[:longest] for row in ids if row]


def _rendered(tokenizer: PreTrainedTokenizerBase, row: dict, place: str) -> str:
    from jinja2 import TemplateError

    try:
        return row_text(tokenizer, row)
    except (TemplateError, TypeError) as error:
        raise refuse("bad-row", f"the chat template rejects this row: {error}", FIX, place) from None


def row_text(tokenizer: PreTrainedTokenizerBase, row: dict) -> str:
    """The text of a row of `messages`, of `prompt` and `completion`, or of `text`."""
    if "text" in row:
        return row["text"]
    parts = [row["messages"]] if "messages" in row else [row["prompt"], row.get("completion") or []]
    if all(isinstance(part, str) for part in parts):
        return "".join(parts)
    messages = [
        message
        for role, part in zip(("user", "assistant"), parts, strict=False)
        for message in ([{"role": role, "content": part}] if isinstance(part, str) else part)
    ]
    if tokenizer.chat_template:
        return render(tokenizer, messages)
    return "\n".join(m.get("content") or "" for m in messages)

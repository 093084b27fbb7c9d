"""The last three lines of a finished run: where its model is, what it measured, and what comes next. No torch."""

import shlex
from pathlib import Path

from ..finding import Refusal
from ..recipe.read import RawRecipe, read_recipe, recipes_in
from ..record.file import RUN_FILE, read_record
from ..record.parents import WEIGHTS, find_parents
from ..record.trained_stage import SILENT, stage_of
from .measures import main_metrics
from .numbers import amount, number


def ending(raw: RawRecipe) -> str:
    """Three lines about the finished run of this recipe."""
    record = read_record(raw.output_dir)
    return "\n".join([what(raw, record), measured(record), f"next: {next_command(raw)}"])


def what(raw: RawRecipe, record: dict) -> str:
    """The output directory and what it holds: parameters and size of the weights, or of the tokenizer."""
    directory = Path(raw.output_dir)
    if raw.stage == "evaluate":
        return f"{directory}/{RUN_FILE}: the measures of {raw.values['model']['model_name_or_path']}"
    if raw.stage == "curate":
        rows = record["metrics"]
        parts = [f"{rows['rows_out']:,} rows to train on"]
        parts += [f"{rows['rows_repeated']:,} of them repeated"] if rows["rows_repeated"] else []
        parts += [f"{rows['held_out_rows']:,} held out"] if rows["held_out_rows"] else []
        return (
            f"{directory}: {', '.join(parts)}, from {rows['rows_in']:,}; {amount(rows['bytes_out'])}B of text"
        )
    patterns = ("tokenizer.json",) if raw.stage == "tokenizer" else WEIGHTS
    size = sum(file.stat().st_size for pattern in patterns for file in directory.glob(pattern))
    best = f", the best of its checkpoints: step {record['best']['step']}" if "best" in record else ""
    return f"{directory}: {parameters(record)}{amount(size)}B{best}"


def parameters(record: dict) -> str:
    if "vocab_size" in record["metrics"]:
        return f"{record['metrics']['vocab_size']:,} tokens, "
    if not (sizes := record.get("parameters")):
        return ""
    every = f"{amount(sizes['all']).strip()} parameters"
    if sizes["trained"] == sizes["all"]:
        return f"{every}, "
    return f"{amount(sizes['trained']).strip()} trained of {every}, "


def measured(record: dict) -> str:
    """The metrics that the gate compares, or the main ones."""
    metrics = record["metrics"]
    names = main_metrics(record["gate"], metrics)
    values = [_figure(metrics[name]) if name in metrics else "not measured" for name in names]
    return ", ".join(f"{name} {value}" for name, value in zip(names, values, strict=True)) or "no metrics"


def _figure(value: float | str) -> str:
    return number(value, ",d" if isinstance(value, int) and not isinstance(value, bool) else ".4g")


def next_command(raw: RawRecipe) -> str:
    """The gate; without one, the recipe of a child beside this recipe; without that, a way to use the result."""
    directory = shlex.quote(str(raw.output_dir))
    if raw.gate:
        return f"lifecycle gate {directory}"
    if child := find_child(raw):
        return f"lifecycle run {shlex.quote(str(child))}"
    return f"lifecycle {'report' if stage_of(raw.output_dir) in SILENT else 'chat'} {directory}"


def find_child(raw: RawRecipe) -> Path | None:
    """The first recipe in the directory of this one that starts from its output."""
    ours = Path(raw.output_dir).resolve()
    for file in recipes_in(Path(raw.path).parent):
        try:
            parents = find_parents(read_recipe(file).values)
        except Refusal:
            continue
        if ours in {Path(path).resolve() for path in parents.values()}:
            return file
    return None

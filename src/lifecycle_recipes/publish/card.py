"""The model card: Hub metadata, what the model was made from, what it scores, and how to use it. No torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..finding import Refusal
from ..models.adapters import is_adapter
from ..record.file import LEDGER_FILE, read_record
from ..record.gate import judge
from ..record.parents import is_local, named_parents
from .config import MERGED
from .lineage import ancestors

if TYPE_CHECKING:
    from .push import Push

# Of the numbers of a card: metrics of tasks and of the evaluation, not those of the training.
SCORES = ("rubric", "rubric_win_rate", "rubric_win_rate_lc", "reward", "kl", "pair_accuracy", "bits_per_byte")


def card(run: str, record: dict[str, Any], what: Push) -> str:
    """README.md of the repository."""
    from huggingface_hub import ModelCardData

    path = Path(run) / what.form if what.form else Path(run)
    data = ModelCardData(
        license=what.license,
        library_name=None if record.get("stage") in ("curate", "tokenizer") else library(path),
        pipeline_tag=pipeline(record, run),
        tags=["lifecycle-recipes", record.get("stage", "")],
        base_model=hub_models(run) or None,
        datasets=hub_datasets(run) or None,
    )
    parts = [
        f"---\n{data.to_yaml()}\n---",
        f"# {what.repo.rpartition('/')[2]}",
        *gate_warning(what),
        about(run, record, what),
        *use(path, record, what),
        *scores(record, what.form),
        *gates(run),
        stages(run),
        *waivers(run),
        environment(run),
        "The records of all runs are in `lifecycle/`: recipes, settings, hashes, metrics. `lifecycle/lineage.txt` is "
        "the tree of what this was made from.",
    ]
    return "\n\n".join(parts) + "\n"


def library(path: Path) -> str:
    if (path / "model.gguf").is_file():
        return "gguf"
    return "peft" if is_adapter(str(path)) else "transformers"


def pipeline(record: dict[str, Any], run: str) -> str | None:
    if record.get("stage") in ("curate", "tokenizer"):
        return None
    stages = {record.get("stage")} | {read_record(parent).get("stage") for parent in first_line(run)[1:2]}
    return "text-classification" if "reward" in stages else "text-generation"


def first_line(run: str) -> list[str]:
    """The run and its `model` parents, the nearest first."""
    found, place = [], run
    while place and place not in found:
        found.append(place)
        try:
            parents = read_record(place).get("parents") or {}
        except Refusal:
            break
        place = (parents.get("model") or {}).get("path")
    return [place for place in found if Path(place).is_dir()]


def hub_models(run: str) -> list[str]:
    """Ids of the models of the Hub from which the run, or a run that it was made from, started."""
    found = []
    for place in [run, *ancestors(run)]:
        named = named_parents(read_record(place).get("settings") or {})
        found += [named["model"]] if "model" in named and not is_local(named["model"]) else []
    return list(dict.fromkeys(found))


def hub_datasets(run: str) -> list[str]:
    found = []
    for place in [run, *ancestors(run)]:
        data = (read_record(place).get("settings") or {}).get("data") or {}
        found += [s["path"] for s in data.get("sources") or [] if s.get("path") and is_hub_id(s["path"])]
    return list(dict.fromkeys(found))


def is_hub_id(path: str) -> bool:
    return not is_local(path) and not Path(path).suffix and path.count("/") == 1


def gate_warning(what: Push) -> list[str]:
    if not what.failed_gates:
        return []
    lines = "\n".join(f"- `{line}`" for line in what.failed_gates)
    return [f"**Published although its gate failed:**\n\n{lines}"]


def about(run: str, record: dict[str, Any], what: Push) -> str:
    form = f", in the form {what.form}" if what.form else ""
    base = hub_models(run)
    start = f"starting from {', '.join(base)}" if base else "from random weights"
    if record.get("stage") == "curate":
        rows = record["metrics"]
        return f"{rows['rows_out']:,} rows, curated from {rows['rows_in']:,} with lifecycle-recipes."
    return f"Trained with lifecycle-recipes, {start}; the last stage is {record.get('stage')}{form}."


def use(path: Path, record: dict[str, Any], what: Push) -> list[str]:
    if record.get("stage") in ("curate", "tokenizer", "reward"):
        return []
    if (path / "model.gguf").is_file():
        return [f"## Use\n\n```sh\nllama-cli -hf {what.repo}\n```"]
    chat = (path / "chat_template.jinja").is_file()
    prompt = '[{"role": "user", "content": "Hello"}]' if chat else '"Once"'
    code = f'from transformers import pipeline\n\ngenerate = pipeline("text-generation", "{what.repo}")'
    return [f"## Use\n\n```python\n{code}\nprint(generate({prompt}, max_new_tokens=64))\n```"]


def scores(record: dict[str, Any], form: str | None) -> list[str]:
    """A table of the metrics of tasks and evaluation: of the form of an export, or of the model itself."""
    metrics, forms = record.get("metrics") or {}, (record.get("export") or {}).get("parity") or {}
    if record.get("stage") == "curate":
        return []
    if form:
        shown = {k.removeprefix(f"{form}."): v for k, v in metrics.items() if k.startswith(f"{form}.")}
    else:
        others = tuple(f"{name}." for name in forms if name != MERGED)
        shown = {k: v for k, v in metrics.items() if ("." in k or k in SCORES) and not k.startswith(others)}
    rows = [f"| `{name}` | {value:.4g} |" for name, value in shown.items() if isinstance(value, int | float)]
    return ["\n".join(["## Results\n", "| metric | value |", "|---|---|", *rows])] if rows else []


def gates(run: str) -> list[str]:
    lines = [f"- {'passed' if verdict.ok else '**failed**'}: `{verdict.line}`" for verdict in judge(run)]
    return ["\n".join(["## Gate\n", *lines])] if lines else []


def stages(run: str) -> str:
    """A row per run of the lineage: rows, tokens, hash of the recipe, seconds, and what curation left out."""
    rows = [
        "## Made from\n",
        "| run | stage | rows | tokens | recipe | seconds |",
        "|---|---|---|---|---|---|",
    ]
    notes = []
    for place in [run, *ancestors(run)]:
        record = read_record(place)
        data, metrics = record.get("data") or {}, record.get("metrics") or {}
        count = data.get("rows_out") or metrics.get("rows_out")
        tokens = record.get("tokens") or metrics.get("tokens_out")
        cells = [f"{value:,}" if isinstance(value, int | float) else "-" for value in (count, tokens)]
        digest = (record.get("recipe") or {}).get("sha256", "")[:12]
        seconds = f"{record.get('wall_seconds') or 0:,.0f}"
        rows.append(
            f"| {Path(place).name} | {record.get('stage')} | {' | '.join(cells)} | `{digest}` | {seconds} |"
        )
        if (Path(place) / LEDGER_FILE).is_file():
            left = {
                k.removeprefix("left_out."): v for k, v in metrics.items() if k.startswith("left_out.") and v
            }
            parts = ", ".join(f"{step} {share:.1%}" for step, share in left.items())
            notes.append(
                f"{Path(place).name}: {metrics['rows_in']:,} raw rows; left out: {parts or 'nothing'}."
            )
    return "\n".join(rows) + ("\n\n" + "\n".join(notes) if notes else "")


def waivers(run: str) -> list[str]:
    lines = [
        f"- {Path(place).name}: `{code}`: {reason}"
        for place in [run, *ancestors(run)]
        for code, reason in (read_record(place).get("allowed") or {}).items()
    ]
    return ["\n".join(["## Waived findings\n", *lines])] if lines else []


def environment(run: str) -> str:
    record = read_record(run)
    hardware, versions = record.get("hardware") or {}, record.get("versions") or {}
    gpus = hardware.get("gpus") or []
    machine = ", ".join(map(str, gpus)) if gpus else hardware.get("cpu", "")
    total = sum(read_record(place).get("wall_seconds") or 0 for place in [run, *ancestors(run)])
    named = [
        f"{name} {versions[name]}" for name in ("torch", "transformers", "trl", "peft") if name in versions
    ]
    return f"## Made with\n\n{machine}; {total / 3600:.2f} hours for all stages together; {', '.join(named)}."

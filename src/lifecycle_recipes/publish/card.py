"""The card of a repository: Hub metadata, origins, results, how to use it, what it cost. No torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..models.adapters import is_adapter
from ..models.quantised_base import quantised_bits
from ..record.file import LEDGER_FILE
from ..record.gate import judge
from ..record.parents import is_local, named_parents
from ..record.trained_stage import SILENT, trained_stage
from .config import MERGED, kind_of
from .data_card import data_card_data, ledger_tables
from .energy import devices, energy
from .licence import is_hub_id
from .lineage import Link, name_of
from .model_facts import model_facts
from .results import TaskResult, model_index, own_metrics
from .usage import usage

if TYPE_CHECKING:
    from huggingface_hub import CardData

    from .push import Push

NO_MODEL = ("curate", "tokenizer")  # stages


def card(
    what: Push,
    chain: dict[str, dict[str, Any]],
    tree: Link,
    results: list[TaskResult],
    benchmarks: list[str],
) -> str:
    """README.md of the repository.

    chain, tree: of the run (publish/lineage.py). results: of its tasks; benchmarks: those that are in .eval_results.
    """
    run, record = what.run, chain[what.run]
    path = Path(run) / what.form if what.form else Path(run)
    curated = record.get("stage") == "curate"
    parts = [
        f"---\n{metadata(what, chain, path, results).to_yaml()}\n---",
        f"# {what.repo.rpartition('/')[2]}",
        *gate_warning(what),
        about(record, what, chain),
        *(licence_note(what) if what.license_derived else []),
        *links(tree),
        *facts(run, record, what.form),
        usage(path, record, what),
        *(ledger_tables(run) if curated else scores(record, what.form)),
        *gates(run),
        stages(chain),
        *waivers(chain),
        *limits(path, record, results, benchmarks),
        environment(what, chain),
        "The records of all runs are in `lifecycle/`: recipes, settings, hashes, metrics. `lifecycle/lineage.txt` is "
        "the tree of what this was made from.",
    ]
    return "\n\n".join(parts) + "\n"


def metadata(what: Push, chain: dict[str, dict[str, Any]], path: Path, results: list[TaskResult]) -> CardData:
    from huggingface_hub import ModelCardData

    record, sources = chain[what.run], hub_datasets(chain)
    if record.get("stage") == "curate":
        return data_card_data(what.run, record, what.license, sources)
    return ModelCardData(
        license=what.license,
        library_name=None if trained_stage(record) in NO_MODEL else library(path),
        pipeline_tag=pipeline(record),
        tags=["lifecycle-recipes", record.get("stage", "")],
        base_model=hub_models(chain) or None,
        datasets=sources or None,
        model_name=what.repo.rpartition("/")[2] if results else None,
        eval_results=model_index(results),
    )


def licence_note(what: Push) -> list[str]:
    return [f"Licence: {what.license}, which everything that this was made from carries."]


def facts(run: str, record: dict[str, Any], form: str | None) -> list[str]:
    """A table of what the files of a model say about it; nothing for rows and tokenizers."""
    if trained_stage(record) in NO_MODEL:
        return []
    found = model_facts(Path(run), form, generates=trained_stage(record) not in SILENT)
    return ["\n".join(["| | |", "|---|---|", *(f"| {k} | {v} |" for k, v in found.items())])] if found else []


def library(path: Path) -> str:
    if (path / "model.gguf").is_file():
        return "gguf"
    return "peft" if is_adapter(str(path)) else "transformers"


def pipeline(record: dict[str, Any]) -> str | None:
    stage = trained_stage(record)
    if stage in NO_MODEL:
        return None
    return "text-classification" if stage == "reward" else "text-generation"


def origin(chain: dict[str, dict[str, Any]]) -> str:
    """What the first model of the chain started from."""
    if models := hub_models(chain):
        return f"starting from {', '.join(models)}"
    if any("architecture" in (part.get("settings") or {}) for part in chain.values()):
        return "starting from random weights"
    parents = [part.get("parents") or {} for part in chain.values()]
    named = [found.get("model") or found.get("resized") for found in parents]
    paths = [parent["path"] for parent in named if parent]
    return (
        f"starting from {Path(paths[-1]).name}, whose own record is not known"
        if paths
        else "of unknown origin"
    )


def links(tree: Link) -> list[str]:
    """What the model was made from, and is not there any more as it was."""
    broken = list(dict.fromkeys(f"{link.role} {link.path}: {link.state}" for link in tree.broken()))
    if not broken:
        return []
    lines = "\n".join(f"- {line}" for line in broken)
    return [f"**Not all of what it was made from is on the disk it was pushed from:**\n\n{lines}"]


def hub_models(chain: dict[str, dict[str, Any]]) -> list[str]:
    """Ids of the models of the Hub from which the run, or a run that it was made from, started."""
    found = []
    for record in chain.values():
        named = named_parents(record.get("settings") or {})
        model = named.get("model") or named.get("resized")
        found += [model] if model and not is_local(model) else []
    return list(dict.fromkeys(found))


def hub_datasets(chain: dict[str, dict[str, Any]]) -> list[str]:
    found = []
    for record in chain.values():
        data = (record.get("settings") or {}).get("data") or {}
        found += [s["path"] for s in data.get("sources") or [] if s.get("path") and is_hub_id(s["path"])]
    return list(dict.fromkeys(found))


def gate_warning(what: Push) -> list[str]:
    if not what.failed_gates:
        return []
    lines = "\n".join(f"- `{line}`" for line in what.failed_gates)
    return [f"**Published although its gate failed:**\n\n{lines}"]


def about(record: dict[str, Any], what: Push, chain: dict[str, dict[str, Any]]) -> str:
    if record.get("stage") == "curate":
        rows = record["metrics"]
        return f"{rows['rows_out']:,} rows, curated from {rows['rows_in']:,} with lifecycle-recipes."
    if trained_stage(record) == "tokenizer":
        return f"A tokenizer of {record['metrics'].get('vocab_size', 0):,} tokens, trained with lifecycle-recipes."
    start, last = origin(chain), trained_stage(record)
    parts = [f"Trained with lifecycle-recipes, {start}; the last training stage is {last}."]
    if last in (None, "export"):  # of a model that was not trained here
        parts = [f"Made with lifecycle-recipes, {start}."]
    if resized := record.get("resized"):
        parts.append(
            f"It has a longer tokenizer, and rows for {resized['new_rows']:,} new tokens, not trained yet."
        )
    if export := record.get("export"):
        sizes = ", ".join(f"{form} {size / 1e6:,.1f} MB" for form, size in export["bytes"].items())
        merged = "with its adapters merged, " if export["adapters_merged"] else ""
        form = f"This is the form {what.form}. " if what.form else ""
        if combined := export.get("combined"):
            weights = ", ".join(f"{Path(path).name} ({w:g})" for path, w in combined["weights"].items())
            parts.append(f"It is the {kind_of(combined)} of {weights}.")
        if zeros := ((record.get("pruning") or {}).get(what.form) or {}).get("zeros"):
            form += f"{zeros['linear']:.1%} of the weights of its linear layers are zero, and were not trained again. "
        parts.append(f"{form}Exported {merged}in {export['dtype']}; all forms: {sizes}.")
    return "\n\n".join(parts)


def scores(record: dict[str, Any], form: str | None) -> list[str]:
    """A table of the metrics of tasks and evaluation: of the form of an export, or of the model itself."""
    own, whole = own_metrics(record, form), own_metrics(record, None) if form else {}
    columns = ["metric", "value", *(["the whole model"] if form else [])]
    rows = [columns, ["---"] * len(columns)]
    rows += [[f"`{name}`", cell(value), cell(whole.get(name))][: len(columns)] for name, value in own.items()]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    parts = [f"## Results\n\n{table}"] if own else []
    if (export := record.get("export")) and "tokens" in export:
        name = "" if form else f"{MERGED}."
        parts.append(
            f"`{name}agreement` is the share of the {export['tokens']:,} tokens of the trained model's greedy "
            f"replies to {export['prompts']:,} prompts that this model chooses, too; `{name}same_text` the share "
            f"of equal replies, `{name}max_difference` the largest difference of two logits (or scores)."
        )
    return parts


def cell(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def gates(run: str) -> list[str]:
    """Every line with the values that were compared."""
    lines = [
        f"- {'passed' if verdict.ok else '**failed**'}: `{verdict.line}` ({verdict.message})"
        for verdict in judge(run)
    ]
    return ["\n".join(["## Gate\n", *(lines or ["No gate was set."])])]


def stages(chain: dict[str, dict[str, Any]]) -> str:
    """A row per run of the lineage: rows, tokens, hash of the recipe, seconds, and what curation left out."""
    rows = [
        "## Made from\n",
        "| run | stage | rows | held out | tokens trained on | layout | recipe | seconds |",
    ]
    rows.append("|---|---|---|---|---|---|---|---|")
    notes = []
    for place, record in chain.items():
        data, metrics = record.get("data") or {}, record.get("metrics") or {}
        held_out = data.get("eval_rows") or metrics.get("held_out_rows") or 0
        count = data["rows_out"] - held_out if "rows_out" in data else metrics.get("rows_out")
        numbers = (count, held_out, record.get("tokens"))
        cells = [f"{value:,}" if isinstance(value, int | float) else "-" for value in numbers]
        digest = (record.get("recipe") or {}).get("sha256", "")[:12]
        seconds = f"{record.get('wall_seconds') or 0:,.0f}"
        rows.append(
            f"| {name_of(place)} | {record.get('stage')} | {' | '.join([*cells, layout(record)])} | `{digest}` "
            f"| {seconds} |"
        )
        if (Path(place) / LEDGER_FILE).is_file():
            left = {
                k.removeprefix("left_out."): v for k, v in metrics.items() if k.startswith("left_out.") and v
            }
            parts = ", ".join(f"{step} {share:.1%}" for step, share in left.items())
            notes.append(
                f"{name_of(place)}: {metrics['rows_in']:,} raw rows; left out: {parts or 'nothing'}."
            )
    return "\n".join(rows) + ("\n\n" + "\n".join(notes) if notes else "")


def waivers(chain: dict[str, dict[str, Any]]) -> list[str]:
    lines = [
        f"- {name_of(place)}: `{code}`: {reason}"
        for place, record in chain.items()
        for code, reason in (record.get("allowed") or {}).items()
    ]
    return ["\n".join(["## Waived findings\n", *lines])] if lines else []


def layout(record: dict[str, Any]) -> str:
    """Name, processes and mixed precision of the layout of a run; a dash for a stage without one."""
    if not (used := record.get("layout")):
        return "-"
    number, mixed = used.get("processes") or 1, used.get("precision")
    parts = [used.get("asked") or used.get("kind"), f"{number} process{'es' if number > 1 else ''}"]
    return ", ".join(map(str, filter(None, [*parts, mixed if mixed != "no" else None])))


def duration(seconds: float) -> str:
    return f"{seconds / 3600:,.1f} hours" if seconds >= 3600 else f"{seconds / 60:.1f} minutes"


def limits(path: Path, record: dict[str, Any], results: list[TaskResult], benchmarks: list[str]) -> list[str]:
    """What was not measured, and what the run was warned of; nothing for rows and tokenizers."""
    if trained_stage(record) in NO_MODEL:
        return []
    evaluation = record.get("evaluation") or {}
    lines = [
        "Only what is under Results was measured."
        if own_metrics(record, None)
        else "Neither tasks nor replies were measured."
    ]
    if evaluation.get("limit") is not None:
        lines.append(f"Tasks were measured on their first {evaluation['limit']:,} documents only.")
    if left_out := sorted({result.task for result in results} - set(benchmarks)):
        lines.append(
            "Not in `.eval_results/`, since none is the one complete result of a benchmark of the Hub: "
            f"{', '.join(left_out)}."
        )
    if bits := quantised_bits(str(path)):
        lines.append(
            f"On a base that is not quantised to {bits} bits it is another model, which was not measured."
        )
    if (path / "model.gguf").is_file():
        lines.append(
            "llama.cpp and Ollama were not run on these files; they were read back with transformers."
        )
    elif trained_stage(record) not in SILENT:
        lines.append("vLLM was not run on these files.")
    warned = [f for f in record.get("findings") or [] if f.get("severity") == "warning"]
    lines += [f"Warning of the run, `{f['code']}`: {f['message']}" for f in warned]
    return ["\n".join(["## Known limits\n", *(f"- {line}" for line in lines)])]


def environment(what: Push, chain: dict[str, dict[str, Any]]) -> str:
    """Hardware of the runs, their time, the estimated energy if a power was given, versions of the last run."""
    used: dict[str, list[str]] = {}
    for place, record in chain.items():
        name, number = devices(record)
        used.setdefault(f"{number} x {name}", []).append(name_of(place))
    machines = [f"- {name}: {', '.join(runs)}" for name, runs in used.items()]
    total = sum(part.get("wall_seconds") or 0 for part in chain.values())
    versions = chain[what.run].get("versions") or {}
    named = [
        f"{name} {versions[name]}" for name in ("torch", "transformers", "trl", "peft") if name in versions
    ]
    parts = ["## Made with\n\n" + "\n".join(machines)]
    parts.append(f"{duration(total)} for all runs together. {', '.join(named)}.")
    parts += filter(None, [energy(chain, what.run, what.power_watts)])
    return "\n\n".join(parts)

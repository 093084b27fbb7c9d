"""The model card: Hub metadata, what the model was made from, what it scores, and how to use it. No torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..models.adapters import is_adapter
from ..record.file import LEDGER_FILE
from ..record.gate import judge
from ..record.parents import is_local, named_parents
from ..record.trained_stage import trained_stage
from .config import MERGED
from .lineage import Link

if TYPE_CHECKING:
    from .push import Push

# Of the numbers of a card: metrics of tasks and of the evaluation, not those of the training.
SCORES = ("rubric", "rubric_win_rate", "rubric_win_rate_lc", "reward", "kl", "pair_accuracy", "bits_per_byte")


def card(what: Push, chain: dict[str, dict[str, Any]], tree: Link) -> str:
    """README.md of the repository. chain, tree: of the run (publish/lineage.py)."""
    from huggingface_hub import ModelCardData

    run, record = what.run, chain[what.run]
    path = Path(run) / what.form if what.form else Path(run)
    data = ModelCardData(
        license=what.license,
        library_name=None if record.get("stage") in ("curate", "tokenizer") else library(path),
        pipeline_tag=pipeline(record),
        tags=["lifecycle-recipes", record.get("stage", "")],
        base_model=hub_models(chain) or None,
        datasets=hub_datasets(chain) or None,
    )
    parts = [
        f"---\n{data.to_yaml()}\n---",
        f"# {what.repo.rpartition('/')[2]}",
        *gate_warning(what),
        about(record, what, chain),
        *links(tree),
        *use(path, record, what),
        *scores(record, what.form),
        *gates(run),
        stages(chain),
        *waivers(chain),
        environment(record, chain),
        "The records of all runs are in `lifecycle/`: recipes, settings, hashes, metrics. `lifecycle/lineage.txt` is "
        "the tree of what this was made from.",
    ]
    return "\n\n".join(parts) + "\n"


def library(path: Path) -> str:
    if (path / "model.gguf").is_file():
        return "gguf"
    return "peft" if is_adapter(str(path)) else "transformers"


def pipeline(record: dict[str, Any]) -> str | None:
    stage = trained_stage(record)
    if stage in ("curate", "tokenizer"):
        return None
    return "text-classification" if stage == "reward" else "text-generation"


def origin(chain: dict[str, dict[str, Any]]) -> str:
    """What the first model of the chain started from."""
    if models := hub_models(chain):
        return f"starting from {', '.join(models)}"
    if any("architecture" in (part.get("settings") or {}) for part in chain.values()):
        return "starting from random weights"
    named = [(part.get("parents") or {}).get("model") for part in chain.values()]
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
        found += [named["model"]] if "model" in named and not is_local(named["model"]) else []
    return list(dict.fromkeys(found))


def hub_datasets(chain: dict[str, dict[str, Any]]) -> list[str]:
    found = []
    for record in chain.values():
        data = (record.get("settings") or {}).get("data") or {}
        found += [s["path"] for s in data.get("sources") or [] if s.get("path") and is_hub_id(s["path"])]
    return list(dict.fromkeys(found))


def is_hub_id(path: str) -> bool:
    return not is_local(path) and not Path(path).suffix and path.count("/") == 1


def gate_warning(what: Push) -> list[str]:
    if not what.failed_gates:
        return []
    lines = "\n".join(f"- `{line}`" for line in what.failed_gates)
    return [f"**Published although its gate failed:**\n\n{lines}"]


def about(record: dict[str, Any], what: Push, chain: dict[str, dict[str, Any]]) -> str:
    if record.get("stage") == "curate":
        rows = record["metrics"]
        return f"{rows['rows_out']:,} rows, curated from {rows['rows_in']:,} with lifecycle-recipes."
    if record.get("stage") == "tokenizer":
        return f"A tokenizer of {record['metrics'].get('vocab_size', 0):,} tokens, trained with lifecycle-recipes."
    start, last = origin(chain), trained_stage(record)
    parts = [f"Trained with lifecycle-recipes, {start}; the last training stage is {last}."]
    if export := record.get("export"):
        sizes = ", ".join(f"{form} {size / 1e6:,.1f} MB" for form, size in export["bytes"].items())
        merged = "with its adapters merged, " if export["adapters_merged"] else ""
        form = f"This is the form {what.form}. " if what.form else ""
        if zeros := ((record.get("pruning") or {}).get(what.form) or {}).get("zeros"):
            form += f"{zeros['linear']:.1%} of the weights of its linear layers are zero, and were not trained again. "
        parts.append(f"{form}Exported {merged}in {export['dtype']}; all forms: {sizes}.")
    return "\n\n".join(parts)


def use(path: Path, record: dict[str, Any], what: Push) -> list[str]:
    stage, name = trained_stage(record), what.repo.rpartition("/")[2]
    if stage == "curate":
        code = f'from datasets import load_dataset\n\nrows = load_dataset("{what.repo}", data_files="train.jsonl")'
    elif stage == "tokenizer":
        code = f'from transformers import AutoTokenizer\n\ntokenizer = AutoTokenizer.from_pretrained("{what.repo}")'
    elif stage == "reward":
        code = f'from transformers import pipeline\n\nscore = pipeline("text-classification", "{what.repo}")'
    elif (path / "model.gguf").is_file():
        ollama = f"ollama create {name} -f Modelfile   # beside the downloaded model.gguf"
        return [f"## Use\n\n```sh\nllama-cli -hf {what.repo}\n{ollama}\n```"]
    else:
        chat = (path / "chat_template.jinja").is_file()
        prompt = '[{"role": "user", "content": "Hello"}]' if chat else '"Once"'
        code = f'from transformers import pipeline\n\ngenerate = pipeline("text-generation", "{what.repo}")'
        code += f"\nprint(generate({prompt}, max_new_tokens=64))"
    needs = "It needs `pip install bitsandbytes accelerate`.\n\n" if what.form in ("int8", "nf4") else ""
    return [f"## Use\n\n{needs}```python\n{code}\n```"]


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
    parts = ["\n".join(["## Results\n", "| metric | value |", "|---|---|", *rows])] if rows else []
    if (export := record.get("export")) and "tokens" in export:
        name = "" if form else f"{MERGED}."
        parts.append(
            f"`{name}agreement` is the share of the {export['tokens']:,} tokens of the trained model's greedy "
            f"replies to {export['prompts']:,} prompts that this model chooses, too; `{name}same_text` the share "
            f"of equal replies, `{name}max_difference` the largest difference of two logits (or scores)."
        )
    return parts


def gates(run: str) -> list[str]:
    lines = [f"- {'passed' if verdict.ok else '**failed**'}: `{verdict.line}`" for verdict in judge(run)]
    return ["\n".join(["## Gate\n", *lines])] if lines else []


def stages(chain: dict[str, dict[str, Any]]) -> str:
    """A row per run of the lineage: rows, tokens, hash of the recipe, seconds, and what curation left out."""
    rows = ["## Made from\n", "| run | stage | rows | held out | tokens trained on | recipe | seconds |"]
    rows.append("|---|---|---|---|---|---|---|")
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


def waivers(chain: dict[str, dict[str, Any]]) -> list[str]:
    lines = [
        f"- {Path(place).name}: `{code}`: {reason}"
        for place, record in chain.items()
        for code, reason in (record.get("allowed") or {}).items()
    ]
    return ["\n".join(["## Waived findings\n", *lines])] if lines else []


def environment(record: dict[str, Any], chain: dict[str, dict[str, Any]]) -> str:
    hardware, versions = record.get("hardware") or {}, record.get("versions") or {}
    gpus = hardware.get("gpus") or []
    machine = ", ".join(map(str, gpus)) if gpus else hardware.get("cpu", "")
    total = sum(part.get("wall_seconds") or 0 for part in chain.values())
    named = [
        f"{name} {versions[name]}" for name in ("torch", "transformers", "trl", "peft") if name in versions
    ]
    return f"## Made with\n\n{machine}; {total / 3600:.2f} hours for all stages together; {', '.join(named)}."

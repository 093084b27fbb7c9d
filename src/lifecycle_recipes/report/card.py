"""The card: a table of the records of runs, then each model's replies to the same prompts. No torch."""

import glob
import os
import re
from pathlib import Path

from ..finding import Refusal, refuse
from ..publish.config import kind_of
from ..record.environment import is_alive
from ..record.file import RUN_FILE, exported_forms, read_record
from ..record.gate import judge
from .aligned import aligned
from .measures import MAIN, named_by_gate
from .numbers import amount, number
from .speed import read_speeds, speed_tables
from .sweep import sweep_text

# Heading -> pattern of the metric's name. If several metrics match, each has its own column.
MEASURES = {
    "bytes/token": r"bytes_per_token",
    "bits/byte": r"(?:(.+)\.)?bits_per_byte",
    "facts": r"(.+_facts)\.acc",
    "answers": r"(.+_answers)\.correct",
    "contract": r"(.+_contract)\.kept",
    "stops": r"(.+_contract)\.stops",
    "pair acc": r"pair_accuracy",
    "reward": r"reward",
    "rubric": r"rubric",
    "win rate vs SFT": r"rubric_win_rate",
    "KL": r"kl",
}
LEFT_OUT = "left_out."  # the metrics of the steps of curation
MAX_SAMPLES = 3
MAX_TASKS = 8  # columns for metrics of tasks beyond those above and those of the gates
DEPTH = 4  # directory levels that are searched: runs/<model>/<stage>, and two more


def card(places: list[str]) -> str:
    """The card of all runs below the directories or globs, as plain text that is also Markdown.

    Raises Refusal no-runs.
    """
    loaded = {directory: load(directory) for directory in find_runs(places)}
    runs = [directory for directory, record in loaded.items() if not record.get("refused")]
    if not runs:
        raise refuse(
            "no-runs", f"no {RUN_FILE} below {', '.join(places)}", "run a stage first: `lifecycle run RECIPE`"
        )
    names = short_names([str(directory) for directory in runs])
    records = {name: loaded[directory] for name, directory in zip(names, runs, strict=True)}
    parts = [table(records, dict(zip(names, runs, strict=True)))]
    parts += left_out(records)
    parts += [
        curation(name, r) for name, r in records.items() if r.get("stage") == "curate" and r.get("metrics")
    ]
    parts += [f"{name}: {record['status']}" for name, record in records.items() if record["status"] != "done"]
    parts += speeds(dict(zip(names, runs, strict=True)))
    parts += [exported(name, record) for name, record in records.items() if record.get("export")]
    parts += [waivers(name, record) for name, record in records.items() if record.get("allowed")]
    parts += [sweep(name, record) for name, record in records.items() if record.get("sweep")]
    parts += samples(records)
    return "\n\n".join(parts)


def find_runs(places: list[str]) -> list[Path]:
    """Run directories sorted by name, without those that --replace renamed."""
    roots = [Path(found) for place in places for found in (sorted(glob.glob(place)) or [place])]
    found = {
        file.parent
        for root in roots
        for depth in range(DEPTH + 1)
        for file in root.glob("*/" * depth + RUN_FILE)
        if not any(re.search(r"\.replaced-\d+$", part) for part in file.parts)
    }
    return sorted(found)


def load(directory: Path) -> dict:
    """A record; its status is `unreadable` or `killed` if the file or the process of the run requires it."""
    try:
        record = read_record(directory)
    except Refusal as refusal:
        return {"status": f"unreadable: {refusal.findings[0].message}"}
    if record["status"] == "running" and not is_alive(record.get("process")):
        here = (record.get("process") or {}).get("host") == os.uname().nodename
        record["status"] = "killed: its process does not exist" if here else "running"
    return record


def short_names(paths: list[str]) -> list[str]:
    """The paths relative to their common directory; never empty."""
    shared = os.path.commonpath([os.path.dirname(path) or "." for path in paths]) if len(paths) > 1 else ""
    return [os.path.relpath(path, shared) if shared else os.path.basename(path) or path for path in paths]


def table(records: dict[str, dict], directories: dict[str, Path]) -> str:
    """A row per run, without the columns for which no run has a value."""
    columns = {
        "run": list(records),
        "status": [record["status"].split(":")[0] for record in records.values()],
        **measures(records),
        "wall s": [number(r.get("wall_seconds"), ".0f") for r in records.values()],
        "tokens/s": [number(tokens_per_second(r), ",.0f") for r in records.values()],
        "peak GB": [number(r.get("peak_memory_gb"), ".1f") for r in records.values()],
        "GPU GB": [number(r.get("peak_gpu_memory_gb"), ".1f") for r in records.values()],
        "gate": [gate_word(records[name], directories[name]) for name in records],
    }
    always = ("run", "status", "wall s", "tokens/s", "peak GB", "gate")
    return aligned({head: c for head, c in columns.items() if head in always or set(c) != {"-"}})


def measures(records: dict[str, dict]) -> dict[str, list[str]]:
    """Heading -> a cell per run, for every measure that at least one run has."""
    shown, _ = columns_of(records)
    return {
        heading: [cell((r.get("metrics") or {}).get(name)) for r in records.values()]
        for heading, name in shown.items()
    }


def cell(value: float | str | None) -> str:
    """A count of thousands of rows has no decimals."""
    return number(value, ",.0f" if isinstance(value, int) and value >= 1000 else ".3f")


def left_out(records: dict[str, dict]) -> list[str]:
    """A line about the metrics of tasks that have no column."""
    _, rest = columns_of(records)
    return [f"{len(rest)} more metrics of tasks are in run.json: {', '.join(rest[:3])}, ..."] if rest else []


def columns_of(records: dict[str, dict]) -> tuple[dict[str, str], list[str]]:
    """(heading -> metric, metrics of tasks without a column): MEASURES, MAIN, gates, then other tasks."""
    names = sorted({name for record in records.values() for name in measured_of_model(record)})
    columns, known = {}, set()
    for heading, pattern in MEASURES.items():
        found = [name for name in names if re.fullmatch(pattern, name)]
        known |= set(found)
        # The measure of a task takes precedence over that of the trainer.
        found = [name for name in found if "." in name] or found
        for name in found:
            head = heading if len(found) == 1 else f"{heading} {re.fullmatch(pattern, name)[1]}"
            columns[head] = name
    columns |= {heading: name for heading, name in MAIN.items() if name in names}
    asked = [
        name
        for record in records.values()
        for name in named_by_gate(record.get("gate") or [], measured_of_model(record))
    ]
    columns |= {name: name for name in asked if name in names and name not in columns.values()}
    # Those of curation describe rows, not a model: they are in its ledger.
    rows = {name for r in records.values() if r.get("stage") == "curate" for name in r.get("metrics") or {}}
    tasks = [n for n in names if "." in n and n not in {*columns.values(), *known, *rows}]
    return columns | {name: name for name in tasks[:MAX_TASKS]}, tasks[MAX_TASKS:]


def measured_of_model(record: dict) -> dict:
    """The metrics of a record, without those of the forms of an export: they have a table of their own."""
    forms = tuple(f"{form}." for form in exported_forms(record))
    return {
        name: value for name, value in (record.get("metrics") or {}).items() if not name.startswith(forms)
    }


def tokens_per_second(record: dict):
    places = (record, record.get("metrics") or {})
    keys = ("tokens_per_second", "train_tokens_per_second")
    return next((place[key] for place in places for key in keys if place.get(key) is not None), None)


def gate_word(record: dict, directory: Path) -> str:
    """pass, or FAIL and the lines that failed, judged now; `-` for a run that is not done or has no gate lines."""
    if record["status"] != "done":
        return "-"
    try:
        verdicts = judge(directory)
    except Refusal as refusal:
        return f"FAIL {refusal.findings[0].code}"
    failed = [verdict.line for verdict in verdicts if not verdict.ok]
    return "FAIL " + "; ".join(failed) if failed else "pass" if verdicts else "-"


def samples(records: dict[str, dict]) -> list[str]:
    """The replies of each model, per prompt; prompts with the most replies come first."""
    replies: dict[str, dict[str, str]] = {}
    for name, record in records.items():
        for sample in record.get("samples") or []:
            replies.setdefault(as_text(sample["prompt"]), {})[name] = as_text(sample["reply"])
    chosen = sorted(replies, key=lambda prompt: -len(replies[prompt]))[:MAX_SAMPLES]
    return [block(prompt, replies[prompt]) for prompt in chosen]


def block(prompt: str, replies: dict[str, str]) -> str:
    width = max(map(len, replies))
    indent = "\n" + " " * (width + 4)
    lines = [
        f"  {name.ljust(width)}  {reply.strip().replace(chr(10), indent)}" for name, reply in replies.items()
    ]
    return "\n".join([f"### {prompt.strip()}", "", *lines])


def curation(name: str, record: dict) -> str:
    """What the steps left of the raw rows, and the share that each of them left out."""
    metrics = record["metrics"]
    shares = {key.removeprefix(LEFT_OUT): share for key, share in metrics.items() if key.startswith(LEFT_OUT)}
    aside = f", {metrics['held_out_rows']:,} held out" if metrics["held_out_rows"] else ""
    lines = [
        f"{name}: {metrics['rows_in']:,} raw rows, {metrics['rows_out']:,} in the mixture{aside}, "
        f"{metrics['tokens_out']:,} tokens"
    ]
    if taken := [f"{step} {share:.1%}" for step, share in shares.items() if share and step != "held-out"]:
        lines.append(f"  left out: {', '.join(taken)}")
    return "\n".join(lines)


def exported(name: str, record: dict) -> str:
    """Each form of an exported model: its size, and how it compares with the trained model."""
    parity, sizes = record["export"]["parity"], record["export"]["bytes"]
    columns = {"form": list(parity), "size": [f"{amount(sizes[form])}B" for form in parity]}
    for heading, key in {
        "agreement": "agreement",
        "same text": "same_text",
        "largest": "max_difference",
    }.items():
        columns[heading] = [
            number(found.get(key), ".3g" if heading == "largest" else ".3f") for found in parity.values()
        ]
    kept = [record["metrics"].get(f"{form}.recovery") for form in parity]
    columns["recovery"] = [number(value, ".3f") for value in kept]
    if pruning := record.get("pruning"):
        of_form = [pruning.get(form) or {} for form in parity]
        columns["zeros"] = [number((found.get("zeros") or {}).get("linear"), ".3f") for found in of_form]
        columns["seconds"] = [number(found.get("seconds"), ".3f") for found in of_form]
    of, trained = record["export"]["of"], "trained"
    if combined := record["export"].get("combined"):
        of, trained = f"the {kind_of(combined)} of {', '.join(combined['weights'])}", "combined"
    of = f"{name}: {of} and its forms, compared with the {trained} model on its replies"
    parts = [of, aligned(columns)]
    if pruning:
        parts.append(
            f"zeros: share of the weights of the linear layers; seconds: {pruning['replies']} replies of "
            f"{pruning['new_tokens']} tokens"
        )
    return "\n\n".join(parts)


def speeds(directories: dict[str, Path]) -> list[str]:
    """What `lifecycle bench` measured of the runs, and of the forms of exports."""
    found = {
        str(Path(name) / inside): measured
        for name, directory in directories.items()
        for inside, measured in read_speeds(directory).items()
    }
    return [speed_tables(found)] if found else []


def waivers(name: str, record: dict) -> str:
    """The findings that the recipe of this run waives, with the reasons."""
    lines = [f"  {code}: {reason}" for code, reason in record["allowed"].items()]
    return "\n".join([f"{name} waives", *lines])


def sweep(name: str, record: dict) -> str:
    """The vocabulary sizes that were measured beside the one of this tokenizer."""
    return f"{name}: vocabulary sizes\n\n" + sweep_text(record["sweep"], record["metrics"].get("vocab_size"))


def as_text(content) -> str:
    """A prompt as text: the content of a single message, or `role: content` lines for several."""
    if isinstance(content, str):
        return content
    if len(content) == 1:
        return content[0]["content"]
    return "\n".join(f"{message['role']}: {message['content']}" for message in content)

"""`lifecycle ledger RUN`: what came into every step of curation, what stayed, what was left out and why. No torch.

For a run that reads curated rows, the steps of curation come first, then those of the run itself.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from difflib import SequenceMatcher, get_close_matches
from pathlib import Path
from typing import Any

from ..curation.documents import Part
from ..curation.rows import text_of
from ..finding import refuse
from ..record.file import EDITS, HELD_OUT, LEDGER_FILE, LEFT_OUT, TRAIN, read_record
from ..record.gate import parent_dir
from .aligned import table
from .numbers import amount

OUTPUTS = (TRAIN, HELD_OUT)
WIDTH = 600  # characters of a text that are shown
BESIDE = 12  # words that are shown on each side of a difference
COMPARED = (
    3000  # words of two texts that are compared, from their first difference on: it takes the square of them
)
REASONS = 3  # in the first table; the table of rules has all


def show_ledger(run: str, step: str | None = None, samples: int = 0) -> str:
    """The ledger of a run as text, that is also Markdown. step, samples: show left-out rows of one step instead.

    Raises Refusal no-record, no-ledger, unknown-step.
    """
    record, directory = read_record(run), Path(run)
    curated = [directory] if record.get("stage") == "curate" else curated_parents(record, directory)
    if step or samples:
        if not curated:
            raise refuse("no-ledger", "this run has no curated rows, so no left-out rows are kept", "", run)
        return show_samples(curated[0], step, samples if samples > 0 else 3)
    parts = [part for place in curated for part in show_curation(place)]
    if record.get("stage") != "curate":
        parts += show_training(record, run)
    return "\n\n".join(parts)


def curated_parents(record: dict, directory: Path) -> list[Path]:
    """The runs of curation whose rows a run read, directly or through its parents; the nearest first."""
    found: dict[Path, None] = {}
    for role, parent in (record.get("parents") or {}).items():
        place = parent_dir(parent, directory)
        if role.startswith("data") and (place / LEDGER_FILE).is_file():
            found[place] = None
    return list(found)


def read_ledger(directory: Path) -> dict[str, Any]:
    try:
        return json.loads((directory / LEDGER_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        message = f"this run has no {LEDGER_FILE}: its status is {read_record(directory)['status']}"
    except (OSError, ValueError) as error:
        message = f"{LEDGER_FILE} cannot be read: {error}"
    raise refuse("no-ledger", message, "run the stage again", str(directory))


# Tables


def show_curation(directory: Path) -> list[str]:
    ledger = read_ledger(directory)
    out = ", ".join(f"{name} {entry['rows']:,} rows" for name, entry in ledger["files"].items())
    out = out or "no train.jsonl was written, since a test of the data failed"
    parts = [f"{directory}: {out}; tokens are {ledger['unit']}", steps_table(ledger)]
    if folder := common_folder(ledger):
        parts[0] += f"; sources are in {folder}"
    if ledger["rules"]:
        parts.append("Documents that each rule alone would leave out, by source\n\n" + rules_table(ledger))
    parts.append("The mixture\n\n" + mixture_table(ledger))
    if (held_out := ledger["held_out"]) and ledger["files"]:
        moved = held_out["moved_back"]
        back = f"; {moved:,} more would be, but resemble a training document: they are trained on"
        of = held_out["rows"] + sum(s["out"][0] for s in _entries(ledger, "held-out"))
        share = f" of {of:,}, before the mixture is made" if of > held_out["rows"] else ""
        parts.append(f"Held out: {held_out['rows']:,} documents{share}" + (back if moved else ""))
    for label, found in ledger["evaluation"].items():
        items = sum(len(lines) for lines in found["hits"].values())
        parts.append(
            f"{label}: {items:,} evaluation items were found in documents; {len(found['untested']):,} items are too "
            "short to be looked for"
        )
    return parts


def _entries(ledger: dict[str, Any], step: str) -> list[dict[str, Any]]:
    """The entries of a step, by source."""
    return [entry for s in ledger["steps"] if s["step"] == step for entry in s["sources"].values()]


def steps_table(ledger: dict[str, Any]) -> str:
    """A line per step and source, with the first reasons."""
    rows, folder = [], common_folder(ledger)
    for step in ledger["steps"]:
        for name, entry in step["sources"].items():
            left = sum(count[0] for count in entry["left_out"].values())
            reasons = by_rows(entry["left_out"])
            why = [f"{reason} {count[0]:,}" for reason, count in reasons[:REASONS]]
            why += [f"{len(reasons) - REASONS} more reasons"] if len(reasons) > REASONS else []
            why += [f"edited {entry['edited'][0]:,}"] if "edited" in entry else []
            why += [f"repeated {entry['repeated'][0]:,}"] if "repeated" in entry else []
            sizes = [f"{amount(entry['out'][1])}B", amount(entry["out"][2]).strip()]
            rows.append(
                [
                    step["step"],
                    name.removeprefix(folder),
                    f"{entry['in'][0]:,}",
                    f"{left:,}",
                    f"{entry['out'][0]:,}",
                    *sizes,
                ]
            )
            rows[-1].append(", ".join(why) or "-")
    head = ["step", "source", "rows in", "left out", "rows out", "bytes out", "tokens out", "why"]
    return table(head, rows, left=(0, 1, 7))


def common_folder(ledger: dict[str, Any]) -> str:
    """The directory of all sources, with a slash at its end; empty if they have none in common."""
    names = [source["name"] for source in ledger["sources"]]
    prefix = os.path.commonprefix(names)
    return prefix[: prefix.rfind("/") + 1]


def by_rows(left_out: dict[str, list[int]]) -> list[tuple[str, list[int]]]:
    return sorted(left_out.items(), key=lambda item: (-item[1][0], item[0]))


def rules_table(ledger: dict[str, Any]) -> str:
    """The share of a source's documents that each rule leaves out, of those that came to its step; largest first."""
    folder = common_folder(ledger)
    names = [source["name"] for source in ledger["sources"]]
    came = {
        s["step"]: {name: entry["in"][0] for name, entry in s["sources"].items()} for s in ledger["steps"]
    }
    rows = []
    for step, sources in ledger["rules"].items():
        shares = {
            reason: [sources.get(name, {}).get(reason, 0) / max(came[step][name], 1) for name in names]
            for reason in sorted({reason for found in sources.values() for reason in found})
        }
        for reason in sorted(shares, key=lambda reason: -max(shares[reason])):
            rows.append([step, reason, *(f"{share:.2%}" if share else "-" for share in shares[reason])])
    return table(["step", "rule", *(name.removeprefix(folder) for name in names)], rows)


def mixture_table(ledger: dict[str, Any]) -> str:
    licenses = {source["name"]: source["license"] or "not given" for source in ledger["sources"]}
    rows, folder = [], common_folder(ledger)
    for name, entry in ledger["mixture"].items():
        wanted = f"{entry['share_wanted']:.1%}" if "share_wanted" in entry else "-"
        cells = [f"{entry['rows']:,}", amount(entry["bytes"]).strip() + "B", amount(entry["tokens"]).strip()]
        rows.append(
            [
                name.removeprefix(folder),
                licenses[name],
                *cells,
                f"{entry['share']:.1%}",
                wanted,
                f"{entry['epochs']:g}",
            ]
        )
    return table(["source", "license", "rows", "bytes", "tokens", "share of tokens", "asked", "epochs"], rows)


def show_training(record: dict, run: str) -> list[str]:
    """What a training stage read and left out: its own part of the record."""
    data = record.get("data")
    if not data or "sources" not in data:
        raise refuse("no-ledger", "this run has read no rows", "give a run that reads data", run)
    rows = [[s["path"], s["use"], f"{s['rows']:,}", f"{s['kept']:,}"] for s in data["sources"]]
    parts = [f"{run}: {data['rows_in']:,} rows read, {data['rows_out']:,} used"]
    parts.append(table(["source", "use", "rows", "kept"], rows))
    if data["left_out"]:
        parts.append(
            table(["left out", "rows"], [[reason, f"{n:,}"] for reason, n in data["left_out"].items()])
        )
    return parts


# Samples


def show_samples(directory: Path, step: str | None, samples: int) -> str:
    """Left-out rows of a step, drawn with a fixed seed, beside what each resembles; of a step that edits, its edits.

    step: or the reason of a rule, such as spam-capitals.
    """
    ledger = read_ledger(directory)
    reasons = {
        reason for s in ledger["steps"] for entry in s["sources"].values() for reason in entry["left_out"]
    }
    steps = [s["step"] for s in ledger["steps"]]
    step = step and (step if step in {*steps, *reasons} else step.replace("_", "-"))  # as the recipe names it
    if step in ("held-out", "mixture") and step in steps and not ledger["files"]:
        message = f"the rows of {step} were not written, since a test of the data failed"
        raise refuse("no-ledger", message, "look at the other steps", str(directory))
    if step == "held-out" and step in steps:
        return f"{step}: these rows are in {directory / OUTPUTS[1]}"
    if step is None or step not in {*steps, *reasons}:
        near = get_close_matches(step or "", [*steps, *sorted(reasons)], 1)
        fix = f"did you mean {near[0]}?" if near else f"the steps are {', '.join(steps)}"
        message = f"this run has no step or reason {step!r}" if step else "--samples needs `--step NAME`"
        raise refuse("unknown-step", message, fix, str(directory))
    found = [row for row in _lines(directory / LEFT_OUT) if step in (row["step"], row["reason"])]
    chosen = random.Random(0).sample(found, min(samples, len(found)))
    wanted = {row["detail"]["kept"] for row in chosen if "kept" in row.get("detail", {})}
    kept = _find(directory, wanted)
    blocks = [f"{step}: {len(found):,} rows left out"] if found else []
    blocks += [_block(row, kept.get(row.get("detail", {}).get("kept"))) for row in chosen]
    edits = [edit for edit in _lines(directory / EDITS) if edit["step"] == step]
    if edits:
        blocks.append(f"{step}: {len(edits):,} edits")
        some = random.Random(0).sample(edits, min(samples, len(edits)))
        texts = _find(directory, {edit["id"] for edit in some})
        blocks += [_edit(edit, texts.get(edit["id"], "")) for edit in some]
    return "\n\n".join(blocks) or f"{step}: nothing was left out or edited"


def _block(row: dict[str, Any], kept: str | None) -> str:
    text = _text(row, row.get("detail", {}).get("part", "row"))
    detail = {key: value for key, value in row.get("detail", {}).items() if key not in ("span", "part")}
    head = f"{row['id']}: {row['reason']}" + "".join(f", {key} {value}" for key, value in detail.items())
    span = row.get("detail", {}).get("span")
    if span:
        start, end = span
        text = f"{text[max(start - WIDTH // 3, 0) : start]}>>>{text[start:end]}<<<{text[end:]}"
    if kept is None:
        return f"{head}\n{_cut(text)}"
    how = "left out, with [-what the kept one lacks-] and {+what it has instead+}:"
    return f"{head}\n{how}\n{_cut(differences(text, kept))}"


def _text(row: dict[str, Any], part: Part) -> str:
    """What the steps saw of a row of a file, which is a row of the output or has it under `row`."""
    return text_of(row.get("row") or row, part)


def _edit(edit: dict[str, Any], text: str) -> str:
    """An edit with the text around it, as it was written: what was there before is kept nowhere."""
    length = edit["end"] - edit["start"]
    how = (
        f"{length:,} characters became {edit['text']}"
        if edit["text"]
        else f"{length:,} characters were removed"
    )
    # Edits before this one have moved it a little.
    start = min(max(edit["start"] - WIDTH // 2, 0), max(len(text) - WIDTH, 0))
    before = f"... ({start:,} characters) " if start else ""
    return f"{edit['id']}: {edit['kind']}: {how}\n{before}{_cut(text[start:])}"


def differences(text: str, kept: str) -> str:
    """`text` where `kept` differs, word by word as `wdiff` marks it, with some words beside each difference."""
    ours, theirs = text.split(), kept.split()
    same = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), None)
    first = max((min(len(ours), len(theirs)) if same is None else same) - BESIDE, 0)
    ours, theirs = ours[first : first + COMPARED], theirs[first : first + COMPARED]
    pieces = ["..."] if first else []
    for kind, a, b, c, d in SequenceMatcher(None, ours, theirs, autojunk=False).get_opcodes():
        if kind == "equal":
            between = [*ours[a : a + BESIDE], "...", *ours[b - BESIDE : b]]
            pieces.append(" ".join(between if b - a > 2 * BESIDE else ours[a:b]))
            continue
        pieces += [f"[-{' '.join(ours[a:b])}-]"] if b > a else []
        pieces += [f"{{+{' '.join(theirs[c:d])}+}}"] if d > c else []
    return " ".join(pieces)


def _cut(text: str) -> str:
    return text if len(text) <= WIDTH else f"{text[:WIDTH]} ... ({len(text) - WIDTH:,} more characters)"


def _find(directory: Path, ids: set[str]) -> dict[str, str]:
    """id -> text of rows in the output or among the left-out ones."""
    found: dict[str, str] = {}
    for name in (*OUTPUTS, LEFT_OUT):
        if len(found) < len(ids):
            found |= {
                row["id"]: _text(row, "row")
                for row in _lines(directory / name)
                if row["id"] in ids and row["id"] not in found
            }
    return found


def _lines(file: Path) -> Iterator[dict[str, Any]]:
    if file.is_file():
        with file.open(encoding="utf-8") as lines:
            yield from map(json.loads, lines)

"""The gate of a stage: conditions on its metrics in run.json. No torch.

A line is `METRIC OP TERM [(*|+|-) NUMBER]`: OP is one of < <= > >= ==, TERM a number, a metric of this
run, or RUN/METRIC, where RUN is `parent` or the name of a run directory beside this one.
A metric that was not measured, or is not finite, fails its line.
"""

import contextlib
import hashlib
import json
import math
import operator
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from ..finding import Refusal, refuse
from .file import GATE_FILE, RUN_FILE, read_record, write_json

COMPARE = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "==": operator.eq}
CHANGE = {"*": operator.mul, "+": operator.add, "-": operator.sub}
NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
# Names as in lm-eval and the trainers: eval_loss, gsm8k.exact_match.strict-match, eval_rewards/margins.
NAME = r"[A-Za-z0-9_][\w.@:-]*(?:/[\w.@:-]+)*"
LINE = re.compile(
    rf"(?P<metric>{NAME})\s*(?P<compare><=|>=|==|<|>)\s*(?P<term>{NUMBER}(?![\w./@:-])|{NAME})"
    rf"(?:\s*(?P<change>[*]|(?<=\s)[+]|(?<=\s)-)\s*(?P<number>{NUMBER}))?"
)
# Roles of what `parent` stands for: the starting weights; of a base model its tokenizer, of a tokenizer the old one.
MAIN_ROLES = ("model", "tokenizer", "extended", "data")
RUN_IS_DONE = "the run is done"  # judged before any line
FAILED_GATE_FILE = "gate.failed"
FORM = (
    "write METRIC OP TERM, such as `eval_loss < 2.5` or `acc >= parent/acc - 0.03`; OP is one of < <= > >= =="
)
TWO_LINES = "write each condition as a line of its own: all lines must hold"


@dataclass(frozen=True)
class Gate:
    """One parsed line. `term` is a number or the name of a metric, changed by `change` (* + -) `number`."""

    line: str
    metric: str
    compare: str
    term: float | str
    change: str | None = None
    number: float = 0.0


@dataclass(frozen=True)
class Verdict:
    """One judged line; `message` contains the values that were compared.

    measured: of a line with a metric that was not measured, the metrics of the run in which it was looked up.
    """

    line: str
    ok: bool
    message: str
    measured: tuple[str, ...] = ()


class Unmeasured(Exception):
    """A name in a gate line has no finite value; the message gives the reason. measured: see Verdict."""

    def __init__(self, message: str, measured: Iterable[str] = ()):
        super().__init__(message)
        self.measured = tuple(measured)


def parse(line: str) -> Gate:
    """The parts of a gate line; refuses a malformed one (`bad-gate`)."""
    found = LINE.fullmatch(line.strip()) if isinstance(line, str) else None
    term = found and (float(found["term"]) if re.fullmatch(NUMBER, found["term"]) else found["term"])
    if not found or _is_arithmetic(found["metric"]) or _is_arithmetic(term):
        fix = TWO_LINES if isinstance(line, str) and re.search(r"\s(and|&&?|or|\|\|)\s", line) else FORM
        raise refuse("bad-gate", f"`{_short(line)}` is not a valid gate line", fix)
    number = float(found["number"] or 0)
    if not math.isfinite(number) or (isinstance(term, float) and not math.isfinite(term)):
        raise refuse("bad-gate", f"`{_short(line)}` compares with a non-finite number", FORM)
    return Gate(line.strip(), found["metric"], found["compare"], term, found["change"], number)


def _short(line: object) -> str:
    return str(line) if len(str(line)) <= 100 else f"{str(line)[:97]}..."


def _is_arithmetic(name: float | str) -> bool:
    """Whether a name is a number or arithmetic (`0.5-0.1`), which also have the form of a metric's name."""
    return isinstance(name, str) and bool(re.fullmatch(r"[\d.eE+-]+", name))


def judge(run_dir: str | Path, lines: list[str] | None = None) -> list[Verdict]:
    """A verdict per gate line; one more, failed, if the run is not done.

    lines: by default those with which `lifecycle gate` last judged this run, else those of its record.
    Reads only the records and gate files of runs. Refuses a malformed line.
    """
    run_dir = Path(run_dir)
    try:
        record = read_record(run_dir)
    except Refusal as refusal:
        return [Verdict(RUN_IS_DONE, False, refusal.findings[0].message)]
    if lines is None:
        lines = settled_lines(run_dir)
    gates = [parse(line) for line in (record.get("gate") or [] if lines is None else lines)]
    verdicts = [judge_line(gate, record, run_dir) for gate in gates]
    if record["status"] != "done":
        verdicts.insert(0, Verdict(RUN_IS_DONE, False, f"its status is {record['status']}"))
    return verdicts


def judge_line(gate: Gate, record: dict, run_dir: Path) -> Verdict:
    try:
        left = _value(gate.metric, record, run_dir)
        right = gate.term if isinstance(gate.term, float) else _value(gate.term, record, run_dir)
    except Unmeasured as problem:
        return Verdict(gate.line, False, str(problem), problem.measured)
    bound = CHANGE[gate.change](right, gate.number) if gate.change else right
    message = f"{gate.metric} is {left:.6g}"
    if not isinstance(gate.term, float):
        message += f", {gate.term} is {right:.6g}" + (f": bound {bound:.6g}" if gate.change else "")
    return Verdict(gate.line, bool(COMPARE[gate.compare](left, bound)), message)


def _value(name: str, record: dict, run_dir: Path) -> float:
    """A metric of this run, or RUN/METRIC. A metric of this run with a slash in its name takes precedence."""
    metrics, metric = record.get("metrics") or {}, name
    if name not in metrics and "/" in name:
        run, metric = name.split("/", 1)
        metrics = _metrics_of(run, record, run_dir)
    value = metrics.get(metric)
    if value is None:
        near = get_close_matches(metric, metrics, 1, 0.8)
        hint = f": did you mean {name.removesuffix(metric)}{near[0]}?" if near else ""
        raise Unmeasured(f"{name} was not measured{hint}", sorted(metrics))
    try:
        value = float(value)
    except (TypeError, ValueError):
        raise Unmeasured(f"{name} is {value!r}, not a number") from None
    if not math.isfinite(value):
        raise Unmeasured(f"{name} is {value}")
    return value


def _metrics_of(run: str, record: dict, run_dir: Path) -> dict:
    parent = main_parent(record) if run == "parent" else None
    if run == "parent" and not parent:
        raise Unmeasured("this run has no parent with a record")
    directory = parent_dir(parent, run_dir) if parent else run_dir.resolve().parent / run
    try:
        other = read_record(directory)
    except Refusal:
        raise Unmeasured(f"{directory} has no record of {run}") from None
    if other["status"] != "done":
        raise Unmeasured(f"{run} is not done: its status is {other['status']}")
    if parent and parent.get("identity") not in (None, other.get("identity")):
        raise Unmeasured(f"the run in {directory} is not the parent that this run started from")
    return other.get("metrics") or {}


def main_parent(record: dict) -> dict | None:
    """The run that `parent` stands for: the first of MAIN_ROLES that has a record."""
    parents = record.get("parents") or {}
    return next((parents[r] for r in MAIN_ROLES if parents.get(r, {}).get("identity")), None)


def parent_dir(parent: dict, run_dir: Path) -> Path:
    """Where a parent is now: beside this run, even if both were moved together, else at its old path."""
    beside = Path(os.path.normpath(run_dir.resolve() / parent.get("relative", ".")))
    return beside if parent.get("relative") and beside.is_dir() else Path(parent["path"])


def settled_lines(run_dir: str | Path) -> list[str] | None:
    """The lines with which `lifecycle gate` last judged this run; None to use those of the record."""
    for name in (GATE_FILE, FAILED_GATE_FILE):
        with contextlib.suppress(OSError, ValueError, KeyError):
            judged = json.loads((Path(run_dir) / name).read_text(encoding="utf-8"))
            if judged["run_sha256"] == _sha256(Path(run_dir) / RUN_FILE):
                return judged["lines"]
    return None


def write_gate(run_dir: str | Path, verdicts: list[Verdict]) -> bool:
    """Write gate.ok if every verdict is ok, else delete it. Returns whether all are ok.

    The lines of a failed gate are kept in gate.failed; else the gate of the record could let a child start.
    """
    ok, run_dir = all(v.ok for v in verdicts), Path(run_dir)
    for name in (GATE_FILE, FAILED_GATE_FILE):
        with contextlib.suppress(FileNotFoundError):
            (run_dir / name).unlink()
    lines = [v.line for v in verdicts if v.line != RUN_IS_DONE]
    if (run_dir / RUN_FILE).is_file():
        judged = {"run_sha256": _sha256(run_dir / RUN_FILE), "lines": lines}
        write_json(run_dir / (GATE_FILE if ok else FAILED_GATE_FILE), judged)
    return ok


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()

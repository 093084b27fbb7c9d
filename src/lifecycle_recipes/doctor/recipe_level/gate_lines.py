"""Level 1, the gate: every metric in it will be measured, by this run or by the run that it names. No torch."""

import os
from difflib import get_close_matches
from pathlib import Path

from ...evals.expected import Expected, expected_metrics, recorded_metrics, stages_that_measure
from ...finding import Finding, Refusal
from ...recipe.read import RawRecipe, read_recipe, real_path
from ...record.file import RUN_FILE, read_record
from ...record.gate import MAIN_ROLES, parse
from ...record.parents import closest_run, named_parents
from .files import maker
from .output import is_finished

SHOWN = 12  # metrics in a message


def find_in_gate(raw: RawRecipe) -> list[Finding]:
    """gate-unknown: an error for a metric that nothing measures, a warning where that cannot be known.

    The tests of curated data are lines like these.
    """
    own, findings = expected_metrics(raw), []
    for section, lines in (("gate", raw.gate), ("curate.tests", raw.setting("curate.tests") or [])):
        for i, line in enumerate(lines):
            where = raw.place(f"{section}[{i}]", section)
            for name in _names_in(line):
                if not own.measures(name):
                    findings += _look_up(raw, own, name, f"`{line.strip()}`", where)
    return findings


def _names_in(line: str) -> list[str]:
    """The metrics of a line; none of a malformed one, which is a finding of its own."""
    try:
        gate = parse(line)
    except Refusal:
        return []
    return [name for name in (gate.metric, gate.term) if isinstance(name, str)]


def _look_up(raw: RawRecipe, own: Expected, name: str, line: str, where: str) -> list[Finding]:
    run, slash, metric = name.partition("/")
    if not slash or name in own.needs or stages_that_measure(name):
        return _judge(own, name, f"{line}: this recipe does not measure {name}", "it measures", where)
    beside = Path(raw.output_dir).parent.as_posix()
    if beside != "." and name.startswith(f"{beside}/"):
        message = f"{line}: a run is named by its directory alone, beside this one"
        fix = f"write {name.removeprefix(f'{beside}/')}"
        return [Finding.error("gate-unknown", message, fix, where)]
    path = _path_of(raw, run)
    if path is None:
        message = f"{line}: this recipe has no parent, so nothing measures {name}"
        return [
            Finding.error("gate-unknown", message, "name a metric of this run, or of a run beside it", where)
        ]
    other, source = _expected_of(raw, path)
    if other is not None:
        message = f"{line}: {source} has no metric {metric}"
        return _judge(other, metric, message, "it has", where, prefix=f"{run}/")
    if source:
        message = f"{line}: {source}, so it is not known whether {name} will be measured"
        return [Finding.warning("gate-unknown", message, "run that recipe first", where)]
    if run == "parent" and not os.path.isdir(path):
        return []  # parent-missing, or a model of the Hub that is not cached, is the finding
    if near := get_close_matches(name, own.needs, 1, 0.8):
        message, fix = f"{line}: this recipe does not measure {name}", f"did you mean {near[0]}?"
    elif run == "parent":
        message = f"{line}: the parent {path} has no record, so nothing measures {name}"
        fix = "compare with a number, or with a run beside this one"
    else:
        message = f"{line}: there is no run {path}, and no recipe beside this one makes it"
        near = closest_run(path)
        fix = (
            f"did you mean {Path(near).name}/{metric}?"
            if near
            else "name `parent` or a directory beside this run"
        )
    return [Finding.error("gate-unknown", message, fix, where)]


def _judge(
    expected: Expected, metric: str, message: str, has: str, where: str, prefix: str = ""
) -> list[Finding]:
    """No finding if `metric` is measured, else an error or a warning with the way to measure it."""
    measured = expected.measured()
    if expected.measures(metric):
        return []
    if reason := expected.perhaps.get(metric):
        message = f"{message} for certain: {reason}"
        return [Finding.warning("gate-unknown", message, _list(has, measured), where)]
    near = get_close_matches(metric, measured, 1, 0.8) or get_close_matches(metric, expected.needs, 1, 0.8)
    if expected.may_measure(metric) and not near:
        message = f"{message} for certain: the rows or the code of a task decide"
        return [Finding.warning("gate-unknown", message, _list(has, measured), where)]
    if need := expected.needs.get(metric):
        fix = need
    elif near:
        need = expected.needs[near[0]]
        fix = f"did you mean {prefix}{near[0]}?" + (f" To measure it, {need}" if need else "")
    elif stages := stages_that_measure(metric):
        fix = f"{metric} is a metric of {' and '.join(stages)} runs; {_list(has, measured)}"
    else:
        task = [name for name in measured if name.startswith(metric.partition(".")[0] + ".")]
        fix = _list(has, task or measured)
    return [Finding.error("gate-unknown", message, fix, where)]


def _list(has: str, metrics: list[str]) -> str:
    more = f" and {len(metrics) - SHOWN} more" if len(metrics) > SHOWN else ""
    return f"{has} {', '.join(metrics[:SHOWN]) or 'no metric'}{more}"


def _path_of(raw: RawRecipe, run: str) -> str | None:
    """Where the run of a gate line is: the main parent, as record.gate has it, or a directory beside this run."""
    if run != "parent":
        return os.path.normpath(Path(raw.output_dir).parent / run)
    parents = named_parents(raw.values)
    named = [parents[role] for role in MAIN_ROLES if role in parents]
    with_record = [p for p in named if Path(p, RUN_FILE).exists() or raw.is_awaited(p) or maker(raw, p)]
    return next(iter(with_record or named), None)


def _expected_of(raw: RawRecipe, path: str) -> tuple[Expected | None, str]:
    """(the metrics of a run, their source), from its record if it is done, else from the recipe that makes it.

    (None, why not) for a run that will be there with metrics not known now; (None, "") if there is no run.
    """
    other = raw.awaited.get(real_path(path))
    if other and not is_finished(other):
        return expected_metrics(other), f"the recipe {other.path}"
    recipe, unfinished = maker(raw, path), ""
    try:
        record = read_record(path)
        if record["status"] == "done":
            return recorded_metrics(record), f"the record of {path}"
        unfinished = f"{path} is not finished"
    except Refusal:
        pass
    if recipe is None:
        return None, unfinished
    try:
        return expected_metrics(read_recipe(recipe)), f"the recipe {recipe}"
    except Refusal:
        return None, f"the recipe {recipe} has errors"

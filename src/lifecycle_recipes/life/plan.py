"""What a life will do: which stages are done, resumed or run, and what is wrong, before one starts. No torch."""

from dataclasses import dataclass, field
from pathlib import Path

from ..doctor.check import Report, check_launch
from ..doctor.plan import in_words
from ..doctor.recipe_level.output import earlier_run
from ..finding import refuse
from ..layouts.launch import UNLAUNCHED
from ..recipe.read import others_of
from ..record.checkpoints import last_checkpoint
from ..record.gate import judge
from ..record.run import is_done, is_trained
from .graph import Stage, ancestors, descendants


@dataclass
class Selection:
    """Names of the stages to run, as given to --until, --from and --only; an empty list is no limit."""

    until: list[str] = field(default_factory=list)
    start: list[str] = field(default_factory=list)
    only: list[str] = field(default_factory=list)


def select(stages: list[Stage], chosen: Selection) -> list[Stage]:
    """The stages to run, in order: `until` and what they need; `start` and what needs them; `only`.

    Other stages are left as they are. Raises Refusal unknown-argument.
    """
    names = [stage.name for stage in stages]
    fix = f"the stages are {', '.join(names)}"
    for flag, given in (("--until", chosen.until), ("--from", chosen.start), ("--only", chosen.only)):
        for name in given:
            if name not in names:
                raise refuse("unknown-argument", f"{flag} {name} names no stage of this life", fix)
    wanted = set(names)
    wanted &= ancestors(stages, chosen.until) if chosen.until else wanted
    wanted &= descendants(stages, chosen.start) if chosen.start else wanted
    wanted &= set(chosen.only) if chosen.only else wanted
    if not wanted:
        raise refuse("unknown-argument", "--from, --until and --only have no stage in common", fix)
    return [stage for stage in stages if stage.name in wanted]


def find_states(stages: list[Stage]) -> dict[str, str]:
    """Name -> `done`, `resume` or `run`. A stage is done if its run is finished with these values, parents and files.

    What reads the output of a stage that is run is run as well. If that stage then turns out as before, what reads it
    is found done when it is its turn.
    """
    states: dict[str, str] = {}
    for stage in stages:
        again = any(states.get(name, "done") != "done" for name in stage.inputs)
        if not again and is_done(stage.raw):
            states[stage.name] = "done"
        else:
            states[stage.name] = "resume" if not again and can_resume(stage) else "run"
    return states


def can_resume(stage: Stage) -> bool:
    """Whether output_dir contains an unfinished run of this recipe that a start goes on with, as record/run.py has it:
    trained, or with a complete checkpoint."""
    earlier, same = earlier_run(stage.raw)
    if not same or earlier["status"] == "done":
        return False
    if is_trained(earlier, Path(stage.raw.output_dir)):
        return True
    return stage.raw.stage != "ppo" and bool(last_checkpoint(Path(stage.raw.output_dir)))  # PPO cannot resume


def passes(stage: Stage) -> bool:
    """Whether the run holds the gate lines that its recipe has now."""
    return all(verdict.ok for verdict in judge(stage.raw.output_dir, stage.raw.gate))


def check_stages(stages: list[Stage], states: dict[str, str], rows: bool) -> list[Report]:
    """The checks without torch of every stage that is not done: its recipe and, with `rows`, its rows."""
    selected, reports = [stage.raw for stage in stages], []
    for stage in stages:
        stage.raw.awaited = others_of(stage.raw, selected)  # what is not selected must exist already
        if states[stage.name] != "done":
            # Whether it is finished is known only after its parents have run.
            settled = all(states.get(name, "done") == "done" for name in stage.inputs)
            reports.append(check_launch(stage.raw, rows, finished=settled))
    return reports


def show(stages: list[Stage], states: dict[str, str]) -> str:
    """A line per stage: name, what will happen, its parents, where it writes and with which layout."""
    rows = [("stage", "state", "needs", "output_dir", "layout")]
    for stage in stages:
        layout = stage.raw.layout
        words = "one process" if stage.raw.stage in UNLAUNCHED or not layout else in_words(layout)
        needs = ", ".join(stage.parents) or "-"
        path = str(stage.raw.output_dir).encode("utf-8", "backslashreplace").decode()  # a bad one has no text
        rows.append((stage.name, _in_words(stage, states[stage.name]), needs, path, words))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(f"  {line}".rstrip() for line in lines)


def _in_words(stage: Stage, state: str) -> str:
    if state == "done":
        return "done, gate passed" if passes(stage) else "done, gate fails"
    earlier, _ = earlier_run(stage.raw)
    return "run again" if state == "run" and earlier and earlier["status"] == "done" else state

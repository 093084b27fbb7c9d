"""Every check that needs no training, by level, cheap ones first: a typo is found before a model is loaded.

1 recipe and files   no torch, below a second
2 rows and tokens    reads every source and loads the tokenizer, but no weights
3 the built trainer  its real batches, with a tiny forward pass where needed

`check` runs them for `lifecycle check`, and `check_launch` those without torch for `lifecycle run`; `check_recipe`,
`preflight` and `check_built` are the same levels inside a stage.
"""

import contextlib
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from ..exit_status import is_main_process
from ..finding import Finding, Refusal, refuse
from ..layouts.layout import Layout
from ..quiet import quiet
from ..recipe.read import RawRecipe, others_of, read_recipe
from ..record.run import Run
from .codes import ELSEWHERE, IN_A_TOKENIZER_RUN, NEVER_WAIVED
from .plan import describe
from .recipe_level.files import lacking_data, lacking_parents
from .recipe_level.hub import leave_silent_hub, offline_if_silent
from .recipe_level.level import find_in_recipe
from .recipe_level.output import find_finished, is_free

LEVELS = (1, 2, 3)
NAMES = {1: "recipe and files", 2: "rows and tokens", 3: "the built trainer"}
# Missing on this machine or at this time: a warning if a recipe is only checked, an error if it is run.
HERE = {"missing-package", "no-hub-token", "push-offline", "not-cached", "missing-revision", "disk-too-small"}
HERE |= {"layout-gpus", "fp8-unsupported", "task-not-cached", "no-wandb-login", "precision-on-cpu"}
HERE |= {"output-dir-finished", "output-dir-other-run", "output-dir-not-ours", "bad-record"}
# The rows can be checked without the parents, and their tokens without a gate that passed.
NO_TOKENIZER = ("parent-missing", "parent-unfinished", "parent-no-weights")


@dataclass
class Report:
    """What a check found. allowed: waived code -> reason. seconds: `1` -> seconds of that level.

    reached: the last level that was run; `stopped` has the reason if it is not the last requested one.
    plan: what a run of the recipe would do, in one line; empty if it has errors.
    """

    path: str
    findings: list[Finding] = field(default_factory=list)
    allowed: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    reached: int = 0
    stopped: str = ""
    plan: str = ""

    @property
    def errors(self) -> list[Finding]:
        return [f for f in self.findings if f.severity == "error"]

    def summary(self) -> str:
        """One line: result, level reached and seconds."""
        count = [
            f"{len(f)} {n}{'s' * (len(f) != 1)}"
            for f, n in ((self.errors, "error"), (self.warnings, "warning"))
            if f
        ]
        waived = [f"waived: {', '.join(sorted(self.allowed))}"] if self.allowed else []
        seconds = sum(self.seconds.values())
        done = f"level 1 to {self.reached}" if self.reached > 1 else "level 1"
        parts = [", ".join(count) or "ok", *waived, f"{done} in {seconds:.1f} s", self.stopped]
        return f"{self.path}: " + "; ".join(filter(None, parts))

    @property
    def warnings(self) -> list[Finding]:
        return [f for f in self.findings if f.severity == "warning"]

    def run_level(self, level: int, allow: dict[str, str], find: Callable[[], Iterable[Finding]]) -> None:
        """Add what `find` returns, except what `allow` waives, or the findings of its Refusal; keep the time.

        A Refusal is never waived: it would stop the run as well, and the rest of the level was not checked.
        """
        with self.timed(level):
            try:
                found = list(find())
            except Refusal as refusal:
                found, allow = refusal.findings, {}
        self.reached = max(self.reached, level)
        for finding in found:
            if _is_waived(finding, allow):
                self.allowed[finding.code] = allow[finding.code]
            elif finding not in self.findings:
                self.findings.append(finding)
        self.findings.sort(key=lambda f: f.severity)  # "error" before "warning"; stable within

    @contextlib.contextmanager
    def timed(self, level: int) -> Iterator[None]:
        started = time.monotonic()
        try:
            yield
        finally:
            spent = self.seconds.get(str(level), 0.0) + time.monotonic() - started
            self.seconds[str(level)] = round(spent, 3)


def check(
    path: str,
    overrides: list[str] | None = None,
    upto: int = 3,
    say: Callable[[str], None] = lambda line: None,
    read_layout: Callable[[RawRecipe], Layout | None] = lambda raw: None,
    together: Sequence[RawRecipe] = (),
) -> Report:
    """Check the recipe at `path` up to level `upto`; stop after a level with errors.

    say: called with progress lines. read_layout: returns the layout for the check, if any. together: all
    recipes of the same command. A bad recipe raises nothing: its errors are in the report.
    """
    quiet()  # before transformers is imported, whichever level does that
    report = Report(str(path))
    raw, allow = None, {}

    def recipe_level() -> list[Finding]:
        nonlocal raw
        raw = read_recipe(path, overrides)
        allow.update(raw.allow)  # known only now; run_level looks at it after this
        raw.awaited = others_of(raw, together)
        raw.layout = read_layout(raw)
        return find_in_recipe(raw)

    guard = partial(_named_if_it_fails, overrides or [])
    report.run_level(1, allow, guard(recipe_level))
    leave_silent_hub()
    for level in LEVELS[1:upto]:
        report.stopped = _why_not(report, raw, level)
        if report.stopped or level > _last_level(raw):
            break
        say(f"{path}: level {level}, {NAMES[level]}")
        if level == 2:
            # A parent that does not exist yet has no tokenizer.
            tokens = not (_lacks(report, *NO_TOKENIZER) or lacking_parents(raw))
            report.run_level(2, raw.allow, guard(partial(find_in_data, raw, tokens)))
        else:
            report.run_level(3, raw.allow, guard(lambda: _find_in_built(path, overrides)))
    if raw is not None and report.reached == _last_level(raw):
        _add_unused_waivers(report, raw)
    report.findings = [replace(f, where=f.where or str(path)) for f in report.findings]
    if raw is not None and not report.errors:
        report.plan = describe(raw)
    return report


def _is_waived(finding: Finding, allow: dict[str, str]) -> bool:
    return finding.code in allow and finding.code not in NEVER_WAIVED


def _named_if_it_fails(overrides: list[str], find: Callable[[], Iterable[Finding]]) -> Callable:
    """`find`, whose unexpected errors become a refusal: the other recipes of a check are still checked."""

    def found() -> list[Finding]:
        try:
            return list(find())
        except Refusal:
            raise
        except Exception as error:
            if "--debug" in overrides:
                traceback.print_exc()
            last = traceback.extract_tb(error.__traceback__)[-1]
            problem = " ".join(f"{type(error).__name__}: {error}".split())
            message = f"the check itself failed: {problem} ({Path(last.filename).name}:{last.lineno})"
            fix = "pass --debug for the traceback, and report it: a check names what is wrong"
            raise refuse("check-failed", message, fix) from error

    return found


def _why_not(report: Report, raw: RawRecipe | None, level: int) -> str:
    """Why `level` cannot be checked, given the levels below it; empty if it can."""
    if report.errors if level == 3 else _row_errors(report):
        return f"level {level} was not checked: correct these errors first"
    lacking = _lacks(report, "not-cached", "missing-revision", *["parent-"] * (level == 3))
    lacking += [f"it needs {path}" for path in (lacking_parents(raw) if level == 3 else lacking_data(raw))]
    return f"level {level} was not checked: {', '.join(lacking)}" if lacking else ""


def _row_errors(report: Report) -> list[Finding]:
    """Errors of level 1 without which the rows cannot be checked: not those of the parents and output_dir."""
    return [f for f in report.errors if not f.code.startswith(("parent-", "output-dir-"))]


def _lacks(report: Report, *beginnings: str) -> list[str]:
    return sorted({f.code for f in report.findings if f.code.startswith(beginnings)})


def _last_level(raw: RawRecipe) -> int:
    """Evaluation and export read no rows, curation counts faulty ones; the tokenizer stage builds no trainer."""
    return {"curate": 1, "evaluate": 1, "export": 1, "tokenizer": 2}.get(raw.stage, 3)


def find_in_data(raw: RawRecipe, tokens: bool = True) -> list[Finding]:
    """Level 2: findings about the rows of a recipe and, with `tokens`, about their tokens.

    Tokens are looked at if every error in the rows is waived; rows that a waiver leaves out are not.
    """
    from .row_level.handed_on import handed_on
    from .row_level.rows import count_rows, find_in_rows, read_row_sets, sound_sets
    from .row_level.tokens import find_in_tokens

    row_sets, findings = read_row_sets(raw)
    raw.rows = count_rows(row_sets)
    found = handed_on(raw)
    findings += find_in_rows(raw, row_sets) if found is None else found
    if not tokens or any(f.severity == "error" and not _is_waived(f, raw.allow) for f in findings):
        return findings
    return findings + find_in_tokens(raw, sound_sets(raw, row_sets))


def _find_in_built(path: str, overrides: list[str] | None) -> list[Finding]:
    """Level 3, on a trainer that is built for the check."""
    from .trainer_level.level import find_in_trainer
    from .trainer_level.trial_build import built_trainer

    with built_trainer(path, overrides) as (recipe, trainer, run):
        return find_in_trainer(trainer, recipe, run.origins)


def _add_unused_waivers(report: Report, raw: RawRecipe) -> None:
    unknown = ELSEWHERE | NEVER_WAIVED | (IN_A_TOKENIZER_RUN if raw.stage == "tokenizer" else frozenset())
    for code in raw.allow:
        if code not in report.allowed and code not in unknown:
            message = f"allow.{code} has no effect: the check reported no such finding"
            where = raw.places.get(f"allow.{code}", "")
            report.findings.append(Finding.warning("unused-waiver", message, "remove it", where))


# Before a stage


def check_launch(raw: RawRecipe, rows: bool = True, finished: bool = True) -> Report:
    """Level 1 and, with `rows`, level 2 without tokens, of a recipe that is about to be run; nothing is written.

    No torch. The findings about the rows are handed on to the stage, which does not look for them again.
    finished: whether an output_dir with the finished run of this recipe is an error.
    """
    from .row_level.handed_on import hand_on

    report = _as_run_report(raw, lambda: [*find_in_recipe(raw), *(find_finished(raw) if finished else ())])
    if rows and _last_level(raw) >= 2 and not _why_not(report, raw, 2):

        def row_level() -> list[Finding]:
            with offline_if_silent():
                found = find_in_data(raw, tokens=False)
            hand_on(raw, found)
            return [_as_run(finding) for finding in found]

        report.run_level(2, raw.allow, row_level)
    report.findings = [replace(f, where=f.where or raw.path) for f in report.findings]
    return report


def refuse_launch(raw: RawRecipe) -> None:
    """Raises Refusal with every error of `check_launch`; it is recorded as `check_recipe` does."""
    raw.checked = check_launch(raw)
    leave_silent_hub()
    _refuse_and_record(raw)


def _as_run_report(raw: RawRecipe, find: Callable[[], Iterable[Finding]]) -> Report:
    """Level 1, with the severities that findings have in a run."""
    report = Report(raw.path)
    report.run_level(1, raw.allow, lambda: map(_as_run, find()))
    return report


# Inside a stage


def check_recipe(raw: RawRecipe) -> None:
    """Level 1 before torch is imported, on the main process. Raises Refusal with every error.

    The report is kept in `raw.checked` for `preflight`, which records it. A refusal is also recorded, unless
    the output directory belongs to another run.
    """
    if not is_main_process():
        return
    raw.checked = _as_run_report(raw, lambda: find_in_recipe(raw))
    leave_silent_hub()
    _refuse_and_record(raw)


def _refuse_and_record(raw: RawRecipe) -> None:
    if not raw.checked.errors:
        return
    # With a bad path there may be no directory to write to.
    if not _lacks(raw.checked, "bad-path") and is_free(raw):
        with contextlib.suppress(Refusal), Run(raw) as run:
            _settle(raw, run, 1)
    raise Refusal(*raw.checked.errors)


def preflight(recipe: Any, run: Any) -> None:
    """Check the layout in effect, on every rank; then level 2 of a stage, on the main process.

    The findings of levels 1 and 2 are recorded. Warnings are printed. Raises Refusal with every error.
    """
    raw = recipe.raw
    if is_main_process() and raw.checked is None:
        check_recipe(raw)
    if "train" in raw.values:
        _check_layout(recipe, run)
    if not is_main_process():
        return
    if _last_level(raw) >= 2:
        raw.checked.run_level(2, raw.allow, lambda: map(_as_run, find_in_data(raw)))
    _settle(raw, run, 2)


def _check_layout(recipe: Any, run: Any) -> None:
    """Refuse, on every rank, if the layout in effect is not the requested one, or cannot resume."""
    from ..layouts.effective import (
        compare,
        effective_layout,
        find_data_parallel,
        find_in_resume,
        layout_record,
    )
    from ..recipe.batch_size import find_in_effective

    raw, args, started = recipe.raw, recipe.train, time.monotonic()
    runs = effective_layout(args)
    record = layout_record(args, raw.layout, runs)
    found = compare(raw.layout, runs) if raw.layout else find_data_parallel(args)
    found += find_in_effective(raw, args, record["data_parallel"])
    if raw.stage != "ppo" and not run.trained:  # PPO does not resume
        found += find_in_resume(run.earlier_layout, runs, record["global_batch"])
    if is_main_process():
        spent = time.monotonic() - started
        raw.checked.seconds["layout"] = round(spent, 3)
        raw.checked.allowed |= {f.code: raw.allow[f.code] for f in found if f.code in raw.allow}
    if errors := [finding for finding in found if finding.code not in raw.allow]:
        raise Refusal(*errors)
    if not run.trained:
        run.note(layout=record)


def check_built(trainer: Any, recipe: Any, run: Any) -> None:
    """Level 3 of a stage: called on every rank, since a forward pass may need all of them; rank 0 decides.

    Raises Refusal with every error, before the first checkpoint.
    """
    from .trainer_level.level import find_in_trainer

    raw = recipe.raw
    if not is_main_process():
        find_in_trainer(trainer, recipe, run.origins)
        return
    raw.checked.run_level(3, raw.allow, lambda: find_in_trainer(trainer, recipe, run.origins))
    _settle(raw, run, 3)


def _settle(raw: RawRecipe, run: Any, level: int) -> None:
    """Record the findings, print the warnings, and refuse if there is an error."""
    report = raw.checked
    if level >= _last_level(raw) and not report.errors:
        _add_unused_waivers(report, raw)
    run.note(allowed=report.allowed, check_seconds=report.seconds)
    run.report(report.warnings)
    if report.errors:
        raise Refusal(*report.errors)


def _as_run(finding: Finding) -> Finding:
    here = finding.code in HERE or finding.code.startswith(("parent-", "missing-model"))
    return replace(finding, severity="error") if here else finding

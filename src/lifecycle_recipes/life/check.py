"""`lifecycle check` of several recipes: what others of them make is not missing, what repeats is printed once."""

import contextlib
import sys
from collections.abc import Callable
from dataclasses import replace

from ..doctor.check import Report, check
from ..finding import DONE, REFUSED, Finding, Refusal
from ..layouts.layout import Layout
from ..recipe.read import RawRecipe, read_recipe
from .graph import Stage, find_recipes, find_shared, in_order, link, split_overrides, stage_names


def check_all(
    places: list[str],
    arguments: list[str],
    upto: int,
    say: Callable[[str], None],
    read_layout: Callable[[RawRecipe], Layout | None],
) -> tuple[list[Report], list[Finding], int]:
    """(a report per recipe, findings about several recipes together, exit status).

    A recipe that cannot be checked does not hide the others: why is in its report.
    """
    named = stage_names(find_recipes(places))
    given = split_overrides(arguments, list(named), shared=True)
    stages = []
    for name, path in named.items():
        with contextlib.suppress(Refusal):  # its own report has the errors
            stages.append(Stage(name, path, read_recipe(path, given[name]), given[name]))
    readable = [stage.raw for stage in stages]
    together = find_shared(readable)
    link(stages)
    try:
        in_order(stages)
    except Refusal as cycle:
        together += cycle.findings
    reports = [check(path, given[name], upto, say, read_layout, readable) for name, path in named.items()]
    refused = any(report.errors for report in reports) or bool(together)
    return reports, together, REFUSED if refused else DONE


def print_findings(reports: list[Report]) -> None:
    """Each finding once, in the order of the recipes, with the places of all recipes that have it."""
    groups: dict[Finding, list[str]] = {}
    first: dict[Finding, Finding] = {}
    for report in reports:
        for finding in report.findings:
            inside = finding.where.startswith(report.path)
            key = replace(finding, where="" if inside else finding.where)
            groups.setdefault(key, []).append(finding.where if inside else report.path)
            first.setdefault(key, finding)
    for key, places in groups.items():
        others = places if key.where else places[1:]  # its own line names the first place in a recipe
        print(first[key], file=sys.stderr)
        if others and len(reports) > 1:
            print(f"    {'in' if key.where else 'also'}: {', '.join(others)}", file=sys.stderr)


def print_results(reports: list[Report]) -> None:
    """The result of each recipe and, of one without errors, its plan."""
    for report in reports:
        print(report.summary())
        if report.plan:
            print(f"    {report.plan}")

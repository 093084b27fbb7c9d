"""Recipes -> stages in the order in which they can run. No torch.

The graph is in the recipes already: a stage follows the stages whose output_dir it names, as a model, tokenizer,
reward model, data or companion of its evaluation, and those that its gate lines name.
"""

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from ..finding import Finding, Refusal, refuse
from ..recipe.overrides import FLAGS
from ..recipe.paths import paths
from ..recipe.read import OWN_SECTION, RawRecipe, others_of, read_recipe, real_path, recipes_in
from ..recipe.schema import section_names
from ..record.gate import parse
from ..redact import hide_secrets


@dataclass
class Stage:
    """One recipe of a life. name: its file's name without .yaml. arguments: its overrides and flags.

    inputs: names of the stages of the same life whose output it reads. parents: those, and the stages that its
    gate lines name: they come before it, too.
    """

    name: str
    path: str
    raw: RawRecipe
    arguments: list[str]
    inputs: list[str] = field(default_factory=list)
    parents: list[str] = field(default_factory=list)


def find_recipes(places: list[str]) -> list[str]:
    """The recipe files at `places`: files, and the .yaml files of directories by name. Raises Refusal."""
    found = []
    for place in places:
        if "=" in place and not os.path.exists(place):
            shown = hide_secrets(place)
            fix = f"an override begins with two dashes: --{shown.lstrip('-')}"
            raise refuse("unknown-override", f"`{shown}` is not a recipe", fix, "command line")
        if not os.path.isdir(place):
            found.append(place)
            continue
        files = list(map(str, recipes_in(Path(place))))
        if not files:
            message, fix = "the directory contains no recipe", "give a directory of .yaml recipes"
            raise refuse("missing-recipe", message, fix, place)
        found += files
    return list(dict.fromkeys(found))


def stage_names(recipes: list[str]) -> dict[str, str]:
    """Name -> recipe: the file's name without .yaml; with its directory where two have the same name."""
    stems = Counter(Path(recipe).stem for recipe in recipes)
    return {(Path(r).stem if stems[Path(r).stem] == 1 else str(Path(r).with_suffix(""))): r for r in recipes}


def split_overrides(arguments: list[str], names: list[str], shared: bool) -> dict[str, list[str]]:
    """Name of a stage -> its arguments: `--07-dpo.train.seed 1` is `--train.seed 1` of 07-dpo. Flags are for all.

    The arguments of a single recipe name no stage. shared: whether an override without a stage is for all of them.
    Raises Refusal unknown-override.
    """
    if len(names) == 1:
        return {names[0]: list(arguments)}
    found: dict[str, list[str]] = {name: [] for name in names}
    findings, rest = [], list(arguments)
    while rest:
        argument = rest.pop(0)
        value = []
        if argument not in FLAGS and "=" not in argument and rest and not rest[0].startswith("--"):
            value = [rest.pop(0)]
        key = argument.removeprefix("--")
        stage = max((name for name in names if _begins_with(key, name)), key=len, default=None)
        if stage:
            found[stage] += ["--" + key.removeprefix(f"{stage}."), *value]
        elif shared or argument in FLAGS:
            for name in names:
                found[name] += [argument, *value]
        else:
            message = f"`{argument}` names no stage of this life"
            fix = (
                f"write the stage first, such as --{names[-1]}.train.seed; the stages are {', '.join(names)}"
            )
            findings.append(Finding.error("unknown-override", message, fix, "command line"))
    if findings:
        raise Refusal(*findings)
    return found


def _begins_with(key: str, name: str) -> bool:
    """Whether an override's key begins with the name of a stage.

    A section wins: beside a train.yaml, `train.seed` is the key of every recipe, `train.train.seed` that of train.yaml.
    """
    rest = key.removeprefix(f"{name}.")
    if rest == key or name not in section_names():
        return rest != key
    return "." in rest and rest.partition(".")[0] in section_names()


def read_life(places: list[str], arguments: list[str]) -> list[Stage]:
    """The stages of a life, each after its parents, otherwise in the order of `places` and by name.

    Raises Refusal with the errors of all recipes; output-dir-shared, parent-cycle.
    """
    named = stage_names(find_recipes(places))
    given = split_overrides(arguments, list(named), shared=False)
    stages, findings = [], []
    for name, path in named.items():
        try:
            stages.append(Stage(name, path, read_recipe(path, given[name]), given[name]))
        except Refusal as refusal:
            findings += refusal.findings
    findings += find_shared([stage.raw for stage in stages])
    if findings:
        raise Refusal(*findings)
    link(stages)
    return in_order(stages)


def link(stages: list[Stage]) -> None:
    """Fill the inputs and parents of every stage, and what its recipe may await from the others."""
    made = {real_path(stage.raw.output_dir): stage.name for stage in stages}
    recipes = [stage.raw for stage in stages]
    for stage in stages:
        stage.raw.awaited = others_of(stage.raw, recipes)
        stage.inputs = _makers(inputs_of(stage.raw), made, stage.name)
        stage.parents = list(
            dict.fromkeys([*stage.inputs, *_makers(named_in_gate(stage.raw), made, stage.name)])
        )


def inputs_of(raw: RawRecipe) -> list[str]:
    """Every path that a recipe reads."""
    return [mapping[key] for name, mapping, key in paths(raw.values) if key != "output_dir"]


def named_in_gate(raw: RawRecipe) -> list[str]:
    """The directories of the runs that the gate lines of a recipe may name: of RUN/METRIC, RUN beside output_dir."""
    beside = Path(real_path(raw.output_dir)).parent
    terms = [
        term for gate in map(parse, raw.gate) for term in (gate.metric, gate.term) if isinstance(term, str)
    ]
    return [str(beside / term.split("/")[0]) for term in terms if "/" in term]


def _makers(paths: list[str], made: dict[str, str], itself: str) -> list[str]:
    """Names of the other stages that make these paths. made: real output_dir -> name of its stage."""
    real = [real_path(path) for path in paths]
    found = [n for d, n in made.items() if any(r == d or r.startswith(d + os.sep) for r in real)]
    return [name for name in found if name != itself]


def find_shared(recipes: list[RawRecipe]) -> list[Finding]:
    """output-dir-shared: recipes that would write to the same directory."""
    owners: dict[str, list[RawRecipe]] = {}
    for raw in recipes:
        owners.setdefault(real_path(raw.output_dir), []).append(raw)
    return [
        Finding.error(
            "output-dir-shared",
            f"{' and '.join(raw.path for raw in same)} have the same output_dir, {same[0].output_dir}",
            "give each recipe an output_dir of its own, or name only one of them",
            same[1].place("train.output_dir", *(f"{stage}.output_dir" for stage in OWN_SECTION)),
        )
        for same in owners.values()
        if len(same) > 1
    ]


def in_order(stages: list[Stage]) -> list[Stage]:
    """The stages, each after its parents, else as they are. Raises Refusal parent-cycle."""
    placed: list[Stage] = []
    waiting = list(stages)
    while waiting:
        names = {stage.name for stage in waiting}
        ready = next((stage for stage in waiting if not names.intersection(stage.parents)), None)
        if ready is None:
            raise _cycle(waiting)
        placed.append(ready)
        waiting.remove(ready)
    return placed


def _cycle(waiting: list[Stage]) -> Refusal:
    """Follow parents until a stage comes again."""
    by_name = {stage.name: stage for stage in waiting}
    path = [waiting[0].name]
    while path[-1] not in path[:-1]:
        path.append(next(parent for parent in by_name[path[-1]].parents if parent in by_name))
    circle = path[path.index(path[-1]) :]
    message = f"each of these recipes needs the next one: {' -> '.join(circle)}"
    fix = "let one of them start from a run that exists already"
    return refuse("parent-cycle", message, fix, by_name[circle[0]].path)


def ancestors(stages: list[Stage], names: list[str]) -> set[str]:
    """The names themselves, and of every stage that they need."""
    found = set(names)
    for stage in reversed(stages):
        if stage.name in found:
            found.update(stage.parents)
    return found


def descendants(stages: list[Stage], names: list[str]) -> set[str]:
    """The names themselves, and of every stage that needs one of them."""
    found = set(names)
    for stage in stages:
        if found.intersection(stage.parents):
            found.add(stage.name)
    return found

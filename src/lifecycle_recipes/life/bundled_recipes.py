"""The recipes that come with the package: a list, and a copy to edit. No torch.

A copy is a directory of recipes and, below the working directory, the files that they name: the paths of a recipe are
relative to the working directory, so the same commands work as in a clone. They could be read from the package where
they are missing, as layouts are. But then another version of the package would train with another chat template or
judge with another rubric, while nothing in the user's own directory had changed; and the desk's generator writes its
world beside itself.
"""

import os
import re
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..bundled_files import BUNDLED
from ..finding import Finding, Refusal, refuse
from ..recipe.paths import paths
from ..recipe.read import RawRecipe, read_recipe, recipes_in
from ..recipe.schema import schema_directory

ANY = "any machine, a CPU too"  # a recipe without a line `# Layout: ...`
# What can be copied besides recipes: layouts and templates to start from, and the job script for several machines.
FOLDERS = ("accelerate_configs", "deepspeed_configs", "chat_templates", "slurm")
# In a source tree, also what was generated there.
GENERATED = {"world", "__pycache__"}
GENERATOR = "generate.py"


@dataclass(frozen=True)
class RecipeSet:
    """The recipes of one directory.

    models: the Hub ids that they start from, or `llama, random weights`. layouts: the layout and hardware that a
    recipe's header names -> its stages, such as `sft-lora`.
    """

    name: str
    models: list[str]
    layouts: dict[str, list[str]]


def recipe_sets() -> list[RecipeSet]:
    """All of them, by name."""
    return [_describe(name) for name in set_names()]


def set_names() -> list[str]:
    """The directories of recipes in the package; in a source tree without those of recipes/broken, one level deeper."""
    return sorted({file.parent.name for file in (BUNDLED / "recipes").glob("*/*.yaml")})


def _read(name: str) -> list[RawRecipe]:
    return [read_recipe(file, life=False) for file in recipes_in(BUNDLED / "recipes" / name)]


def _describe(name: str) -> RecipeSet:
    recipes = _read(name)
    made = {raw.output_dir for raw in recipes}
    models, layouts = [], {}
    for raw in recipes:
        if "architecture" in raw.values:
            models.append(f"{raw.values['architecture']['model_type']}, random weights")
        model = raw.values.get("model", {}).get("model_name_or_path")
        if model and model not in made:
            models.append(model)
        header = re.search(r"^# Layout: (.+?)\.?$", raw.text, re.M)
        stage = Path(raw.path).stem.partition("-")[2]
        layouts.setdefault(header[1] if header else ANY, []).append(stage)
    return RecipeSet(name, list(dict.fromkeys(models)), layouts)


def sets_text() -> str:
    """For a person: every set with its models, and its stages by layout."""
    lines = []
    for found in recipe_sets():
        lines.append(f"{found.name}: {'; '.join(found.models)}")
        width = max(map(len, found.layouts))
        lines += [f"  {layout:<{width}}  {' '.join(stages)}" for layout, stages in found.layouts.items()]
    return "\n".join([*lines, "", "a copy to edit: lifecycle recipes copy NAME [DIRECTORY]"])


def copy_bundled(name: str, directory: str | None = None) -> str:
    """Copy the recipes of a set into `directory` (default: recipes/NAME), and below the working directory their files.

    Two lines of a recipe change: the command in its header, and its schema, which is copied beside the recipes.
    A file that is here already with the same bytes is left as it is. name: also one of FOLDERS.
    Returns what was made and the next commands. Raises Refusal: unknown-recipes, copy-exists, copy-unwritable.
    """
    if name in FOLDERS:
        target = Path(os.path.normpath(directory or name))
        _write(name, target, {file.name: file.read_bytes() for file in _files_of(BUNDLED / name)}, {})
        return str(target)
    if name not in set_names():
        fix = f"one of: {', '.join([*set_names(), *FOLDERS])}"
        raise refuse("unknown-recipes", f"the package has no recipes named `{name}`", fix)
    target = Path(os.path.normpath(directory or f"recipes/{name}"))
    raws = _read(name)
    inside = {}
    for raw in raws:
        file = Path(raw.path).name
        inside[file] = _adapted(raw.text, target / file).encode()
        inside[f"schemas/{raw.stage}.json"] = (schema_directory() / f"{raw.stage}.json").read_bytes()
    beside = {path: (BUNDLED / path).read_bytes() for path in _named_files(raws)}
    added = _write(name, target, inside, beside)
    return _summary(target, len(raws), added, beside)


def _write(name: str, target: Path, inside: dict[str, bytes], beside: dict[Path, bytes]) -> list[Path]:
    """Make the directory `target` with the files `inside`; return the files of `beside` that were not here yet.

    Raises Refusal, after which no file has changed: copy-exists, copy-unwritable.
    """
    _refuse_what_exists(name, target, beside)
    fresh = target.with_name(f".{target.name}.part-{os.getpid()}")
    added: list[Path] = []
    try:
        for file, content in inside.items():
            (fresh / file).parent.mkdir(parents=True, exist_ok=True)
            (fresh / file).write_bytes(content)
        for path in (path for path in beside if not path.exists()):
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(path, "xb") as new:
                added.append(path)
                new.write(beside[path])
        fresh.rename(target)  # last: a copy that was cut off is not taken for a complete one
    except OSError as error:
        shutil.rmtree(fresh, ignore_errors=True)
        for path in added:
            path.unlink(missing_ok=True)
        where = str(error.filename or target)
        fix = "copy in a directory in which you may write"
        raise refuse("copy-unwritable", f"cannot be written: {error.strerror}", fix, where) from None
    return added


def _named_files(raws: list[RawRecipe]) -> list[Path]:
    """The files of the package that recipes name, as `data/desk/rubric.py`: of a directory of data, all files."""
    found: set[Path] = set()
    for raw in raws:
        for _, mapping, key in paths(raw.values):
            # chat_templates/chatml.jinja, or data/desk for all that is below it
            start = BUNDLED.joinpath(*Path(mapping[key]).parts[:2])
            found |= {file.relative_to(BUNDLED) for file in _files_of(start)} if start != BUNDLED else set()
    return sorted(found)


def _files_of(start: Path) -> Iterator[Path]:
    if start.is_file():
        yield start
    for file in start.rglob("*"):
        if file.is_file() and not GENERATED & set(file.relative_to(BUNDLED).parts):
            yield file


def _refuse_what_exists(name: str, target: Path, beside: dict[Path, bytes]) -> None:
    """Raises Refusal copy-exists, with a finding per path."""
    findings = []
    is_empty = target.is_dir() and target.resolve() != Path.cwd() and not any(target.iterdir())
    if target.exists() and not is_empty:
        message = "exists already, and is not overwritten"
        fix = f"name a new directory: lifecycle recipes copy {name} DIRECTORY"
        findings.append(Finding.error("copy-exists", message, fix, str(target)))
    for path, content in beside.items():
        if path.exists() and not (path.is_file() and path.read_bytes() == content):
            message = f"the recipes of {name} need the package's file of this name, and this one differs"
            fix = "rename it, or copy in another working directory"
            findings.append(Finding.error("copy-exists", message, fix, str(path)))
    if findings:
        raise Refusal(*findings)


def _adapted(text: str, file: Path) -> str:
    """The text of a recipe that is copied to `file`."""
    command = f"Run: lifecycle run {shlex.quote(str(file))}"
    text = re.sub(r"Run: (make|lifecycle run) \S+", lambda _: command, text, count=1)
    return text.replace("$schema=../../schemas/", "$schema=schemas/", 1)


def _summary(target: Path, recipes: int, added: list[Path], beside: dict[Path, bytes]) -> str:
    generators = [path for path in beside if path.name == GENERATOR and not (path.parent / "world").exists()]
    shown = shlex.quote(str(target))
    lines = [f"{target}: {recipes} recipes and their schemas", *map(str, added), "next:"]
    lines += [f"  python {path}" for path in generators]
    return "\n".join([*lines, f"  lifecycle check {shown} --upto 1", f"  lifecycle run {shown} --dry-run"])

"""A recipe file -> the dataclasses of its stage.

`read_recipe` reads and checks a file in a fraction of a second, without torch: `lifecycle check` and
`lifecycle run` stop here if the recipe has a mistake. `load_recipe` builds the recipe object of a stage.
"""

import hashlib
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from ..finding import Finding, Refusal, refuse
from ..layouts.layout import Layout, asked_layout, mend_deepspeed_path
from ..near_path import near_path
from ..redact import hide_secrets
from .batch_size import batch_settings, processes_here
from .check import Checker, dotted, show
from .located_yaml import Located, read_yaml
from .overrides import apply_overrides, split_arguments
from .paths import expand_paths
from .pins import apply_pins
from .schema import load_schema, section_types, stage_names

Recipe = TypeVar("Recipe")
SUFFIXES = (".yaml", ".yml")  # of a recipe's file
OWN_SECTION = (
    "curate",
    "evaluate",
    "export",
    "tokenizer",
)  # stages that train no model: `<stage>.output_dir`


@dataclass
class RawRecipe:
    """A recipe that was read and checked, before any object is built.

    values: {section: plain values}, with overrides, without defaults. overrides: as given, without flags.
    sha256: of the file's text and the overrides. places: `train.seed` -> `file:line` or the override.
    allow: code of a finding -> reason of its waiver. Pinned revisions are filled in where they apply.
    checked: what doctor.check found so far, for the record. layout: the requested one, if any.
    awaited: real output_dir -> recipe, of the other recipes of the same command (`is_awaited`, `others_of`).
    rows: `train` and `eval` -> number of rows, in words, once level 2 of the check has read them.
    written: name of a path -> how the recipe has it, where that begins with `~`.
    """

    path: str
    stage: str
    values: dict[str, Any]
    text: str
    overrides: list[str]
    sha256: str
    gate: list[str] = field(default_factory=list)
    flags: set[str] = field(default_factory=set)
    places: dict[str, str] = field(default_factory=dict, repr=False)
    allow: dict[str, str] = field(default_factory=dict)
    checked: Any = field(default=None, repr=False)
    layout: Layout | None = None
    awaited: dict[str, "RawRecipe"] = field(default_factory=dict, repr=False, compare=False)
    rows: dict[str, str] = field(default_factory=dict, repr=False)
    written: dict[str, str] = field(default_factory=dict, repr=False)

    @property
    def output_dir(self) -> str:
        """Where the stage writes: `train.output_dir`, or that of the section with the stage's own name."""
        return self.values[self.stage if self.stage in OWN_SECTION else "train"]["output_dir"]

    def setting(self, name: str) -> Any:
        """The value of a key such as `train.packing`: as given, else the default; None for an unknown key."""
        section, _, key = name.partition(".")
        given = self.values.get(section) or {}
        return given[key] if key in given else self.default(name)

    def default(self, name: str) -> Any:
        """The default of `train.packing`; None if it has none, or if there is no such key."""
        section, _, key = name.partition(".")
        properties = load_schema(self.stage)["properties"].get(section, {}).get("properties", {})
        return properties.get(key, {}).get("default")

    def is_awaited(self, path: str) -> bool:
        """Whether `path` is, or is in, a directory that another recipe of the same command makes."""
        real = real_path(path)
        return any(real == made or real.startswith(made + os.sep) for made in self.awaited)

    def place(self, *names: str) -> str:
        """The place of the first of these keys or sections that the recipe contains."""
        return next((self.places[name] for name in names if name in self.places), self.path)


def others_of(raw: RawRecipe, recipes: Iterable[RawRecipe]) -> dict[str, RawRecipe]:
    """`awaited` of a recipe that is read together with `recipes`."""
    made = {real_path(other.output_dir): other for other in recipes}
    made.pop(real_path(raw.output_dir), None)
    return made


def recipes_in(directory: Path) -> list[Path]:
    """The files of recipes in a directory, by name."""
    return sorted(file for file in directory.glob("*") if file.suffix in SUFFIXES)


def real_path(path: str) -> str:
    """os.path.realpath; a path that no file system can look up (`bad-path`) is returned as it is."""
    try:
        return os.path.realpath(path)
    except ValueError:
        return path


def read_recipe(
    path: str | Path, overrides: list[str] | None = None, stage: str | None = None, life: bool = True
) -> RawRecipe:
    """Read a recipe and check every key, type and choice in it, its overrides and its gate lines.

    stage: the stage that was started; a recipe for another one is refused. life: whether a curate recipe gets the
    evaluation data that the recipes beside it name.
    Raises Refusal with one finding per mistake, each with the line it is on.
    """
    path, overrides = str(path), list(overrides or [])
    text = _read_text(path)
    tree, findings = read_yaml(text, lambda line: f"{path}:{line}")
    if tree is None:
        raise refuse(
            "empty-recipe", "the recipe is empty: it needs `stage:` and its sections", "", f"{path}:1"
        )
    if not isinstance(tree.value, dict):
        raise refuse(
            "not-a-mapping", f"a recipe must be a mapping of sections, not {show(tree.value)}", "", tree.where
        )
    named = _stage_of(tree, stage, findings)

    pairs, flags, wrong = split_arguments(overrides)
    checker = Checker(named, load_schema, stage_names())
    apply_overrides(tree, pairs, checker)
    values = checker.check(tree)
    _check_gate(tree, values, checker)
    findings = _in_order(path, findings + checker.findings + wrong)
    if findings:
        raise Refusal(*findings)

    given = [a for a in overrides if a.removeprefix("--") not in flags]
    digest = hashlib.sha256("\0".join([text, *given]).encode()).hexdigest()
    del values["stage"]
    gate, allow = values.pop("gate", []), values.pop("allow", {})
    written = expand_paths(values)
    apply_pins(values, values.get("pinned", {}))
    if named == "curate" and life:
        from .evaluation_files import add_evaluation_files  # it reads the other recipes, with this module

        add_evaluation_files(values, path)
    return RawRecipe(
        path, named, values, text, given, digest, gate, flags, _places(tree), allow, written=written
    )


def _read_text(path: str) -> str:
    try:
        data = Path(path).read_bytes()
    except OSError as e:
        reason = {FileNotFoundError: "does not exist", IsADirectoryError: "is a directory, not a file"}
        message = f"the recipe {reason.get(type(e), f'cannot be read: {e.strerror}')}"
        near = near_path(path)
        fix = f"did you mean {near}?" if near else "give the path of a .yaml recipe"
        raise refuse("missing-recipe", message, fix, path) from None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        line = data.count(b"\n", 0, e.start) + 1
        message = f"not UTF-8 (byte {data[e.start]:#x}): save the file as UTF-8"
        raise refuse("not-utf8", message, "", f"{path}:{line}") from None


def _stage_of(tree: Located, started: str | None, findings: list[Finding]) -> str:
    """The stage of a recipe; raises Refusal if it names no stage, or not the one that was started."""
    node = tree.value.get("stage")
    stages = stage_names()
    if node is None:
        from difflib import get_close_matches

        near = get_close_matches("stage", [str(key) for key in tree.value], 1, 0.7)
        fix = f"did you write `{near[0]}` for it?" if near else f"write one of {', '.join(stages)}"
        problem = "missing-stage", tree.where, f"`stage:` is missing: {fix}"
    elif node.value not in stages or not isinstance(node.value, str):
        from difflib import get_close_matches

        near = get_close_matches(str(node.value), stages, 1)
        fix = f"did you mean {near[0]}?" if near else f"choose from {', '.join(stages)}"
        problem = "unknown-stage", node.where, f"unknown stage {show(node.value)}: {fix}"
    elif started not in (None, node.value):
        fix = f"start it with `-m lifecycle_recipes.stages.{node.value}`"
        problem = "other-stage", node.where, f"this is a {node.value} recipe, not one for {started}: {fix}"
    else:
        return node.value
    code, where, message = problem
    raise Refusal(*findings, Finding.error(code, message, "", where))


def _check_gate(tree: Located, values: dict, checker: Checker) -> None:
    """Check the gate lines now: record/gate.py would reject them only after training."""
    from ..record.gate import parse

    lines = tree.value.get("gate")
    for node in lines.value if lines and isinstance(lines.value, list) else []:
        try:
            if isinstance(node.value, str):
                parse(node.value)
        except Refusal as e:
            for finding in e.findings:
                checker.say(finding.code, node.where, f"{finding.message}: {finding.fix}")


def _in_order(path: str, findings: list[Finding]) -> list[Finding]:
    """Sorted by line of the file, those of the command line last; no credential is shown."""

    def line(finding: Finding) -> float:
        number = finding.where.removeprefix(f"{path}:")
        return int(number) if number.isdigit() else float("inf")

    hidden = [replace(f, message=hide_secrets(f.message), where=hide_secrets(f.where)) for f in findings]
    return sorted(hidden, key=line)


def _places(node: Located, path: tuple = ()) -> dict[str, str]:
    """`data.sources[0].path` -> its place, of every value below `node`."""
    places = {dotted(path): node.where} if path else {}
    below = node.value
    if isinstance(below, dict | list):
        for key, item in below.items() if isinstance(below, dict) else enumerate(below):
            places |= _places(item, (*path, key))
    return places


def load_recipe(
    recipe_class: type[Recipe],
    argv: list[str] | None = None,
    check: Callable[[RawRecipe], None] = lambda raw: None,
) -> Recipe:
    """Build a stage's recipe from `argv` (default: sys.argv): a path, then overrides and flags.

    check: called with the RawRecipe before anything heavy is imported; refuses by raising.
    Every section becomes its dataclass; `recipe.raw` is the RawRecipe. Precision follows the hardware unless
    the recipe sets it. Raises Refusal (`bad-value`) if an upstream dataclass rejects its values.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    module = sys.modules[recipe_class.__module__]
    if "-h" in argv or "--help" in argv:
        print(module.__doc__)
        raise SystemExit(0)
    if not argv or argv[0].startswith("--"):
        raise refuse("missing-recipe", "no recipe given", "give the path of a recipe first, then overrides")
    raw = read_recipe(argv[0], argv[1:], _stage_name(module))
    raw.layout = asked_layout(bool(raw.values.get("train", {}).get("use_cpu")))
    mend_deepspeed_path()
    check(raw)

    sections: dict[str, Any] = {"gate": raw.gate, "allow": raw.allow}
    for name, hint in section_types(recipe_class).items():
        if name in raw.values:
            sections[name] = _build_section(raw, name, hint)
    recipe = recipe_class(**sections)
    recipe.raw = raw
    return recipe


def _stage_name(module) -> str:
    """`sft` for lifecycle_recipes.stages.sft, also when it runs as `__main__`."""
    spec = getattr(module, "__spec__", None)
    return spec.name.rpartition(".")[2] if spec else Path(module.__file__).stem


def _build_section(raw: RawRecipe, name: str, hint: Any) -> Any:
    values = raw.values[name]
    if name == "train":
        values = values | hardware_defaults(values, raw.layout) | publishing_defaults(values)
        values |= batch_settings(raw, processes_here())
    try:
        with warnings.catch_warnings():
            # TRL's own default still uses the old name; a recipe cannot, so the warning is irrelevant
            warnings.filterwarnings("ignore", "`gradient_checkpointing", FutureWarning)
            return build(hint, values)
    except (ValueError, TypeError, NotImplementedError, AssertionError, OSError, ImportError) as e:
        message = " ".join(str(e).split()) or type(e).__name__
        named = [w for w in re.findall(r"\w+", message) if f"{name}.{w}" in raw.places]
        where = raw.places[f"{name}.{named[0]}"] if named else raw.places[name]
        raise refuse("bad-value", f"{name}: {message}", "", where) from e


def build(hint: Any, value: Any) -> Any:
    """An object of type `hint`: dataclasses, and lists of them, are built, the rest are plain values."""
    if isinstance(value, dict):
        cls = next((t for t in (hint, *get_args(hint)) if isinstance(t, type) and is_dataclass(t)), None)
        if cls is not None:
            hints = get_type_hints(cls)
            known = {f.name for f in fields(cls)}
            return cls(**{k: build(hints[k], v) if k in known else v for k, v in value.items()})
    if isinstance(value, list):
        kind = next((t for t in (hint, *get_args(hint)) if get_origin(t) is list), None)
        return [build(get_args(kind)[0] if kind else Any, v) for v in value]
    return value


def publishing_defaults(train: dict[str, Any]) -> dict[str, bool]:
    """A pushed model is private unless the recipe sets it to public; upstream's default is public."""
    undecided = train.get("push_to_hub") and train.get("hub_private_repo") is None
    return {"hub_private_repo": True} if undecided else {}


def hardware_defaults(train: dict[str, Any], layout: Layout | None = None) -> dict[str, Any]:
    """Device and precision keys of `train` that the recipe does not set, chosen from the hardware.

    Upstream's defaults are bf16 on (TRL, which then refuses to start on a CPU) or off (transformers); both
    override the layout's mixed_precision without a warning.
    """
    import torch
    from accelerate.utils import str_to_bool
    from transformers.utils import is_torch_bf16_gpu_available

    defaults: dict[str, Any] = {}
    cpu_layout = bool(str_to_bool(os.environ.get("ACCELERATE_USE_CPU", "false")))
    # Without a GPU, transformers accepts bf16 only with use_cpu. With several processes, accelerate does not
    # pass on its use_cpu: each process would then run alone.
    cpu_layout = cpu_layout or not torch.accelerator.is_available()
    if cpu_layout and train.get("use_cpu") is None:
        if str_to_bool(os.environ.get("ACCELERATE_USE_DEEPSPEED", "false")):
            # With use_cpu, accelerate disables DeepSpeed; without it, there is no backend on a CPU.
            defaults |= {"use_cpu": False} | ({} if train.get("ddp_backend") else {"ddp_backend": "gloo"})
        else:
            defaults["use_cpu"] = True  # else transformers picks mps or a GPU for a single process
    on_cpu = cpu_layout or train.get("use_cpu")
    emulated = torch.cuda.is_available() and not torch.cuda.is_bf16_supported(including_emulation=False)
    has_bf16 = bool(not on_cpu and is_torch_bf16_gpu_available() and not emulated)
    return defaults | _precision(train, layout.precision if layout else None, has_bf16)


def _precision(train: dict[str, Any], asked: str | None, has_bf16: bool) -> dict[str, bool]:
    """bf16 and fp16 if the recipe enables neither: as the layout requests, else by the hardware."""
    if train.get("bf16") or train.get("fp16"):
        return {}
    if asked is None:
        asked = "bf16" if has_bf16 and train.get("bf16") is None else "no"
    return {"bf16": asked == "bf16", "fp16": asked == "fp16"}

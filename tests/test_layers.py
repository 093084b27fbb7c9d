"""Who may import whom, and who may import torch: read from the source, so that lazy imports count too."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "src" / "lifecycle_recipes"
# No torch, and known to everyone.
GROUND = {
    "finding",
    "gate",
    "record",
    "record_file",
    "output_dir",
    "parents",
    "environment",
    "layouts",
    "batch_size",
    "exit_status",
    "recipe",
}
MIDDLE = {"data", "models", "evals", "doctor", "planner", "training"}
MIDDLE |= {"inspection"}
# What each front-end file may import besides the ground.
FRONT = {"cli": {"report", "chat", "doctor", "inspection"}, "report": set(), "chat": {"evals"}}
HEAVY = {
    "torch",
    "transformers",
    "trl",
    "datasets",
    "accelerate",
    "peft",
    "lm_eval",
    "tokenizers",
    "deepspeed",
}
LIGHT = {*GROUND, *FRONT, "stages", "planner", "doctor", "models.special_tokens"}
LIGHT |= {
    f"data.{name}"
    for name in (
        *("config", "lengths", "lines", "order", "origins", "pairs"),
        *("row_faults", "sources", "split", "turns"),
    )
}
LIGHT |= {f"evals.{name}" for name in ("config", "check", "tasks")}


def layer(module: str) -> str:
    """`recipe` for recipe_yaml, else the first part of a dotted name."""
    head = module.split(".")[0]
    return "recipe" if head.startswith("recipe_") else head


def modules() -> dict[str, ast.Module]:
    """Dotted name below the package -> its syntax tree."""
    files = {file.relative_to(PACKAGE): file for file in PACKAGE.rglob("*.py") if file.name != "__init__.py"}
    return {
        ".".join(name.with_suffix("").parts): ast.parse(f.read_text("utf-8")) for name, f in files.items()
    }


def targets(node: ast.AST, module: str) -> list[str]:
    """Absolute names of the modules that an import statement names."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    here = ["lifecycle_recipes", *module.split(".")]
    base = (
        ".".join([*here[: len(here) - node.level], *filter(None, [node.module])])
        if node.level
        else node.module
    )
    # `from . import gate` names a module by its alias.
    return [f"{base}.{a.name}" for a in node.names] if base == "lifecycle_recipes" else [base]


def imports(module: str, nodes) -> list[str]:
    return [name for node in nodes for name in targets(node, module)]


def own(names: list[str]) -> list[str]:
    """Of imported names, those of this package, without its name."""
    return [
        name.removeprefix("lifecycle_recipes.") for name in names if name.startswith("lifecycle_recipes.")
    ]


def allowed(module: str) -> set[str]:
    """The layers that a module may import from."""
    at = layer(module)
    if at == "stages":
        return GROUND | MIDDLE
    if at in MIDDLE:
        return GROUND | MIDDLE
    return GROUND | FRONT.get(at, set()) | ({at} if at in FRONT else set())


MODULES = modules()


@pytest.mark.parametrize("module", MODULES)
def test_imports_only_from_the_layers_below(module):
    names = own(imports(module, ast.walk(MODULES[module])))
    assert [name for name in names if layer(name) not in allowed(module)] == []


@pytest.mark.parametrize("module", MODULES)
def test_nothing_heavy_is_imported_on_import(module):
    if not {layer(module), ".".join(module.split(".")[:2])} & LIGHT:
        pytest.skip("may import torch")
    at_import = [n for n in outside_functions(MODULES[module])]
    names = imports(module, at_import)
    assert [name for name in names if name.split(".")[0] in HEAVY] == []
    # Nor by way of another module of ours.
    assert [n for n in own(names) if not {layer(n), ".".join(n.split(".")[:2])} & LIGHT] == []


def outside_functions(node: ast.AST):
    """Every node that runs when the module is imported."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield child
            yield from outside_functions(child)


def test_every_module_has_a_layer():
    known = GROUND | MIDDLE | set(FRONT) | {"stages"}
    assert {layer(module) for module in MODULES} - known == set()


@pytest.mark.parametrize("module", MODULES)
def test_files_stay_short(module):
    file = PACKAGE / Path(*module.split(".")).with_suffix(".py")
    assert len(file.read_text("utf-8").splitlines()) <= 300


def test_the_test_sees_what_is_forbidden():
    def names(module, source):
        return own(imports(module, ast.walk(ast.parse(source))))

    assert names("stages.sft", "from ..stages import dpo") == ["stages"]
    assert names("stages.sft", "def f():\n    from .dpo import main") == ["stages.dpo"]
    assert names("data.sources", "import lifecycle_recipes.stages.sft") == ["stages.sft"]
    assert names("gate", "from . import training") == ["training"]
    assert layer("stages.dpo") not in allowed("stages.sft")
    assert layer("training") not in allowed("gate")
    lazy = ast.parse("def f():\n    import torch\nclass A:\n    import trl")
    assert imports("gate", outside_functions(lazy)) == ["trl"]

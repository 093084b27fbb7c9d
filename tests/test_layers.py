"""Who may import whom, and who may import torch: read from the source, so that lazy imports count too."""

import ast

import pytest
from repository import ROOT

PACKAGE = ROOT / "src" / "lifecycle_recipes"
# Who may touch whom: a room imports from the rows below its own. Nobody imports a stage, not even a stage.
ORDER = """
__main__
cli launch
stages inspection life
training synthesis
doctor diagnosis report
publish serving
evals curation
generation
data models planner
recipe
record
layouts
exit_status
bundled_files finding near_path quick_imports redact quiet
"""
RANK = {room: -row for row, line in enumerate(ORDER.split("\n")) for room in line.split()}
HEAVY = set("torch transformers trl datasets accelerate peft lm_eval tokenizers deepspeed".split())
# Rooms, and files of other rooms, that must be importable in milliseconds.
LIGHT = {
    "bundled_files",
    "cli",
    "serving",
    "stages",
    "curation",
    "planner",
    "report",
    "recipe",
    "record",
    "layouts",
    "exit_status",
}
LIGHT |= {"finding", "near_path", "quick_imports", "redact", "quiet", "doctor", "life", "training.stage"}
LIGHT_MODELS = (
    "adapters card_licence config_file config_keys from_config json_file lora_targets new_tokenizer non_finite "
    "quantised_base safetensors_files special_tokens turn_end"
)
LIGHT |= {f"models.{name}" for name in LIGHT_MODELS.split()}
LIGHT |= {
    f"data.{n}"
    for n in (
        "cache config formats joining ledger row_files provenance row_faults row_sets scratch selection shares sources "
        "turn_weights"
    ).split()
}
LIGHT_PUBLISH = (
    "calibration_rows card config data_card energy gguf_writing hub_errors licence lineage model_facts private_paths "
    "pruning push results source usage"
)
LIGHT |= {f"publish.{name}" for name in LIGHT_PUBLISH.split()}
LIGHT_EVALS = "config check expected library_tasks measure pairs rubric task_faults"
LIGHT |= {f"evals.{name}" for name in LIGHT_EVALS.split()}


def layer(module: str) -> str:
    """The room of a dotted name, or the file that lies beside the rooms."""
    return module.split(".")[0]


def may_import(module: str, other: str) -> bool:
    ours, theirs = layer(module), layer(other)
    if ours == "stages":
        return RANK[theirs] < RANK[ours]
    return ours == theirs or RANK[theirs] < RANK[ours]


def is_light(module: str) -> bool:
    return bool({layer(module), ".".join(module.split(".")[:2])} & LIGHT)


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


MODULES = modules()


@pytest.mark.parametrize("module", MODULES)
def test_imports_only_from_the_layers_below(module):
    names = own(imports(module, ast.walk(MODULES[module])))
    assert [name for name in names if not may_import(module, name)] == []


@pytest.mark.parametrize("module", MODULES)
def test_nothing_heavy_is_imported_on_import(module):
    if not is_light(module):
        pytest.skip("may import torch")
    at_import = [n for n in outside_functions(MODULES[module])]
    names = imports(module, at_import)
    assert [name for name in names if name.split(".")[0] in HEAVY] == []
    # Nor by way of another module of ours.
    assert [n for n in own(names) if not is_light(n)] == []


def outside_functions(node: ast.AST):
    """Every node that runs when the module is imported."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield child
            yield from outside_functions(child)


def test_every_module_has_a_layer():
    assert {layer(module) for module in MODULES} - set(RANK) == set()


def test_the_test_sees_what_is_forbidden():
    def names(module, source):
        return own(imports(module, ast.walk(ast.parse(source))))

    assert names("stages.sft", "from ..stages import dpo") == ["stages"]
    assert names("stages.sft", "def f():\n    from .dpo import main") == ["stages.dpo"]
    assert names("data.sources", "import lifecycle_recipes.stages.sft") == ["stages.sft"]
    assert names("record.gate", "from ..training import train") == ["training"]
    assert not may_import("stages.sft", "stages.dpo")
    assert not may_import("record.gate", "training.train")
    assert not may_import("models.load", "data.sources")
    lazy = ast.parse("def f():\n    import torch\nclass A:\n    import trl")
    assert imports("record.gate", outside_functions(lazy)) == ["trl"]

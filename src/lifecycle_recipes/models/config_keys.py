"""The keys of a model type's config class, read from the source of the installed transformers. No torch.

Importing the class takes seconds, since transformers imports torch; its source is read in milliseconds.
"""

import ast
import functools
import importlib.util
import re
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from ..finding import Finding

# These are taken from the tokenizer.
FROM_TOKENIZER = ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id")
# `("llama", "LlamaConfig")` or `"llama": "LlamaConfig"`, as in transformers/models/auto.
MODEL_TYPE = re.compile(r'"([\w.-]+)"\s*[,:]\s*"(?!AutoConfig)(\w+Config)"')


def find_in_keys(class_name: str, known: list[str], given: dict[str, Any]) -> dict[str, Finding]:
    """Key -> unknown-config-key, of the keys of architecture.config that are not `known` or not set there.

    transformers stores any keyword as an attribute, so `hiden_size: 512` would build the default width.
    """
    findings = {}
    for key in given:
        if key in FROM_TOKENIZER:
            message = f"architecture.config.{key} cannot be set here"
            fix = "remove it: it is taken from architecture.tokenizer"
        elif key not in known:
            message = f"architecture.config.{key}: {class_name} has no such key"
            near = get_close_matches(str(key), known, 1)
            fix = f"did you mean {near[0]!r}?" if near else f"the keys are {', '.join(known)}"
        else:
            continue
        findings[key] = Finding.error("unknown-config-key", message, fix)
    return findings


def unknown_model_type(kind: str, known: list[str]) -> Finding:
    near = get_close_matches(kind, known, 1)
    message = f"architecture.model_type: transformers has no model type {kind!r}"
    fix = f"did you mean {near[0]!r}?" if near else "see the list of models in transformers' documentation"
    return Finding.error("unknown-model-type", message, fix)


@functools.cache
def config_classes() -> dict[str, str]:
    """Model type -> name of its config class; {} if transformers is not where it is expected."""
    root = _transformers()
    auto = [root / "models/auto" / name for name in ("auto_mappings.py", "configuration_auto.py")]
    return dict(
        pair for file in auto if file.is_file() for pair in MODEL_TYPE.findall(file.read_text("utf-8"))
    )


def config_defaults(kind: str) -> dict[str, Any]:
    """Key -> default of the config class of a model type; None for one that is not a plain value.

    {} if the class is not found: its keys are then known only once it is imported.
    """
    name = config_classes()[kind]
    own = sorted((_transformers() / "models" / kind.replace("-", "_")).glob("configuration_*.py"))
    for file in own or sorted((_transformers() / "models").glob("*/configuration_*.py")):
        if f"class {name}(" in file.read_text("utf-8"):
            return _defaults(file, name)
    return {}


def _defaults(file: Path, name: str) -> dict[str, Any]:
    """Those of a dataclass in `file`, with the classes that it inherits from."""
    classes = {node.name: node for node in _parsed(file).body if isinstance(node, ast.ClassDef)}
    if name not in classes:
        return {}
    found: dict[str, Any] = {}
    for base in reversed(classes[name].bases):
        if isinstance(base, ast.Name):
            found |= _defaults(_file_of(base.id, file), base.id)
    for node in classes[name].body:
        if isinstance(node, ast.AnnAssign) and "ClassVar" not in ast.unparse(node.annotation):
            found[node.target.id] = node.value.value if isinstance(node.value, ast.Constant) else None
    return found


def _file_of(name: str, file: Path) -> Path:
    """The file from which `file` imports `name`, relatively; itself if it does not."""
    if name == "PreTrainedConfig":  # a few import it from the top
        return _transformers() / "configuration_utils.py"
    for node in _parsed(file).body:
        if isinstance(node, ast.ImportFrom) and node.level and name in [alias.name for alias in node.names]:
            module = file.parents[node.level - 1] / (node.module or "").replace(".", "/")
            return module.with_suffix(".py") if module.with_suffix(".py").is_file() else file
    return file


@functools.cache
def _parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text("utf-8"))


def _transformers() -> Path:
    spec = importlib.util.find_spec("transformers")
    return Path(spec.submodule_search_locations[0]) if spec else Path("/nowhere")

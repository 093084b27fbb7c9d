"""`pinned: {dataset or model id: revision}`: fixes the revisions of a recipe in one place. No torch."""

from collections.abc import Iterator
from typing import Any

SOURCE_LISTS = ("sources", "eval_sources")
# Section, key of the id, key of its revision.
MODELS = (
    *((section, "model_name_or_path", "model_revision") for section in ("model", "reward", "value")),
    ("architecture", "tokenizer", "tokenizer_revision"),
    *(("tokenizer", key, f"{key}_revision") for key in ("extend", "resize_model")),
    *(("evaluate", key, f"{key}_revision") for key in ("against", "reward_model")),
)


def apply_pins(values: dict[str, Any], pinned: dict[str, str]) -> None:
    """Add the pinned revision to every id of `values` that has no revision."""
    for _, section, identity, revision in pinnable(values):
        if section.get(revision) is None and section[identity] in pinned:
            section[revision] = pinned[section[identity]]


def pinnable(values: dict[str, Any]) -> Iterator[tuple[str, dict, str, str]]:
    """(section's name, mapping, key of its id, key of its revision) of each given id that a pin can fix.

    Left out: datasets of lm-eval tasks (pinned in their YAML with `dataset_kwargs: {revision: ...}`), and
    train.chat_template_path, for which upstream supports no revision.
    """
    data = values.get("data") or {}
    given = [
        ("data.sources", source, "path", "revision") for n in SOURCE_LISTS for source in data.get(n) or []
    ]
    given += [(name, values.get(name) or {}, identity, revision) for name, identity, revision in MODELS]
    steps = (values.get("curate") or {}).get("steps") or []
    given += [("curate.steps", s["perplexity"], "model", "revision") for s in steps if s.get("perplexity")]
    for name, section, identity, revision in given:
        if section.get(identity):
            yield name, section, identity, revision

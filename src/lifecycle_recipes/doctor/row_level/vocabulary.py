"""Level 2, tokens and weights: ids without an embedding, and control tokens whose embedding is not trained.

Reads configs and single rows of safetensors files; loads no model.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import TYPE_CHECKING

from ...finding import Finding
from ...models.adapters import model_below
from ...models.config_file import model_config, read_json
from ...models.turn_end import special_tokens, stop_ids_of
from ...record.file import RUN_FILE
from ...record.parents import is_local

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ...recipe.read import RawRecipe

EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "word_embeddings.weight", "embed_in.weight")
SAMPLED = 64  # ordinary rows; their median norm is the reference
# Relative norm: well below a tenth for the chat tokens of Llama 3's base model, near 1 for trained ones.
UNTRAINED = 0.1


def stop_ids(path: str, revision: str | None = None) -> set[int]:
    """The ids at which generation stops, from generation_config.json, else from config.json."""
    given = read_json(path, "generation_config.json", revision) or read_json(path, "config.json", revision)
    return set(stop_ids_of(given.get("eos_token_id")))


def find_beyond_embedding(
    tokenizer: PreTrainedTokenizerBase, used: set[int], path: str, revision: str | None
) -> list[Finding]:
    """tokenizer-larger-than-embedding: an error if such an id can occur, a warning if all are spare tokens.

    used: ids of the control tokens that the run will write.
    """
    rows = embedding_rows(path, revision)
    if rows is None or len(tokenizer) <= rows:
        return []
    beyond = {token: i for token, i in tokenizer.get_vocab().items() if i >= rows}
    special = special_tokens(tokenizer)
    spare = {i for token, i in beyond.items() if special.fullmatch(token) and i not in used}
    if not beyond:
        return []
    severity = "warning" if spare == set(beyond.values()) else "error"
    first = min(beyond, key=beyond.get)
    more = f" and {len(beyond) - 1} more" if len(beyond) > 1 else ""
    message = (
        f"the tokenizer has {len(tokenizer)} ids, but the embedding has {rows} rows: "
        f"no row for {first!r} (id {beyond[first]}){more}"
    )
    fix = "use the tokenizer that the model was saved with, or resize the embedding and save the model again"
    return [Finding("tokenizer-larger-than-embedding", severity, message, fix, path)]


def embedding_rows(path: str, revision: str | None = None) -> int | None:
    """Rows of the input embedding: from the weights if they are local, else from the config."""
    found = find_weight(path, EMBEDDINGS)
    if found:
        return found[2][0]
    return model_config(path, revision).get("vocab_size")


def find_weight(path: str, names: tuple[str, ...]) -> tuple[Path, str, list[int]] | None:
    """(file, full name, shape) of the first tensor of a local model whose name ends in one of `names`."""
    base = model_below(path)
    if not is_local(base):
        return None
    for file in sorted(Path(base).glob("*.safetensors")):
        with file.open("rb") as stream:  # safetensors: the header's length in 8 bytes, then the header
            header = json.loads(stream.read(struct.unpack("<Q", stream.read(8))[0]))
        for name, entry in header.items():
            if name.endswith(names) and len(entry.get("shape", [])) == 2:
                return file, name, entry["shape"]
    return None


def find_untrained(raw: RawRecipe, tokenizer: PreTrainedTokenizerBase, tokens: list[str]) -> list[Finding]:
    """new-tokens-untrained: under LoRA, control tokens whose embedding no run of the chain trains."""
    model = raw.values["model"]
    path = model["model_name_or_path"]
    if not model.get("use_peft"):
        return []
    lacking = lacking_modules(model, path)
    if not lacking:
        return []
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in tokens}
    unseen, why = list(ids), "the parent was pretrained from random weights on text without them"
    if not pretrained_from_nothing(path):
        unseen = [token for token, i in ids.items() if _never_moved(path, i)]
        why = "their rows of the parent's embedding are almost zero"
    if not unseen:
        return []
    message = f"{', '.join(unseen)}: {why}, and this LoRA configuration does not train the embedding"
    fix = f"add to model: lora_modules_to_save: [{', '.join(lacking)}]"
    where = raw.places.get("model.use_peft", raw.places.get("model", ""))
    return [Finding.error("new-tokens-untrained", message, fix, where)]


def lacking_modules(model: dict, path: str) -> list[str]:
    """Which of embedding and output head a LoRA recipe does not train; a tied head is the embedding."""
    targets = model.get("lora_target_modules") or []
    named = [
        *(model.get("lora_modules_to_save") or []),
        *([targets] if isinstance(targets, str) else targets),
    ]
    named = {name.split(".")[-1] for name in named}
    tied = model_config(path, model.get("model_revision")).get("tie_word_embeddings", True)
    wanted = ["embed_tokens"] if tied else ["embed_tokens", "lm_head"]
    if tied and named & {"embed_tokens", "lm_head"}:
        return []
    return [name for name in wanted if name not in named]


def pretrained_from_nothing(path: str) -> bool:
    """Whether a parent is a pretrain run from random weights, on text that passed control-token-in-text."""
    file = Path(path) / RUN_FILE
    if not is_local(path) or not file.is_file():
        return False
    record = json.loads(file.read_text(encoding="utf-8"))
    if resized := (record.get("parents") or {}).get("resized"):
        return pretrained_from_nothing(resized["path"])
    waived = record.get("allowed") or {}
    return (
        record.get("stage") == "pretrain"
        and "tokenizer" in (record.get("parents") or {})
        and "control-token-in-text" not in waived
    )


def _never_moved(path: str, index: int) -> bool:
    """Whether row `index` of the embedding is almost zero compared with ordinary rows; False if unknown."""
    found = find_weight(path, EMBEDDINGS)
    if not found or index >= found[2][0]:
        return False
    from safetensors import safe_open

    file, name, shape = found
    with safe_open(file, framework="pt") as weights:
        rows = weights.get_slice(name)
        ordinary = sorted(
            rows[i : i + 1].float().norm().item() for i in range(0, shape[0], max(1, shape[0] // SAMPLED))
        )
        return rows[index : index + 1].float().norm().item() < UNTRAINED * ordinary[len(ordinary) // 2]

"""Level 2, tokens: the rows with their tokenizer, chat template and length limits. No weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ...data.row_sets import RowSet
from ...finding import Finding, Refusal, refuse
from ...models.config_file import longest_sequence, model_config
from ...models.new_tokenizer import find_template
from ...models.turn_end import turn_end
from ...record.file import RUN_FILE, read_record
from ...record.parents import hash_file, is_local
from . import vocabulary
from .strings import find_split_prompts, find_strings
from .template import find_in_template, find_stop_missing, find_unlike, training_version
from .template_probes import GENERATION, control_tokens
from .token_lengths import Sample, find_second_bos, find_smuggled, is_text, measure, take
from .truncation import find_beyond_positions, find_cuts, may_pass_positions
from .unrendered import find_unrendered

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ...recipe.read import RawRecipe

# A parent of one of these stages was trained on its template; a base model may have an unused one.
CHAT_STAGES = ("sft", "dpo", "kto", "ppo")


def find_in_tokens(raw: RawRecipe, row_sets: list[RowSet]) -> list[Finding]:
    """All findings about a RawRecipe's tokenizer, its template and the tokens of its rows, errors first.

    row_sets: without rows that cannot be trained on (rows.py, `sound_sets`).
    Codes: those of template.py, vocabulary.py, token_lengths.py, truncation.py, strings.py and unrendered.py,
    and tokenizer-unreadable, no-chat-template, template-differs, template-changed, training-template-differs,
    pad-is-turn-end, no-eos.
    """
    try:
        if raw.stage == "tokenizer":
            found = find_in_tokenizer_recipe(raw)
        elif raw.stage == "pretrain":
            found = find_in_text(raw, row_sets)
        else:
            found = find_in_chat(raw, row_sets)
    except Refusal as refusal:
        found = refusal.findings
    return sorted(found, key=lambda finding: finding.severity)  # "error" before "warning"; stable


def find_in_text(raw: RawRecipe, row_sets: list[RowSet]) -> list[Finding]:
    """Pretraining: every document gets one bos and one eos."""
    start = (raw.values.get("model") or {}).get("model_name_or_path")
    new = raw.values.get("architecture") or {}
    path = start or new["tokenizer"]
    revision = raw.values["model"].get("model_revision") if start else new.get("tokenizer_revision")
    tokenizer = load(path, revision)
    if tokenizer.eos_token_id is None:
        message = "the tokenizer has no eos_token: the model would never learn to stop"
        return [Finding.error("no-eos", message, "set eos_token in the tokenizer", path)]
    used = {i for i in (tokenizer.bos_token_id, tokenizer.eos_token_id) if i is not None}
    beyond = vocabulary.find_beyond_embedding(tokenizer, used, path, revision) if start else []
    return [*beyond, *find_smuggled(tokenizer, samples(row_sets))]


def find_in_chat(raw: RawRecipe, row_sets: list[RowSet]) -> list[Finding]:
    model = raw.values["model"]
    path, revision = model["model_name_or_path"], model.get("model_revision")
    tokenizer = load(path, revision)
    parents_own = own_template(tokenizer)
    template, where = recipe_template(raw, tokenizer, parents_own)
    train, held_out = samples(row_sets)
    found = find_strings(train, held_out, template)
    if all(is_text(row_set.rows[i]) for row_set, i in train.places[:1]) and train.places:
        found += find_smuggled(tokenizer, [train, held_out])
        found += find_second_bos(tokenizer, [train, held_out])
        return found + find_in_lengths(raw, tokenizer, None, train, held_out)
    if template is None:
        fix = "set train.chat_template_path to a template of chat_templates/"
        if raw.stage not in ("sft", "reward"):
            fix = "start from an sft run, or from a model that has a chat template"
        raise refuse("no-chat-template", "the parent's tokenizer has no chat template", fix, path)
    if raw.stage == "sft" and not GENERATION.search(template) and (other := training_version(template)):
        unlike = find_unlike(tokenizer, other, tokenizer, template)
        found += [other_in_training(unlike, where)] if unlike else []
        trained_on = other
    else:
        trained_on = template
    found += find_in_template(tokenizer, trained_on, where, trained=raw.stage == "sft")
    if any(finding.severity == "error" for finding in found):
        return found  # the next checks would only repeat it, row by row
    tokens = control_tokens(tokenizer, trained_on)
    ids = set(tokenizer.convert_tokens_to_ids(tokens))
    if not adds_tokens(raw):
        found += vocabulary.find_beyond_embedding(tokenizer, ids, path, revision)
        found += vocabulary.find_untrained(raw, tokenizer, tokens)
    found += find_other_templates(raw, tokenizer, template, parents_own, where)
    found += find_in_ends(raw, tokenizer, trained_on, path, revision)
    found += find_smuggled(tokenizer, [train, held_out])
    found += find_unrendered(tokenizer, trained_on, [train, held_out], where)
    return found + find_in_lengths(raw, tokenizer, trained_on, train, held_out)


def find_in_lengths(
    raw: RawRecipe, tokenizer: PreTrainedTokenizerBase, template: str | None, train: Sample, held_out: Sample
) -> list[Finding]:
    """What truncation.py finds in the lengths of the rows, and prompts that end inside a token."""
    positions = _positions(raw)
    lengths = measure(tokenizer, template, train, raw.stage)
    evaluated = []
    if may_pass_positions(raw, positions):
        evaluated = measure(tokenizer, template, held_out, raw.stage)
    return [
        *find_beyond_positions(raw, lengths + evaluated, positions),
        *find_split_prompts(lengths, train),
        *find_cuts(raw, lengths, train, positions),
    ]


def samples(row_sets: list[RowSet]) -> list[Sample]:
    """The sampled rows: training rows and held-out rows."""
    return [take(row_sets, use) for use in ("train", "eval")]


def load(path: str, revision: str | None = None):
    """The tokenizer at `path`. Raises Refusal parent-no-tokenizer, tokenizer-unreadable."""
    from ...models.load import load_tokenizer

    try:
        return load_tokenizer(path, revision or "main")
    except Refusal:
        raise
    except Exception as error:
        message = f"the tokenizer cannot be loaded: {' '.join(str(error).split())[:300]}"
        fix = (
            "download or copy its files again, or give a directory or Hub id with a tokenizer "
            "(offline, it must be in the local cache)"
        )
        raise refuse("tokenizer-unreadable", message, fix, path) from error


def own_template(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """The template that apply_chat_template uses (a tokenizer may have several); None without one."""
    if not tokenizer.chat_template:
        return None
    try:
        return tokenizer.get_chat_template()
    except ValueError:
        return None


def recipe_template(
    raw: RawRecipe, tokenizer: PreTrainedTokenizerBase, parents_own: str | None
) -> tuple[str | None, str]:
    """(template, its place): from the file or other tokenizer in the recipe, else from the parent.

    The tokens of another tokenizer are added to `tokenizer`, as upstream will do.
    """
    path = raw.values["train"].get("chat_template_path")
    if not path:
        return parents_own, raw.values["model"]["model_name_or_path"]
    if Path(path).is_file() and path.endswith((".jinja", ".j2")):
        return Path(path).read_text(encoding="utf-8"), path
    other = load(path)
    tokenizer.add_tokens([t for t in other.added_tokens_decoder.values() if t.content not in tokenizer.vocab])
    tokenizer.eos_token = other.eos_token
    return own_template(other), path


def adds_tokens(raw: RawRecipe) -> bool:
    """Whether upstream will add another tokenizer's tokens, with embedding rows for them."""
    path = raw.values["train"].get("chat_template_path")
    return bool(path) and not Path(path).is_file()


def other_in_training(unlike: str, where: str) -> Finding:
    """training-template-differs; unlike: the description from `find_unlike`."""
    message = (
        "the template has no generation markers; TRL trains on its own version, which differs from "
        f"serving: {unlike}"
    )
    fix = "set train.chat_template_path to a template of chat_templates/: it is saved with the model"
    return Finding.warning("training-template-differs", message, fix, where)


def find_other_templates(
    raw: RawRecipe, tokenizer: PreTrainedTokenizerBase, template: str, parents_own: str | None, where: str
) -> list[Finding]:
    """template-differs, template-changed: all stages of a chain must render conversations in the same way."""
    path = raw.values["model"]["model_name_or_path"]
    record = record_of(path)
    found = find_changed(path)
    trained_chat = record.get("stage") in CHAT_STAGES
    spoken = parents_own if record.get("stage") != "pretrain" else None  # a base model was not trained on one
    if spoken and (unlike := find_unlike(tokenizer, template, tokenizer, spoken)):
        message = f"the chat template differs from the parent's: {unlike}"
        fix = "remove train.chat_template_path: the parent's template is then used"
        if not trained_chat:
            fix += "; if the parent is a base model, waive the finding with that reason"
        severity = "error" if trained_chat or raw.stage != "sft" else "warning"
        place = raw.places.get("train.chat_template_path", where)
        found.append(Finding("template-differs", severity, message, fix, place))
    for role in ("reward", "value"):
        if scorer := (raw.values.get(role) or {}).get("model_name_or_path"):
            found += _find_unlike_scorer(role, scorer, tokenizer, template)
    return found


def find_changed(path: str) -> list[Finding]:
    """template-changed: a run's template does not match the hash in its record."""
    file, saved = Path(path) / "chat_template.jinja", record_of(path).get("template_sha256")
    if not saved or not file.is_file() or hash_file(file) == saved:
        return []
    message = "the chat template was changed after this run saved it"
    return [
        Finding.error("template-changed", message, "restore it, or run the training again with it", str(file))
    ]


def _find_unlike_scorer(
    role: str, path: str, tokenizer: PreTrainedTokenizerBase, template: str
) -> list[Finding]:
    if is_local(path) and not Path(path).is_dir():
        return []  # level 1 reports the missing file
    theirs = load(path)
    unlike = find_unlike(tokenizer, template, theirs, own_template(theirs) or "")
    if not unlike:
        return []
    message = f"the {role} model was trained with another chat template than the policy: {unlike}"
    return [Finding.error("template-differs", message, "train it from a model with the same template", path)]


def record_of(path: str) -> dict:
    """run.json of a local run; {} for a model without one."""
    return read_record(path) if is_local(path) and (Path(path) / RUN_FILE).is_file() else {}


def find_in_ends(
    raw: RawRecipe, tokenizer: PreTrainedTokenizerBase, template: str, path: str, revision: str | None
) -> list[Finding]:
    """stop-token-missing, and pad-is-turn-end if padding is found by its id."""
    end = turn_end(tokenizer, template)
    train = raw.values["train"]
    found = []
    if raw.stage in ("reward", "ppo") and end and (tokenizer.pad_token or tokenizer.eos_token) == end:
        message = (
            f"the pad token equals the end-of-turn token {end}: the reward would be read one token too early"
        )
        found.append(
            Finding.error("pad-is-turn-end", message, "set a separate pad token in the tokenizer", path)
        )
    if raw.stage in ("sft", "dpo", "kto"):
        # The sft stage makes the end-of-turn token the tokenizer's eos, unless the recipe sets another.
        own = raw.stage == "sft" and not adds_tokens(raw)
        eos = train.get("eos_token") or end if own else tokenizer.eos_token
        stops = vocabulary.stop_ids(path, revision)
        stops |= {tokenizer.convert_tokens_to_ids(eos)} if eos else set()
        missing = find_stop_missing(tokenizer, template, {i for i in stops if i is not None}, path)
        found += [missing] if missing else []
    return found


def find_in_tokenizer_recipe(raw: RawRecipe) -> list[Finding]:
    """Whether the template of a tokenizer recipe writes control tokens that the tokenizer will not have."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    from ...recipe.schema import load_schema

    if raw.values["tokenizer"].get("extend"):
        return find_in_extension(raw)
    defaults = load_schema("tokenizer")["properties"]["tokenizer"]["properties"]
    values = {key: entry.get("default") for key, entry in defaults.items()} | raw.values["tokenizer"]
    where, special = values["chat_template"], values["special_tokens"]
    alphabet = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    bytes_alone = Tokenizer(models.BPE(alphabet, []))
    bytes_alone.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytes_alone.decoder = decoders.ByteLevel()
    empty = PreTrainedTokenizerFast(
        tokenizer_object=bytes_alone,
        bos_token="<|endoftext|>",
        eos_token="<|endoftext|>",
        pad_token="<|pad|>",
        extra_special_tokens=special,
    )
    found = find_in_template(empty, find_template(where).read_text(encoding="utf-8"), where)
    return [_in_special_tokens(finding) for finding in found if finding.code != "no-bos"]


def find_in_extension(raw: RawRecipe) -> list[Finding]:
    """token-exists: a new token that the tokenizer of `extend` has already."""
    from ...models.extension import find_existing

    given = raw.values["tokenizer"]
    tokenizer = load(given["extend"], given.get("extend_revision"))
    keys = ("new_tokens", "new_special_tokens")
    found = find_existing(tokenizer, [token for key in keys for token in given.get(key) or []])
    where = raw.place(*(f"tokenizer.{key}" for key in keys))
    return [replace(finding, where=where) for finding in found]


def _in_special_tokens(finding: Finding) -> Finding:
    from dataclasses import replace

    fix = "add them to tokenizer.special_tokens"
    return replace(finding, fix=fix) if finding.code == "control-token-split" else finding


def _positions(raw: RawRecipe) -> int | None:
    model = raw.values["model"]
    return longest_sequence(model_config(model["model_name_or_path"], model.get("model_revision")))

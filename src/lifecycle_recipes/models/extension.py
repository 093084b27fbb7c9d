"""More tokens for an existing tokenizer, and rows for them in the embedding of its model.

Nothing else may change: ordinary text is encoded as before, every weight is the same bit for bit, and the logits
of the old tokens are those of the old model. All of it is measured on what was saved.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ..finding import FAILED, Finding, Refusal, refuse
from ..record.trained_stage import stage_of
from .adapters import is_adapter, merge_adapter
from .load import load_tokenizer, require_weights
from .new_tokenizer import TokenizerConfig

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

COMPARED_TEXTS = 2_000  # texts that are encoded with both tokenizers
PROBE_TOKENS = 256  # of the text for which the logits of both models are compared
# Largest difference of two logits, in standard deviations of the logits. The last matrix product has another
# shape, so a sum may be added up in another order.
TOLERANCES = {"float32": 1e-4, "float64": 1e-4}
HALF_PRECISION = 0.05


def find_existing(tokenizer: PreTrainedTokenizerBase, new_tokens: list[str]) -> list[Finding]:
    """token-exists: a new token that is one token already, or is listed twice."""
    findings = []
    for place, token in enumerate(new_tokens):
        ids = tokenizer(token, add_special_tokens=False)["input_ids"]
        if token in new_tokens[:place]:
            message = f"the new token {token!r} is listed twice"
        elif len(ids) == 1 and ids[0] != tokenizer.unk_token_id:
            message = f"the new token {token!r} is a token already, with the id {ids[0]}"
        else:
            continue
        findings.append(
            Finding.error(
                "token-exists", message, "remove it from tokenizer.new_tokens or new_special_tokens"
            )
        )
    return findings


def extend_tokenizer(
    config: TokenizerConfig, texts: Iterable[str]
) -> tuple[PreTrainedTokenizerBase, PreTrainedTokenizerBase]:
    """(the tokenizer of `extend`, the same with the new tokens, as it was saved to `output_dir`).

    texts: on which both are compared. Raises Refusal: parent-no-tokenizer, token-exists, extension-differs.
    """
    from transformers import AddedToken

    old, new = (load_tokenizer(config.extend, config.extend_revision or "main") for _ in range(2))
    asked = [*config.new_tokens, *config.new_special_tokens]
    if findings := find_existing(old, asked):
        raise Refusal(*findings)
    # normalized: a tokenizer that lowercases or adds spaces would look for another string.
    new.add_tokens([AddedToken(token, normalized=False) for token in config.new_tokens])
    new.add_tokens(
        [AddedToken(token, normalized=False, special=True) for token in config.new_special_tokens],
        special_tokens=True,
    )
    decode_as_written(new, asked)
    new.save_pretrained(config.output_dir)
    saved = load_tokenizer(config.output_dir)
    require_same_ids(old, saved, asked, list(texts))
    return old, saved


def decode_as_written(tokenizer: PreTrainedTokenizerBase, new_tokens: list[str]) -> None:
    """Correct the decoder of a byte-level tokenizer for new tokens such as `Größe`.

    That decoder reads a token as characters that stand for bytes, if all of its characters can: an added token of
    the Latin-1 letters would become other text (tokenizers, pre_tokenizers/byte_level.rs, decode_chain).
    """
    from tokenizers import Regex, decoders, pre_tokenizers

    decoder = tokenizer.backend_tokenizer.decoder
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    wrong = [token for token in new_tokens if decoder and decoder.decode([token]) != token]
    if not wrong or not isinstance(decoder, decoders.ByteLevel):
        return
    steps = []
    for token in wrong:
        ((letters, _),) = to_bytes.pre_tokenize_str(token)
        steps.append(decoders.Replace(Regex(f"^{re.escape(token)}$"), letters))
    tokenizer.backend_tokenizer.decoder = decoders.Sequence([*steps, decoder])


def require_same_ids(
    old: PreTrainedTokenizerBase, new: PreTrainedTokenizerBase, new_tokens: list[str], texts: list[str]
) -> None:
    """Raises Refusal extension-differs if old text has other ids, or a new token not one of its own."""
    step = max(len(texts) // COMPARED_TEXTS, 1)
    plain = [text for text in texts[::step] if not any(token in text for token in new_tokens)]
    if plain and old(plain)["input_ids"] != new(plain)["input_ids"]:
        raise _differs("the extended tokenizer encodes text without new tokens in another way")
    for number, token in enumerate(new_tokens, start=len(old)):
        if new(token, add_special_tokens=False)["input_ids"] != [number]:
            raise _differs(f"the new token {token!r} is not encoded as one token")
        if (text := decode_after(new, number)) != token:
            raise _differs(f"the new token {token!r} is decoded as {text!r}")


def decode_after(tokenizer: PreTrainedTokenizerBase, number: int) -> str:
    """The text of a token inside a text: some decoders drop a space at the start."""
    before = tokenizer("a", add_special_tokens=False)["input_ids"]
    start, whole = (
        tokenizer.decode(ids, clean_up_tokenization_spaces=False) for ids in (before, [*before, number])
    )
    return whole.removeprefix(start)


def save_resized(
    config: TokenizerConfig,
    old: PreTrainedTokenizerBase,
    new: PreTrainedTokenizerBase,
    texts: Iterable[str],
) -> dict[str, Any]:
    """Save the model of `resize_model` with rows for the new tokens to `output_dir`; compare what was saved.

    An adapter is merged into its base first, as before a training. Returns {from, rows_before, rows, new_rows,
    tied, tensors_unchanged, logits_difference}. Raises Refusal: parent-no-weights, extension-differs.
    """
    from transformers import AutoModelForCausalLM

    model = load_full(config).eval()
    rows = model.get_input_embeddings().weight.shape[0]
    kept = min(rows, len(old))
    text = next((text for text in texts if text.strip()), "a")
    probe = [i for i in old(text, add_special_tokens=False)["input_ids"] if i < kept][:PROBE_TOKENS]
    before, logits = fingerprints(model, kept), _logits(model, probe, kept)
    pieces = pieces_of(old, new) if config.new_rows == "pieces" else None
    resize_embeddings(model, kept, len(new), pieces)
    model.save_pretrained(config.output_dir)
    del model
    saved = AutoModelForCausalLM.from_pretrained(config.output_dir, dtype="auto").eval()
    after = fingerprints(saved, kept)
    if changed := sorted(
        name for name in before.keys() | after.keys() if before.get(name) != after.get(name)
    ):
        raise _differs(f"{len(changed)} weights changed besides the new rows, {changed[0]} first")
    require_means(saved, kept, len(new), pieces)
    difference = float((_logits(saved, probe, kept) - logits).abs().max() / logits.std().clamp(min=1e-6))
    if not difference <= TOLERANCES.get(str(saved.dtype).removeprefix("torch."), HALF_PRECISION):
        raise _differs(
            f"the logits of the old tokens differ by {difference:.2g} standard deviations on old text"
        )
    return {
        "from": config.resize_model,
        "of_stage": stage_of(config.resize_model),
        "rows_before": rows,
        "rows": saved.get_input_embeddings().weight.shape[0],
        "new_rows": len(new) - kept,
        "tied": len(tables(saved)) == 1,
        "tensors_unchanged": len(after),
        "logits_difference": difference,
    }


def pieces_of(old: PreTrainedTokenizerBase, new: PreTrainedTokenizerBase) -> dict[int, list[int]]:
    """New id -> the ids of its text before it was a token."""
    added = range(len(old), len(new))
    return {i: old(new.convert_ids_to_tokens(i), add_special_tokens=False)["input_ids"] for i in added}


def load_full(config: TokenizerConfig) -> PreTrainedModel:
    """The model of `resize_model`, in the precision in which it was saved; an adapter merged, in float32."""
    from transformers import AutoModelForCausalLM

    path = config.resize_model
    require_weights(path)
    if is_adapter(path):
        return merge_adapter(path, AutoModelForCausalLM, dtype="float32")
    model, info = AutoModelForCausalLM.from_pretrained(
        path, revision=config.resize_model_revision or "main", dtype="auto", output_loading_info=True
    )
    if missing := sorted(info["missing_keys"]):
        message = f"{len(missing)} weights are missing and would be random, {missing[0]} first"
        raise refuse("weights-missing", message, "give a run that saved a complete language model", path)
    return model


def resize_embeddings(
    model: PreTrainedModel, kept: int, tokens: int, pieces: dict[int, list[int]] | None = None
) -> None:
    """Give `model` rows for `tokens` tokens, in the embedding and in an untied head, of which the first `kept` stay.

    The others become the mean of the kept ones (Hewitt 2021, "Initializing New Word Embeddings for Pretrained
    Language Models"; upstream's mean_resizing adds noise of a thousandth of a percent to it), or of those of
    their `pieces`. Rows that a model has to spare are used first; they may hold anything.
    """
    import torch

    if tokens > model.get_input_embeddings().weight.shape[0]:
        model.resize_token_embeddings(tokens, mean_resizing=False)
    with torch.no_grad():
        for table in tables(model):
            for row, values in mean_rows(table, kept, tokens, pieces).items():
                table[row] = values


def mean_rows(
    table: torch.Tensor, kept: int, tokens: int, pieces: dict[int, list[int]] | None
) -> dict[int, torch.Tensor]:
    """Row -> its first values, in the precision of the table."""
    mean = table[:kept].float().mean(0).to(table.dtype)
    found = {}
    for row in range(kept, tokens):
        old = [i for i in (pieces or {}).get(row, []) if i < kept]
        found[row] = table[old].float().mean(0).to(table.dtype) if old else mean
    return found


def tables(model: PreTrainedModel) -> list[torch.Tensor]:
    """The tensors with a row per token: the embedding, and of a head that is not tied to it, weight and bias."""
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    found = [embedding.weight]
    if head is not None and head.weight is not embedding.weight:
        found.append(head.weight)
    if getattr(head, "bias", None) is not None:
        found.append(head.bias)
    return [table.data for table in found]


def fingerprints(model: PreTrainedModel, kept: int) -> dict[str, str]:
    """Name -> hash of every weight; of those with a row per token, of their first `kept` rows."""
    import torch

    per_token = {table.data_ptr() for table in tables(model)}
    found = {}
    for name, weight in model.state_dict().items():
        part = weight[:kept] if weight.data_ptr() in per_token else weight
        flat = part.detach().cpu().contiguous().reshape(-1)
        found[name] = hashlib.sha256(flat.view(torch.uint8).numpy()).hexdigest()
    return found


def require_means(
    model: PreTrainedModel, kept: int, tokens: int, pieces: dict[int, list[int]] | None
) -> None:
    """Raises Refusal extension-differs if a new row of the saved model is not the mean that it should be."""
    import torch

    for table in tables(model):
        tolerance = 1e-5 if table.dtype in (torch.float32, torch.float64) else 1e-2
        for row, values in mean_rows(table, kept, tokens, pieces).items():
            if not torch.allclose(table[row].float(), values.float(), rtol=tolerance, atol=tolerance):
                raise _differs(f"row {row} of the embedding is not the mean of the old rows")


def _logits(model: PreTrainedModel, ids: list[int], kept: int) -> torch.Tensor:
    """Float32 logits of the first `kept` tokens at every position of `ids`."""
    import torch

    with torch.no_grad():
        return model(torch.tensor([ids or [0]])).logits[0, :, :kept].float()


def _differs(message: str) -> Refusal:
    fix = "this tokenizer or model cannot be extended: report it with its id"
    return refuse("extension-differs", message, fix, status=FAILED)

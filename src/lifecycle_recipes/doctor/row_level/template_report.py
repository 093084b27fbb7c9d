"""`lifecycle template`: are the tokens in training and serving the same, and does generation stop?"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ...finding import Finding, refuse
from ...models.config_file import find_file
from ...models.turn_end import QUESTION, render, turn_end
from . import vocabulary
from .template import (
    broken,
    find_in_bos,
    find_in_mask,
    find_no_turn_end,
    find_other_prompt,
    find_split_tokens,
    find_stop_missing,
    find_unlike,
    missing_turns,
    training_version,
)
from .template_probes import GENERATION, control_tokens, works_with
from .tokens import find_changed, load, other_in_training, own_template, record_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass
class Verdicts:
    """lines: one per condition. findings: the conditions that do not hold."""

    lines: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    def judge(self, promise: str, found: Finding | list[Finding] | None, detail: str = "") -> None:
        """Add one line: whether a condition holds, and the detail that decided it."""
        found = found if isinstance(found, list) else [found] if found else []
        self.findings += found
        word = "FAIL" if any(f.severity == "error" for f in found) else "warn" if found else "ok"
        self.lines.append(f"{word:<5} {promise}" + (f"    ({detail})" if detail else ""))

    def note(self, line: str) -> None:
        self.lines.append(f"note  {line}")


def parity(path: str, template_file: str | None = None) -> tuple[str, list[Finding]]:
    """Check the chat template of a tokenizer, a model or a run: (one line per condition, findings).

    No weights are read. template_file: the training template, to be compared with the serving template (that
    of `path`, if it has one). Raises Refusal: tokenizer-unreadable, missing-file, no-chat-template.
    """
    if template_file and not Path(template_file).is_file():
        raise refuse("missing-file", "the template file does not exist", "give a .jinja file", template_file)
    tokenizer = load(path)
    given = Path(template_file).read_text(encoding="utf-8") if template_file else None
    served = own_template(tokenizer) or given
    if served is None:
        fix = "pass one with --template, or use a tokenizer that has one"
        raise refuse("no-chat-template", "this tokenizer has no chat template", fix, path)
    trained = given or (None if GENERATION.search(served) else training_version(served)) or served
    where = template_file or path
    digest = hashlib.sha256(served.encode()).hexdigest()[:12]
    verdicts = Verdicts([f"{path}: chat template sha256 {digest}"])
    if fault := broken(tokenizer, trained, where) or broken(tokenizer, served, path):
        verdicts.judge("a question and an answer render", fault)
    else:
        _judge_renders(verdicts, tokenizer, path, where, (trained, served, bool(given)))
        _judge_tokens(verdicts, tokenizer, path, where, trained)
        for name in missing_turns(tokenizer, served):
            verdicts.note(f"no {name}: the template rejects or drops it")
    return "\n".join(verdicts.lines), verdicts.findings


def _judge_renders(
    verdicts: Verdicts, tokenizer: PreTrainedTokenizerBase, path: str, where: str, templates
) -> None:
    trained, served, is_given = templates
    found = None
    if unlike := find_unlike(tokenizer, trained, tokenizer, served):
        message = f"the training and the serving template render differently: {unlike}"
        found = Finding.error("template-differs", message, "serve with the template used in training", where)
        found = found if is_given else other_in_training(unlike, where)
    detail = f"{len(works_with(tokenizer, trained))} conversations"
    verdicts.judge("training render equals serving render", found, detail)
    if record_of(path).get("template_sha256"):
        verdicts.judge("the template is unchanged since its run", find_changed(path))
    differs = find_other_prompt(tokenizer, trained, where)
    verdicts.judge("the generation prompt is a prefix of the training render", differs)


def _judge_tokens(
    verdicts: Verdicts, tokenizer: PreTrainedTokenizerBase, path: str, where: str, trained: str
) -> None:
    tokens = " ".join(control_tokens(tokenizer, trained))
    verdicts.judge("every control token is one id", find_split_tokens(tokenizer, trained, where), tokens)
    end = turn_end(tokenizer, trained)
    verdicts.judge(
        "a turn ends with an end-of-turn token", find_no_turn_end(tokenizer, trained, where), end or ""
    )
    verdicts.judge("the end-of-turn token is supervised", find_in_mask(tokenizer, trained, where))
    stops = vocabulary.stop_ids(path)
    if record_of(path).get("stage") == "pretrain":
        verdicts.note("a base model: the sft stage adds the end-of-turn token to its stop tokens")
    elif stops or find_file(path, "config.json"):
        missing = find_stop_missing(tokenizer, trained, stops, path)
        verdicts.judge("the end-of-turn token is in generation_config.eos_token_id", missing)
    else:
        verdicts.note("no model next to this tokenizer: its stop tokens are unknown")
    bos = tokenizer.bos_token or "the tokenizer has none"
    verdicts.judge("at most one bos token", find_in_bos(tokenizer, trained, where), bos)
    prompt = tokenizer(render(tokenizer, [QUESTION], trained, add_generation_prompt=True))["input_ids"]
    if tokenizer.bos_token_id is not None and prompt[:2] == [tokenizer.bos_token_id] * 2:
        verdicts.note("a server that tokenises the rendered text must pass add_special_tokens=False")

"""Checks of a chat template: training and serving use the same tokens, and a reply ends with a stop token."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from ...finding import Finding
from ...models.turn_end import ANSWER, ASKED, QUESTION, SECOND, render, turn_end
from .template_probes import (
    CONVERSATIONS,
    GENERATION,
    OPTIONAL,
    SPELT_OUT,
    control_tokens,
    render_all,
    works_with,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MARKERS = "{% generation %}"
ANOTHER = "correct it, or set train.chat_template_path to a template of chat_templates/"


def find_in_template(
    tokenizer: PreTrainedTokenizerBase, template: str, where: str, trained: bool = True
) -> list[Finding]:
    """Findings about a template and the tokenizer that will render it.

    trained: the generation markers select the supervised tokens (the sft stage). where: place of findings.
    Codes: bad-template, no-generation-markers, eos-untrained, no-turn-end, control-token-split,
    generation-prompt-differs, double-bos, no-bos.
    """
    if fault := broken(tokenizer, template, where):
        return [fault]
    found = [
        *(find_in_mask(tokenizer, template, where) if trained else []),
        find_no_turn_end(tokenizer, template, where),
        find_split_tokens(tokenizer, template, where),
        find_other_prompt(tokenizer, template, where),
        find_in_bos(tokenizer, template, where),
    ]
    return [finding for finding in found if finding]


def broken(tokenizer: PreTrainedTokenizerBase, template: str, where: str) -> Finding | None:
    """bad-template if a question and an answer do not render, or render without their text."""
    try:
        text = render(tokenizer, [QUESTION, ANSWER], template)
    except Exception as error:
        line = f":{error.lineno}" if getattr(error, "lineno", None) and Path(where).is_file() else ""
        message = (
            "the chat template fails on a conversation of one question and one answer: "
            f"{' '.join(str(error).split())}"
        )
        return Finding.error("bad-template", message, ANOTHER, where + line)
    missing = [message["role"] for message in (QUESTION, ANSWER) if message["content"] not in text]
    if missing:
        message = f"the chat template drops the content of the {' and the '.join(missing)} message"
        return Finding.error("bad-template", message, ANOTHER, where)
    return None


def find_in_mask(tokenizer: PreTrainedTokenizerBase, template: str, where: str) -> list[Finding]:
    """no-generation-markers; eos-untrained if the end-of-turn token is outside of them."""
    if not GENERATION.search(template):
        message = f"the chat template has no {MARKERS} markers, so the assistant tokens are unknown"
        fix = (
            "set train.chat_template_path to a template of chat_templates/, "
            f"or put {MARKERS} and {{% endgeneration %}} around the assistant content"
        )
        return [Finding.error("no-generation-markers", message, fix, where)]
    # With a question after it: some templates write the end-of-turn token with the next message.
    seen = render_all(tokenizer, [[QUESTION, ANSWER, SECOND]], template)[0]
    end = turn_end(tokenizer, template)
    last = [token for token, is_trained in zip(seen.ids, seen.trained, strict=True) if is_trained]
    if not last:
        message = f"the {MARKERS} block of the chat template is empty"
        fix = "put the assistant content and the end-of-turn token inside the block"
        return [Finding.error("no-generation-markers", message, fix, where)]
    if end and end not in tokenizer.decode(last):
        message = (
            f"the end-of-turn token {end} is outside the {MARKERS} block: it is not supervised, and the "
            "model never learns to stop"
        )
        return [
            Finding.error(
                "eos-untrained", message, "put {% endgeneration %} after the end-of-turn token", where
            )
        ]
    return []


def find_no_turn_end(tokenizer: PreTrainedTokenizerBase, template: str, where: str) -> Finding | None:
    if turn_end(tokenizer, template):
        return None
    message = "the chat template has no end-of-turn token after a reply: generation would not stop"
    return Finding.error(
        "no-turn-end", message, "add eos_token or a token such as <|im_end|> after the reply", where
    )


def find_split_tokens(tokenizer: PreTrainedTokenizerBase, template: str, where: str) -> Finding | None:
    """control-token-split: a control token that the tokenizer encodes as several tokens."""
    split = {
        token: len(ids)
        for token in control_tokens(tokenizer, template)
        if token not in SPELT_OUT and len(ids := tokenizer(token, add_special_tokens=False)["input_ids"]) != 1
    }
    if not split:
        return None
    listed = ", ".join(f"{token} ({pieces} tokens)" for token, pieces in split.items())
    message = f"these control tokens are not single tokens of the vocabulary: {listed}"
    fix = (
        "set train.chat_template_path to a template of this model family, "
        "or start from a model whose tokenizer has these tokens"
    )
    return Finding.error("control-token-split", message, fix, where)


def find_other_prompt(tokenizer: PreTrainedTokenizerBase, template: str, where: str) -> Finding | None:
    """generation-prompt-differs: the text before a reply differs between training and serving."""
    for name, (messages, tools) in works_with(tokenizer, template).items():
        for end in [i for i, message in enumerate(messages) if message["role"] == "assistant"]:
            prompt = render(tokenizer, messages[:end], template, tools=tools, add_generation_prompt=True)
            whole = render(tokenizer, messages, template, tools=tools)
            if whole.startswith(prompt):
                continue
            message = (
                "the text before a reply differs between training and serving "
                f"({name}, message {end + 1}): {first_difference(prompt, whole)}"
            )
            fix = (
                "make the template render a message independently of later messages, "
                "and end the generation prompt exactly where the reply starts"
            )
            return Finding.error("generation-prompt-differs", message, fix, where)
    return None


def find_in_bos(tokenizer: PreTrainedTokenizerBase, template: str, where: str) -> Finding | None:
    """double-bos; no-bos (a warning) if plain text gets a bos token and a conversation does not."""
    bos = tokenizer.bos_token_id
    if bos is None:
        return None
    ids = render_all(tokenizer, [[QUESTION, ANSWER]], template)[0].ids
    leading = next((i for i, token in enumerate(ids) if token != bos), len(ids))
    if leading > 1:
        message = f"a conversation starts with {tokenizer.bos_token} {leading} times"
        return Finding.error("double-bos", message, "write bos_token once in the template", where)
    if leading == 0 and tokenizer(ASKED)["input_ids"][:1] == [bos]:
        message = f"the tokenizer starts a text with {tokenizer.bos_token}, but the chat template does not"
        return Finding.warning("no-bos", message, "start the template with {{- bos_token }}", where)
    return None


def find_stop_missing(
    tokenizer: PreTrainedTokenizerBase, template: str, stops: set[int], where: str
) -> Finding | None:
    """stop-token-missing: generation does not stop at the end-of-turn token. stops: stop tokens and eos."""
    end = turn_end(tokenizer, template)
    if end is None or tokenizer.convert_tokens_to_ids(end) in stops:
        return None
    known = ", ".join(tokenizer.convert_ids_to_tokens(sorted(stops))) or "nothing"
    message = f"the end-of-turn token is {end}, but generation stops at {known}"
    fix = f"add {end} to eos_token_id in generation_config.json"
    return Finding.error("stop-token-missing", message, fix, where)


def find_unlike(tokenizer: PreTrainedTokenizerBase, ours: str, theirs, their_template: str) -> str | None:
    """What two templates render differently, in words; None if they agree on every conversation of both.

    theirs: the tokenizer with which their_template is rendered.
    """
    if ours == their_template:
        return None
    for name, (messages, tools) in CONVERSATIONS.items():
        for prompt in (False, True):
            part = messages[:-1] if prompt else messages
            texts = []
            for tok, template in ((tokenizer, ours), (theirs, their_template)):
                try:
                    texts.append(render(tok, part, template, tools=tools, add_generation_prompt=prompt))
                except Exception:
                    texts.append(None)
            # A turn that only one family has is reported if a row has it (bad-template, at that row).
            if None in texts or texts[0] == texts[1]:
                continue
            return f"{name}{', generation prompt' if prompt else ''}: {first_difference(*texts)}"
    return None


def first_difference(one: str, other: str) -> str:
    """`'...a' against '...b'`: some characters around the first difference of two texts."""
    at = next(
        (i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )
    start = max(0, at - 24)
    return f"{one[start : at + 24]!r} against {other[start : at + 24]!r}"


def training_version(template: str) -> str | None:
    """TRL's version of a template with generation markers, found by the template's text; None for any other.

    trl.chat_template_utils.get_training_chat_template compares the same files; importing it takes seconds.
    """
    spec = importlib.util.find_spec("trl")
    for folder in spec.submodule_search_locations or [] if spec else []:
        for file in sorted((Path(folder) / "chat_templates").glob("*_training.jinja")):
            original = file.with_name(file.name.replace("_training", ""))
            if original.is_file() and original.read_text(encoding="utf-8") == template:
                return file.read_text(encoding="utf-8")
    return None


def missing_turns(tokenizer: PreTrainedTokenizerBase, template: str) -> list[str]:
    """The optional kinds of turn that a template rejects or drops."""
    return [name for name in OPTIONAL if name not in works_with(tokenizer, template)]

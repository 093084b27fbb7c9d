"""The end-of-turn token, the stop tokens, and the input of a reward model. Imports no torch itself."""

from __future__ import annotations

import re
from functools import lru_cache
from os.path import commonprefix
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Test messages. No template contains these words, so all other text is from the template.
ASKED, SAID, AGAIN, ORDER = "quokka", "wombat", "numbat", "bilby"

QUESTION = {"role": "user", "content": ASKED}
ANSWER = {"role": "assistant", "content": SAID}
SECOND = {"role": "user", "content": AGAIN}
# Strings that are one token in a template. `<tool_call>` and `<think>` are markup, possibly several tokens.
CONTROL = re.compile(
    r"<\|[^|<>\s]{1,40}\|>|<｜[^｜<>]{1,40}｜>|</?s>|<(?:start|end)_of_turn>|<(?:bos|eos|pad)>"
    r"|\[/?[A-Z]+(?:_[A-Z]+)*\]"
)


def turn_end(tokenizer: PreTrainedTokenizerBase, template: str | None = None) -> str | None:
    """The first control token that a template writes after an assistant's text; None without one.

    template: by default the tokenizer's own. Without either, the result is None.
    """
    if not (template or tokenizer.chat_template):
        return None
    from jinja2 import TemplateError

    last = render(tokenizer, [QUESTION, ANSWER], template).partition(SAID)[2]
    try:
        whole = render(tokenizer, [QUESTION, ANSWER, SECOND], template)
    except TemplateError:  # the template accepts one turn only
        whole = ""
    between = whole.partition(SAID)[2].partition(AGAIN)[0]
    # Some templates end a turn only if another one follows. What opens the next turn does not count.
    opening = commonprefix([between[::-1], whole.partition(ASKED)[0][::-1]])
    for tail in (between[: len(between) - len(opening)], last):
        hits = [*CONTROL.finditer(tail), *special_tokens(tokenizer).finditer(tail)]
        if hits:
            return min(hits, key=lambda hit: hit.start()).group()
    return None


def turn_end_token(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """`turn_end` of the tokenizer's own template, if the vocabulary has it as a token."""
    end = turn_end(tokenizer)
    return end if end in tokenizer.get_vocab() else None


def turn_end_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id of `turn_end_token`, or else of the eos token."""
    return tokenizer.convert_tokens_to_ids(turn_end_token(tokenizer) or tokenizer.eos_token)


def stop_ids_of(*given: int | list[int] | None) -> list[int]:
    """All ids in `given`, sorted; each item is an eos_token_id, which may be an id, a list or None."""
    ids = {i for eos in given for i in (eos if isinstance(eos, list | tuple) else [eos])}
    return sorted(ids - {None})


def scored_ids(tokenizer: PreTrainedTokenizerBase, messages: list[dict], turn_end_id: int) -> list[int]:
    """Token ids of a conversation up to and including its last end-of-turn token.

    Templates write more after it (a newline in ChatML). The reward is read at the last token, and PPO's
    replies stop at the end-of-turn token. So a reward model that was trained on the newline would be read at
    a position that was not trained.
    """
    ids = tokenizer.apply_chat_template(messages, return_dict=False)
    if turn_end_id not in ids:
        return ids
    return ids[: len(ids) - ids[::-1].index(turn_end_id)]


def prompt_ids(tokenizer: PreTrainedTokenizerBase, prompt: str | list[dict]) -> list[int]:
    """Token ids of what a policy continues: a text, or a conversation with the start of its reply."""
    if isinstance(prompt, str):
        return tokenizer(prompt)["input_ids"]
    return tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=False)


def render(
    tokenizer: PreTrainedTokenizerBase, messages: list[dict], template: str | None = None, **options: Any
) -> str:
    """The text of a conversation. The template's errors are raised (jinja2.TemplateError, TypeError, ...)."""
    return tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False, **options)


def special_tokens(tokenizer: PreTrainedTokenizerBase):
    """A pattern that finds the tokenizer's special tokens in a text, the longest first."""
    # Llama 3's chat tokens are in no list of special tokens; only tokenizer.json marks them as special.
    added = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    return _alternatives(tuple(dict.fromkeys([*tokenizer.all_special_tokens, *added])))


@lru_cache
def _alternatives(tokens: tuple[str, ...]) -> re.Pattern:
    longest_first = sorted(filter(None, tokens), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")

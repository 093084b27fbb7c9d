"""Where a turn ends and where generation stops; what a reward model reads. No torch of its own."""

import re
from functools import lru_cache
from os.path import commonprefix
from typing import Any

# What a template writes around the messages is told from them by these words, which no template contains.
ASKED, SAID, AGAIN, ORDER = "quokka", "wombat", "numbat", "bilby"

QUESTION = {"role": "user", "content": ASKED}
ANSWER = {"role": "assistant", "content": SAID}
SECOND = {"role": "user", "content": AGAIN}
# Strings that a template means as one token. `<tool_call>` and `<think>` are markup, which may be spelt out.
CONTROL = re.compile(
    r"<\|[^|<>\s]{1,40}\|>|<｜[^｜<>]{1,40}｜>|</?s>|<(?:start|end)_of_turn>|<(?:bos|eos|pad)>"
    r"|\[/?[A-Z]+(?:_[A-Z]+)*\]"
)


def turn_end(tokenizer, template: str | None = None) -> str | None:
    """The control token that a template writes first after an assistant's text; None if it writes none.

    template: the tokenizer's own, if not given; None without one, too.
    """
    if not (template or tokenizer.chat_template):
        return None
    whole = render(tokenizer, [QUESTION, ANSWER, SECOND], template)
    between = whole.partition(SAID)[2].partition(AGAIN)[0]
    # Some templates end a turn only when another follows; what opens that one is no end of this one.
    opening = commonprefix([between[::-1], whole.partition(ASKED)[0][::-1]])
    last = render(tokenizer, [QUESTION, ANSWER], template).partition(SAID)[2]
    for tail in (between[: len(between) - len(opening)], last):
        hits = [*CONTROL.finditer(tail), *special_tokens(tokenizer).finditer(tail)]
        if hits:
            return min(hits, key=lambda hit: hit.start()).group()
    return None


def stop_ids_of(*given: int | list[int] | None) -> list[int]:
    """All ids among `given`, each an eos_token_id as configs and tokenizers have it; sorted."""
    ids = {i for eos in given for i in (eos if isinstance(eos, list | tuple) else [eos])}
    return sorted(ids - {None})


def scored_ids(tokenizer, messages: list[dict], turn_end_id: int) -> list[int]:
    """Token ids of a conversation up to and including its last turn end.

    Templates write more behind it (a newline in ChatML). A reward is read at the last token, and PPO's
    replies stop at the turn end: a reward model trained on the newline would be read where it never trained.
    """
    ids = tokenizer.apply_chat_template(messages, return_dict=False)
    if turn_end_id not in ids:
        return ids
    return ids[: len(ids) - ids[::-1].index(turn_end_id)]


def prompt_ids(tokenizer, prompt: str | list[dict]) -> list[int]:
    """Token ids of what a policy continues: a text, or a conversation with the start of its reply."""
    if isinstance(prompt, str):
        return tokenizer(prompt)["input_ids"]
    return tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=False)


def render(tokenizer, messages: list[dict], template: str | None = None, **options: Any) -> str:
    """The text of a conversation. Raises what the template raises (jinja2.TemplateError, TypeError, ...)."""
    return tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False, **options)


def special_tokens(tokenizer):
    """A pattern that finds the tokenizer's special tokens in a text, the longest first."""
    # Llama 3 names its chat tokens in no list of special tokens; tokenizer.json alone says that they are.
    added = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    return _alternatives(tuple(dict.fromkeys([*tokenizer.all_special_tokens, *added])))


@lru_cache
def _alternatives(tokens: tuple[str, ...]) -> re.Pattern:
    longest_first = sorted(filter(None, tokens), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")

"""Assistant turns that a row keeps out of the loss: `weight: 0` (OpenAI) or `train: false` (axolotl).

The model reads such a turn and is not trained on it. Only the sft stage supports this; no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..finding import refuse

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def is_trained(message: dict) -> bool:
    """Whether a message with a valid weight is part of the loss, if its role is."""
    return message.get("train") is not False and message.get("weight") != 0


def weight_fault(message: dict) -> str | None:
    """What is wrong with the `weight` or `train` of a message."""
    weight, train = message.get("weight"), message.get("train")
    if weight is not None and (isinstance(weight, bool) or weight not in (0, 1)):
        return f"has weight {weight!r}, not 0 or 1"
    if train is not None and not isinstance(train, bool):
        return f"has train {train!r}, not true or false"
    if weight is not None and train is not None and bool(weight) != train:
        return f"has weight {weight!r} and train {str(train).lower()}"
    return None


def find_without_effect(column: str, messages: list[dict]) -> str | None:
    """Which `weight` or `train` of a sound conversation the stage that reads `column` does not use."""
    for number, message in enumerate(messages, start=1):
        given = [key for key in ("weight", "train") if message.get(key) is not None]
        if not given:
            continue
        key, value = given[0], message[given[0]]
        if column != "messages" and value not in (1, True):
            return f"message {number} has {key} {str(value).lower()}, which only the sft stage uses"
        if column == "messages" and value and message["role"] != "assistant":
            return f"message {number} ({message['role']}) has {key} {str(value).lower()}: it is never trained"
    return None


def without_untrained(
    tokenizer: PreTrainedTokenizerBase,
    template: str | None,
    row: dict[str, Any],
    ids: list[int],
    supervised: list[bool],
) -> list[bool]:
    """`supervised` without the tokens of the assistant turns of `row` that are kept out of the loss.

    ids, supervised: the whole conversation, one entry per token. template: None for the tokenizer's own.
    The turns are told apart by rendering the conversation up to the end of each.
    Raises Refusal generation-prompt-differs for a template that renders a turn differently if others follow.
    """
    messages = row["messages"]
    if all(map(is_trained, messages)):
        return supervised
    kept = list(supervised)
    places = [i for i, is_supervised in enumerate(supervised) if is_supervised]
    before = 0
    for end, message in enumerate(messages, start=1):
        if message["role"] != "assistant":
            continue
        part_ids, part = render_masked(tokenizer, template, messages[:end], row.get("tools"))
        after = sum(part)
        last = places[after - 1] + 1 if after else 0
        if after > len(places) or part_ids[:last] != ids[:last]:
            raise refuse(
                "generation-prompt-differs",
                f"message {end} is rendered differently if others follow: its tokens cannot be left out",
                "use a template of chat_templates/ (train.chat_template_path)",
            )
        if not is_trained(message):
            for i in places[before:after]:
                kept[i] = False
        before = after
    return kept


def render_masked(
    tokenizer: PreTrainedTokenizerBase, template: str | None, messages: list[dict], tools: Any
) -> tuple[list[int], list[int]]:
    """(ids, mask of the assistant tokens) of a conversation, as upstream renders it."""
    import json

    tools = json.loads(tools) if isinstance(tools, str) else tools
    batch = tokenizer.apply_chat_template(
        messages, chat_template=template, tools=tools, return_dict=True, return_assistant_tokens_mask=True
    )
    return batch["input_ids"], batch["assistant_masks"]


def keep_out_of_loss(rows: Any, tokenizer: PreTrainedTokenizerBase, template: str | None) -> Any:
    """Tokenised conversations (messages, input_ids, labels), with label -100 for the turns kept out of the loss."""
    if not may_weigh_turns(rows.features["messages"]):
        return rows
    if all(is_trained(message) for messages in rows["messages"] for message in messages):
        return rows

    def clear(row: dict) -> dict[str, list[int]]:
        labels = row["labels"]
        supervised = [label != -100 for label in labels]
        kept = without_untrained(tokenizer, template, row, row["input_ids"], supervised)
        return {"labels": [label if keep else -100 for label, keep in zip(labels, kept, strict=True)]}

    return rows.map(clear, desc="Leaving out turns")


def may_weigh_turns(messages: Any) -> bool:
    """Whether a column of messages may have `weight` or `train`: false if its Arrow type has neither key."""
    message = getattr(messages, "feature", None)
    return not isinstance(message, dict) or bool({"weight", "train"} & message.keys())

"""What a request of the OpenAI API asks for, and why this server cannot answer it as asked. No torch.

transformers' server (5.23, cli/serving) ignores most of what it does not support, or uses it as something else:
`frequency_penalty` is a repetition penalty there, a temperature samples nothing if the model is greedy by default, and
with continuous batching the sampling settings of the first request are those of all later ones. Here a request gets
what it asks for, or the reason why not; a field that is not known is refused.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

# Fields that are answered, and fields that change nothing about a reply.
ANSWERED = {"model", "messages", "prompt", "tools", "chat_template_kwargs", "stream", "stop"}
ANSWERED |= {"max_tokens", "max_completion_tokens", "temperature", "top_p", "seed"}
HARMLESS = {
    "user",
    "metadata",
    "store",
    "service_tier",
    "stream_options",
    "safety_identifier",
    "prompt_cache_key",
}
# Other fields -> values that ask for nothing.
NOTHING: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "echo": (False,),
    "logprobs": (False,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "response_format": ({"type": "text"},),
    "tool_choice": ("auto",),
    "parallel_tool_calls": (True,),
    "modalities": (["text"],),
    "logit_bias": ({},),
    "suffix": ("",),
}
# Keys of a message that a chat template can render.
MESSAGE = {"role", "content", "name", "tool_calls", "tool_call_id", "reasoning_content"}


class Unanswerable(Exception):
    """Why a request cannot be answered as it asks."""


@dataclass(frozen=True)
class Wanted:
    """max_new_tokens: None for the server's. temperature, top_p, seed: None for the model's own. stop: texts."""

    max_new_tokens: int | None
    temperature: float | None
    top_p: float | None
    seed: int | None
    stop: list[str]
    stream: bool

    @property
    def samples(self) -> bool | None:
        """Whether it asks to sample; None if it leaves that to the model."""
        if self.temperature is not None:
            return self.temperature > 0
        return True if self.top_p is not None and self.top_p < 1 else None


def wanted(body: dict[str, Any]) -> Wanted:
    """Raises Unanswerable for a field that is unknown, not supported, or has a value that cannot be."""
    for name, value in body.items():
        if name in ANSWERED | HARMLESS or value is None or value in NOTHING.get(name, ()):
            continue
        raise Unanswerable(
            f"this server does not support `{name}`" + (f": {value}" if name in NOTHING else "")
        )
    stop = body.get("stop") or []
    stop = [stop] if isinstance(stop, str) else stop
    if not isinstance(stop, list) or not all(isinstance(text, str) and text for text in stop):
        raise Unanswerable("`stop` must be a text, or a list of texts")
    most = body.get("max_completion_tokens")
    most = body.get("max_tokens") if most is None else most
    return Wanted(
        max_new_tokens=number("max_tokens", most, 1, None, whole=True),
        temperature=number("temperature", body.get("temperature"), 0, None),
        top_p=number("top_p", body.get("top_p"), 0, 1),
        seed=number("seed", body.get("seed"), None, None, whole=True),
        stop=stop,
        stream=bool(body.get("stream")),
    )


def number(name: str, value: Any, least: float | None, most: float | None, whole: bool = False) -> Any:
    """The value, if it is None or a number in the range. Raises Unanswerable."""
    kinds = int if whole else (int, float)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, kinds):
        raise Unanswerable(f"`{name}` must be a{' whole' if whole else ''} number, not {value!r}")
    if (least is not None and value < least) or (most is not None and value > most):
        limits = f"at least {least}" if most is None else f"from {least} to {most}"
        raise Unanswerable(f"`{name}` must be {limits}, not {value!r}")
    return value


def messages(body: dict[str, Any]) -> list[dict[str, Any]]:
    """The messages as a chat template renders them. Raises Unanswerable."""
    given = body.get("messages")
    if not isinstance(given, list) or not given:
        raise Unanswerable("`messages` must be a list with a message")
    return [_message(message) for message in given]


def _message(message: Any) -> dict[str, Any]:
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise Unanswerable("a message must be an object with a `role`")
    if unknown := sorted(key for key in message if key not in MESSAGE and message[key] is not None):
        raise Unanswerable(f"this server does not support `{unknown[0]}` of a message")
    content, calls = message.get("content"), message.get("tool_calls")
    if isinstance(content, list):
        if len(content) != 1 or not isinstance(content[0], dict) or content[0].get("type") != "text":
            raise Unanswerable("this model reads text only: give the content of a message as one text")
        content = content[0].get("text")
    if not isinstance(content, str) and not (content is None and calls):
        raise Unanswerable("the content of a message must be a text")
    found = {key: value for key, value in message.items() if value is not None} | {"content": content or ""}
    if calls:
        found["tool_calls"] = [_call(call) for call in calls]
    return found


def _call(call: Any) -> Any:
    """Templates iterate over the arguments of a tool call; in the API they are JSON in a text."""
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict):
        raise Unanswerable("a tool call must have a `function`")
    arguments = function.get("arguments")
    try:
        arguments = json.loads(arguments) if isinstance(arguments, str) else arguments
    except json.JSONDecodeError:
        raise Unanswerable("the arguments of a tool call must be JSON") from None
    return call | {"function": function | {"arguments": arguments}}

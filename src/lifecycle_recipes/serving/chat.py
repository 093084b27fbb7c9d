"""Chat with a saved model in the terminal. Imports torch only after the model was found."""

from __future__ import annotations

import io
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from ..finding import Refusal, refuse

if TYPE_CHECKING:
    from .model import Loaded

HELP = """Type a message. Commands:
  /compare RUN   what another model answers to your last message
  /reset         start a new conversation (also /new)
  /save FILE     append the conversation to a .jsonl file, as a row of training data
  /help          this; /quit or Ctrl-D ends, Ctrl-C stops a reply"""
COMMANDS = ("/compare", "/reset", "/new", "/save", "/help", "/quit")


def chat(path: str, prompt: str | None = None, max_new_tokens: int = 256) -> None:
    """Answer `prompt` on stdout; without a prompt, converse until the input ends.

    For a chat model the conversation is rendered with its template; a base model continues the text. The
    generation settings are the model's own. Raises Refusal: bad-value, not-a-language-model, missing-model.
    """
    if max_new_tokens < 1:
        message = f"--max-new-tokens must be at least 1, not {max_new_tokens}"
        raise refuse("bad-value", message, "leave it out for the default")
    from .model import load

    model = load(path)
    if prompt is not None:
        reply(model, [{"role": "user", "content": prompt}], max_new_tokens)
        return
    Conversation(model, max_new_tokens).run()


class Conversation:
    """messages: so far, the last one a reply; complete: whether that ended by itself. others: models, by path."""

    def __init__(self, model: Loaded, max_new_tokens: int):
        self.model, self.max_new_tokens = model, max_new_tokens
        self.messages: list[dict] = []
        self.complete = True
        self.others: dict[str, Loaded] = {}

    def run(self) -> None:
        self.help()
        if isinstance(sys.stdin, io.TextIOWrapper):
            sys.stdin.reconfigure(errors="replace")  # a byte that is not UTF-8 is no reason to end
        while (text := ask()) is not None and text != "/quit":
            try:
                self.take(text)
            except Refusal as refusal:
                say(str(refusal))

    def take(self, text: str) -> None:
        """A line of the user: a command, or a message."""
        command, _, argument = text.partition(" ")
        if command in ("/new", "/reset"):
            self.messages = []
        elif command == "/help":
            self.help()
        elif command == "/compare":
            self.compare(argument.strip())
        elif command == "/save":
            self.save(argument.strip())
        elif command.startswith("/") and command[1:].isalpha():
            # Paths and other text that starts with a slash are messages.
            raise refuse("bad-value", f"{command} is no command", f"type one of {', '.join(COMMANDS)}")
        else:
            self.answer(text)

    def help(self) -> None:
        say(HELP + ("" if self.model.chat else "\nThis is a base model: it continues your text."))

    def answer(self, text: str) -> None:
        before = self.messages if self.model.chat else []
        asked = [*before, {"role": "user", "content": text}]
        try:
            answer, self.complete = reply(self.model, asked, self.max_new_tokens)
        except Refusal:  # the context is full
            self.messages = []
            raise
        except KeyboardInterrupt:
            say("\nstopped: your message and this reply are left out")
            return
        self.messages = [*asked, {"role": "assistant", "content": answer}]

    def compare(self, path: str) -> None:
        """Print what the model at `path` answers to the last message, after the same conversation."""
        if not path:
            raise refuse("bad-value", "/compare needs a model", "type `/compare RUN`, a run or a Hub id")
        if not self.messages:
            raise refuse("bad-value", "there is no message to compare", "type a message first")
        from .model import load

        if path not in self.others:
            self.others[path] = load(path)
        say(f"[{path}]")
        reply(self.others[path], self.messages[:-1], self.max_new_tokens)

    def save(self, name: str) -> None:
        """Append the conversation to a .jsonl file."""
        if not name.endswith(".jsonl"):
            raise refuse("bad-value", "/save needs a .jsonl file", "type `/save mine.jsonl`")
        if not self.messages:
            raise refuse("bad-value", "there is nothing to save", "type a message first")
        if self.model.chat and not self.complete:
            fix = "start chat with a larger --max-new-tokens, and ask again"
            raise refuse("bad-value", "the last reply is cut: it would teach to stop in mid-sentence", fix)
        text = "".join(message["content"] for message in self.messages)
        row = {"messages": self.messages} if self.model.chat else {"text": text}
        try:
            with Path(name).open("a", encoding="utf-8") as file:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
        except OSError as error:
            message = f"cannot write it: {error.strerror}"
            raise refuse("bad-path", message, "give another path", name) from None
        say(f"saved to {name}")


def ask() -> str | None:
    """The next line that is not blank; None at the end of the input or on Ctrl-C."""
    try:
        while not (text := input("> " if sys.stdin.isatty() else "").strip()):
            pass
    except (EOFError, KeyboardInterrupt):
        return None
    return text


def say(line: str) -> None:
    """Beside the replies, which alone are on stdout."""
    print(line, file=sys.stderr, flush=True)


def reply(model: Loaded, messages: list[dict], max_new_tokens: int) -> tuple[str, bool]:
    """Print a reply while it is generated, then its speed on stderr.

    Returns the text, and whether a stop token ended it. Raises Refusal: context-full.
    """
    import torch
    from transformers import TextStreamer

    from ..evals.replies import stop_ids

    tokenizer, causal = model.saved.tokenizer, model.saved.model
    ids = torch.tensor([model.encode(messages)], device=causal.device)
    length = ids.shape[1]
    limit = model.room(length, max_new_tokens)
    start = time.monotonic()
    with torch.no_grad():
        output = causal.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=limit,
            streamer=TextStreamer(tokenizer, skip_prompt=model.chat, skip_special_tokens=True),
            pad_token_id=tokenizer.pad_token_id,
        )
    made, seconds = output.shape[1] - length, time.monotonic() - start
    ended = output[0, -1].item() in stop_ids(model.saved)
    say(f"({made} tokens, {made / seconds:.0f} tokens/s{'' if ended else ', cut'})")
    return tokenizer.decode(output[0, length:], skip_special_tokens=True), ended

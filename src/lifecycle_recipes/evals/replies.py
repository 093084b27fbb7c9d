"""The replies of a saved model: greedy, each generated once, and stored next to the model.

The format contract, the rubric, the reward and the KL are computed from the same replies, and models that
are trained from this one are compared with them. They are in `<model>/replies.json`, with all that they
depend on.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ..finding import refuse
from ..models.saved import Saved, weights_id
from ..models.turn_end import stop_ids_of
from .rubric import as_messages

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Increase it if a change to this file changes the replies: older files are then ignored.
FORMAT = 2


class Reply(str):
    """A reply's text, without control tokens.

    ids: the generated token ids, the stop token included. stopped: a stop token or `until` text ended it.
    end: the stop token at its end, as text: that of a document for a base model, of a turn for an assistant.
    """

    ids: tuple[int, ...]
    stopped: bool
    end: str

    def __new__(cls, text: str, ids: tuple[int, ...], stopped: bool, end: str = "") -> Reply:
        reply = super().__new__(cls, text)
        reply.ids, reply.stopped, reply.end = tuple(ids), stopped, end
        return reply


class Replies:
    """Replies of one saved model. generated: number of new replies. overlong: prompts that did not fit."""

    def __init__(self, saved: Saved, batch_size: int):
        import torch

        self.saved, self.batch_size = saved, batch_size
        self.generated = 0
        self.overlong = 0
        self._known: dict[str, Reply] = {}
        model = saved.model
        # With another device, precision or batch size, the more likely of two almost equal tokens may change.
        computed = [model.device.type, str(model.dtype), getattr(model, "is_quantized", False), batch_size]
        self._origin = [FORMAT, weights_id(saved.path), stop_ids(saved), *computed, str(torch.__version__)]
        self._file = Path(saved.path) / "replies.json" if Path(saved.path).is_dir() else None
        self._read()

    def answer(self, prompts: list[list[int]], max_new_tokens: int, **settings) -> list[Reply]:
        """One reply per prompt (token ids, template and generation prompt included), in their order.

        settings: more arguments of `generate` (do_sample, temperature, ...), and `until`, texts that end
        a reply. A prompt that leaves no room for max_new_tokens in the model's context gets an empty
        reply that did not stop: a truncated prompt would be another question.
        """
        room = _context(self.saved.model) - max_new_tokens
        fitting = [ids for ids in prompts if len(ids) <= room]
        self.overlong += len(prompts) - len(fitting)
        if settings.get("do_sample"):  # sampled replies are not stored
            replies = iter(self._generate(fitting, max_new_tokens, settings))
            return [next(replies) if len(ids) <= room else Reply("", (), False) for ids in prompts]
        todo = {
            key: ids for ids in fitting if (key := _key(ids, max_new_tokens, settings)) not in self._known
        }
        replies = self._generate(list(todo.values()), max_new_tokens, settings)
        self._known.update(zip(todo, replies, strict=True))
        nothing = Reply("", (), False)
        return [self._known.get(_key(ids, max_new_tokens, settings), nothing) for ids in prompts]

    def keep(self) -> None:
        """Write the replies next to a local model, for later measurements of it and of its children."""
        if self._file is None or not self.generated:
            return
        rows = {key: [str(r), list(r.ids), r.stopped, r.end] for key, r in self._known.items()}
        partial = self._file.with_suffix(".partial")
        partial.write_text(json.dumps({"origin": self._origin, "replies": rows}), encoding="utf-8")
        partial.replace(self._file)

    def _generate(self, prompts: list[list[int]], max_new_tokens: int, settings: dict) -> list[Reply]:
        # Longest first: if memory is too small, the first batch fails; and batches have little padding.
        order = sorted(range(len(prompts)), key=lambda i: (-len(prompts[i]), prompts[i], i))
        replies: dict[int, Reply] = {}
        for start in range(0, len(order), self.batch_size):
            batch = order[start : start + self.batch_size]
            texts = generate(self.saved, [prompts[i] for i in batch], max_new_tokens, **settings)
            replies.update(zip(batch, texts, strict=True))
            _progress(len(replies), len(order))
        self.generated += len(prompts)
        return [replies[i] for i in range(len(prompts))]

    def _read(self) -> None:
        if self._file is None or not self._file.is_file():
            return
        try:
            held = json.loads(self._file.read_text(encoding="utf-8"))
            rows = held["replies"] if held["origin"] == self._origin else {}
            self._known = {key: Reply(*row) for key, row in rows.items()}
        except (ValueError, KeyError, TypeError):
            self._known = {}  # only a cache: a damaged file costs time, and keep() replaces it


def render(tokenizer: PreTrainedTokenizerBase, prompt: str | list[dict], chat: bool) -> str:
    """The text that the model continues: rendered with the chat template, or the prompt unchanged."""
    if chat:
        return tokenizer.apply_chat_template(as_messages(prompt), tokenize=False, add_generation_prompt=True)
    return prompt if isinstance(prompt, str) else "\n".join(m["content"] for m in prompt)


def refuse_without_template(saved: Saved) -> None:
    """Raises Refusal no-chat-template if the tokenizer has none."""
    if not saved.tokenizer.chat_template:
        raise refuse(
            "no-chat-template",
            "the tokenizer of this model has no chat template, which evaluate.chat needs",
            "set evaluate.chat: false, or save a chat template with the tokenizer",
            saved.path,
        )


def encode(tokenizer: PreTrainedTokenizerBase, text: str, chat: bool) -> list[int]:
    """Token ids of a rendered prompt. With a template no BOS is added, since the template has its own."""
    return tokenizer(text, add_special_tokens=not chat)["input_ids"]


def generate(
    saved: Saved, prompts: list[list[int]], max_new_tokens: int, until=(), **settings
) -> list[Reply]:
    """Generate one batch, greedily unless `settings` sample. prompts: token ids, any lengths."""
    import torch

    model, tokenizer = saved.model, saved.tokenizer
    pad, stops = tokenizer.pad_token_id, stop_ids(saved)
    rows, mask = padded_left(prompts, pad, model.device)
    width = rows.shape[1]
    if until:
        settings |= {"stop_strings": list(until), "tokenizer": tokenizer}
    with torch.inference_mode():
        out = model.generate(
            input_ids=rows,
            attention_mask=mask,
            max_new_tokens=max_new_tokens,
            eos_token_id=stops,
            pad_token_id=pad,
            **{"do_sample": False} | settings,
        )
    return [_reply(tokenizer, ids, set(stops), until) for ids in out[:, width:].tolist()]


def padded_left(
    prompts: list[list[int]], pad: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """(token ids, attention mask), both [prompts, longest prompt]: what a batch of `generate` continues."""
    import torch

    width = max(map(len, prompts))
    rows = [[pad] * (width - len(ids)) + ids for ids in prompts]
    mask = [[0] * (width - len(ids)) + [1] * len(ids) for ids in prompts]
    return torch.tensor(rows, device=device), torch.tensor(mask, device=device)


def stop_ids(saved: Saved) -> list[int]:
    """The stop tokens of replies: those saved in generation_config.json, and the tokenizer's EOS."""
    return stop_ids_of(saved.model.generation_config.eos_token_id, saved.tokenizer.eos_token_id)


def _reply(tokenizer: PreTrainedTokenizerBase, ids: list[int], stops: set[int], until) -> Reply:
    end = next((i for i, token in enumerate(ids) if token in stops), None)
    stopped = end is not None
    if not stopped and until:  # a reply that ended with an `until` text is padded to the longest of its batch
        end = next((i for i in range(len(ids), 0, -1) if ids[i - 1] != tokenizer.pad_token_id), 0)
        ids = ids[:end]
    body, ids = (ids[:end], ids[: end + 1]) if stopped else (ids, ids)
    stop_token = tokenizer.convert_ids_to_tokens(ids[-1]) if stopped else ""
    text = tokenizer.decode(body, skip_special_tokens=True)
    for string in until:
        if string and string in text:
            text, stopped = text.split(string)[0], True
    return Reply(text, tuple(ids), stopped, stop_token)


def _context(model: PreTrainedModel) -> float:
    return getattr(model.config, "max_position_embeddings", None) or float("inf")


def _key(ids: list[int], max_new_tokens: int, settings: dict) -> str:
    text = json.dumps([ids, max_new_tokens, settings], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _progress(done: int, total: int) -> None:
    """One line that is overwritten, only on a terminal."""
    if sys.stderr.isatty():
        print(f"\r  replies {done}/{total}", end="\n" if done == total else "", file=sys.stderr, flush=True)

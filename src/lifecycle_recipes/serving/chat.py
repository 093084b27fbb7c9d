"""Chat with a saved model. Imports torch only after the model was found."""

import io
import sys
from pathlib import Path

from ..finding import Refusal, refuse
from ..quiet import quiet
from ..record.trained_stage import SILENT, stage_of

HELP = "Type a message. /new starts a new conversation, /help shows this, /quit or Ctrl-D ends."


def chat(path: str, prompt: str | None = None, max_new_tokens: int = 256) -> None:
    """Answer `prompt` on stdout; without a prompt, converse until the input ends.

    For a chat model the conversation is rendered with its template; a base model continues the text. The
    generation settings are the model's own. Raises Refusal: bad-value, not-a-language-model, missing-model.
    """
    if max_new_tokens < 1:
        message = f"--max-new-tokens must be at least 1, not {max_new_tokens}"
        raise refuse("bad-value", message, "leave it out for the default")
    if path.endswith(".gguf") or (Path(path) / "model.gguf").is_file():
        message = "this is a GGUF file, for llama.cpp and Ollama"
        raise refuse("missing-model", message, "chat with the export itself, the directory above", path)
    stage = stage_of(path)
    if stage in SILENT:
        raise refuse("not-a-language-model", f"this is {SILENT[stage]}: it cannot generate text", where=path)
    quiet()
    from ..models.saved import load_saved

    saved = load_saved(path)
    # The tokenizer of a base model may have a template for its children: it does not make it a chat model.
    chatty = stage != "pretrain" and bool(saved.tokenizer.chat_template)
    if prompt is not None:
        reply(saved, [{"role": "user", "content": prompt}], chatty, max_new_tokens)
        return
    converse(saved, chatty, max_new_tokens)


def converse(saved, chatty: bool, max_new_tokens: int) -> None:
    help = HELP + ("" if chatty else " This is a base model: it continues your text.")
    print(help, file=sys.stderr)
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")  # a byte that is not UTF-8 is no reason to end
    messages = []
    while (text := ask()) is not None and text != "/quit":
        if text == "/new":
            messages = []
            continue
        if text == "/help":
            print(help, file=sys.stderr)
            continue
        messages = [*messages, {"role": "user", "content": text}] if chatty else [{"content": text}]
        try:
            answer = reply(saved, messages, chatty, max_new_tokens)
            messages.append({"role": "assistant", "content": answer})
        except Refusal as refusal:
            print(refusal, file=sys.stderr)
            messages = []


def ask() -> str | None:
    """The next line that is not blank; None at the end of the input or on Ctrl-C."""
    try:
        while not (text := input("> " if sys.stdin.isatty() else "").strip()):
            pass
    except (EOFError, KeyboardInterrupt):
        return None
    return text


def reply(saved, messages: list[dict], chatty: bool, max_new_tokens: int) -> str:
    """Print a reply while it is generated; return it. Raises Refusal: context-full."""
    import torch
    from transformers import TextStreamer

    tokenizer, model = saved.tokenizer, saved.model
    if chatty:
        options = {"add_generation_prompt": True, "return_dict": True, "return_tensors": "pt"}
        inputs = tokenizer.apply_chat_template(messages, **options)
    else:
        inputs = tokenizer(messages[-1]["content"], return_tensors="pt")
    inputs = {name: inputs[name].to(model.device) for name in ("input_ids", "attention_mask")}
    length = inputs["input_ids"].shape[1]
    context = getattr(model.config, "max_position_embeddings", None) or length + max_new_tokens
    if length >= context:
        message = f"no room for a reply: the conversation has {length} tokens, the context {context}"
        raise refuse("context-full", message, "send a shorter message, or start a new conversation with /new")
    streamer = TextStreamer(tokenizer, skip_prompt=chatty, skip_special_tokens=True)
    limit = min(max_new_tokens, context - length)
    with torch.no_grad():
        output = model.generate(
            **inputs, max_new_tokens=limit, streamer=streamer, pad_token_id=tokenizer.pad_token_id
        )
    return tokenizer.decode(output[0, length:], skip_special_tokens=True)

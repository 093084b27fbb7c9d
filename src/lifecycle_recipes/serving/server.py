"""`lifecycle serve RUN`: an OpenAI-compatible server for a saved model, by transformers' own server.

Ours are the invariants. The model is loaded once, as `lifecycle chat` loads it, and its template and stop tokens are in
force. A request never gets another answer than it asked for: what upstream would ignore is refused (transformers 5.23,
cli/serving: with continuous batching the sampling settings of the first request are those of all later ones; a
temperature samples nothing if the model is greedy by default; `frequency_penalty` is used as a repetition penalty; a
reply may be longer than the model's context).
"""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import socket
import sys
import time
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

from ..finding import Refusal, refuse
from ..models.adapters import is_adapter
from .draft import load_draft, without_adapter_class
from .model import Loaded, load, require_language_model

if TYPE_CHECKING:
    from fastapi import FastAPI

    from .draft import Draft

INSTALL = "pip install 'lifecycle-recipes[serve]'"
PACKAGES = ("fastapi", "uvicorn", "openai")
ENDPOINTS = ("/v1/chat/completions", "/v1/completions", "/v1/models", "/health")
# Fields of the API that transformers' server would ignore, or use as something else -> values that ask for nothing.
UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "echo": (False,),
    "logprobs": (False, 0),
    "top_logprobs": (0,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "response_format": ({"type": "text"},),
    "tool_choice": ("auto", "none"),
    "functions": (),
    "function_call": ("none",),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "reasoning_effort": (),
    "logit_bias": ({},),
    "suffix": ("",),
}
SAMPLING = ("temperature", "top_p", "seed", "generation_config")
SEQUENCES = 16  # in the paged cache on a CPU; on a GPU upstream fills the free memory
STEP = 512  # tokens of a step of continuous batching on a CPU


@dataclass(frozen=True)
class Serve:
    """path: run, directory or Hub id. continuous: batches that requests join and leave. draft: a smaller run.

    engine: transformers, or vllm, which is then started in place of this process.
    """

    path: str
    host: str = "127.0.0.1"
    port: int = 8000
    continuous: bool = True
    draft: str | None = None
    max_new_tokens: int = 1024
    engine: Literal["transformers", "vllm"] = "transformers"


def serve(what: Serve) -> None:
    """Serve until Ctrl-C. Raises Refusal: missing-package, port-in-use, bad-value, draft-differs; see `load`."""
    if what.engine == "vllm":
        command = vllm_command(what)
        os.execvp(command[0], command)
    require_packages()
    if what.max_new_tokens < 1:
        message = f"--max-new-tokens must be at least 1, not {what.max_new_tokens}"
        raise refuse("bad-value", message, "leave it out for the default", "command line")
    for path in filter(None, (what.path, what.draft)):
        require_language_model(path)
    with bind(what.host, what.port) as listening:
        model = load(what.path)
        app, state = build_app(model, what)
        port = listening.getsockname()[1]
        listening.listen()  # whoever reads the next line may connect at once
        print(welcome(model, what, port), flush=True)
        import uvicorn

        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        with contextlib.suppress(KeyboardInterrupt):  # Ctrl-C is how a server ends
            server.run(sockets=[listening])
        state.shutdown()


def require_packages() -> None:
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise refuse("missing-package", f"serve needs {', '.join(missing)}", INSTALL, "command line")


def vllm_command(what: Serve) -> list[str]:
    """Raises Refusal: missing-package, bad-value; see `require_language_model`."""
    require_language_model(what.path)
    if is_adapter(what.path):
        fix = "export the run, which merges it, and serve the export"
        raise refuse("bad-value", "an adapter is not served by vLLM from here", fix, what.path)
    if what.draft or not what.continuous:
        message = "--draft and --static are options of transformers' server"
        raise refuse("bad-value", message, "leave them out, or leave --engine out", "command line")
    if not shutil.which("vllm"):
        fix = "install it in an environment of its own, or leave --engine out"
        raise refuse("missing-package", "vllm is not installed", fix, "command line")
    place = ["--host", what.host, "--port", str(what.port)]
    return ["vllm", "serve", what.path, *place, "--served-model-name", what.path]


def bind(host: str, port: int) -> socket.socket:
    """Before the model is loaded: a port that is in use is known at once. Port 0 is any free one."""
    listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except (OSError, OverflowError) as error:
        listening.close()
        reason = getattr(error, "strerror", None) or error
        message = f"cannot listen on {host}, port {port}: {reason}"
        raise refuse(
            "port-in-use", message, "give another --port, or 0 for a free one", "command line"
        ) from None
    return listening


def welcome(model: Loaded, what: Serve, port: int) -> str:
    """Where the server is, and a first request."""
    place = f"http://{what.host}:{port}"
    say = '"messages": [{"role": "user", "content": "Hello"}]' if model.chat else '"prompt": "Hello"'
    endpoint = "/v1/chat/completions" if model.chat else "/v1/completions"
    lines = [f"serving {what.path} at {place}/v1, Ctrl-C ends it"]
    if what.host not in ("127.0.0.1", "localhost", "::1"):
        lines.append("anybody who reaches this machine can use it: there is no password")
    body = f'{{"model": "{what.path}", {say}}}'
    return "\n".join([*lines, f"  curl {place}{endpoint} -H 'Content-Type: application/json' -d '{body}'"])


def build_app(model: Loaded, what: Serve) -> tuple[FastAPI, Any]:
    """transformers' server for this one model, with handlers that keep its promises, and its GenerationState."""
    from fastapi import HTTPException
    from transformers.cli.serving.chat_completion import ChatCompletionHandler
    from transformers.cli.serving.completion import CompletionHandler
    from transformers.cli.serving.model_manager import ModelManager, TimedModel
    from transformers.cli.serving.server import build_server
    from transformers.cli.serving.utils import GenerationState

    saved = model.saved
    causal = without_adapter_class(saved.model)  # upstream batches no PeftModel
    continuous = what.continuous and not what.draft
    state = GenerationState(continuous_batching=continuous, cb_config=cache_size(causal))
    if what.draft:
        watch(causal, load_draft(what.draft, saved, causal))
    manager = ModelManager()
    manager.force_model = what.path
    manager.loaded_models[manager.process_model_name(what.path)] = TimedModel(causal, -1, saved.tokenizer)
    options = {"model_manager": manager, "generation_state": state}
    handlers = [
        keeping_promises(kind, model, what, continuous)(**options)
        for kind in (ChatCompletionHandler, CompletionHandler)
    ]
    if continuous:
        warm_up(state, manager.process_model_name(what.path), causal, saved.tokenizer)
    app = build_server(manager, handlers[0], handlers[1], None, None, None, state)
    app.router.routes = [route for route in app.router.routes if route.path in ENDPOINTS]
    app.exception_handler(HTTPException)(as_openai_error)
    return app, state


async def as_openai_error(_: Any, error: Any) -> Any:
    """In the form in which OpenAI's clients show it; upstream's has no `error`."""
    from fastapi.responses import JSONResponse

    problem = {"message": error.detail, "type": "invalid_request_error", "param": None, "code": None}
    return JSONResponse({"error": problem}, status_code=error.status_code)


def cache_size(causal: Any) -> Any:
    """Of the paged cache. On a GPU upstream fills the free memory; on a CPU its default is made for large models."""
    from transformers import ContinuousBatchingConfig

    from ..models.config_file import longest_sequence

    if causal.device.type != "cpu":
        return None
    config = ContinuousBatchingConfig()
    context = longest_sequence(causal.config.to_dict()) or 8192
    pages = math.ceil(context / config.page_size)
    return ContinuousBatchingConfig(num_blocks=SEQUENCES * pages, max_batch_tokens=STEP)


def warm_up(state: Any, name: str, causal: Any, tokenizer: Any) -> None:
    """Start continuous batching with the model's own settings, before a request could set others for all."""
    import copy

    config = copy.deepcopy(causal.generation_config)
    config.use_cache = False  # as BaseHandler._build_generation_config has it: the cache is paged
    config.max_new_tokens = 1
    manager = state.get_manager(name, use_cb=True)
    manager.init_cb(causal, config)
    batching = manager._cb
    batching.add_request(tokenizer("a")["input_ids"], request_id="warm-up", max_new_tokens=1)
    while (result := batching.get_result(timeout=60)) is not None and not result.is_finished():
        pass


def keeping_promises(handler: type, model: Loaded, what: Serve, continuous: bool) -> type:
    """The handler of an endpoint, which refuses what it cannot do and keeps a reply within the context."""
    from fastapi import HTTPException
    from transformers.cli.serving.utils import Modality

    is_chat = "Chat" in handler.__name__
    samples = bool(model.saved.model.generation_config.do_sample)

    class Handler(handler):
        async def handle_request(self, body: dict, request_id: str):
            if problem := find_in_request(body, model, is_chat, samples, continuous):
                raise HTTPException(status_code=400, detail=problem)
            try:
                length = self.length(body)
                wanted = body.get("max_completion_tokens") or body.get("max_tokens") or what.max_new_tokens
                limit = model.room(length, int(wanted))
            except Refusal as refusal:
                raise HTTPException(400, refusal.findings[0].message) from None
            except Exception as error:  # whatever a template raises for messages that it does not know
                raise HTTPException(400, f"the messages cannot be rendered: {error}") from None
            body.pop("max_completion_tokens", None)
            return await super().handle_request(body | {"max_tokens": limit}, request_id)

        def length(self, body: dict) -> int:
            """Tokens of what is continued, as upstream encodes it."""
            tokenizer = model.saved.tokenizer
            if not is_chat:
                return len(tokenizer(body.get("prompt") or "")["input_ids"])
            messages = self.get_processor_inputs_from_messages(body.get("messages") or [], Modality.LLM)
            options = {"tools": body.get("tools"), "add_generation_prompt": True, "return_dict": False}
            return len(
                tokenizer.apply_chat_template(messages, **options, **body.get("chat_template_kwargs") or {})
            )

        def _build_generation_config(self, body: dict, *args: Any, **options: Any):
            config = super()._build_generation_config(body, *args, **options)
            if body.get("max_tokens") is not None:
                config.max_new_tokens = body["max_tokens"]
            if body.get("temperature") or body.get("top_p") not in (None, 1, 1.0):
                config.do_sample = body.get("temperature") != 0
            return config

    return Handler


def find_in_request(body: dict, model: Loaded, is_chat: bool, samples: bool, continuous: bool) -> str:
    """Why a request cannot be answered as it asks; empty if it can."""
    if is_chat and not model.chat:
        return "this is a base model, which has no turns: use /v1/completions"
    for name, nothing in UNSUPPORTED.items():
        if body.get(name) is not None and body[name] not in nothing:
            return f"this server does not support `{name}`"
    for message in (body.get("messages") or []) if is_chat else []:
        content = message.get("content")
        if isinstance(content, list) and any(part.get("type") != "text" for part in content):
            return "this model reads text only"
    if not continuous:
        return ""
    greedy = not samples and body.get("temperature") in (None, 0)
    asked = [name for name in SAMPLING if body.get(name) is not None]
    if asked and not (greedy and set(asked) <= {"temperature", "seed", "top_p"}):
        how = "samples as its generation_config.json says" if samples else "decodes greedily"
        return f"with continuous batching this server {how}, for all requests: start it with --static for `{asked[0]}`"
    if body.get("stop") is not None:
        return "with continuous batching `stop` is not supported: start the server with --static"
    return ""


def watch(causal: Any, draft: Draft) -> None:
    """Let every `generate` of the model use the draft, and print how much of it was accepted."""
    alone = causal.generate

    def generate(**inputs: Any) -> Any:
        start, length = time.monotonic(), inputs["input_ids"].shape[1]
        output = alone(**inputs, assistant_model=draft.model)
        tokens, seconds = output.shape[1] - length, time.monotonic() - start
        share = draft.accepted(tokens)
        line = f"{tokens} tokens, {tokens / seconds:.0f} tokens/s, {share:.0%} of the draft accepted"
        print(line, file=sys.stderr, flush=True)
        return output

    causal.generate = generate

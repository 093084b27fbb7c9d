"""`lifecycle serve RUN`: an OpenAI-compatible server for a saved model, by transformers' own server.

Upstream's are the endpoints, the streams and the batches; ours are the prompt, which is rendered as `lifecycle chat`
renders it, the settings of a reply, and what is refused (serving/requests.py).
"""

from __future__ import annotations

import contextlib
import copy
import json
import math
import os
import shlex
import shutil
import socket
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

from ..finding import FAILED, Refusal, refuse
from ..models.adapters import is_adapter
from .draft import drafting, load_draft, without_adapter_class
from .model import Loaded, load, require_language_model
from .requests import Unanswerable, Wanted, messages, wanted

if TYPE_CHECKING:
    from fastapi import FastAPI

INSTALL = "pip install 'lifecycle-recipes[serve]'"
PACKAGES = ("fastapi", "uvicorn", "openai")
ENDPOINTS = ("/v1/chat/completions", "/v1/completions", "/v1/models", "/health")
# What upstream raises for a model that it cannot batch continuously, such as one of layers without attention.
UNBATCHABLE = (ValueError, NotImplementedError, AttributeError)
SEQUENCES = 16  # in the paged cache on a CPU; on a GPU upstream fills the free memory
STEP = 512  # tokens of a step of continuous batching on a CPU
MOST_TOKENS = 1024  # new tokens of a reply, if neither the request nor --max-new-tokens sets another number


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
    max_new_tokens: int | None = None
    engine: Literal["transformers", "vllm"] = "transformers"


def serve(what: Serve) -> None:
    """Serve until Ctrl-C.

    Raises Refusal: missing-package, port-in-use, bad-value, draft-differs, needs-static; see `load`. server-failed with
    exit status 1.
    """
    if what.engine == "vllm":
        command = vllm_command(what)
        os.execvp(command[0], command)
    require_packages()
    if what.max_new_tokens is not None and what.max_new_tokens < 1:
        message = f"--max-new-tokens must be at least 1, not {what.max_new_tokens}"
        raise refuse("bad-value", message, "leave it out for the default", "command line")
    for path in filter(None, (what.path, what.draft)):
        require_language_model(path)
    with bind(what.host, what.port) as listening:
        import uvicorn

        model = load(what.path)
        app, state = build_app(model, what)
        try:
            server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
            end_with_worker(app, server)
            print(welcome(model, what, listening.getsockname()[1]), flush=True)
            with contextlib.suppress(KeyboardInterrupt):  # Ctrl-C is how a server ends
                server.run(sockets=[listening])
            if not state.is_cb_alive():
                message, fix = "the thread that generates has failed", "start it again; see the lines above"
                raise refuse("server-failed", message, fix, what.path, FAILED)
        finally:
            state.shutdown()  # its thread is no daemon: the process would not end


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
    if what.draft or not what.continuous or what.max_new_tokens is not None:
        message = "--draft, --static and --max-new-tokens are options of transformers' server"
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
        listening.listen()  # without it a second server could bind the port, too
    except (OSError, OverflowError) as error:
        listening.close()
        reason = getattr(error, "strerror", None) or error
        fix = "give another --port, or 0 for a free one"
        if isinstance(error, socket.gaierror) or getattr(error, "errno", 0) == 99:  # EADDRNOTAVAIL
            fix = "give --host an address of this machine"
        message = f"cannot listen on {host}, port {port}: {reason}"
        raise refuse("port-in-use", message, fix, "command line") from None
    return listening


def welcome(model: Loaded, what: Serve, port: int) -> str:
    """Where the server is, and a first request."""
    place = f"http://{f'[{what.host}]' if ':' in what.host else what.host}:{port}"
    asked = {"messages": [{"role": "user", "content": "Hello"}]} if model.chat else {"prompt": "Hello"}
    endpoint = "/v1/chat/completions" if model.chat else "/v1/completions"
    lines = [f"serving {what.path} at {place}/v1, Ctrl-C ends it"]
    if what.host not in ("127.0.0.1", "localhost", "::1"):
        lines.append("anybody who reaches this machine can use it: there is no password")
    body = shlex.quote(json.dumps({"model": what.path, **asked}))
    return "\n".join([*lines, f"  curl {place}{endpoint} -H 'Content-Type: application/json' -d {body}"])


def build_app(model: Loaded, what: Serve) -> tuple[FastAPI, Any]:
    """transformers' server for this one model, with our handlers, and its GenerationState."""
    from fastapi.exceptions import RequestValidationError
    from starlette.exceptions import HTTPException
    from transformers.cli.serving.chat_completion import ChatCompletionHandler
    from transformers.cli.serving.completion import CompletionHandler
    from transformers.cli.serving.model_manager import ModelManager, TimedModel
    from transformers.cli.serving.server import build_server
    from transformers.cli.serving.utils import GenerationState

    causal = without_adapter_class(model.saved.model)  # upstream batches no PeftModel
    continuous = what.continuous and not what.draft
    state = GenerationState(continuous_batching=continuous, cb_config=cache_size(causal))
    manager = ModelManager()
    manager.force_model = what.path
    name = manager.process_model_name(what.path)
    manager.loaded_models[name] = TimedModel(causal, -1, model.saved.tokenizer)
    if continuous:
        warm_up(state.get_manager(name, use_cb=True), causal, what.path)
    else:
        seeding(causal)
        if what.draft:
            drafting(causal, load_draft(what.draft, model.saved, causal))
    handlers = [
        answering(kind, model, what, continuous)(manager, state)
        for kind in (ChatCompletionHandler, CompletionHandler)
    ]
    app = build_server(manager, handlers[0], handlers[1], None, None, None, state)
    app.router.routes = [route for route in app.router.routes if route.path in ENDPOINTS]

    @app.exception_handler(HTTPException)
    async def as_openai_error(_: Any, error: HTTPException) -> Any:
        return openai_error(str(error.detail), error.status_code)

    @app.exception_handler(RequestValidationError)
    async def as_unreadable(_: Any, error: RequestValidationError) -> Any:
        return openai_error("the body of the request is no JSON object", 400)

    return app, state


def end_with_worker(app: FastAPI, server: Any) -> None:
    """Let uvicorn's server end if the thread that generates has failed: it would answer nothing but errors."""
    from transformers.cli.serving.utils import CBWorkerDeadError

    @app.exception_handler(CBWorkerDeadError)
    async def end(_: Any, error: CBWorkerDeadError) -> Any:
        server.should_exit = True
        return openai_error(str(error), 503)


def openai_error(message: str, status: int) -> Any:
    """In the form in which OpenAI's clients show it; upstream's has no `error`."""
    from fastapi.responses import JSONResponse

    kind = "invalid_request_error" if status < 500 else "server_error"
    problem = {"message": message, "type": kind, "param": None, "code": None}
    return JSONResponse({"error": problem}, status_code=status)


def cache_size(causal: Any, **options: Any) -> Any:
    """Of the paged cache. On a GPU upstream fills the free memory; on a CPU its default is made for large models."""
    from transformers import ContinuousBatchingConfig

    from ..models.config_file import longest_sequence

    if causal.device.type == "cpu":
        context = longest_sequence(causal.config.to_dict()) or 8192
        pages = math.ceil(context / ContinuousBatchingConfig().page_size)
        options = {"num_blocks": SEQUENCES * pages, "max_batch_tokens": STEP} | options
    return ContinuousBatchingConfig(**options)


def warm_up(manager: Any, causal: Any, path: str) -> None:
    """Start continuous batching with the model's own settings. Raises Refusal needs-static.

    Before a request: upstream takes the settings of the first one for all. It leaves out those that it cannot batch.
    """
    config = copy.deepcopy(causal.generation_config)
    config.use_cache, config.max_new_tokens = False, 1  # as BaseHandler has it: the cache is paged
    if config.stop_strings:
        raise needs_static("stop_strings of generation_config.json are not batched", path)
    wanted_ones = [type(processor).__name__ for processor in causal._get_logits_processor(config)]
    try:
        manager.init_cb(causal, config)
        batching = manager._cb
        kept = [type(processor).__name__ for processor in batching.logit_processor.logits_processor]
        if left_out := [name for name in wanted_ones if name not in kept]:
            message = f"{left_out[0]}, by generation_config.json, is not batched"
            raise needs_static(message, path)
        batching.add_request([0], request_id="warm-up", max_new_tokens=1)
        while (result := batching.get_result(timeout=1)) is None or not result.is_finished():
            if problem := batching.background_thread_status.fatal_error:
                raise needs_static(f"it cannot be batched continuously: {problem}", path)
    except UNBATCHABLE as error:
        manager.stop()
        raise needs_static(f"it cannot be batched continuously: {error}", path) from None
    except Refusal:
        manager.stop()
        raise


def needs_static(message: str, path: str) -> Refusal:
    return refuse("needs-static", message, "start the server with --static", path)


def seeding(causal: Any) -> None:
    """Let `generate` use the seed of its request, in the thread that generates.

    Upstream sets it when the request comes: another one that is being answered would take it.
    """
    import torch

    generate = causal.generate

    def seeded(**inputs: Any) -> Any:
        if (seed := inputs["generation_config"].seed) is not None:
            torch.manual_seed(seed)
        return generate(**inputs)

    causal.generate = seeded


def answering(upstream: type, model: Loaded, what: Serve, continuous: bool) -> type:
    """The handler of an endpoint, upstream's but for the prompt and the settings."""
    import uuid

    import torch
    from fastapi import HTTPException

    is_chat = "Chat" in upstream.__name__
    tokenizer = model.saved.tokenizer

    class Handler(upstream):
        async def handle_request(self, body: dict, request_id: str) -> Any:
            try:
                asked = wanted(body)
                ids = prompt_ids(body, model, is_chat)
                limit = model.room(len(ids), asked.max_new_tokens or what.max_new_tokens or MOST_TOKENS)
                config = settings(asked, model, continuous, bool(what.draft))
            except Unanswerable as reason:
                raise HTTPException(400, str(reason)) from None
            except Refusal as refusal:
                raise HTTPException(400, refusal.findings[0].message) from None
            config.max_new_tokens, config.use_cache = limit, not continuous
            model_id, causal, _ = self._resolve_model(body)
            manager = self.generation_state.get_manager(model_id, use_cb=continuous)
            inputs: dict[str, Any] = {"input_ids": ids}
            if not continuous:
                rows = torch.tensor([ids], device=causal.device)
                inputs = {"input_ids": rows, "attention_mask": torch.ones_like(rows)}
            # Not the id of the client: two requests with one id would be one request of the batch.
            place = [str(uuid.uuid4()), causal, tokenizer, model_id, inputs, config]
            options = {"gen_manager": manager} | ({"tools": body.get("tools")} if is_chat else {})
            if asked.stream:
                return self._streaming(*place, **options)
            return without_stop(await self._non_streaming(*place, **options), asked.stop)

    return Handler


def prompt_ids(body: dict, model: Loaded, is_chat: bool) -> list[int]:
    """Token ids of what is continued. Raises Unanswerable."""
    tokenizer = model.saved.tokenizer
    if not is_chat:
        if not isinstance(prompt := body.get("prompt"), str):
            raise Unanswerable("`prompt` must be a text")
        ids = tokenizer(prompt)["input_ids"]
    elif not model.chat:
        raise Unanswerable("this is a base model, which has no turns: use /v1/completions")
    else:
        ids = rendered(body, tokenizer)
    if not ids:
        raise Unanswerable("the prompt is empty")
    return ids


def rendered(body: dict, tokenizer: Any) -> list[int]:
    """Token ids of the conversation, by the template of the run. Raises Unanswerable."""
    import inspect

    turns, tools, extra = messages(body), body.get("tools") or None, body.get("chat_template_kwargs") or {}
    reserved = inspect.signature(tokenizer.apply_chat_template).parameters
    if forbidden := sorted({*extra} & {*reserved}):
        raise Unanswerable(f"`chat_template_kwargs` cannot set {forbidden[0]}")

    def encode(**options: Any) -> list[int]:
        return tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False, **options)

    try:
        ids = encode(tools=tools, **extra)
        unheard = tools and ids == encode(**extra)
    except Exception as error:  # whatever a template raises for messages that it does not know
        reason = " ".join(str(error).split())[:300]
        raise Unanswerable(f"the chat template of this model cannot render the messages: {reason}") from None
    if unheard:
        raise Unanswerable("the chat template of this model has no `tools`")
    return ids


def settings(asked: Wanted, model: Loaded, continuous: bool, drafted: bool) -> Any:
    """The GenerationConfig of a reply. Raises Unanswerable for what the way of batching cannot give."""
    own = model.saved.model.generation_config
    config = copy.deepcopy(own)
    config.seed = asked.seed
    if asked.stop and (continuous or drafted or asked.stream):
        raise Unanswerable("`stop` needs a server with --static, without --draft, and no `stream`")
    if continuous:
        greedy = not own.do_sample and not asked.samples
        same = asked.temperature in (None, own.temperature or 1) and asked.top_p in (None, own.top_p or 1)
        if not greedy and not (own.do_sample and same and asked.seed is None):
            how = "samples as generation_config.json says" if own.do_sample else "decodes greedily"
            message = (
                f"this server {how}, for all requests: start it with --static for other sampling settings"
            )
            raise Unanswerable(message)
        return config
    config.stop_strings = asked.stop or None
    if asked.samples is not None:
        config.do_sample = asked.samples
    if config.do_sample:
        config.temperature = asked.temperature or own.temperature
        config.top_p = own.top_p if asked.top_p is None else asked.top_p
        config.top_k = own.top_k or 0  # else generate() takes 50
    return config


def without_stop(response: Any, stop: list[str]) -> Any:
    """The response without the text that ended the reply, which the API leaves out."""
    if not stop:
        return response
    from fastapi.responses import JSONResponse

    body = json.loads(response.body)
    for choice in body["choices"]:
        holder, key = (choice["message"], "content") if "message" in choice else (choice, "text")
        found = [at for text in stop if (at := (holder.get(key) or "").find(text)) >= 0]
        if found:
            holder[key], choice["finish_reason"] = holder[key][: min(found)], "stop"
    return JSONResponse(body)

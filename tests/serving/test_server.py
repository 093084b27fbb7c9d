"""The server: the real OpenAI client gets the text that `lifecycle chat` gives, and never another answer than asked."""

import contextlib
import json
import shutil
import subprocess
import sys
import threading
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest
from fake_runs import write_run
from saved_adapters import save_adapter

from lifecycle_recipes.finding import Refusal
from lifecycle_recipes.serving.chat import reply
from lifecycle_recipes.serving.model import load
from lifecycle_recipes.serving.server import Serve, bind, serve

openai = pytest.importorskip("openai")
MESSAGE = "Which colour is service "


@contextlib.contextmanager
def serving(path, *options):
    """`lifecycle serve` in a process of its own: (client, name of the model, lines of stderr)."""
    command = [sys.executable, "-m", "lifecycle_recipes.cli", "serve", str(path), "--port", "0", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    errors: list[str] = []
    reader = threading.Thread(target=lambda: errors.extend(process.stderr), daemon=True)
    reader.start()
    try:
        first = process.stdout.readline()
        if not first:
            reader.join(10)
            raise AssertionError("".join(errors))
        base = first.split(" at ")[1].split(",")[0]
        yield openai.OpenAI(base_url=base, api_key="none", max_retries=0, timeout=60), str(path), errors
    finally:
        process.send_signal(2)
        process.wait(120)
        reader.join(10)
    assert process.returncode == 0


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory, tiny_model_dir):
    path = tmp_path_factory.mktemp("served") / "model"
    shutil.copytree(tiny_model_dir, path)
    (path / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, 3]}))
    return path


@pytest.fixture(scope="module")
def server(model_dir):
    with serving(model_dir) as found:
        yield found


@pytest.fixture(scope="module")
def answer(model_dir):
    """What `lifecycle chat` replies to a message."""
    model = load(str(model_dir))

    def of(text: str, max_new_tokens: int = 24) -> str:
        return reply(model, [{"role": "user", "content": text}], max_new_tokens)[0]

    return of


def ask(server, text: str, **options):
    client, name, _ = server
    settings = {"model": name, "messages": [{"role": "user", "content": text}], "max_tokens": 24} | options
    return client.chat.completions.create(**settings)


def test_the_client_gets_the_text_of_chat(server, answer):
    found = ask(server, MESSAGE + "1?")
    assert found.choices[0].message.content == answer(MESSAGE + "1?")
    assert found.usage.completion_tokens <= 24
    streamed = ask(server, MESSAGE + "1?", stream=True)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in streamed)
    assert text == answer(MESSAGE + "1?")
    assert [model.id for model in server[0].models.list()] == [server[1]]


def test_parallel_requests_of_different_lengths_get_their_own_text(server, answer):
    texts = [MESSAGE + " and ".join(str(n) for n in range(i % 11 + 1)) + "?" * (i + 1) for i in range(32)]
    lengths = [4 + i % 21 for i in range(32)]
    with ThreadPoolExecutor(32) as pool:
        found = list(pool.map(lambda t, n: ask(server, t, max_tokens=n), texts, lengths))
    replies = [reply.choices[0].message.content for reply in found]
    assert replies == [answer(text, n) for text, n in zip(texts, lengths, strict=True)]
    assert len(set(replies)) > 16  # else equality would say little


TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}
IMAGE = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"temperature": 0.7}, "start it with --static for other sampling settings"),
        ({"top_p": 0.5}, "start it with --static"),
        ({"n": 2}, "does not support `n`"),
        ({"response_format": {"type": "json_object"}}, "does not support `response_format`"),
        ({"frequency_penalty": 0.5}, "does not support `frequency_penalty`"),
        ({"verbosity": "low"}, "does not support `verbosity`"),
        ({"stop": ["x"]}, "`stop` needs a server with --static"),
        ({"tools": [TOOL]}, "has no `tools`"),
        ({"tool_choice": "none"}, "does not support `tool_choice`"),
        ({"max_tokens": 0}, "`max_tokens` must be at least 1"),
        ({"extra_body": {"max_tokens": "abc"}}, "`max_tokens` must be a whole number"),
        ({"extra_body": {"generation_config": "{}"}}, "does not support `generation_config`"),
        ({"extra_body": {"chat_template_kwargs": {"chat_template": "x"}}}, "cannot set chat_template"),
        ({"model": "gpt-5"}, "pinned to"),
        ({"messages": [{"role": "user", "content": "word " * 400}]}, "no room for a reply"),
        ({"messages": IMAGE}, "reads text only"),
        ({"messages": []}, "a list with a message"),
        ({"messages": ["hi"]}, "an object with a `role`"),
        ({"messages": [{"role": "user", "content": None}]}, "must be a text"),
    ],
)
def test_a_request_that_cannot_be_answered_as_asked_is_refused(server, options, reason):
    with pytest.raises(openai.BadRequestError, match=reason):
        ask(server, "hello", **options)


def test_an_empty_prompt_ends_nothing(server, answer):
    """It has no token: upstream's batch would fail, and with it every later request."""
    client, name, _ = server
    with pytest.raises(openai.BadRequestError, match="the prompt is empty"):
        client.completions.create(model=name, prompt="")
    assert ask(server, "hello").choices[0].message.content == answer("hello")


def test_requests_with_one_id_are_two_requests(server, answer):
    with ThreadPoolExecutor(2) as pool:
        headers = {"X-Request-Id": "mine"}
        found = list(pool.map(lambda text: ask(server, text, extra_headers=headers), ("hello", "bye")))
    assert [one.choices[0].message.content for one in found] == [answer("hello"), answer("bye")]


def test_what_asks_for_nothing_is_accepted(server, answer):
    """Clients send defaults; a greedy server may be asked to be greedy."""
    options = {
        "temperature": 0,
        "n": 1,
        "presence_penalty": 0,
        "response_format": {"type": "text"},
        "seed": 3,
    }
    options |= {"user": "me", "stop": [], "top_p": 1, "extra_body": {"chat_template_kwargs": None}}
    assert ask(server, "hello", **options).choices[0].message.content == answer("hello")


def test_a_reply_ends_with_the_context(server, model_dir):
    found = ask(server, "word " * 25, max_tokens=100_000)
    used = found.usage
    config = json.loads((model_dir / "config.json").read_text())
    assert used.total_tokens <= config["max_position_embeddings"]


def test_nobody_can_unload_the_model(server):
    root = str(server[0].base_url).removesuffix("/v1/")
    for path in ("/reset", "/load_model"):
        request = urllib.request.Request(root + path, data=b"{}", method="POST")
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(request, timeout=20)
    with urllib.request.urlopen(root + "/health", timeout=20) as answered:
        assert answered.status == 200


def test_a_static_server_gives_each_request_its_own_settings(model_dir, answer):
    with serving(model_dir, "--static", "--max-new-tokens", "12") as server:
        client, name, _ = server
        assert ask(server, "hello").choices[0].message.content == answer("hello")

        def sampled(seed: int) -> str:
            return ask(server, "hello", temperature=2.0, seed=seed).choices[0].message.content

        alone = [sampled(seed) for seed in range(6)]
        assert len(set(alone)) == 6
        with ThreadPoolExecutor(6) as pool:
            assert list(pool.map(sampled, range(6))) == alone
        whole = answer("hello")
        stop = whole[5:7]
        found = ask(server, "hello", stop=stop).choices[0]
        assert found.message.content == whole[: whole.index(stop)] and found.finish_reason == "stop"
        messages = [{"role": "user", "content": "hello"}]
        short = client.chat.completions.create(model=name, messages=messages)
        assert short.usage.completion_tokens <= 12


def test_a_draft_changes_the_speed_only(model_dir, answer, tmp_path):
    """Drafted by an equal model, nearly all is accepted."""
    texts = (f"{MESSAGE}{number}?" for number in range(300))
    # Upstream's stream keeps a last byte that is no complete character to itself.
    text = next(text for text in texts if "\ufffd" not in answer(text, 5))
    with serving(model_dir, "--draft", str(model_dir)) as server:
        assert ask(server, text).choices[0].message.content == answer(text)
        whole = ask(server, text, max_tokens=5)
        chunks = list(ask(server, text, max_tokens=5, stream=True))
        assert "".join(c.choices[0].delta.content or "" for c in chunks) == answer(text, 5)
        assert chunks[-1].usage == whole.usage
        assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason
    shares = [int(line.split("%")[0].split()[-1]) for line in server[2] if "of the draft accepted" in line]
    assert len(shares) == 3 and shares[0] >= 90
    adapter = save_adapter(model_dir, tmp_path / "adapter")
    with serving(model_dir, "--draft", str(adapter)) as server:
        assert ask(server, MESSAGE + "2?").choices[0].message.content == answer(MESSAGE + "2?")


@pytest.mark.parametrize("own", [{"repetition_penalty": 1.8}, {"stop_strings": ["x"]}])
def test_settings_of_the_model_that_would_be_left_out_are_refused(model_dir, tmp_path, own):
    """Continuous batching drops them: the text would not be that of chat."""
    other = tmp_path / "other"
    shutil.copytree(model_dir, other)
    (other / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, 3], **own}))
    with pytest.raises(Refusal, match="needs-static"):
        serve(Serve(str(other), port=0))


def test_adapters_and_base_models_are_served(model_dir, tmp_path):
    adapter = save_adapter(model_dir, tmp_path / "adapter")
    expected, _ = reply(load(str(adapter)), [{"role": "user", "content": "hello"}], 24)
    with serving(adapter) as server:
        assert ask(server, "hello").choices[0].message.content == expected
    base = write_run(tmp_path / "base", stage="pretrain")
    for place in (base, base / "checkpoint-5"):
        shutil.copytree(model_dir, place, dirs_exist_ok=True)
    expected, _ = reply(load(str(base)), [{"role": "user", "content": "Service 1"}], 24)
    with serving(base / "checkpoint-5") as server:
        found = server[0].completions.create(model=server[1], prompt="Service 1", max_tokens=24)
        assert found.choices[0].text == expected
        with pytest.raises(openai.BadRequestError, match="use /v1/completions"):
            ask(server, "hello")


def test_what_cannot_be_served_is_refused_at_once(tmp_path, model_dir):
    with bind("127.0.0.1", 0) as taken, pytest.raises(Refusal, match="port-in-use"):
        serve(Serve(str(model_dir), port=taken.getsockname()[1]))
    with pytest.raises(Refusal, match="an address of this machine"):
        serve(Serve(str(model_dir), host="no.such.host.invalid"))
    with pytest.raises(Refusal, match="a reward model"):
        serve(Serve(str(write_run(tmp_path / "reward", stage="reward"))))
    with pytest.raises(Refusal, match="missing-model"):
        serve(Serve("nowhere/at/all"))


def test_a_server_that_cannot_generate_any_more_ends(model_dir, monkeypatch):
    """Its thread has failed: a supervisor is to see it. The failure is planted."""
    from transformers.cli.serving.utils import GenerationState

    monkeypatch.setattr("uvicorn.Server.run", lambda server, sockets: None)
    monkeypatch.setattr(GenerationState, "is_cb_alive", lambda state: False)
    with pytest.raises(Refusal, match="server-failed") as failed:
        serve(Serve(str(model_dir), port=0))
    assert failed.value.status == 1


def test_vllm_is_started_with_the_same_name_and_place(model_dir, tmp_path, monkeypatch):
    with pytest.raises(Refusal, match="vllm is not installed"):
        serve(Serve(str(model_dir), engine="vllm"))
    with pytest.raises(Refusal, match="options of transformers' server"):
        serve(Serve(str(model_dir), engine="vllm", max_new_tokens=7))
    with pytest.raises(Refusal, match="export the run"):
        serve(Serve(str(save_adapter(model_dir, tmp_path / "adapter")), engine="vllm"))
    started = []
    monkeypatch.setattr("shutil.which", lambda name: f"/bin/{name}")
    monkeypatch.setattr("os.execvp", lambda program, command: started.append(command) or sys.exit(0))
    with pytest.raises(SystemExit):
        serve(Serve(str(model_dir), port=81, engine="vllm"))
    place = ["--host", "127.0.0.1", "--port", "81"]
    assert started == [["vllm", "serve", str(model_dir), *place, "--served-model-name", str(model_dir)]]


def test_a_draft_with_another_tokenizer_is_refused(model_dir, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(model_dir, other)
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    first, second = list(vocabulary)[-2:]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(Refusal, match="draft-differs"):
        serve(Serve(str(model_dir), port=0, draft=str(other)))

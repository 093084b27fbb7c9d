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
        return reply(model, [{"role": "user", "content": text}], max_new_tokens)

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


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"temperature": 0.7}, "for all requests: start it with --static for `temperature`"),
        ({"n": 2}, "does not support `n`"),
        ({"response_format": {"type": "json_object"}}, "does not support `response_format`"),
        ({"frequency_penalty": 0.5}, "does not support `frequency_penalty`"),
        ({"stop": ["x"]}, "`stop` is not supported"),
        ({"model": "gpt-5"}, "pinned to"),
        ({"messages": [{"role": "user", "content": "word " * 400}]}, "no room for a reply"),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}
                ]
            },
            "reads text only",
        ),
    ],
)
def test_a_request_that_cannot_be_answered_as_asked_is_refused(server, options, reason):
    with pytest.raises(openai.BadRequestError, match=reason):
        ask(server, "hello", **options)


def test_what_asks_for_nothing_is_accepted(server, answer):
    """Clients send defaults; a greedy server may be asked to be greedy."""
    options = {
        "temperature": 0,
        "n": 1,
        "presence_penalty": 0,
        "response_format": {"type": "text"},
        "seed": 3,
    }
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


def test_a_draft_changes_the_speed_only(model_dir, answer, tmp_path):
    """Drafted by an equal model, nearly all is accepted. One request at a time samples as it is asked to."""
    with serving(model_dir, "--draft", str(model_dir)) as server:
        assert ask(server, MESSAGE + "2?").choices[0].message.content == answer(MESSAGE + "2?")
        client, name, errors = server
        texts = {ask(server, "hello", temperature=5.0, seed=i).choices[0].message.content for i in range(3)}
        assert len(texts) == 3
    shares = [int(line.split("%")[0].split()[-1]) for line in errors if "of the draft accepted" in line]
    assert len(shares) == 4 and shares[0] >= 90
    adapter = save_adapter(model_dir, tmp_path / "adapter")
    with serving(model_dir, "--draft", str(adapter)) as server:
        assert ask(server, MESSAGE + "2?").choices[0].message.content == answer(MESSAGE + "2?")


def test_adapters_and_base_models_are_served(model_dir, tmp_path):
    adapter = save_adapter(model_dir, tmp_path / "adapter")
    expected = reply(load(str(adapter)), [{"role": "user", "content": "hello"}], 24)
    with serving(adapter) as server:
        assert ask(server, "hello").choices[0].message.content == expected
    base = write_run(tmp_path / "base", stage="pretrain")
    for file in model_dir.iterdir():
        (base / file.name).symlink_to(file)
    expected = reply(load(str(base)), [{"role": "user", "content": "Service 1"}], 24)
    with serving(base) as server:
        found = server[0].completions.create(model=str(base), prompt="Service 1", max_tokens=24)
        assert "Service 1" + found.choices[0].text == expected or found.choices[0].text == expected
        with pytest.raises(openai.BadRequestError, match="use /v1/completions"):
            ask(server, "hello")


def test_what_cannot_be_served_is_refused_at_once(tmp_path, model_dir):
    with bind("127.0.0.1", 0) as taken:
        taken.listen()
        with pytest.raises(Refusal, match="port-in-use"):
            serve(Serve(str(model_dir), port=taken.getsockname()[1]))
    with pytest.raises(Refusal, match="a reward model"):
        serve(Serve(str(write_run(tmp_path / "reward", stage="reward"))))
    with pytest.raises(Refusal, match="missing-model"):
        serve(Serve("nowhere/at/all"))


def test_vllm_is_started_with_the_same_name_and_place(model_dir, tmp_path, monkeypatch):
    with pytest.raises(Refusal, match="vllm is not installed"):
        serve(Serve(str(model_dir), engine="vllm"))
    with pytest.raises(Refusal, match="options of transformers' server"):
        serve(Serve(str(model_dir), engine="vllm", draft=str(model_dir)))
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

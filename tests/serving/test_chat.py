"""Chat: the template of the run, its commands, and what is no language model."""

import io
import json
import shutil

import pytest
from fake_runs import write_run
from saved_adapters import save_adapter

from lifecycle_recipes.finding import Refusal
from lifecycle_recipes.serving.chat import chat
from lifecycle_recipes.serving.model import load


@pytest.mark.parametrize("stage", ["tokenizer", "reward", "evaluate"])
def test_there_is_no_talking_to_what_writes_no_text(tmp_path, stage):
    with pytest.raises(Refusal, match="cannot generate text"):
        chat(str(write_run(tmp_path / "run", stage=stage)))


def test_there_is_no_talking_to_nothing(tmp_path, monkeypatch):
    with pytest.raises(Refusal, match="missing-model"):
        chat("runs/desk/04-nothing")
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)  # `runs/base` could be a Hub id, but there is a directory `runs` here
    with pytest.raises(Refusal, match="missing-model"):
        chat("runs/base")


def test_chat_uses_the_template_and_keeps_the_conversation(tiny_model_dir, capsys, monkeypatch):
    import transformers

    prompts = []
    generate = transformers.GenerationMixin.generate

    def spy(model, input_ids, **options):
        prompts.append(input_ids[0])
        return generate(model, input_ids=input_ids, **options)

    monkeypatch.setattr(transformers.GenerationMixin, "generate", spy)
    monkeypatch.setattr("sys.stdin", io.StringIO("hello\n\nagain\n/new\nafresh\n"))
    chat(str(tiny_model_dir), max_new_tokens=4)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_model_dir)
    first, second, third = (tokenizer.decode(prompt) for prompt in prompts)
    assert "<|im_start|>user\nhello<|im_end|>" in first and first.endswith("<|im_start|>assistant\n")
    assert second.startswith(first) and "again" in second
    assert "hello" not in third and "afresh" in third
    chat(str(tiny_model_dir), "hello", max_new_tokens=4)
    assert prompts[3].tolist() == prompts[0].tolist()
    assert capsys.readouterr().out.strip()


def test_a_base_model_continues_the_text(tiny_model_dir, tmp_path, capsys):
    run = write_run(tmp_path / "run", stage="pretrain")
    for file in tiny_model_dir.iterdir():
        (run / file.name).symlink_to(file)
    chat(str(run), "Service 1 is", max_new_tokens=4)
    assert capsys.readouterr().out.startswith("Service 1 is")


def test_a_conversation_that_fills_the_context_is_refused(tiny_model_dir):
    with pytest.raises(Refusal, match="context-full"):
        chat(str(tiny_model_dir), "word " * 300)


def test_help_and_bytes_that_are_not_utf8(tiny_model_dir, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"/help\nWhich \xff?\n"), "utf-8"))
    chat(str(tiny_model_dir), max_new_tokens=2)
    printed = capsys.readouterr()
    assert printed.err.count("/compare RUN") == 2 and printed.out.strip()


def test_a_reply_has_a_token(tmp_path):
    with pytest.raises(Refusal, match="must be at least 1, not 0"):
        chat(str(tmp_path), max_new_tokens=0)


def test_another_model_answers_the_same_message(tiny_model_dir, chat_model, capsys, monkeypatch):
    """After /compare the conversation goes on as before; an unknown command or model does not end it."""
    lines = [
        "/compare x/y/z",
        "hello",
        "/compare",
        "/compare nowhere/at/all",
        f"/compare {chat_model}",
        "/exit",
        "/etc/x",
    ]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines)))
    chat(str(tiny_model_dir), max_new_tokens=4)
    printed = capsys.readouterr()
    assert f"[{chat_model}]" in printed.err and printed.err.count("tokens/s") == 3
    assert "type a message first" in printed.err and "/compare needs a model" in printed.err
    assert "missing-model" in printed.err and "/exit is no command" in printed.err
    first, other, _ = [line for line in printed.out.splitlines() if line]
    assert first == other  # equal weights


def test_a_conversation_is_saved_as_training_data(tiny_model_dir, tmp_path, capsys, monkeypatch):
    file = tmp_path / "mine.jsonl"
    monkeypatch.setattr("lifecycle_recipes.evals.replies.stop_ids", lambda saved: range(10_000))
    lines = [
        "/save x.jsonl",
        "one",
        "two",
        f"/save {file}",
        "/reset",
        "three",
        f"/save {file}",
        "/save mine.txt",
    ]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines)))
    chat(str(tiny_model_dir), max_new_tokens=4)
    rows = [json.loads(line)["messages"] for line in file.read_text().splitlines()]
    assert [[m["content"] for m in row if m["role"] == "user"] for row in rows] == [["one", "two"], ["three"]]
    assert all(row[-1]["role"] == "assistant" for row in rows)
    assert "needs a .jsonl file" in capsys.readouterr().err


def test_a_reply_that_was_cut_is_no_training_data(tiny_model_dir, tmp_path, capsys, monkeypatch):
    file = tmp_path / "mine.jsonl"
    monkeypatch.setattr("sys.stdin", io.StringIO(f"one\n/save {file}\n"))
    chat(str(tiny_model_dir), max_new_tokens=4)
    shown = capsys.readouterr().err
    assert "tokens/s, cut)" in shown and "the last reply is cut" in shown and not file.exists()


def test_an_interrupt_stops_the_reply_and_not_the_conversation(tiny_model_dir, capsys, monkeypatch):
    import transformers

    generate, calls = transformers.GenerationMixin.generate, []

    def interrupted_once(model, *arguments, **options):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return generate(model, *arguments, **options)

    monkeypatch.setattr(transformers.GenerationMixin, "generate", interrupted_once)
    monkeypatch.setattr("sys.stdin", io.StringIO("one\ntwo\nthree\n"))
    chat(str(tiny_model_dir), max_new_tokens=4)
    shown = capsys.readouterr().err
    assert len(calls) == 3 and shown.count("tokens/s") == 2 and "stopped" in shown


def test_a_model_that_cannot_be_compared_leaves_the_conversation(
    tiny_model_dir, tmp_path, capsys, monkeypatch
):
    """Its context may be shorter; a Hub id may not be there."""
    short = tmp_path / "short"
    shutil.copytree(tiny_model_dir, short)
    config = json.loads((short / "config.json").read_text())
    (short / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 4}))
    lines = ["one", f"/compare {short}", "/compare nobody/none", "/save x.txt"]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines)))
    chat(str(tiny_model_dir), max_new_tokens=4)
    shown = capsys.readouterr().err
    assert "context-full" in shown and "missing-model" in shown and "nothing to save" not in shown


def test_a_checkpoint_and_a_form_are_of_the_stage_of_their_run(tiny_model_dir, tmp_path):
    base = write_run(tmp_path / "base", stage="pretrain")
    export = write_run(
        tmp_path / "export", stage="export", export={"of_stage": "pretrain", "parity": {"int8": {}}}
    )
    for place in (base / "checkpoint-5", export / "int8"):
        shutil.copytree(tiny_model_dir, place)
        assert not load(str(place)).chat


def test_a_qlora_adapter_is_used_on_its_4_bit_base(chat_model, tmp_path):
    """As it was trained and measured: the weights before quantisation are other ones."""
    quantised = load(str(save_adapter(chat_model, tmp_path / "run", load_in_4bit=True, dtype="float32")))
    assert quantised.saved.model.is_loaded_in_4bit
    (tmp_path / "run/run.json").write_text("{")
    with pytest.raises(Refusal, match="bad-record"):
        load(str(tmp_path / "run"))

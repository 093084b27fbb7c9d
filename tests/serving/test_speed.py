"""The bench: every mode does the same work, what it measured is written, and shown by the report."""

import json
import shutil

import pytest
from fake_runs import write_run

from lifecycle_recipes.cli import main as lifecycle
from lifecycle_recipes.finding import Refusal
from lifecycle_recipes.report.card import card
from lifecycle_recipes.serving.speed import Bench, bench, prompts_of


def test_modes_are_measured_side_by_side_and_reported(chat_model, tmp_path, capsys):
    """Of an export its forms are measured, too; a GGUF form has no config.json and is left out."""
    run = write_run(tmp_path / "runs/export", stage="export", export={"parity": {"int8": {}, "gguf-f16": {}}})
    for place in (run, run / "int8"):
        shutil.copytree(chat_model, place, dirs_exist_ok=True)
    arguments = ["bench", str(run), "--requests", "3", "--tokens", "8", "--draft", str(chat_model)]
    with pytest.raises(SystemExit) as ended:
        lifecycle(arguments)
    assert not ended.value.code
    shown = capsys.readouterr().out
    measured = json.loads((run / "bench.json").read_text())
    modes = {speed["mode"]: speed for speed in measured["speeds"]}
    assert list(modes) == ["one request", "static batch", "continuous batch", "one request, drafted"]
    assert [speed["requests"] for speed in modes.values()] == [1, 3, 3, 1]
    for speed in modes.values():
        seconds = speed["requests"] * 8 / speed["tokens_per_second"]
        assert 0 < speed["first_token"] < seconds
    assert modes["one request, drafted"]["accepted"] >= 0.8  # drafted by an equal model
    assert (run / "int8/bench.json").is_file() and not (run / "gguf-f16").exists()
    table = [line for line in shown.splitlines() if line.startswith("|")]
    assert len(table) == 2 + 8
    record = {"parity": {}, "bytes": {}, "of": "x"}
    write_run(run, stage="export", export=record)
    assert card([str(tmp_path / "runs")]).count("continuous batch") == 2
    (run / "int8/model.safetensors").write_bytes(b"other weights")
    assert card([str(tmp_path / "runs")]).count("continuous batch") == 1
    (run / "bench.json").write_text('{"speeds": []}')
    assert "continuous batch" not in card([str(tmp_path / "runs")])


def test_what_was_measured_before_a_failure_is_shown(chat_model, tmp_path, capsys):
    short = tmp_path / "short"
    shutil.copytree(chat_model, short)
    config = json.loads((short / "config.json").read_text())
    (short / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 8}))
    with pytest.raises(SystemExit) as ended:
        lifecycle(["bench", str(chat_model), str(short), "--requests", "2", "--tokens", "8"])
    assert ended.value.code == 2
    shown = capsys.readouterr()
    assert "context-full" in shown.err and shown.out.count("one request") == 1


def test_what_cannot_be_measured_is_refused(chat_model, tmp_path):
    with pytest.raises(Refusal, match="--requests must be at least 1"):
        bench(Bench([str(chat_model)], requests=0), {})
    with pytest.raises(Refusal, match="missing-file"):
        bench(Bench([str(chat_model)], prompts=str(tmp_path / "none.jsonl")), {})
    with pytest.raises(Refusal, match="a reward model"):
        bench(Bench([str(write_run(tmp_path / "reward", stage="reward"))]), {})
    with pytest.raises(Refusal, match="context-full"):
        bench(Bench([str(chat_model)], tokens=256), {})


def test_a_short_list_of_prompts_is_repeated(tmp_path):
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "a"}\n{"prompt": [{"role": "user", "content": "b"}]}\n')
    prompts = prompts_of(Bench([], requests=3, prompts=str(file)))
    assert prompts == ["a", [{"role": "user", "content": "b"}], "a"]

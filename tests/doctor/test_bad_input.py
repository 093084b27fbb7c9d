"""Bad input as a user meets it: a clear line and exit status, nothing overwritten, a record of why."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

GOOD = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
RECIPE = """stage: sft
model: {{model_name_or_path: {parent}}}
data: {{sources: [{{path: {rows}}}]}}
train:
  output_dir: run
  max_steps: 2
  per_device_train_batch_size: 2
  save_strategy: "no"
  activation_checkpointing: false
  logging_steps: 1
  disable_tqdm: true
  report_to: none
gate: [steps >= 2]
"""


@pytest.fixture
def here(tmp_path, tiny_model_dir, monkeypatch):
    """A directory with 8 good rows in rows.jsonl, a tiny `parent` and a function that writes sft.yaml."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").write_text(json.dumps(GOOD) + "\n" + (json.dumps(GOOD) + "\n") * 7)
    (tmp_path / "parent").symlink_to(tiny_model_dir)
    write(tmp_path)
    return tmp_path


def write(here: Path, rows: str = "rows.jsonl", parent: str = "./parent") -> None:
    (here / "sft.yaml").write_text(RECIPE.format(rows=rows, parent=parent))


def start(capsys, *arguments: str) -> tuple[int, str]:
    """(exit status, stderr) of the stage. In this process, to import upstream once."""
    from lifecycle_recipes.stages import sft

    try:
        sft.main(["sft.yaml", *arguments])
        status = 0
    except SystemExit as end:
        status = end.code
    return status, capsys.readouterr().err


def status_in_record(directory: str = "run") -> str:
    return json.loads(Path(directory, "run.json").read_text())["status"]


def contents(directory: str = "run") -> dict[str, bytes]:
    return {str(f): f.read_bytes() for f in sorted(Path(directory).rglob("*")) if f.is_file()}


def no_row(here):
    (here / "rows.jsonl").write_text("")


def broken_line(here):
    (here / "rows.jsonl").write_text(json.dumps(GOOD) + '\n{"messages": [\n')


def other_column(here):
    (here / "rows.jsonl").write_text('{"text": "a"}\n')


def no_messages(here):
    (here / "rows.jsonl").write_text(json.dumps(GOOD) + '\n{"messages": []}\n')


def no_weights(here):
    (here / "empty").mkdir()
    write(here, parent="./empty")


def unfinished_parent(here):
    (here / "half").mkdir()
    (here / "half/run.json").write_text(json.dumps({"status": "stopped", "metrics": {}, "gate": []}))
    write(here, parent="./half")


CASES = {
    "missing-file": (lambda here: write(here, rows="none.jsonl"), "the file none.jsonl does not exist"),
    "empty-file": (no_row, "rows.jsonl: "),
    "bad-line": (broken_line, "rows.jsonl:2: "),
    "missing-column": (other_column, "rows.jsonl: no column 'messages'; it has 'text'"),
    "no-messages": (no_messages, "rows.jsonl:2: no messages"),
    "parent-no-weights": (no_weights, "./empty: "),
    "parent-missing": (lambda here: write(here, parent="./none"), "the model parent ./none does not exist"),
    "parent-unfinished": (unfinished_parent, "./half: "),
}


@pytest.mark.parametrize(("code", "spoil", "message"), [(c, *case) for c, case in CASES.items()], ids=CASES)
def test_it_is_refused_and_the_record_says_why(here, capsys, code, spoil, message):
    spoil(here)
    status, said = start(capsys)
    assert status == 2
    assert f"error [{code}]" in said and message in said and "Traceback" not in said
    assert len(said.splitlines()) <= 3  # what, where and the cure
    assert status_in_record().startswith(f"failed: [{code}]") and message in status_in_record()
    assert set(contents()) == {"run/run.json"}


def test_a_finished_run_is_never_overwritten(here, capsys):
    assert start(capsys)[0] == 0
    before = contents()
    for arguments in ([], ["--train.learning_rate", "1e-3"]):
        status, said = start(capsys, *arguments)
        assert status == 2 and "error [output-dir-finished] run: " in said and "--replace" in said
        assert contents() == before
    status, said = start(capsys, "--train.learning_rate", "1e-3", "--replace")
    assert status == 0 and status_in_record() == "done"
    aside = {
        name.replace("run.replaced-1/", "run/"): data for name, data in contents("run.replaced-1").items()
    }
    assert aside == before


def test_a_parent_that_failed_its_gate_is_refused_unless_it_is_allowed(here, capsys):
    assert start(capsys)[0] == 0
    record = json.loads(Path("run/run.json").read_text())
    Path("run/run.json").write_text(json.dumps(record | {"gate": ["steps >= 3"]}))
    write(here, parent="./run")
    (here / "sft.yaml").write_text(
        (here / "sft.yaml").read_text().replace("output_dir: run", "output_dir: child")
    )
    status, said = start(capsys)
    assert status == 2 and "error [parent-gate-failed] ./run: " in said and "`steps >= 3`" in said
    assert "--allow-failed-parent" in said and not list(Path("child").glob("*.safetensors"))
    assert status_in_record("child").startswith("failed: [parent-gate-failed]")
    assert start(capsys, "--allow-failed-parent")[0] == 0 and status_in_record("child") == "done"


def test_weights_without_a_record_are_never_overwritten(here, capsys):
    Path("run").mkdir()
    Path("run/model.safetensors").write_bytes(b"somebody's")
    status, said = start(capsys)
    assert status == 2 and "error [output-dir-not-ours] run: " in said
    assert contents() == {"run/model.safetensors": b"somebody's"}


def test_the_command_line_says_the_same(here):
    """`lifecycle run` as it is typed: the launcher adds no line and keeps the status."""
    broken_line(here)
    command = [sys.executable, "-m", "lifecycle_recipes.cli", "run", "sft.yaml", "--layout", "cpu"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    first, *rest = done.stderr.splitlines()
    assert first.startswith("error [bad-line] rows.jsonl:2: not JSON") and len(rest) <= 1

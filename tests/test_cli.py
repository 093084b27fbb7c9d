"""The `lifecycle` command and the launcher behind it: speed, messages, exit statuses, signals."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from fake_runs import save_weights
from repository import ROOT

from lifecycle_recipes import cli
from lifecycle_recipes.finding import Refusal
from lifecycle_recipes.layouts import launch
from lifecycle_recipes.recipe.read import read_recipe
from lifecycle_recipes.recipe.schema import load_schema, stage_names
from lifecycle_recipes.record.run import Run

LIFECYCLE = [sys.executable, "-m", "lifecycle_recipes.cli"]
RECIPE = """stage: sft
model: {model_name_or_path: parent}
data: {sources: [{path: rows.jsonl}]}
train: {output_dir: run}
gate: [steps > 0.5]
"""
ROW = json.dumps({"messages": [{"role": r, "content": f"the {r}"} for r in ("user", "assistant")]}) + "\n"


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sft.yaml").write_text(RECIPE)
    (tmp_path / "rows.jsonl").write_text(ROW)
    save_weights(tmp_path / "parent")
    return "sft.yaml"


def lifecycle(capsys, *argv) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as end:
        cli.main(list(argv))
    out, err = capsys.readouterr()
    return end.value.code, out, err


def cpu_seconds(command: list[str]) -> float:
    """Processor seconds of a command: what it takes on a quiet machine, also on a busy one."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_utime + usage.ru_stime


def test_help_is_fast_and_shows_examples():
    assert cpu_seconds([*LIFECYCLE, "--help"]) < 0.5
    said = subprocess.run([*LIFECYCLE, "--help"], capture_output=True, text=True, check=True).stdout
    assert "lifecycle run recipes/" in said and "exit statuses: 0 done" in said


def test_check_is_fast(recipe):
    assert cpu_seconds([*LIFECYCLE, "check", recipe, "--upto", "1"]) < 1


@pytest.mark.parametrize(
    "argv", [["--help"], ["check", "sft.yaml", "--upto", "1"], ["gate", "done"], ["report", "done"]]
)
def test_no_torch_is_imported(recipe, tmp_path, argv):
    write_run(tmp_path / "done")
    code = f"""
        import sys
        from lifecycle_recipes.cli import main
        try:
            main({argv!r})
        except SystemExit as end:
            assert not end.code, end.code
        heavy = {{'torch', 'transformers', 'trl', 'datasets', 'accelerate', 'lm_eval'}} & set(sys.modules)
        sys.exit(f'imported: {{heavy}}' if heavy else 0)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def write_run(directory, **fields):
    directory.mkdir(exist_ok=True)
    record = {"status": "done", "stage": "sft", "metrics": {"steps": 0.75}, "gate": ["steps > 0.5"]}
    (directory / "run.json").write_text(json.dumps(record | fields))
    return directory


def test_check_names_every_recipe(capsys, recipe):
    Path("wrong.yaml").write_text(RECIPE.replace("output_dir", "output_dri"))
    status, out, err = lifecycle(capsys, "check", "--upto", "1", recipe, "wrong.yaml")
    assert status == 2 and out.startswith("sft.yaml: ok; level 1 in 0.") and "wrong.yaml: 2 errors" in out
    assert "wrong.yaml:4" in err and "output_dir" in err and "Traceback" not in err
    assert lifecycle(capsys, "check", "--upto", "1", recipe, "--train.max_steps", "5")[0] == 0
    assert lifecycle(capsys, "check", "--upto", "1", recipe, "--train.max_steps", "7.5")[0] == 2


def test_gate_passes_fails_and_takes_a_recipe(capsys, recipe, tmp_path):
    run = write_run(tmp_path / "run")
    status, out, _ = lifecycle(capsys, "gate", "run")
    assert status == 0 and "pass  steps > 0.5    (steps is 0.75)" in out and (run / "gate.ok").exists()
    Path("strict.yaml").write_text(RECIPE.replace("0.5", "0.9"))
    status, out, _ = lifecycle(capsys, "gate", "strict.yaml", "--train.output_dir", "run")
    assert status == 3 and "FAIL  steps > 0.9" in out and not (run / "gate.ok").exists()
    write_run(run, status="stopped")
    assert lifecycle(capsys, "gate", "run")[0] == 3
    status, _, err = lifecycle(capsys, "gate", "no-such-run")
    assert status == 2 and "the run directory does not exist" in err


@pytest.mark.parametrize(("directory", "named"), [("runs", "runs/a"), ("recipes", "recipes/a.yaml")])
def test_gate_of_a_directory_of_runs_or_recipes_is_refused(capsys, recipe, tmp_path, directory, named):
    Path("runs").mkdir()
    write_run(tmp_path / "runs/a")
    Path("recipes").mkdir()
    Path("recipes/a.yaml").write_text(RECIPE)
    before = sorted(tmp_path.rglob("*"))
    status, out, err = lifecycle(capsys, "gate", directory)
    assert status == 2 and out == "" and "error [no-record]" in err and f"fix: name one of {named}\n" in err
    assert sorted(tmp_path.rglob("*")) == before


def test_unknown_arguments_are_errors(capsys):
    assert lifecycle(capsys, "gate", "run", "--recpie", "x")[0] == 2
    assert lifecycle(capsys, "report", "--html")[0] == 2
    assert lifecycle(capsys, "chat", "nowhere/at/all")[0] == 2
    assert lifecycle(capsys)[0] == 2


@pytest.mark.parametrize(
    ("argv", "message", "fix"),
    [
        (["run", "sft.yaml", "--kep-going"], "`--kep-going` is not an option", "did you mean --keep-going?"),
        (["run", "sft.yaml", "--unti=a"], "`--unti` is not an option", "did you mean --until?"),
        (["check", "sft.yaml", "--up-to", "1"], "`--up-to` is not an option", "did you mean --upto?"),
        (["run", "sft.yaml", "--repalce"], "`--repalce` is not an option", "did you mean --replace?"),
        (
            ["check", "sft.yaml", "train.seed=1"],
            "`train.seed=1` is not a recipe",
            "an override begins with two dashes: --train.seed=1",
        ),
        (
            ["run", "sft.yaml", "train.seed=1"],
            "`train.seed=1` is not a recipe",
            "an override begins with two dashes: --train.seed=1",
        ),
    ],
)
def test_what_is_nearly_an_option_or_an_override(capsys, recipe, argv, message, fix):
    status, out, err = lifecycle(capsys, *argv)
    assert status == 2 and message in err and fix in err
    assert not out and err.count("error [") == 1


def test_no_key_of_a_recipe_is_nearly_an_option():
    sections = [load_schema(stage)["properties"] for stage in stage_names()]
    keys = {key for properties in sections for p in properties.values() for key in p.get("properties", {})}
    keys |= {name for properties in sections for name in properties}
    for command in ("check", "run", "gate", "inspect"):
        parser = cli.build_parser().parse_args([command, "r.yaml"]).parser
        cli.refuse_misspelt([f"--{key}" for key in keys], parser)


@pytest.mark.parametrize(
    ("command", "line"), [("run", "interrupted; run the same command to resume"), ("check", "interrupted")]
)
def test_an_interrupt_before_anything_starts(capsys, recipe, monkeypatch, command, line):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, f"{command}_recipe" if command == "run" else command, interrupt)
    assert lifecycle(capsys, command, recipe) == (4, "", f"{line}\n")


def test_run_refuses_a_wrong_recipe_before_anything_starts(capsys, recipe, monkeypatch):
    monkeypatch.setattr(launch, "start", lambda command, layout: pytest.fail("started"))
    status, _, err = lifecycle(capsys, "run", recipe, "--train.lerning_rate", "1")
    assert status == 2 and "learning_rate" in err
    assert lifecycle(capsys, "run", recipe, "--layout", "nine_gpus")[0] == 2


def test_run_prints_the_line_it_starts(capsys, recipe, monkeypatch):
    started = []
    monkeypatch.setattr(launch.os, "execv", lambda path, argv: started.append(argv))
    arguments = ["--train.max_steps", "5", "--replace"]
    status, out, _ = lifecycle(capsys, "run", recipe, "--layout", "cpu_ddp", *arguments)
    config = ROOT / "accelerate_configs" / "cpu_ddp.yaml"
    module = "-m lifecycle_recipes.stages.sft sft.yaml --train.max_steps 5 --replace"
    assert (status, out) == (0, f"+ accelerate launch --quiet --config_file {config} {module}\n")
    assert started[0][1:6] == [
        "-m",
        "lifecycle_recipes.layouts.launch",
        "--quiet",
        "--config_file",
        str(config),
    ]
    assert started[0][-4:] == [recipe, *arguments]


def test_run_unless_done(capsys, recipe, monkeypatch):
    started = []
    monkeypatch.setattr(launch, "start", lambda command, layout: started.append(command))
    with Run(read_recipe(recipe, [])):
        status, _, err = lifecycle(capsys, "run", recipe, "--unless-done")
        assert status == 2 and "[output-dir-busy]" in err
    status, out, _ = lifecycle(capsys, "run", recipe, "--unless-done")
    assert (status, out, len(started)) == (0, "run: already finished\n", 0)
    save_weights(Path("parent"), "trained again")
    status, _, err = lifecycle(capsys, "run", recipe, "--unless-done")
    assert status == 2 and "[output-dir-finished]" in err and not started
    assert "the weights of the model parent parent have changed" in err and "--unless-done" not in err
    assert lifecycle(capsys, "run", recipe, "--unless-done", "--replace")[0] == 0 and len(started) == 1


def test_run_shows_faulty_rows_and_a_finished_run_before_it_starts_anything(capsys, recipe, monkeypatch):
    monkeypatch.setattr(launch, "start", lambda command: pytest.fail("started"))
    Path("rows.jsonl").write_text(ROW + '{"messages": []}\n')
    status, _, err = lifecycle(capsys, "run", recipe)
    assert status == 2 and err.startswith("error [no-messages] rows.jsonl:2: ")
    Path("rows.jsonl").write_text(ROW)
    with Run(read_recipe(recipe, [])):
        pass
    status, _, err = lifecycle(capsys, "run", recipe)
    assert status == 2 and "[output-dir-finished] run: contains the finished run of this recipe" in err


@pytest.mark.parametrize(("gpu", "name"), [(True, "one_gpu"), (False, "cpu")])
def test_the_layout_follows_the_hardware(monkeypatch, gpu, name):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(launch.os.path, "exists", lambda path: gpu if path == "/dev/nvidia0" else False)
    command = launch.stage_command("dpo", "r.yaml", None, [])
    assert command[4] == f"accelerate_configs/{name}.yaml"
    assert launch.stage_command("tokenizer", "r.yaml", None, ["--a", "1"]) == [
        *("python", "-m", "lifecycle_recipes.stages.tokenizer", "r.yaml", "--a", "1")
    ]


def test_an_unknown_layout_lists_those_that_exist():
    with pytest.raises(Refusal, match="cpu_ddp.*one_gpu"):
        launch.find_layout("one_cpu")


STAGE = """
import os, signal, sys, time
from lifecycle_recipes.finding import refuse
from lifecycle_recipes.recipe.read import RawRecipe
from lifecycle_recipes.record.run import Run, stage_exit

rank, how = os.environ.get("RANK", "0"), sys.argv[1]
with stage_exit():
    if how == "refuse" or how == f"refuse-on-{rank}":
        raise refuse("no-way", "says why", "mend it", "here:3")
    if how == "crash":
        raise ValueError("boom")
    if how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "done":
        assert os.environ["ACCELERATE_USE_CPU"].lower() == "true"
    with Run(RawRecipe("r.yaml", "sft", {"train": {"output_dir": "run"}}, "", [], "0")) as run:
        print("ready", flush=True)
        if how != "done":
            time.sleep(60)
"""


def launched(tmp_path, layout: str, how: str, here: bool = False) -> subprocess.Popen:
    """A stage of a few lines, started as `lifecycle run` starts one. here: in the launcher's process."""
    (tmp_path / "little_stage.py").write_text(STAGE)
    config = ROOT / "accelerate_configs" / f"{layout}.yaml"
    command = [
        sys.executable,
        "-m",
        "lifecycle_recipes.layouts.launch",
        "--quiet",
        "--config_file",
        str(config),
    ]
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT / 'src'}", "OMP_NUM_THREADS": "1"}
    if here:
        environment |= {"KMP_AFFINITY": "granularity=fine,compact,1,0", "KMP_BLOCKTIME": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([*command, "-m", "little_stage", how], cwd=tmp_path, env=environment, **pipes)


@pytest.mark.model
@pytest.mark.parametrize(("layout", "here"), [("cpu", False), ("cpu", True), ("cpu_ddp", False)])
@pytest.mark.parametrize(("how", "status"), [("done", 0), ("refuse", 2), ("crash", 1)])
def test_a_stage_hands_its_status_through_the_launcher(tmp_path, layout, here, how, status):
    process = launched(tmp_path, layout, how, here)
    _, errors = process.communicate(timeout=240)
    assert process.returncode == status, errors
    if how == "refuse":
        assert errors.count("error [no-way] here:3: says why\n    fix: mend it") == 1
        assert "Traceback" not in errors
    if how == "crash":
        assert errors.count("error: ValueError: boom") == 1
        assert errors.count("Traceback") == 1
    if how == "done":
        assert errors == ""
        assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "done"


@pytest.mark.model
@pytest.mark.parametrize("how", ["refuse-on-1", "killed"])
def test_a_single_rank_that_ends_is_not_lost(tmp_path, how):
    process = launched(tmp_path, "cpu_ddp", how)
    _, errors = process.communicate(timeout=240)
    assert process.returncode == {"refuse-on-1": 2, "killed": 1}[how]
    assert ("says why" if how == "refuse-on-1" else "SIGKILL") in errors
    assert "Traceback" not in errors


@pytest.mark.model
@pytest.mark.parametrize(("layout", "here"), [("cpu", False), ("cpu", True), ("cpu_ddp", False)])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_reaches_the_stage_through_the_launcher(tmp_path, layout, here, number):
    process = launched(tmp_path, layout, "wait", here)
    process.stdout.readline()
    process.send_signal(number)
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 4, errors
    assert "Traceback" not in errors
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "stopped"


def test_the_version(capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["--version"])
    assert end.value.code == 0 and capsys.readouterr().out.startswith("lifecycle ")


@pytest.mark.parametrize("closed", ["stdout", "stderr"])
def test_a_reader_that_leaves_does_not_end_a_stage(tmp_path, closed):
    """As in `lifecycle run r.yaml | head -1`."""
    script = f"""
import sys
from lifecycle_recipes.exit_status import stage_exit
with stage_exit():
    for step in range(3):
        print("x" * 100_000, file=sys.{closed}, flush=True)
    open("done", "w").close()
"""
    process = subprocess.Popen([sys.executable, "-c", script], cwd=tmp_path, **{closed: subprocess.PIPE})
    stream = getattr(process, closed)
    assert stream.read(10) == b"x" * 10
    stream.close()
    assert process.wait(60) == 0 and (tmp_path / "done").exists()

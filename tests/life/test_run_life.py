"""`lifecycle run DIRECTORY`: checks first, then stage, gate, stage; what is done, what stops it, how it goes on."""

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from fake_runs import save_checkpoint, save_weights
from repository import ROOT
from small_life import NAMES, ROW, Started, edit, write_life, write_recipe

from lifecycle_recipes import cli
from lifecycle_recipes.doctor.recipe_level import hub
from lifecycle_recipes.life import run as life_run
from lifecycle_recipes.recipe.read import read_recipe
from lifecycle_recipes.record.file import read_record
from lifecycle_recipes.record.run import Run, Stopped


@pytest.fixture
def started(tmp_path, monkeypatch) -> Started:
    monkeypatch.chdir(tmp_path)
    write_life()
    started = Started()
    monkeypatch.setattr(life_run, "processes", started.processes)
    return started


@pytest.fixture
def lifecycle(capsys, monkeypatch):
    def run(*argv: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["lifecycle", *argv])
        with pytest.raises(SystemExit) as end:
            cli.main()
        return end.value.code, *capsys.readouterr()

    return run


def states(out: str) -> dict[str, str]:
    """Name -> state, as the plan shows them."""
    rows = [line.split("  ") for line in out.splitlines() if line.startswith("  ") and "runs/" in line]
    cells = [[cell.strip() for cell in row if cell.strip()] for row in rows]
    return {row[0]: row[1] for row in cells}


def test_a_life_runs_each_stage_and_its_gate_once(started, lifecycle):
    status, out, err = lifecycle("run", "life", "--layout", "cpu", "--04-sft.train.seed", "3")
    assert (status, err) == (0, "") and started.runs == NAMES
    assert states(out) == dict.fromkeys(NAMES, "run")
    assert [command[3] for command in started.commands] == ["run", "gate"] * 4
    assert started.commands[2][3:] == ["run", "life/04-sft.yaml", "--layout", "cpu", "--train.seed", "3"]
    assert [read_record(f"runs/{name}")["seed"] == 3 for name in NAMES] == [False, True, False, False]
    assert all(Path(f"runs/{name}/gate.ok").is_file() for name in NAMES)
    assert all(f"| {name} " in out for name in NAMES), "the card"
    # Again, with the same command: everything is done.
    started.commands.clear()
    status, out, _ = lifecycle("run", "life", "--layout", "cpu", "--04-sft.train.seed", "3")
    assert status == 0 and started.commands == []
    assert states(out) == dict.fromkeys(NAMES, "done, gate passed") and out.count("already finished") == 4


def test_a_failed_gate_stops_the_life_and_says_how_to_go_on(started, lifecycle):
    edit("04-sft", "steps >= 2", "steps >= 9")
    status, out, err = lifecycle("run", "life")
    assert status == 3 and started.runs == ["03-base", "04-sft"]
    assert "04-sft failed its gate (exit status 3)" in err
    assert "done: 03-base\n" in err and "remaining: 04-sft, 05-side, 07-dpo\n" in err
    assert err.rstrip().endswith("lifecycle run life")
    # A life that is started again stops there again, without training.
    status, out, _ = lifecycle("run", "life")
    assert status == 3 and states(out)["04-sft"] == "done, gate fails" and len(started.runs) == 2
    # With another gate line it goes on, and nothing is trained twice.
    edit("04-sft", "steps >= 9", "steps >= 2")
    assert lifecycle("run", "life")[0] == 0 and started.runs == NAMES


@pytest.mark.parametrize("status", [1, 2, 3])
def test_keep_going_runs_what_does_not_need_the_failed_stage(started, lifecycle, status):
    write_recipe("05-side", "runs/03-base")
    write_recipe("08-last", "runs/07-dpo")
    started.ends = {"04-sft": status}
    ended, _, err = lifecycle("run", "life", "--keep-going")
    assert ended == status and started.runs == ["03-base", "04-sft", "05-side"]
    assert "done: 03-base, 05-side\n" in err and "remaining: 04-sft, 07-dpo, 08-last\n" in err
    assert err.rstrip().endswith("lifecycle run life --keep-going")


def test_an_interrupted_stage_ends_the_life_with_its_status(started, lifecycle):
    started.ends = {"04-sft": 4}
    status, _, err = lifecycle("run", "life", "--keep-going")
    assert status == 4 and started.runs == ["03-base", "04-sft"] and "04-sft was interrupted" in err
    started.ends = {}
    assert lifecycle("run", "life")[0] == 0 and started.runs == ["03-base", "04-sft", *NAMES[1:]]


@pytest.mark.parametrize(
    ("break_it", "code"),
    [
        (lambda: edit("07-dpo", "max_steps", "max_stepz"), "unknown-key"),
        (lambda: Path("rows.jsonl").write_text(ROW + '{"messages": []}\n'), "no-messages"),
        (lambda: edit("05-side", "runs/04-sft", "runs/nobody/makes/it"), "parent-missing"),
        (lambda: edit("05-side", "path: rows.jsonl", "path: gone.jsonl"), "missing-file"),
    ],
)
def test_a_mistake_in_any_recipe_is_found_before_the_first_stage(started, lifecycle, break_it, code):
    break_it()
    status, _, err = lifecycle("run", "life")
    assert status == 2 and started.commands == [] and not Path("runs").exists()
    assert err.count(f"error [{code}]") == 1
    if code == "no-messages":  # all four read the file: said once, with their names
        assert "    in: life/03-base.yaml, life/04-sft.yaml, life/05-side.yaml, life/07-dpo.yaml" in err


def test_a_parent_that_is_not_selected_must_exist(started, lifecycle):
    status, _, err = lifecycle("run", "life", "--only", "04-sft")
    assert status == 2 and "error [parent-missing]" in err and "runs/03-base does not exist" in err
    assert lifecycle("run", "life", "--until", "03-base")[0] == 0
    assert lifecycle("run", "life", "--only", "04-sft")[0] == 0 and started.runs == ["03-base", "04-sft"]


def test_after_an_edit_that_stage_and_its_descendants_run_with_replace(started, lifecycle):
    assert lifecycle("run", "life")[0] == 0
    edit("04-sft", "max_steps: 2", "max_steps: 3")
    status, out, err = lifecycle("run", "life")
    assert status == 2 and len(started.runs) == 4 and err.count("error [output-dir-finished]") == 1
    status, out, _ = lifecycle("run", "life", "--replace")
    assert status == 0 and started.runs == [*NAMES, "04-sft", "05-side"]
    again = dict.fromkeys(["04-sft", "05-side"], "run again")
    assert (
        states(out) == dict.fromkeys(NAMES, "done, gate passed") | again
    )  # 07-dpo: another gate, no other run
    assert Path("runs/04-sft.replaced-1").is_dir() and "replaced" not in out


def test_what_follows_a_parent_that_turns_out_as_before_is_done(started, lifecycle):
    """Whether a stage is finished is decided when it is its turn."""
    assert lifecycle("run", "life")[0] == 0
    shutil.rmtree("runs/03-base")
    status, out, err = lifecycle("run", "life")
    assert (status, err) == (0, "") and started.runs == [*NAMES, "03-base"]
    assert states(out)["04-sft"] == "run again" and out.count("already finished") == 3


def test_a_finished_run_of_another_recipe_is_refused_without_a_flag_that_a_life_ignores(started, lifecycle):
    assert lifecycle("run", "life")[0] == 0
    edit("03-base", "gate:", "evaluate: {prompts: prompts.jsonl, against: parent}\ngate:")
    Path("prompts.jsonl").write_text('{"prompt": "Who?"}\n')
    status, _, err = lifecycle("run", "life")
    assert status == 2 and err.count("output-dir-finished") == 1 and "runs/03-base" in err
    assert "--unless-done" not in err


def test_the_plan_resumes_what_a_start_would_resume(started, lifecycle):
    checkpointed = Path("runs/03-base")
    for stage, words in (("sft", "resume"), ("ppo", "run")):
        shutil.rmtree("runs", ignore_errors=True)
        edit("03-base", "stage: sft", f"stage: {stage}")
        if stage == "ppo":
            edit("03-base", "data:", "reward: {model_name_or_path: parent}\ndata:")
        raw = read_recipe("life/03-base.yaml", [])
        with pytest.raises(Stopped), Run(raw):
            save_checkpoint(checkpointed, 1)
            raise Stopped("by SIGTERM")
        _, out, _ = lifecycle("run", "life", "--dry-run", "--until", "03-base")
        assert states(out) == {"03-base": words}
    # PPO goes on with the evaluation of what it has trained, if that is unchanged.
    with pytest.raises(Stopped), Run(raw) as run:
        save_weights(checkpointed)
        run.note_trained()
        raise Stopped("by SIGTERM")
    _, out, _ = lifecycle("run", "life", "--dry-run", "--until", "03-base")
    assert states(out) == {"03-base": "resume"}
    save_weights(checkpointed, "other weights")
    _, out, _ = lifecycle("run", "life", "--dry-run", "--until", "03-base")
    assert states(out) == {"03-base": "run"}


def test_a_hub_that_does_not_answer_once_is_asked_again_by_every_stage(started, lifecycle, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("HF_HOME", "hf")
    monkeypatch.setattr(hub, "SILENT", set())
    monkeypatch.setattr(hub, "hub_answers", lambda: False)
    for name in NAMES:
        edit(
            name,
            "data:",
            "evaluate: {against: me/model, prompts: p.jsonl}\nallow: {not-cached: known}\ndata:",
        )
    Path("p.jsonl").write_text('{"prompt": "Who?"}\n')
    status, _, err = lifecycle("run", "life")
    assert status == 0 and os.environ["HF_HUB_OFFLINE"] == "0", err
    assert hub.SILENT, "it was asked"


def test_a_comment_is_no_other_recipe(started, lifecycle):
    assert lifecycle("run", "life")[0] == 0
    with open("life/03-base.yaml", "a") as recipe:
        recipe.write("# a comment\n")
    assert lifecycle("run", "life")[0] == 0 and started.runs == NAMES


def test_a_dry_run_starts_and_writes_nothing(started, lifecycle):
    status, out, err = lifecycle("run", "life", "--dry-run", "--until", "04-sft")
    assert (status, err) == (0, "") and states(out) == {"03-base": "run", "04-sft": "run"}
    assert started.commands == [] and not Path("runs").exists()


def test_a_dry_run_of_the_desk_is_fast_and_imports_no_torch():
    code = """
        import resource, sys
        from lifecycle_recipes.cli import main
        try:
            main(['run', 'recipes/desk', '--dry-run', '--replace', '--layout', 'cpu'])
        except SystemExit as end:
            assert not end.code, end.code
        heavy = {'torch', 'transformers', 'trl', 'datasets', 'accelerate', 'lm_eval'} & set(sys.modules)
        assert not heavy, heavy
        used = resource.getrusage(resource.RUSAGE_SELF)
        assert used.ru_utime + used.ru_stime < 2
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    assert len(states(done.stdout)) == 13


# The processes


def test_a_status_is_handed_on_and_a_killed_process_has_one():
    with life_run.processes() as run:
        for script, status in (
            ("0", 0),
            ("3", 3),
            ("__import__('os').kill(__import__('os').getpid(), 9)", 1),
        ):
            assert run([sys.executable, "-c", f"raise SystemExit({script})"]) == status


def test_sigterm_reaches_the_running_stage_and_starts_no_other():
    script = """
        import os, signal, sys, time
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(4))
        os.kill(os.getppid(), signal.SIGTERM)
        time.sleep(60)
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    with life_run.processes() as run:
        assert run(command) == 4
        assert run([sys.executable, "-c", "raise SystemExit(0)"]) == 4
    assert signal.getsignal(signal.SIGTERM) is not None


TOKENIZER = """stage: tokenizer
tokenizer: {output_dir: runs/02-tokenizer, vocab_size: 300, chat_template: CHATML}
data: {sources: [{path: texts.jsonl}]}
gate: [round_trip == 1]
"""
PRETRAIN = """stage: pretrain
architecture:
  model_type: llama
  tokenizer: runs/02-tokenizer
  config: {hidden_size: 32, intermediate_size: 64, num_hidden_layers: 1, num_attention_heads: 2}
text: {block_size: 32}
data: {sources: [{path: texts.jsonl}]}
train:
  {output_dir: runs/03-pretrain, max_steps: 4, per_device_train_batch_size: 4, learning_rate: 1e-3, report_to: none}
gate: [steps == 3]
"""


@pytest.mark.model
def test_a_real_life_of_two_stages(tmp_path, tiny_texts):
    (tmp_path / "life").mkdir()
    (tmp_path / "life/02-tokenizer.yaml").write_text(
        TOKENIZER.replace("CHATML", str(ROOT / "chat_templates/chatml.jinja"))
    )
    (tmp_path / "life/03-pretrain.yaml").write_text(PRETRAIN)
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in tiny_texts))

    def life(*arguments: str) -> subprocess.CompletedProcess:
        command = [*life_run.LIFECYCLE, "run", "life", "--layout", str(ROOT / "accelerate_configs/cpu.yaml")]
        return subprocess.run(
            [*command, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=240
        )

    done = life()
    assert done.returncode == 3, done.stderr
    assert "FAIL  steps == 3" in done.stdout and "03-pretrain failed its gate" in done.stderr
    done = life("--03-pretrain.train.max_steps", "3", "--replace")
    assert done.returncode == 0, done.stderr
    assert states(done.stdout) == {"02-tokenizer": "done, gate passed", "03-pretrain": "run again"}
    assert "| 03-pretrain " in done.stdout and "Traceback" not in done.stderr
    assert read_record(tmp_path / "runs/03-pretrain")["metrics"]["steps"] == 3

"""run.json: written however a run ends, by one rank, never with a secret in it. No torch."""

import errno
import json
import os
import signal
import subprocess
import sys
import textwrap

import pytest
from fake_runs import code_of, fake_raw, save_weights, stop

from lifecycle_recipes.finding import Refusal, refuse
from lifecycle_recipes.record import environment, output_dir
from lifecycle_recipes.record import file as record_file
from lifecycle_recipes.record.run import Run, Stopped, read_record, stage_exit
from lifecycle_recipes.redact import redact

FIELDS = {"schema", "status", "stage", "recipe", "overrides", "output_dir", "identity", "parents", "data"}


FIELDS |= {
    "git_commit",
    "versions",
    "hardware",
    "layout",
    "seed",
    "started",
    "wall_seconds",
    "peak_memory_gb",
}


FIELDS |= {"gate", "metrics", "weights_sha256", "tokens_per_second"}


def test_a_finished_run_says_everything(tmp_path):
    with Run(fake_raw(tmp_path / "run", gate=["acc > 0.5"], overrides=["--train.seed", "7"])) as run:
        assert read_record(tmp_path / "run")["status"] == "running"
        run.note(data={"fingerprint": "f", "rows_in": 3}, layout={"processes": 1})
        assert read_record(tmp_path / "run")["data"]["rows_in"] == 3
        run.metrics |= {"acc": 0.75, "tokens_per_second": 5.0}
        save_weights(tmp_path / "run")
    record = read_record(tmp_path / "run")
    assert FIELDS - set(record) == set()
    assert record["status"] == "done"
    assert record["metrics"]["acc"] == 0.75
    assert record["seed"] == 7
    assert record["tokens_per_second"] == 5.0
    assert record["peak_memory_gb"] > 0.001
    assert record["versions"]["trl"] == "1.12.0"
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["model.safetensors", "run.json"]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ValueError("no\nway"), "failed: ValueError: no way"),
        (
            refuse("missing-file", "there is no x", "mend", "x.jsonl"),
            "failed: [missing-file] x.jsonl: there is no x",
        ),
        (KeyboardInterrupt(), "stopped"),
        (Stopped("step 3"), "stopped"),
        (SystemExit(3), "failed: SystemExit: 3"),
    ],
)
def test_a_run_that_ends_otherwise_says_why(tmp_path, error, status):
    with pytest.raises(type(error)), Run(fake_raw(tmp_path / "run")) as run:
        run.metrics["loss"] = float("nan")
        raise error
    record = read_record(tmp_path / "run")
    assert record["status"] == status
    assert record["metrics"] == {"loss": "nan"} and "refused" not in record


def test_numpy_and_torch_like_scalars_become_numbers(tmp_path):
    numpy = pytest.importorskip("numpy")
    with Run(fake_raw(tmp_path / "run")) as run:
        run.metrics |= {"a": numpy.float32(0.5), "b": numpy.int64(3), "c": float("inf")}
    assert read_record(tmp_path / "run")["metrics"] == {"a": 0.5, "b": 3, "c": "inf"}


def test_no_secret_is_written(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "environment-hf-secret")
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef0123456789abcdef01234567")
    secrets = [
        "environment-hf-secret",
        "0123456789abcdef0123456789abcdef01234567",
        "recipe-secret",
        "hf_" + "a" * 30,
    ]
    text = "train:\n  hub_token: recipe-secret  # mine\n  eos_token: <|im_end|>\n  #api_key: abc\n"
    overrides = [
        "--train.hub_token",
        "recipe-secret",
        "--hub_token=xy",
        "--api_key",
        "qz",
        "--train.pad_token",
        "<|pad|>",
    ]
    values = {"train": {"output_dir": str(tmp_path / "run"), "hub_token": "recipe-secret"}}
    recipe = fake_raw(tmp_path / "run", values, text=text, overrides=overrides)
    with pytest.raises(ValueError), Run(recipe) as run:
        run.note(data={"url": f"https://user:{secrets[0]}@host", "token": "short", "bytes_per_token": 3.5})
        run.metrics["bytes_per_token"] = 3.5
        run.note(samples=[{"prompt": "I forgot my password: help", "reply": "the token limit is 5"}])
        raise ValueError(" and ".join(secrets))
    written = (tmp_path / "run" / "run.json").read_text()
    assert [secret for secret in [*secrets, "short", "=xy", "qz", "abc"] if secret in written] == []
    record = json.loads(written)
    assert "<|im_end|>" in record["recipe"]["text"] and "# mine" in record["recipe"]["text"]
    assert record["overrides"][-1] == "<|pad|>"
    assert record["metrics"]["bytes_per_token"] == record["data"]["bytes_per_token"] == 3.5
    assert record["samples"][0]["prompt"].endswith("password: help")


@pytest.mark.parametrize(
    ("name", "value", "hidden"),
    [
        ("WANDB_API_KEY", "short1", True),
        ("DB_PASSWORD", "correct horse", True),
        ("CI_JOB_TOKEN", "glcbt-64_abc", True),
        ("OPENAI_KEY", "sk1-0123456789abcdef", True),
        ("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI/K7MDENG/bPx0fi", True),
        ("AZURE_STORAGE_KEY", "/Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ", True),  # base64
        ("AZURE_STORAGE_KEY", "/Eby8vdM0/2xNOcqFlqUwJPLlmEtlCDX", True),
        ("DEPLOY_KEY", "-----BEGIN PRIVATE KEY-----\nMIIBVAIBADAN\n-----END PRIVATE KEY-----\n", True),
        ("LICENSE_KEY", "correct-horse-battery-staple", True),
        ("SORT_KEY", "eval_loss", False),
        ("CACHE_KEY", "desk-sft-train", False),
        ("SSH_KEY", "/usr/bin/id_rsa_2024_deploy", False),  # may not exist any more
        ("DATA_KEY", "here/sft_train_2024_01.jsonl", False),  # in an existing directory
    ],
)
def test_which_variables_hold_a_secret(tmp_path, monkeypatch, name, value, hidden):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    monkeypatch.setenv(name, value)
    assert redact({"path": f"a {value} b"}) == {"path": f"a {'<hidden>' if hidden else value} b"}


def test_sigterm_to_a_real_process_is_recorded(tmp_path):
    script = textwrap.dedent(f"""
        import time
        import sys
        sys.path.insert(0, "tests/fixtures")
        from fake_runs import fake_raw
        from lifecycle_recipes.record.run import Run, stage_exit
        with stage_exit():
            with Run(fake_raw({str(tmp_path / "run")!r})) as run:
                print("running", flush=True)
                time.sleep(60)
    """)
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.readline()
    assert read_record(tmp_path / "run")["status"] == "running"
    with pytest.raises(Refusal) as busy:  # another start must not write into a live run
        Run(fake_raw(tmp_path / "run")).__enter__()
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=20)
    assert code_of(busy) == "output-dir-busy"
    assert process.returncode == 4
    assert "Traceback" not in errors.decode()
    assert read_record(tmp_path / "run")["status"] == "stopped"


def test_sigterm_before_the_run_has_a_record_is_a_stop_too():
    script = "import time; from lifecycle_recipes.record.run import stage_exit\n"
    script += "with stage_exit():\n    print('ready', flush=True)\n    time.sleep(60)"
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    process.stdout.readline()
    process.terminate()
    assert process.wait(timeout=60) == 4
    process.stdout.close()


def test_a_second_interrupt_leaves_what_runs_at_exit_alone(tmp_path):
    (tmp_path / "stage.py").write_text(
        "import atexit, os, signal\n"
        "from lifecycle_recipes.exit_status import stage_exit\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "atexit.register(os.kill, os.getpid(), signal.SIGINT)\n"
        "with stage_exit():\n    raise KeyboardInterrupt"
    )
    end = subprocess.run([sys.executable, tmp_path / "stage.py"], capture_output=True, text=True)
    assert (end.returncode, end.stderr) == (4, "interrupted; run the same command to resume\n")


def test_ctrl_c_during_an_import_ends_with_the_same_status(tmp_path):
    """Imports run exec() on strings; Python would end such a process by SIGINT even after handling it."""
    script = "from lifecycle_recipes.exit_status import stage_exit\n"
    (tmp_path / "stage.py").write_text(script + "with stage_exit():\n    exec('raise KeyboardInterrupt')")
    done = subprocess.run([sys.executable, "-m", "stage"], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (4, "interrupted; run the same command to resume\n")


def test_a_killed_run_stays_running_and_can_be_taken_up(tmp_path):
    script = "import os, sys; sys.path.insert(0, 'tests/fixtures'); from fake_runs import fake_raw\n"
    script += "from lifecycle_recipes.record.run import Run\n"
    script += f"Run(fake_raw({str(tmp_path / 'run')!r})).__enter__(); os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", script], check=False)
    assert read_record(tmp_path / "run")["status"] == "running"
    with Run(fake_raw(tmp_path / "run")):
        pass
    assert read_record(tmp_path / "run")["status"] == "done"


def full_disk(*args, **kwargs):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_does_not_hide_the_error(tmp_path, monkeypatch, capsys):
    with pytest.raises(ValueError, match="the real one"), Run(fake_raw(tmp_path / "run")):
        monkeypatch.setattr(record_file.os, "fsync", full_disk)
        raise ValueError("the real one")
    assert "No space left" in capsys.readouterr().err
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["run.json"]  # whole, and no half-written file
    assert read_record(tmp_path / "run")["status"] == "running"


def test_a_full_disk_alone_is_the_error(tmp_path, monkeypatch):
    with pytest.raises(Refusal) as refusal, Run(fake_raw(tmp_path / "run")):
        monkeypatch.setattr(record_file.os, "fsync", full_disk)
    assert (code_of(refusal), refusal.value.status) == ("record-unwritable", 1)
    with pytest.raises(Refusal) as refusal:
        Run(fake_raw(tmp_path / "other")).__enter__()
    assert (code_of(refusal), refusal.value.status) == ("output-dir-unwritable", 2)


def test_other_ranks_write_nothing_and_follow_rank_0(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "0")
    stop(tmp_path / "run", 5)
    rank_0 = Run(fake_raw(tmp_path / "run")).__enter__()
    before = (tmp_path / "run" / "run.json").read_bytes()
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(
        environment, "process_started", lambda pid: read_record(tmp_path / "run")["started_unix"]
    )
    with Run(fake_raw(tmp_path / "run")) as run:
        assert run.resume_from == rank_0.resume_from == str(tmp_path / "run" / "checkpoint-5")
        run.note(data={})
    assert (tmp_path / "run" / "run.json").read_bytes() == before
    monkeypatch.setattr(
        environment, "process_started", lambda pid: read_record(tmp_path / "run")["started_unix"] + 9
    )
    with pytest.raises(Refusal) as refusal:  # the record of an earlier launch
        output_dir.wait_for_rank_0(tmp_path / "run", seconds=0.3)
    assert code_of(refusal) == "record-not-seen"
    monkeypatch.setenv("RANK", "0")
    rank_0.__exit__(None, None, None)


@pytest.mark.parametrize(
    ("error", "status", "traceback"),
    [
        (refuse("x", "says", "fix"), 2, False),
        (Refusal(*refuse("x", "says").findings, status=1), 1, False),
        (Stopped("step 3"), 4, False),
        (KeyboardInterrupt(), 4, False),
        (RuntimeError("boom"), 1, True),
        (None, None, False),
    ],
)
def test_exit_statuses(capsys, monkeypatch, error, status, traceback):
    monkeypatch.setattr(os, "environ", dict(os.environ))

    @stage_exit
    def main():
        if error:
            raise error

    if status is None:
        main()
    else:
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code == status
    said = capsys.readouterr().err
    assert ("Traceback" in said) == traceback
    assert "error [x]" in said or not isinstance(error, Refusal)


def test_a_process_is_known_beyond_its_id():
    me = environment.this_process()
    assert environment.is_alive(me)
    assert not environment.is_alive(me | {"started": me["started"] - 100})  # the id was used again
    assert not environment.is_alive(me | {"host": "elsewhere"})

"""Upstream's noise is hidden, word for word, and nothing else is."""

import importlib
import json
import logging
import os
import subprocess
import sys
import textwrap

import pytest
from repository import ROOT

from lifecycle_recipes.quiet import LOG_NOISE, quiet


def run(code: str, **environment) -> subprocess.CompletedProcess:
    """A Python of its own."""
    command = [sys.executable, "-c", textwrap.dedent(code)]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TORCH_")}
    options = {"capture_output": True, "text": True, "timeout": 300}
    return subprocess.run(command, env=kept | environment, **options)


@pytest.mark.model
def test_wandb_is_not_announced_where_it_does_not_report():
    """transformers says so in every process, as it is imported, whatever report_to is."""
    importing = "import transformers.integrations.integration_utils; print('[INFO] Running'); print(None, 1)"
    loud = run(importing, WANDB_MODE="offline")
    assert "[INFO] Running in WANDB offline mode" in loud.stdout
    done = run("from lifecycle_recipes.quiet import quiet; quiet(); " + importing, WANDB_MODE="offline")
    assert (done.returncode, done.stdout) == (0, "[INFO] Running\nNone 1\n")


def test_deepspeed_does_not_say_what_it_has_built(capsys, monkeypatch):
    backend = importlib.import_module("deepspeed.comm.torch")

    class Builder:
        NAME = "op"

        def absolute_name(self):
            return "deepspeed.ops.comm.deepspeed_shm_comm_op"

        def load(self):
            return "built"

    monkeypatch.setattr(backend.deepspeed.ops, "__compatible_ops__", {"op": True})
    monkeypatch.setattr(
        backend, "get_accelerator", lambda: type("A", (), {"create_op_builder": lambda *_: Builder()})()
    )
    quiet()
    capsys.readouterr()
    assert backend.build_shm_op() == "built" and capsys.readouterr().out == ""


TOKENISE = """
    import os
    from lifecycle_recipes.quiet import quiet, tokenizers_in_parallel
    from tokenizers import Tokenizer, models
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "?": 1}, unk_token="?"))
    quiet()
    with tokenizers_in_parallel():
        print(os.environ["TOKENIZERS_PARALLELISM"], len(tokenizer.encode_batch(["a"] * 1000)))
        if not os.fork():  # with the threads of the parent it would wait for ever
            print(os.environ["TOKENIZERS_PARALLELISM"], len(tokenizer.encode_batch(["a"] * 1000)), flush=True)
            os._exit(0)
        os.wait()
    if not os.fork():
        with tokenizers_in_parallel():
            print(os.environ["TOKENIZERS_PARALLELISM"], len(tokenizer.encode_batch(["a"] * 1000)), flush=True)
        os._exit(0)
    os.wait()
"""


@pytest.mark.parametrize(("given", "values"), [(None, ["y", "false"]), ("off", ["off", "off"])])
def test_batches_are_tokenised_on_all_cores_but_not_after_a_fork(monkeypatch, given, values):
    monkeypatch.delenv("TOKENIZERS_PARALLELISM", raising=False)
    done = run(TOKENISE, PYTHONUNBUFFERED="1", **({"TOKENIZERS_PARALLELISM": given} if given else {}))
    assert done.stdout.split() == [values[0], "1000", values[1], "1000", values[1], "1000"]
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(("name", "noise"), LOG_NOISE)
def test_a_log_loses_its_noise_alone(name, noise, monkeypatch):
    quiet()
    seen = []
    logger = logging.getLogger(name)
    handler = logging.Handler()
    handler.emit = lambda record: seen.append(record.getMessage())
    logger.addHandler(handler)
    monkeypatch.setattr(logger, "disabled", False)
    try:
        logger.error("before %s after", noise)
        logger.error("a real failure")
    finally:
        logger.removeHandler(handler)
    assert seen == ["a real failure"]


DDP = """
    import os, tempfile
    from lifecycle_recipes.quiet import quiet

    if {hide}:
        quiet()
    import torch
    from torch.nn.parallel import DistributedDataParallel

    store = torch.distributed.FileStore(tempfile.mktemp(), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    model = DistributedDataParallel(torch.nn.Linear(2, 1), find_unused_parameters=True)
    for _ in range(2):
        model(torch.ones(1, 2)).sum().backward()
    os.write(2, b"the end\\n")
    if {fail}:
        torch.distributed.TCPStore("127.0.0.1", 1, timeout=__import__("datetime").timedelta(seconds=2))
    torch.distributed.destroy_process_group()
"""
NOTICE = "find_unused_parameters=True was specified"


@pytest.mark.model
def test_ddp_looks_for_unused_parameters_and_does_not_say_so():
    assert NOTICE in run(DDP.format(hide=False, fail=False)).stderr
    done = run(DDP.format(hide=True, fail=False))
    assert (done.returncode, done.stderr) == (0, "the end\n")


def test_errors_of_torch_in_cpp_are_shown():
    done = run(DDP.format(hide=True, fail=True))
    assert done.returncode == 1 and "[E" in done.stderr and NOTICE not in done.stderr


def test_the_user_may_ask_torch_for_its_warnings():
    assert NOTICE in run(DDP.format(hide=True, fail=False), TORCH_CPP_LOG_LEVEL="WARNING").stderr


RECIPE = """stage: sft
model: {{model_name_or_path: {model}}}
data: {{sources: [{{path: {here}/rows.jsonl}}]}}
global_batch_size: 4
train:
  output_dir: {here}/run
  max_steps: 2
  activation_checkpointing: false
  report_to: none
  save_strategy: "no"
"""


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["cpu_ddp", "zero2"])
def test_a_good_run_on_two_processes_is_quiet(tmp_path, tiny_model_dir, tiny_chat_rows, layout):
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in tiny_chat_rows))
    (tmp_path / "sft.yaml").write_text(RECIPE.format(model=tiny_model_dir, here=tmp_path))
    command = [sys.executable, "-m", "lifecycle_recipes.cli", "run", str(tmp_path / "sft.yaml")]
    command += ["--layout", layout, "--processes", "2", "--cpu"]
    variables = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline"}
    options = {"capture_output": True, "text": True, "timeout": 400}
    done = subprocess.run(command, cwd=ROOT, env=variables, **options)
    assert done.returncode == 0, done.stderr
    command, start, *ending = done.stdout.splitlines()
    assert command.startswith("+ ") and start.startswith("training "), done.stdout
    assert len(ending) == 3 and ending[2].startswith("next: "), done.stdout
    assert all(line.startswith("rank 0 prepares ") for line in done.stderr.splitlines()), done.stderr

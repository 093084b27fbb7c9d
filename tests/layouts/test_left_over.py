"""Variables of another launch do not reach a run that `lifecycle` starts."""

import os

import pytest

from lifecycle_recipes import cli
from lifecycle_recipes.layouts.left_over import drop_left_over

LEFT_OVER = {
    **{
        "RANK": "1",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
    },
    **{"MASTER_PORT": "29500", "ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"},
    **{"ACCELERATE_USE_FSDP": "true", "OMPI_COMM_WORLD_SIZE": "2", "PARALLELISM_CONFIG_TP_SIZE": "2"},
    **{"TORCHELASTIC_RUN_ID": "x"},
}
# What a user sets for a run.
KEPT = {
    "CUDA_VISIBLE_DEVICES": "",
    "OMP_NUM_THREADS": "1",
    "ACCELERATE_USE_CPU": "true",
    "NCCL_DEBUG": "INFO",
}


def test_they_are_dropped_and_what_a_user_sets_is_kept(monkeypatch):
    for name, value in {**LEFT_OVER, **KEPT}.items():
        monkeypatch.setenv(name, value)
    assert drop_left_over() == sorted(LEFT_OVER)
    assert not set(LEFT_OVER) & set(os.environ) and os.environ.items() >= KEPT.items()
    assert drop_left_over() == []


def test_a_recipe_is_checked_although_this_shell_was_rank_1(monkeypatch, tmp_path, capsys):
    """Only rank 0 checks a recipe: the run would start with its mistakes, and wait for rank 0."""
    monkeypatch.setenv("RANK", "1")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "w.txt").write_text("text\n")
    (tmp_path / "r.yaml").write_text(
        "stage: tokenizer\ntokenizer: {vocab_size: 3, output_dir: out}\ndata: {sources: [{path: w.txt}]}\n"
    )
    with pytest.raises(SystemExit) as end:
        cli.main(["run", "r.yaml"])
    told = capsys.readouterr().err
    assert end.value.code == 2 and "[vocab-too-small]" in told
    assert "ignored, left over from another launch: RANK" in told

"""The whole desk life, as a newcomer has it: every stage, every gate, the card."""

import json
import re

import pytest
from clone import LIFE, clone, make


@pytest.mark.slow
def test_the_whole_life_keeps_its_promises(tmp_path):
    """`make lifecycle` in a fresh clone; about ten minutes on a quiet machine. Runs first."""
    here = clone(tmp_path)
    done = make(here, "lifecycle", timeout=75 * 60)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    files = {stage: here / f"runs/desk/{stage}/run.json" for stage in LIFE}
    runs = {stage: json.loads(file.read_text()) for stage, file in files.items()}
    assert {run["status"] for run in runs.values()} == {"done"}
    for stage in LIFE:
        verdicts = re.findall(
            rf"((?:^(?:pass|FAIL)  .*\n)+)^runs/desk/{stage}: gate passed$", done.stdout, re.M
        )
        assert len(verdicts) == 1 and "FAIL" not in verdicts[0]
        assert (here / f"runs/desk/{stage}/gate.ok").is_file()
    assert max(run["peak_memory_gb"] for run in runs.values()) <= 4
    card = done.stdout[done.stdout.index("| run ") :]
    for stage in LIFE:
        assert re.search(rf"^\| {stage} +\| done .* pass \|$", card, re.M), card
    samples = re.split(r"^### .+$", card, flags=re.M)[1:]
    assert len(samples) == 3
    for reply in samples:
        for stage in ("03-pretrain", "04-sft", "06-ppo", "07-dpo", "08-kto"):
            assert re.search(rf"^  {stage} ", reply, re.M), card

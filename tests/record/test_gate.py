"""Gate lines: what they mean, what fails them, what is refused."""

import json
import os
import subprocess
import sys

import pytest

from lifecycle_recipes.finding import Refusal
from lifecycle_recipes.record.gate import judge, parse, settled_lines, write_gate


def write_run(directory, metrics, gate=(), status="done", parents=None, identity="me"):
    directory.mkdir(parents=True, exist_ok=True)
    record = {"status": status, "metrics": metrics, "gate": list(gate), "parents": parents or {}}
    (directory / "run.json").write_text(json.dumps(record | {"identity": identity}))
    return directory


@pytest.fixture
def child(tmp_path):
    """A run with a parent (03-pretrain) and a sibling (04-sft)."""
    write_run(tmp_path / "03-pretrain", {"wiki.bits_per_byte": 1.0}, identity="base")
    write_run(tmp_path / "04-sft", {"contract.kept": 0.9})
    parent = {"path": "gone", "relative": "../03-pretrain", "identity": "base"}
    metrics = {
        "acc": 0.8,
        "wiki.bits_per_byte": 1.1,
        "eval_rewards/margins": 2.0,
        "nan": "nan",
        "word": "high",
    }
    metrics |= {"inf": "inf", "none": None, "gsm8k.exact_match.strict-match": 0.5}
    return write_run(tmp_path / "06-ppo", metrics, parents={"model": parent})


PASS = [
    "acc > 0.7",
    "acc >= 0.8",
    "acc <= 0.8",
    "acc<1",
    "acc == 8e-1",
    "acc > -1",
    "acc >= 04-sft/contract.kept - 0.1",
    "acc < 04-sft/contract.kept + 0",
    "wiki.bits_per_byte <= parent/wiki.bits_per_byte * 1.15",
    "parent/wiki.bits_per_byte < wiki.bits_per_byte",
    "wiki.bits_per_byte < parent/wiki.bits_per_byte*1.15",
    "eval_rewards/margins > 1",
    "gsm8k.exact_match.strict-match == .5",
    "acc < eval_rewards/margins",
]
FAIL = {
    "acc > 0.8": "acc is 0.8",
    "acc < 0.8": "acc is 0.8",
    "acc == 0.81": "acc is 0.8",
    "wiki.bits_per_byte <= parent/wiki.bits_per_byte * 1.05": "bound 1.05",
    "acc >= 04-sft/contract.kept - 0.01": "bound 0.89",
    "lost > 0": "lost was not measured",
    "acc > lost": "lost was not measured",
    "none > 0": "none was not measured",
    "nan < 1": "nan is nan",
    "inf > 1": "inf is inf",
    "acc > nan": "nan is nan",
    "word > 0": "word is 'high', not a number",
    "acc > parent/acc": "parent/acc was not measured",
    "acc > 09-lost/acc": "no record of 09-lost",
}
MALFORMED = [
    "acc",
    "acc >",
    "> 0.5",
    "acc => 0.5",
    "acc != 0.5",
    "acc > 0.5 * 2 * 2",
    "acc > 2 * parent/acc",
    "acc > 0.5 / 2",
    "acc > 90 %",
    "acc > 0.5-0.1",
    "acc > 0.5 and b > 1",
    "0.5 < acc",
    "acc > 1e999",
    "acc > 0.5 # comment",
    "",
    7,
    {"acc": 1},
    None,
]


@pytest.mark.parametrize("line", PASS)
def test_line_passes(child, line):
    assert judge(child, [line])[0].ok, judge(child, [line])[0].message


@pytest.mark.parametrize(("line", "message"), FAIL.items())
def test_line_fails_and_says_why(child, line, message):
    verdict = judge(child, [line])[0]
    assert not verdict.ok
    assert message in verdict.message


@pytest.mark.parametrize("line", MALFORMED)
def test_malformed_line_is_refused_by_name(line):
    with pytest.raises(Refusal) as refusal:
        parse(line)
    assert refusal.value.findings[0].code == "bad-gate"
    assert str(line) in refusal.value.findings[0].message


@pytest.mark.parametrize(
    ("line", "fix"),
    [
        ("acc != 2", "OP is one of < <= > >= =="),
        ("acc > 1 and acc < 2", "each condition as a line of its own"),
    ],
)
def test_a_malformed_line_is_told_what_a_line_may_hold(line, fix):
    with pytest.raises(Refusal) as refusal:
        parse(line)
    assert fix in refusal.value.findings[0].fix


@pytest.mark.parametrize("status", ["running", "stopped", "failed: ValueError: x"])
def test_a_run_that_is_not_done_fails(tmp_path, status):
    run = write_run(tmp_path / "run", {"acc": 1.0}, ["acc > 0.5"], status)
    assert [v.ok for v in judge(run)] == [False, True]
    assert status in judge(run)[0].message
    assert not judge(write_run(tmp_path / "run", {}, [], status))[0].ok  # also if it promises nothing


def test_a_directory_without_record_fails(tmp_path):
    assert not judge(tmp_path)[0].ok
    (tmp_path / "run.json").write_text("{")
    assert not judge(tmp_path)[0].ok


def test_a_metric_of_an_unfinished_or_other_parent_does_not_count(child):
    write_run(child.parent / "03-pretrain", {"acc": 0.1}, status="running", identity="base")
    assert "not done" in judge(child, ["acc > parent/acc"])[0].message
    write_run(child.parent / "03-pretrain", {"acc": 0.1}, identity="trained again")
    assert "is not the parent" in judge(child, ["acc > parent/acc"])[0].message


def test_parent_is_found_after_both_were_moved(child, tmp_path):
    moved = child.parent.rename(tmp_path.parent / f"{tmp_path.name}-moved") / "06-ppo"
    assert judge(moved, ["parent/wiki.bits_per_byte == 1"])[0].ok


def test_gate_file_comes_and_goes(tmp_path):
    run = write_run(tmp_path / "run", {"acc": 1.0}, ["acc > 2"])
    assert write_gate(run, judge(run, ["acc > 0.5"]))
    assert settled_lines(run) == ["acc > 0.5"]
    assert not write_gate(run, judge(run, ["acc > 2"]))
    assert not (run / "gate.ok").exists() and settled_lines(run) == ["acc > 2"]
    assert not write_gate(run, judge(run))  # and again, with nothing to delete
    write_gate(run, judge(run, ["acc > 0.5"]))
    assert not (run / "gate.failed").exists()
    write_run(run, {"acc": 0.9}, ["acc > 2"])  # another run's gate.ok settles nothing
    assert settled_lines(run) is None


def test_a_stricter_promise_that_failed_is_remembered(tmp_path):
    """The record still holds the milder one that it was trained under."""
    run = write_run(tmp_path / "run", {"acc": 1.0}, ["acc > 0.5"])
    assert not write_gate(run, judge(run, ["acc > 2"]))
    assert [v.ok for v in judge(run)] == [False]
    stopped = write_run(tmp_path / "stopped", {"acc": 1.0}, ["acc > 0.5"], status="stopped")
    assert not write_gate(stopped, judge(stopped))
    assert settled_lines(stopped) == ["acc > 0.5"]


def test_the_lines_that_were_judged_last_are_the_runs(tmp_path):
    """A gate that was corrected in the recipe is not undone by judging the run directory again."""
    run = write_run(tmp_path / "run", {"acc": 1.0}, ["acc > 2"])
    assert [v.line for v in judge(run)] == ["acc > 2"]
    assert write_gate(run, judge(run, ["acc > 0.5"]))
    assert write_gate(run, judge(run)) and settled_lines(run) == ["acc > 0.5"]
    write_run(run, {"acc": 0.9}, ["acc > 2"])  # trained anew
    assert [v.line for v in judge(run)] == ["acc > 2"]


def test_what_was_measured_is_listed_beside_what_was_not(child):
    write_run(child.parent / "04-sft", {"contract.kept": 0.9, "steps": 3})
    lines = ["contract.kpt > 1", "acc > 04-sft/contract.kpt", "acc > parent/nothing", "acc > 2"]
    near, other, far, measured = judge(child, lines)
    assert near.message == "contract.kpt was not measured"
    assert other.message == "04-sft/contract.kpt was not measured: did you mean 04-sft/contract.kept?"
    assert other.measured == ("contract.kept", "steps") and far.measured == ("wiki.bits_per_byte",)
    assert measured.measured == ()


def test_gates_are_judged_without_torch_in_well_under_a_second(child):
    code = f"import sys; from lifecycle_recipes.record.gate import judge; judge({str(child)!r}, ['acc > 0']);"
    code += "sys.exit(any(m in sys.modules for m in ('torch', 'transformers', 'datasets', 'yaml')))"
    process = subprocess.Popen([sys.executable, "-c", code])
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    assert usage.ru_utime + usage.ru_stime < 0.5  # processor seconds: other tests may keep the machine busy

"""`lifecycle check` and the same levels inside a stage: order, waivers, pins, what is recorded."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from checked import RECIPE, codes, write

from lifecycle_recipes import cli
from lifecycle_recipes.doctor import check as doctor
from lifecycle_recipes.finding import Finding, Refusal, refuse
from lifecycle_recipes.recipe.read import publishing_defaults, read_recipe
from lifecycle_recipes.record.file import read_record
from lifecycle_recipes.record.run import Run

# The levels


def test_a_good_recipe_passes_all_levels_and_writes_nothing(recipe_here):
    before = sorted(recipe_here.rglob("*"))
    lines = []
    report = doctor.check("sft.yaml", say=lines.append)
    assert (report.findings, report.reached, report.stopped) == ([], 3, "")
    assert set(report.seconds) == {"1", "2", "3"} and report.summary().startswith(
        "sft.yaml: ok; level 1 to 3 in"
    )
    assert lines == ["sft.yaml: level 2, rows and tokens", "sft.yaml: level 3, the built trainer"]
    assert sorted(recipe_here.rglob("*")) == before


def test_a_level_with_errors_is_the_last_one(recipe_here, tiny_chat_rows):
    Path("rows.jsonl").write_text('{"messages": []}\n')
    report = doctor.check("sft.yaml", ["--eval_steps", "5"])
    assert ([f.code for f in report.findings], report.reached) == (["eval-keys-unused"], 1)
    assert "level 2 was not checked" in report.summary()
    report = doctor.check("sft.yaml")
    assert [f.severity for f in report.findings] == ["error"] and report.reached == 2


def test_all_findings_of_a_level_come_at_once_errors_first(recipe_here):
    write(
        RECIPE.replace(
            "max_steps: 2", "max_steps: 2\n  num_train_epochs: 1\n  eval_steps: 4\n  bf16: true\n  fp16: true"
        )
    )
    found = codes()
    assert found[:2] == [("two-precisions", "error"), ("eval-keys-unused", "error")]
    assert ("epochs-unused", "warning") in found[2:]


def test_a_missing_column_names_the_columns_that_exist(recipe_here):
    Path("other.jsonl").write_text('{"conversation": []}\n')
    (found,) = doctor.check("sft.yaml", ["--data.sources", "[{path: other.jsonl}]"], upto=1).errors
    assert found.code == "missing-column" and found.message.endswith("it has 'conversation'")


def test_a_check_that_fails_itself_is_named_and_the_other_recipes_are_checked(
    recipe_here, monkeypatch, capsys
):
    def fail(raw):
        return 1 / (raw.path == "sft.yaml")

    shutil.copy("sft.yaml", "other.yaml")
    monkeypatch.setattr(doctor, "find_in_recipe", lambda raw: [] if fail(raw) else [])
    with pytest.raises(SystemExit) as end:
        cli.main(["check", "other.yaml", "sft.yaml", "--upto", "1"])
    out, err = capsys.readouterr()
    assert end.value.code == 2 and "sft.yaml: ok" in out and "Traceback" not in err
    assert "error [check-failed] other.yaml: the check itself failed: ZeroDivisionError" in err


def test_a_recipe_that_cannot_be_read_is_a_report_too(recipe_here):
    report = doctor.check("nowhere.yaml")
    assert [f.code for f in report.errors] == ["missing-recipe"]
    report = doctor.check(write("stage: sft\nlerning: 1\n", "bad.yaml"))
    assert {f.code for f in report.errors} == {"unknown-key", "missing-section"}


def test_stages_without_rows_or_trainer_end_earlier(recipe_here):
    shutil.copytree("parent", "tok")
    Path("t.txt").write_text("".join(f"Line {i}.\n" for i in range(9)))
    tokenizer = "tokenizer: {output_dir: made, vocab_size: 300, chat_template: t.jinja}\n"
    Path("t.jinja").write_text("{{ messages }}")
    write(f"stage: tokenizer\n{tokenizer}data: {{sources: [{{path: t.txt}}]}}\n", "tok.yaml")
    assert doctor.check("tok.yaml").reached == 2
    Path("prompts.jsonl").write_text('{"prompt": "Hello"}\n')
    evaluate = "evaluate: {output_dir: seen, prompts: prompts.jsonl}\n"
    write(f"stage: evaluate\nmodel: {{model_name_or_path: parent}}\n{evaluate}", "evaluate.yaml")
    report = doctor.check("evaluate.yaml")
    assert (report.findings, report.reached, report.stopped) == ([], 1, "")


def test_the_command_prints_json_or_lines(recipe_here, capsys):
    def run(*arguments):
        with pytest.raises(SystemExit) as end:
            cli.main(["check", "sft.yaml", "--upto", "1", *arguments])
        return end.value.code, *capsys.readouterr()

    status, out, err = run("--json", "--eval_steps", "5", "--num_train_epochs", "1")
    found = json.loads(out)
    assert status == 2 and err == ""
    assert [(f["code"], f["severity"]) for f in found] == [
        ("eval-keys-unused", "error"),
        ("epochs-unused", "warning"),
    ]
    assert all(set(f) == {"code", "severity", "message", "fix", "where"} and f["where"] for f in found)
    status, out, err = run("--num_train_epochs", "1")
    assert status == 0 and err.startswith("warning [epochs-unused] --num_train_epochs:")
    assert out.startswith("sft.yaml: 1 warning; level 1 in")
    assert run("--json") == (0, "[]\n", "")


# Several recipes


@pytest.fixture
def check_all(recipe_here, capsys):
    """`lifecycle check` of what its arguments name -> (status, output, errors)."""

    def run(*arguments):
        with pytest.raises(SystemExit) as end:
            cli.main(["check", *arguments])
        return end.value.code, *capsys.readouterr()

    Path("life").mkdir()
    write(RECIPE.replace("output_dir: run", "output_dir: runs/first"), "life/04-sft.yaml")
    second = RECIPE.replace("parent", "runs/first").replace("output_dir: run", "output_dir: runs/second")
    write(second + "evaluate: {prompts: rows.jsonl, against: runs/first}\n", "life/05-sft.yaml")
    return run


def test_what_a_recipe_of_the_same_call_makes_is_not_missing(check_all):
    status, out, err = check_all("life", "--upto", "2")
    assert (status, "parent" in err, "missing-model" in err) == (
        2,
        False,
        False,
    )  # the prompts are not prompts
    status, out, err = check_all("life", "--upto", "2", "--05-sft.evaluate", "null")
    assert (status, err) == (0, "")
    plans = [line.strip() for line in out.splitlines() if line.startswith("    ")]
    assert plans == [
        "sft of parent -> runs/first; 32 rows; 2 steps",
        "sft of runs/first -> runs/second; 32 rows; 2 steps",
    ]
    # Alone, the second one needs the first.
    status, _, err = check_all("life/05-sft.yaml", "--upto", "1", "--evaluate", "null")
    assert status == 0 and err.startswith("warning [parent-missing] life/05-sft.yaml:3")


def test_a_recipe_with_the_name_of_a_section_takes_overrides(check_all):
    write(RECIPE, "train.yaml")
    assert check_all("train.yaml", "--upto", "1", "--train.seed", "3")[0] == 0


GATED = RECIPE.replace("parent", "runs/first").replace("output_dir: run", "output_dir: runs/second")


@pytest.mark.parametrize(
    ("file", "line", "overrides"),
    [
        ("other/05-sft.yaml", "steps == first/steps", []),  # in another directory
        ("life/05-sft.yml", "steps == first/steps", []),
        ("life/05-sft.yaml", "train_loss < parent/eval_loss", ["--04-sft.data.eval_fraction", "0.5"]),
        ("life/05-sft.yaml", "steps == renamed/steps", ["--04-sft.train.output_dir", "runs/renamed"]),
        ("life/05-sft.yaml", "train_loss < first/eval_aux_loss", ["--04-sft.data.eval_fraction", "0.5"]),
    ],
)
def test_a_gate_is_looked_up_in_the_recipes_of_the_same_call(check_all, file, line, overrides):
    """With their overrides, wherever they are, whatever their suffix."""
    Path("life/05-sft.yaml").unlink()
    Path(file).parent.mkdir(exist_ok=True)
    first = "life/04-sft.yaml"
    if file.endswith(".yml"):
        first = shutil.move(first, "life/04-sft.yml")
    if "runs/renamed" in overrides:
        write(GATED.replace("runs/first", "runs/renamed") + f"gate: [{line}]\n", file)
    else:
        write(GATED + f"gate: [{line}]\n", file)
    status, _, err = check_all(first, file, "--upto", "1", *overrides)
    assert status == 0 and ("gate-unknown" in err) == ("aux" in line), err
    # Its old name is that of no run.
    if "runs/renamed" in overrides:
        write(Path(file).read_text().replace("renamed/steps", "first/steps"), file)
        status, _, err = check_all(first, file, "--upto", "1", *overrides)
        assert status == 2 and "there is no run runs/first" in err


def test_of_a_run_that_is_finished_the_record_is_asked_and_of_another_the_recipe(check_all):
    write(GATED + "gate: [train_loss < parent/extra]\n", "life/05-sft.yaml")
    with Run(read_recipe("life/04-sft.yaml", [])) as run:
        shutil.copy("parent/model.safetensors", "runs/first")
        run.metrics |= {"extra": 1.0}
    assert check_all("life", "--upto", "1")[0] == 0
    status, _, err = check_all("life", "--upto", "1", "--04-sft.train.seed", "3")
    assert status == 2 and "the recipe life/04-sft.yaml has no metric extra" in err


def test_recipes_that_need_each_other_are_found_by_the_check(check_all):
    status, _, err = check_all("life", "--upto", "1", "--04-sft.model.model_name_or_path", "runs/second")
    assert status == 2 and "error [parent-cycle]" in err and "04-sft -> 05-sft -> 04-sft" in err


def test_what_several_recipes_have_is_said_once(check_all):
    status, _, err = check_all(
        "life", "--upto", "1", "--05-sft.evaluate", "null", "--data.sources.0.path", "gone.jsonl"
    )
    assert status == 2 and err.count("the file gone.jsonl does not exist") == 1
    assert err.endswith("    in: life/04-sft.yaml, life/05-sft.yaml\n")


def test_a_recipe_whose_check_fails_hides_no_other(check_all, monkeypatch):
    from lifecycle_recipes.doctor import check as module

    whole = module.find_in_recipe

    def find(raw):
        if raw.path == "life/04-sft.yaml":
            raise ZeroDivisionError("of our own")
        return whole(raw)

    monkeypatch.setattr(module, "find_in_recipe", find)
    write("stage: sft\nlerning: 1\n", "life/06-bad.yaml")
    status, out, err = check_all("life", "--upto", "1", "--05-sft.evaluate", "null")
    assert (
        status == 2
        and "error [check-failed] life/04-sft.yaml" in err
        and "ZeroDivisionError: of our own" in err
    )
    assert "life/05-sft.yaml: ok" in out and "error [unknown-key] life/06-bad.yaml:2" in err


def test_two_recipes_with_one_output_dir_are_an_error(check_all):
    write(RECIPE.replace("output_dir: run", "output_dir: runs/first"), "life/06-sft.yaml")
    status, _, err = check_all("life", "--upto", "1", "--05-sft.evaluate", "null")
    assert status == 2 and err.startswith(
        "error [output-dir-shared] life/06-sft.yaml:8: life/04-sft.yaml and "
    )


# Before a run


def test_a_failed_gate_of_the_parent_does_not_hide_the_rows(recipe_here):
    record = {"status": "done", "stage": "pretrain", "metrics": {"loss": 2.0}, "gate": ["loss < 1"]}
    Path("parent/run.json").write_text(json.dumps(record))
    Path("rows.jsonl").write_text('{"messages": []}\n')
    report = doctor.check("sft.yaml")
    assert [f.code for f in report.errors] == ["parent-gate-failed", "no-messages"] and report.reached == 2


def test_rows_are_looked_through_once(recipe_here, monkeypatch):
    """The stage has the findings of `lifecycle run`, also those that its recipe waives."""
    from lifecycle_recipes.doctor.row_level import handed_on, rows

    with Path("rows.jsonl").open("a") as file:
        file.write('\n{"messages": []}\n')
    monkeypatch.setenv(handed_on.VARIABLE, "{}")
    raw = read_recipe("sft.yaml", ["--allow", "{no-messages: known}"])
    assert doctor.check_launch(raw).allowed == {"no-messages": "known"}
    looked = []
    monkeypatch.setattr(rows, "find_in_rows", lambda *_: looked.append(1) or [])
    again = read_recipe("sft.yaml", ["--allow", "{no-messages: known}"])
    assert [f.code for f in doctor.find_in_data(again, tokens=False)] == ["no-messages"] and not looked
    # A file that has changed since, or another recipe, is looked through.
    os.utime("rows.jsonl", (1, 1))
    assert doctor.find_in_data(again, tokens=False) == [] and looked == [1]
    doctor.find_in_data(read_recipe("sft.yaml", ["--train.seed", "3"]), tokens=False)
    assert looked == [1, 1]


# Waivers and pins


def test_a_waiver_needs_a_code_and_a_reason(recipe_here):
    text = RECIPE + "  num_train_epochs: 1\nallow:\n"
    report = doctor.check(write(text + "  epochs-unused: both on purpose\n"), upto=1)
    assert (report.findings, report.allowed) == ([], {"epochs-unused": "both on purpose"})
    assert "waived: epochs-unused" in report.summary()
    report = doctor.check(write(text + "  epoch-unused: a slip\n"), upto=1)
    (unknown,) = report.errors
    assert (unknown.code, unknown.where) == ("unknown-waiver", "sft.yaml:15")
    assert unknown.fix == "did you mean epochs-unused?"
    assert ("waiver-without-reason", "error") in codes(write(text + "  epochs-unused: ' '\n"))


def test_a_waiver_that_waives_nothing_is_named_after_the_last_level(recipe_here):
    write(RECIPE + "allow: {eval-overlap: a public set}\n")
    assert codes(upto=2) == []
    assert codes(upto=3) == [("unused-waiver", "warning")]


def test_errors_of_every_level_can_be_waived(recipe_here, tiny_chat_rows):
    rows = [*tiny_chat_rows, {"messages": []}]
    Path("rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    ((code, _),) = codes(upto=2)
    report = doctor.check("sft.yaml", ["--allow", f"{{{code}: known}}"])
    assert report.errors == [] and report.allowed == {code: "known"} and report.reached == 3


def test_a_waived_lora_without_peft_trains_every_weight(recipe_here):
    recipe = RECIPE.replace("  model_name_or_path: parent\n", "  model_name_or_path: parent\n  lora_r: 8\n")
    write(recipe + "allow: {lora-without-peft: every weight is meant}\n")
    report = doctor.check("sft.yaml")
    assert (report.errors, report.reached) == ([], 3) and set(report.allowed) == {"lora-without-peft"}
    assert run_stage() == 0
    assert read_record("run")["status"] == "done" and not Path("run/adapter_config.json").exists()


def test_a_refusal_while_building_is_not_waived(recipe_here, monkeypatch):
    """Waived or not, there is no trainer: nothing of level 3 was looked at."""
    from lifecycle_recipes.stages import sft

    def build(recipe, run):
        raise refuse("epochs-unused", "this cannot be built")

    monkeypatch.setattr(sft, "build_trainer", build)
    write(RECIPE + "allow: {epochs-unused: so be it}\n")
    report = doctor.check("sft.yaml")
    assert [f.code for f in report.errors] == ["epochs-unused"] and report.allowed == {}


def test_what_no_run_goes_on_past_cannot_be_waived(recipe_here):
    write(RECIPE.replace("train:", "  eval_fraction: 0.1\n  eval_sources: [{path: rows.jsonl}]\ntrain:"))
    for waivers in ("{two-eval-splits: either}", "{two-eval-splits: either, not-waivable: please}"):
        report = doctor.check("sft.yaml", ["--allow", waivers])
        assert "two-eval-splits" in {f.code for f in report.errors}
        assert "not-waivable" in {f.code for f in report.warnings}
        assert (report.allowed, report.reached) == ({}, 1)


def test_a_waiver_that_is_not_needed_stops_no_recipe(recipe_here):
    report = doctor.check("sft.yaml", ["--allow.two-eval-splits", "left over"], upto=1)
    assert report.errors == [] and [f.code for f in report.warnings] == ["not-waivable"]


def test_a_refusal_that_ends_level_1_is_not_waived(recipe_here):
    """What came after it was not looked at: an ok would be untrue."""

    def read_layout(raw):
        raise refuse("layout-zero-stage", "the file sets another stage")

    write(RECIPE + "  bf16: true\n  fp16: true\nallow: {layout-zero-stage: meant}\n")
    report = doctor.check("sft.yaml", read_layout=read_layout)
    assert [f.code for f in report.errors] == ["layout-zero-stage"] and report.allowed == {}


LEVEL_1 = """
import socket, sys

def no_network(*args, **kwargs):
    raise AssertionError("level 1 asked the network")

socket.getaddrinfo = socket.socket.connect = no_network
from lifecycle_recipes.doctor.check import check
report = check("sft.yaml", upto=1)
assert not {"torch", "transformers", "trl", "datasets"} & set(sys.modules), "level 1 imported it"
print([finding.code for finding in report.findings])
"""


@pytest.mark.parametrize("base", ["owner/model", None])
def test_level_1_needs_no_network_and_no_transformers(recipe_here, base):
    """Also for an adapter whose base is on the Hub, or which names none."""
    adapter = Path("adapter")
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base}))
    (adapter / "adapter_model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    write(RECIPE.replace("name_or_path: parent", "name_or_path: adapter"))
    environment = os.environ | {"HF_HUB_OFFLINE": "0"}
    done = subprocess.run([sys.executable, "-c", LEVEL_1], capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


def test_pins_apply_where_no_revision_is_given(recipe_here):
    text = RECIPE.replace("rows.jsonl", "me/rows").replace("parent", "me/model")
    raw = read_recipe(write(text + "pinned: {me/rows: abc, me/model: def}\n"))
    assert raw.values["data"]["sources"][0]["revision"] == "abc"
    assert raw.values["model"]["model_revision"] == "def"
    write(
        text.replace("- path: me/rows", "- {path: me/rows, revision: old}")
        + "pinned: {me/rows: new, me/no: x}\n"
    )
    found = dict(codes())
    assert found["pin-conflict"] == "error" and found["unused-pin"] == "warning"
    assert read_recipe("sft.yaml").values["data"]["sources"][0]["revision"] == "old"


def test_what_is_pushed_is_private_unless_the_recipe_says_otherwise():
    assert publishing_defaults({"push_to_hub": True}) == {"hub_private_repo": True}
    assert publishing_defaults({"push_to_hub": True, "hub_private_repo": False}) == {}
    assert publishing_defaults({}) == {}


# Files


def test_columns_are_read_from_the_first_rows(recipe_here):
    Path("rows.jsonl").write_text('{"conversations": [], "id": 1}\n')
    (found,) = doctor.check("sft.yaml", upto=1).findings
    assert found.code == "missing-column" and "'conversations'" in found.message
    assert codes("sft.yaml", "--data.sources.0.columns", "{messages: conversations}") == []
    Path("rows.jsonl").write_text("not json\n")
    assert codes() == []  # every line is read at level 2


def test_missing_things_are_named_with_their_place(recipe_here):
    for override, code in (
        (["--data.sources.0.path", "no.jsonl"], "missing-file"),
        (["--train.chat_template_path", "no.jinja"], "missing-file"),
        (["--model.model_name_or_path", "./no-parent"], "parent-missing"),
        (["--evaluate.prompts", "no.jsonl"], "missing-file"),
        (["--evaluate", "{prompts: rows.jsonl, against: ./no}"], "bad-row"),
        (["--data.eval_sources", "[{path: ./rows.jsonl}]"], "eval-is-train"),
        (["--data.eval_fraction", "0.1", "--data.eval_sources", "[{path: b.jsonl}]"], "two-eval-splits"),
    ):
        assert (code, "error") in codes("sft.yaml", *override), code


def test_a_parent_that_a_recipe_beside_this_one_makes_is_a_warning(recipe_here):
    write(RECIPE.replace("output_dir: run", "output_dir: runs/first"), "a.yaml")
    write(RECIPE.replace("path: parent", "path: runs/first"), "b.yaml")
    report = doctor.check("b.yaml")
    assert [(f.code, f.severity, f.fix) for f in report.findings] == [
        ("parent-missing", "warning", "run this first: lifecycle run a.yaml")
    ]
    assert report.reached == 2 and report.stopped == "level 3 was not checked: parent-missing"
    with pytest.raises(Refusal, match="parent-missing"):
        doctor.check_recipe(read_recipe("b.yaml"))  # a run cannot wait for it


def test_a_parent_that_failed_its_gate_is_an_error(recipe_here):
    record = {"status": "done", "stage": "sft", "metrics": {"acc": 0.1}, "gate": ["acc > 0.5"]}
    Path("parent/run.json").write_text(json.dumps(record))
    assert codes() == [("parent-gate-failed", "error")]
    assert codes("sft.yaml", "--allow-failed-parent") == []
    Path("parent/run.json").write_text(json.dumps(record | {"status": "running"}))
    assert codes() == [("parent-unfinished", "error")]


@pytest.mark.parametrize("path", ["''", '"a\\0b"', '"\\ud800"', "x" * 300, "/x" * 3000])
def test_what_no_file_system_can_look_up(recipe_here, path):
    for text in (
        RECIPE.replace("rows.jsonl", path),
        RECIPE.replace("output_dir: run", f"output_dir: {path}"),
    ):
        assert codes(write(text)) == [("bad-path", "error")]
        with pytest.raises(Refusal):
            doctor.check_recipe(read_recipe("sft.yaml"))
    assert not Path("run.json").exists()


# In a stage


def run_stage(*overrides) -> int:
    from lifecycle_recipes.stages import sft

    try:
        sft.main(["sft.yaml", *overrides])
    except SystemExit as end:
        return end.code
    return 0


def test_a_stage_records_what_was_found_waived_and_spent(recipe_here, capsys):
    write(RECIPE + "  num_train_epochs: 1\nallow: {epochs-unused: a test, eval-overlap: nothing}\n")
    assert run_stage() == 0
    record = read_record("run")
    assert record["status"] == "done" and record["allowed"] == {"epochs-unused": "a test"}
    assert set(record["check_seconds"]) == {"1", "layout", "2", "3"}
    found = {f["code"]: f for f in record["findings"]}
    assert found["unused-waiver"]["where"].startswith("sft.yaml:") and "epochs-unused" not in found
    assert capsys.readouterr().err.count("[unused-waiver]") == 1


def test_a_stage_refuses_at_each_level(recipe_here, capsys, tiny_chat_rows, monkeypatch):
    assert run_stage("--eval_steps", "5") == 2
    assert capsys.readouterr().err.count("[eval-keys-unused]") == 1
    assert read_record("run")["status"].startswith("failed: [eval-keys-unused]")
    assert read_record("run")["findings"][0]["where"] == "--eval_steps" and read_record("run")["refused"]
    Path("rows.jsonl").write_text('{"messages": []}\n')
    assert run_stage() == 2
    record = read_record("run")
    assert record["status"].startswith("failed: [") and record["findings"][0]["severity"] == "error"
    assert record["refused"]
    Path("rows.jsonl").write_text("\n".join(map(json.dumps, tiny_chat_rows)))
    from lifecycle_recipes.doctor.trainer_level import level as built

    wrong = Finding.error("zero-label-batch", "nothing is trained", "mend it")
    monkeypatch.setattr(built, "find_in_trainer", lambda trainer, recipe, origins: [wrong])
    assert run_stage() == 2
    assert read_record("run")["findings"][-1]["code"] == "zero-label-batch" and read_record("run")["refused"]
    assert not list(Path("run").glob("*.safetensors"))


def test_other_ranks_check_nothing_alone(recipe_here, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(doctor, "find_in_recipe", lambda raw: pytest.fail("checked"))
    raw = read_recipe("sft.yaml")
    doctor.check_recipe(raw)
    compared = []
    monkeypatch.setattr(doctor, "_check_layout", lambda recipe, run: compared.append(recipe))
    doctor.preflight(type("Recipe", (), {"raw": raw})(), None)
    assert raw.checked is None and len(compared) == 1


def test_run_refuses_before_it_launches(recipe_here, capsys, monkeypatch):
    from lifecycle_recipes.layouts import launch

    monkeypatch.setattr(launch, "start", lambda command: pytest.fail("started"))
    with pytest.raises(SystemExit) as end:
        cli.main(["run", "sft.yaml", "--eval_steps", "5"])
    assert end.value.code == 2 and "[eval-keys-unused]" in capsys.readouterr().err


def test_the_card_shows_waivers(recipe_here):
    from lifecycle_recipes.report.card import card

    record = {
        "status": "done",
        "stage": "sft",
        "metrics": {},
        "gate": [],
        "allowed": {"eval-overlap": "public set"},
    }
    Path("run").mkdir()
    Path("run/run.json").write_text(json.dumps(record))
    assert "run waives\n  eval-overlap: public set" in card(["run"])

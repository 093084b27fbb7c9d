"""`lifecycle check` and the same levels inside a stage: order, waivers, pins, what is recorded."""

import json
import shutil
from pathlib import Path

import pytest

from lifecycle_recipes import cli
from lifecycle_recipes.doctor import check as doctor
from lifecycle_recipes.doctor import hub, machine, output
from lifecycle_recipes.finding import Finding, Refusal
from lifecycle_recipes.recipe import publishing_defaults, read_recipe
from lifecycle_recipes.record_file import read_record

RECIPE = """stage: sft
model:
  model_name_or_path: parent
data:
  sources:
    - path: rows.jsonl
train:
  output_dir: run
  max_steps: 2
  max_length: 128
  report_to: none
  save_strategy: no
"""


@pytest.fixture
def here(tmp_path, monkeypatch, tiny_model_dir, tiny_chat_rows):
    """A directory with a parent, its rows and the recipe `sft.yaml`, which has nothing wrong."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_model_dir, "parent")
    Path("rows.jsonl").write_text("\n".join(map(json.dumps, tiny_chat_rows)))
    Path("sft.yaml").write_text(RECIPE)
    return tmp_path


def codes(path="sft.yaml", *overrides, upto=1) -> list[tuple[str, str]]:
    return [(f.code, f.severity) for f in doctor.check(path, list(overrides), upto).findings]


def write(text: str, path="sft.yaml") -> str:
    Path(path).write_text(text)
    return path


# The levels


def test_a_good_recipe_passes_all_levels_and_writes_nothing(here):
    before = sorted(here.rglob("*"))
    lines = []
    report = doctor.check("sft.yaml", say=lines.append)
    assert (report.findings, report.reached, report.stopped) == ([], 3, "")
    assert set(report.seconds) == {"1", "2", "3"} and report.summary().startswith(
        "sft.yaml: ok; level 1 to 3 in"
    )
    assert lines == ["sft.yaml: level 2, rows and tokens", "sft.yaml: level 3, the built trainer"]
    assert sorted(here.rglob("*")) == before


def test_a_level_with_errors_is_the_last_one(here, tiny_chat_rows):
    Path("rows.jsonl").write_text('{"messages": []}\n')
    report = doctor.check("sft.yaml", ["--eval_steps", "5"])
    assert ([f.code for f in report.findings], report.reached) == (["eval-keys-unused"], 1)
    assert "level 2 was not checked" in report.summary()
    report = doctor.check("sft.yaml")
    assert [f.severity for f in report.findings] == ["error"] and report.reached == 2


def test_all_findings_of_a_level_come_at_once_errors_first(here):
    write(
        RECIPE.replace(
            "max_steps: 2", "max_steps: 2\n  num_train_epochs: 1\n  eval_steps: 4\n  bf16: true\n  fp16: true"
        )
    )
    found = codes()
    assert found[:2] == [("two-precisions", "error"), ("eval-keys-unused", "error")]
    assert ("epochs-unused", "warning") in found[2:]


def test_a_recipe_that_cannot_be_read_is_a_report_too(here):
    report = doctor.check("nowhere.yaml")
    assert [f.code for f in report.errors] == ["missing-recipe"]
    report = doctor.check(write("stage: sft\nlerning: 1\n", "bad.yaml"))
    assert {f.code for f in report.errors} == {"unknown-key", "missing-section"}


def test_stages_without_rows_or_trainer_end_earlier(here):
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


def test_the_command_prints_json_or_lines(here, capsys):
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
    assert all(set(f) == {"code", "severity", "says", "fix", "where"} and f["where"] for f in found)
    status, out, err = run("--num_train_epochs", "1")
    assert status == 0 and err.startswith("warning [epochs-unused] --num_train_epochs:")
    assert out.startswith("sft.yaml: 1 warning; level 1 in")
    assert run("--json") == (0, "[]\n", "")


# Waivers and pins


def test_a_waiver_needs_a_code_and_a_reason(here):
    text = RECIPE + "  num_train_epochs: 1\nallow:\n"
    report = doctor.check(write(text + "  epochs-unused: both on purpose\n"), upto=1)
    assert (report.findings, report.allowed) == ([], {"epochs-unused": "both on purpose"})
    assert "waived: epochs-unused" in report.summary()
    report = doctor.check(write(text + "  epoch-unused: a slip\n"), upto=1)
    (unknown,) = report.errors
    assert (unknown.code, unknown.where) == ("unknown-waiver", "sft.yaml:15")
    assert unknown.fix == "did you mean epochs-unused?"
    assert ("waiver-without-reason", "error") in codes(write(text + "  epochs-unused: ' '\n"))


def test_a_waiver_that_waives_nothing_is_named_after_the_last_level(here):
    write(RECIPE + "allow: {eval-overlap: a public set}\n")
    assert codes(upto=2) == []
    assert codes(upto=3) == [("unused-waiver", "warning")]


def test_errors_of_every_level_can_be_waived(here, tiny_chat_rows):
    rows = [*tiny_chat_rows, {"messages": []}]
    Path("rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    ((code, _),) = codes(upto=2)
    report = doctor.check("sft.yaml", ["--allow", f"{{{code}: known}}"])
    assert report.errors == [] and report.allowed == {code: "known"} and report.reached == 3


def test_pins_apply_where_no_revision_is_given(here):
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


def test_columns_are_read_from_the_first_rows(here):
    Path("rows.jsonl").write_text('{"conversations": [], "id": 1}\n')
    (found,) = doctor.check("sft.yaml", upto=1).findings
    assert found.code == "missing-column" and "'conversations'" in found.says
    assert codes("sft.yaml", "--data.sources.0.columns", "{messages: conversations}") == []
    Path("rows.jsonl").write_text("not json\n")
    assert codes() == []  # every line is read at level 2


def test_missing_things_are_named_with_their_place(here):
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


def test_a_parent_that_a_recipe_beside_this_one_makes_is_a_warning(here):
    write(RECIPE.replace("output_dir: run", "output_dir: runs/first"), "a.yaml")
    write(RECIPE.replace("path: parent", "path: runs/first"), "b.yaml")
    report = doctor.check("b.yaml")
    assert [(f.code, f.severity, f.fix) for f in report.findings] == [
        ("parent-missing", "warning", "first: lifecycle run a.yaml")
    ]
    assert report.reached == 2 and report.stopped == "level 3 was not checked: parent-missing"
    with pytest.raises(Refusal, match="parent-missing"):
        doctor.check_recipe(read_recipe("b.yaml"))  # a run cannot wait for it


def test_a_parent_that_failed_its_gate_is_an_error(here):
    record = {"status": "done", "stage": "sft", "metrics": {"acc": 0.1}, "gate": ["acc > 0.5"]}
    Path("parent/run.json").write_text(json.dumps(record))
    assert codes() == [("parent-gate-failed", "error")]
    assert codes("sft.yaml", "--allow-failed-parent") == []
    Path("parent/run.json").write_text(json.dumps(record | {"status": "running"}))
    assert codes() == [("parent-unfinished", "error")]


@pytest.mark.parametrize("path", ["''", '"a\\0b"', '"\\ud800"', "x" * 300, "/x" * 3000])
def test_what_no_file_system_can_look_up(here, path):
    for text in (
        RECIPE.replace("rows.jsonl", path),
        RECIPE.replace("output_dir: run", f"output_dir: {path}"),
    ):
        assert codes(write(text)) == [("bad-path", "error")]
        with pytest.raises(Refusal):
            doctor.check_recipe(read_recipe("sft.yaml"))
    assert not Path("run.json").exists()


# The machine and the Hub


def test_packages_that_are_not_installed(here, monkeypatch):
    assert codes("sft.yaml", "--train.report_to", "[tensorboard, swanlab]") == [("missing-package", "error")]
    assert codes("sft.yaml", "--train.optim", "adamw_torch") == []
    monkeypatch.setattr(machine.importlib.util, "find_spec", lambda name: None)
    arguments = ["--model.use_peft", "true", "--model.load_in_4bit", "true"]
    assert (
        codes("sft.yaml", *arguments, "--attn_implementation", "flash_attention_2").count(
            ("missing-package", "error")
        )
        == 2
    )


def test_bf16_without_hardware(here, monkeypatch):
    monkeypatch.setattr(machine, "ACCELERATORS", ())
    monkeypatch.setattr(machine, "_nvidia_models", list)
    assert codes("sft.yaml", "--train.bf16", "true") == [("no-bf16-hardware", "warning")]
    assert codes("sft.yaml", "--train.bf16", "false") == []
    for model, found in (
        ("Tesla T4", 1),
        ("NVIDIA H200", 0),
        ("NVIDIA GeForce RTX 4090", 0),
        ("Tesla V100-SXM2", 1),
    ):
        monkeypatch.setattr(machine, "_nvidia_models", lambda model=model: [model])
        assert len(codes("sft.yaml", "--train.bf16", "true")) == found, model


def test_pushing_needs_the_network_and_a_token(here, monkeypatch):
    push = ["--train.push_to_hub", "true"]
    assert codes("sft.yaml", *push) == [("push-offline", "warning")]
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("HF_HOME", str(here))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    assert codes("sft.yaml", *push) == [("no-hub-token", "warning")]
    monkeypatch.setenv("HF_TOKEN", "given")
    assert codes("sft.yaml", *push) == []


@pytest.fixture
def cached(here, monkeypatch):
    """A Hub cache with the model me/model at `main` and the dataset me/rows."""
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setenv("HF_HOME", str(here / "hf"))
    for name in ("models--me--model", "datasets--me--rows"):
        (here / "hf/hub" / name / "snapshots" / "c0ffee").mkdir(parents=True)
        (here / "hf/hub" / name / "refs").mkdir()
        (here / "hf/hub" / name / "refs/main").write_text("c0ffee")
    write(RECIPE.replace("rows.jsonl", "me/rows").replace("parent", "me/model"))
    return here / "hf/hub"


def test_ids_that_are_not_in_the_cache_while_the_hub_is_off(cached, monkeypatch):
    assert codes() == []
    assert codes("sft.yaml", "--model_revision", "v9") == [("missing-revision", "warning")]
    assert codes("sft.yaml", "--model_revision", "c0ffee") == []
    arguments = ["--model.model_name_or_path", "me/other"]
    report = doctor.check("sft.yaml", arguments)
    assert [(f.code, f.where) for f in report.findings] == [("not-cached", "--model.model_name_or_path")]
    assert report.reached == 1 and report.stopped == "level 2 was not checked: not-cached"
    with pytest.raises(Refusal, match="not-cached"):
        doctor.check_recipe(read_recipe("sft.yaml", arguments))
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    assert codes("sft.yaml", *arguments) == []


def test_licences_and_remote_code(cached):
    card = cached / "datasets--me--rows/snapshots/c0ffee/README.md"
    for licence, found in (
        ("cc-by-nc-4.0", 1),
        ("[mit, cc-by-nc-sa-4.0]", 1),
        ("apache-2.0", 0),
        ("ncsa", 0),
    ):
        card.write_text(f"---\nlicense: {licence}\n---\n# Rows\n")
        assert codes().count(("license-non-commercial", "warning")) == found, licence
    card.write_text("---\nlicense: [unclosed\n---\n")
    assert hub.licence_of(card) is None and hub.licence_of(cached / "none.md") is None
    remote = ["--train.trust_remote_code", "true"]
    assert codes("sft.yaml", *remote) == [("remote-code", "warning")]
    pinned = ["--pinned", "{me/model: " + "0a" * 20 + "}"]
    assert ("remote-code", "warning") not in codes("sft.yaml", *remote, *pinned)


# The output directory


def test_the_output_directory_is_not_the_parent(here):
    assert codes("sft.yaml", "--train.output_dir", "parent") == [
        ("output-dir-is-parent", "error"),
        ("output-dir-not-ours", "warning"),
    ]
    shutil.move("parent", "all")
    Path("all2").mkdir()
    shutil.move("all", "all2/checkpoint-5")
    arguments = ["--model.model_name_or_path", "all2/checkpoint-5", "--train.output_dir", "all2"]
    assert ("output-dir-is-parent", "error") in codes("sft.yaml", *arguments)
    assert codes("sft.yaml", *arguments[:2], "--train.output_dir", "all2/checkpoint-5/next") == []


def test_an_output_directory_that_holds_something(here):
    from lifecycle_recipes.record import Run

    def finish(*overrides):
        raw = read_recipe("sft.yaml", list(overrides))
        with Run.start(type("Recipe", (), {"raw": raw})()):
            shutil.copy("parent/model.safetensors", "run")

    finish()
    assert codes() == []  # this very run is done
    assert codes("sft.yaml", "--max_steps", "3") == [("output-dir-finished", "warning")]
    assert codes("sft.yaml", "--max_steps", "3", "--replace") == []
    record = read_record("run") | {"status": "stopped"}
    Path("run/run.json").write_text(json.dumps(record))
    assert codes("sft.yaml", "--max_steps", "3") == [("output-dir-other-run", "warning")]
    Path("run/checkpoint-1").mkdir()
    (found,) = doctor.check("sft.yaml", upto=1).findings
    assert (found.code, found.where) == ("checkpoint-incomplete", "run/checkpoint-1")
    assert "no trainer_state.json" in found.says


def test_too_little_disk_for_the_checkpoints(here, monkeypatch):
    weights = sum(f.stat().st_size for f in Path("parent").glob("*.safetensors"))
    kept = ["--train.save_strategy", "steps", "--train.save_steps", "1", "--train.max_steps", "9"]

    def needed(*overrides):
        return output.needed_bytes(read_recipe("sft.yaml", list(overrides)))[0]

    assert needed() == weights
    assert needed(*kept) == weights * (1 + 9 * 3)
    assert needed(*kept, "--train.save_total_limit", "1") == weights * (1 + 2 * 3)
    assert needed(*kept, "--train.save_only_model", "true") == weights * (1 + 9)
    assert needed(*kept, "--train.optim", "sgd") == weights * (1 + 9)
    assert needed(*kept, "--model.dtype", "bfloat16") == weights * (1 + 9 * 3) / 2
    assert needed(*kept, "--model.use_peft", "true") == 0
    monkeypatch.setattr(output.shutil, "disk_usage", lambda path: type("U", (), {"free": weights * 20})())
    assert codes("sft.yaml", *kept) == [("disk-too-small", "warning")]
    assert codes() == []
    with pytest.raises(Refusal, match="disk-too-small"):
        doctor.check_recipe(read_recipe("sft.yaml", kept))


# In a stage


def run_stage(*overrides) -> int:
    from lifecycle_recipes.stages import sft

    try:
        sft.main(["sft.yaml", *overrides])
    except SystemExit as end:
        return end.code
    return 0


def test_a_stage_records_what_was_found_waived_and_spent(here, capsys):
    write(RECIPE + "  num_train_epochs: 1\nallow: {epochs-unused: a test, eval-overlap: nothing}\n")
    assert run_stage() == 0
    record = read_record("run")
    assert record["status"] == "done" and record["allowed"] == {"epochs-unused": "a test"}
    assert set(record["check_seconds"]) == {"1", "layout", "2", "3"}
    found = {f["code"]: f for f in record["findings"]}
    assert found["unused-waiver"]["where"].startswith("sft.yaml:") and "epochs-unused" not in found
    assert capsys.readouterr().err.count("[unused-waiver]") == 1


def test_a_stage_refuses_at_each_level(here, capsys, tiny_chat_rows, monkeypatch):
    assert run_stage("--eval_steps", "5") == 2
    assert capsys.readouterr().err.count("[eval-keys-unused]") == 1
    assert read_record("run")["status"].startswith("failed: [eval-keys-unused]")
    assert read_record("run")["findings"][0]["where"] == "--eval_steps"
    Path("rows.jsonl").write_text('{"messages": []}\n')
    assert run_stage() == 2
    record = read_record("run")
    assert record["status"].startswith("failed: [") and record["findings"][0]["severity"] == "error"
    Path("rows.jsonl").write_text("\n".join(map(json.dumps, tiny_chat_rows)))
    from lifecycle_recipes.doctor import built

    wrong = Finding("zero-label-batch", "error", "nothing is trained", "mend it")
    monkeypatch.setattr(built, "find_in_trainer", lambda trainer, recipe: [wrong])
    assert run_stage() == 2
    assert read_record("run")["findings"][-1]["code"] == "zero-label-batch"
    assert not list(Path("run").glob("*.safetensors"))


def test_other_ranks_check_nothing_alone(here, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(doctor, "find_in_recipe", lambda raw: pytest.fail("checked"))
    raw = read_recipe("sft.yaml")
    doctor.check_recipe(raw)
    compared = []
    monkeypatch.setattr(doctor, "_check_layout", lambda recipe, run: compared.append(recipe))
    doctor.preflight(type("Recipe", (), {"raw": raw})(), None)
    assert raw.checked is None and len(compared) == 1


def test_run_refuses_before_it_launches(here, capsys, monkeypatch):
    from lifecycle_recipes import launch

    monkeypatch.setattr(launch, "start", lambda command: pytest.fail("started"))
    with pytest.raises(SystemExit) as end:
        cli.main(["run", "sft.yaml", "--eval_steps", "5"])
    assert end.value.code == 2 and "[eval-keys-unused]" in capsys.readouterr().err


def test_the_card_shows_waivers(here):
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

"""Recipes that are right, and a table of recipes that are wrong with the line that says so."""

import resource
import shlex
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from recipe_text import SFT

from lifecycle_recipes.finding import Refusal
from lifecycle_recipes.recipe.read import read_recipe

# Where a case adds its text (the number of the new line): in a section of SFT, or at its end.
PLACES = {"model": 4, "source": 7, "train": 9, "top": 9}
INDENT = {"model": 2, "source": 6, "train": 2, "top": 0}


def sft_with(place: str, text: str) -> str:
    lines = SFT.splitlines()
    lines[PLACES[place] - 1 : PLACES[place] - 1] = textwrap.indent(text, " " * INDENT[place]).splitlines()
    return "\n".join(lines) + "\n"


def refused(tmp_path, content, overrides=(), stage=None) -> list[str]:
    """The lines a recipe is refused with, its path written as `R`."""
    path = tmp_path / "recipe.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(Refusal) as caught:
        read_recipe(path, list(overrides), stage)
    assert caught.value.status == 2
    lines = str(caught.value).replace(str(path), "R").splitlines()
    assert len(lines) == len(caught.value.findings), "one line per mistake"
    return lines


def test_a_right_recipe_is_read_with_its_types(tmp_path):
    path = tmp_path / "sft.yaml"
    path.write_text(
        sft_with(
            "train",
            "learning_rate: 2e-5\neval_strategy: no\nnum_train_epochs: 2\nwarmup_steps: 0.1\n"
            "report_to: [wandb]\n"
            "lr_scheduler_kwargs: {min_lr: 1e-6, deep: {er: [1, x]}}\nrun_name: on\nseed: 0x10\nbf16: null\n"
            "loss_type: nll\ndebug: [underflow_overflow]\nmax_length: null\nlogging_steps: 1",
        )
        + "gate:\n  - eval_loss < 2.5\n"
    )
    raw = read_recipe(path)
    assert raw.stage == "sft" and raw.output_dir == "runs/out" and raw.gate == ["eval_loss < 2.5"]
    assert set(raw.values) == {"model", "data", "train"}
    train = raw.values["train"]
    assert train == {
        "output_dir": "runs/out",
        "learning_rate": 2e-5,
        "eval_strategy": "no",
        "num_train_epochs": 2,
        "warmup_steps": 0.1,
        "report_to": ["wandb"],
        "lr_scheduler_kwargs": {"min_lr": 1e-6, "deep": {"er": [1, "x"]}},
        "run_name": "on",
        "seed": 16,
        "bf16": None,
        "loss_type": "nll",
        "debug": ["underflow_overflow"],
        "max_length": None,
        "logging_steps": 1,
    }
    assert type(train["learning_rate"]) is float and type(train["num_train_epochs"]) is int


def test_overrides_and_flags(tmp_path):
    path = tmp_path / "sft.yaml"
    path.write_text(SFT)
    plain = read_recipe(path)
    arguments = [
        "--learning_rate",
        "1e-3",
        "--replace",
        "--train.max_steps=-1",
        "--data.sources.0.max_rows",
        "5",
    ]
    arguments += ["--evaluate", "{tasks: [a, b]}", "--train.lr_scheduler_kwargs.min_lr", "-1e-6", "--debug"]
    raw = read_recipe(path, arguments)
    assert raw.flags == {"replace", "debug"}
    assert raw.overrides == [a for a in arguments if a not in ("--replace", "--debug")]
    assert raw.values["train"] == {
        "output_dir": "runs/out",
        "learning_rate": 1e-3,
        "max_steps": -1,
        "lr_scheduler_kwargs": {"min_lr": -1e-6},
    }
    assert raw.values["data"]["sources"] == [{"path": "a.jsonl", "max_rows": 5}]
    assert raw.values["evaluate"] == {"tasks": ["a", "b"]}
    assert plain.sha256 == read_recipe(path, ["--replace"]).sha256 != raw.sha256
    path.write_text(SFT + "# a comment\n")
    assert read_recipe(path).sha256 != plain.sha256


def test_null_on_the_command_line_removes_a_key_or_sets_a_null_that_means_something(tmp_path):
    path = tmp_path / "sft.yaml"
    path.write_text(SFT + "  num_train_epochs: 2\n  max_length: 512\nevaluate: {tasks: [a]}\n")
    arguments = ["--train.num_train_epochs", "null", "--train.seed", "null", "--train.max_length", "null"]
    raw = read_recipe(path, [*arguments, "--evaluate.tasks=null", "--data.sources.0.columns", "null"])
    assert raw.values["train"] == {"output_dir": "runs/out", "max_length": None}
    assert raw.values["evaluate"] == {} and raw.values["data"]["sources"] == [{"path": "a.jsonl"}]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("train.output_dir", "[missing-key] R:7: train.output_dir is missing"),
        ("train.nothing", "[unknown-override] --train.nothing: train.nothing does not exist"),
        ("data.sources.0", "[wrong-type] --data.sources.0: data.sources[0] must be a mapping, not null"),
    ],
)
def test_what_null_cannot_remove(tmp_path, name, message):
    (said,) = refused(tmp_path, SFT, [f"--{name}", "null"])
    assert said.startswith(f"error {message}")


def table(name: str) -> list[list[str]]:
    lines = (Path(__file__).parent / name).read_text().splitlines()
    return [line.split(" | ") for line in lines if not line.startswith("#")]


WRONG_LINES = table("wrong_lines.txt")


@pytest.mark.parametrize(("place", "text", "line", "message"), WRONG_LINES, ids=[w[1] for w in WRONG_LINES])
def test_wrong_line(tmp_path, place, text, line, message):
    (said,) = refused(tmp_path, sft_with(place, text.replace("\\n", "\n")))
    code, _, message = message.partition(" ")
    assert said.startswith(f"error {code} R:{line}: {message}")
    assert "secret-value" not in said and "hf_secret" not in said


WRONG_FILES = [
    (b"", 1, "[empty-recipe] the recipe is empty"),
    (b"# nothing\n", 1, "[empty-recipe] the recipe is empty"),
    (b"- a\n", 1, "[not-a-mapping] a list"),
    (b"just text\n", 1, "[not-a-mapping] 'just text'"),
    (b"stage: sft\ntrain: {a: 1\n", 2, "[bad-yaml] not YAML: what this line opens is not closed: a `,` or `}`"),
    (b"stage: sft\nallow:\n  x: 'why\n  y: z\n", 3, "[bad-yaml] not YAML: the quote that this line opens"),
    (b"stage: sft\ngate\nmodel: 1\n", 2, "[bad-yaml] not YAML: a `:` is missing after the key on this line"),
    (b"stage: sft\ndata:\n  seed: 1\n - a\n", 4, "[bad-yaml] not YAML: this line is not indented as"),
    (b"stage: sft\ngate: [a]]\n", 2, "[bad-yaml] not YAML: the `]` on this line is one too many"),
    (b"stage: sft\nx: *.jsonl\n", 2, "[bad-yaml] not YAML: a value that starts with `*` needs quotes"),
    (b"stage: sft\nx: @a\n", 2, "[bad-yaml] not YAML: a value that starts with `@` needs quotes"),
    (b"stage: sft\ntrain:\n\tseed: 1\n", 3, "[bad-yaml] a tab"),
    (b"stage: sft\ngate:\n  - a: b: c\n", 3, "[bad-yaml] not YAML: a `:` is not allowed here"),
    (b"stage: sft\n---\nstage: dpo\n", 2, "[bad-yaml] not YAML: a second document starts here"),
    (b"stage: sft\nx: !!python/name:os.system 1\n", 2, "[bad-yaml] the tag `tag:yaml.org,2002:python"),
    (b"stage: sft\nx: &x [*x]\n", 2, "[bad-yaml] an alias (`*name`) contains itself"),
    (b"a: &a [x,x,x,x,x,x,x,x,x,x]\n" + b"".join(
        b"%c: &%c [%s]\n" % (c, c, b",".join([b"*%c" % (c - 1)] * 10)) for c in range(98, 106)
    ), 2, "[bad-yaml] an alias (`*name`) contains itself"),
    (b"stage: sft\n? [a]\n: 1\n", 2, "[bad-yaml] a list or a mapping cannot be a key"),
    (b"[" * 2000, 1, "[bad-yaml] nested too deeply"),
    (b"stage: sft\nmodel: {}\n# caf\xe9\n", 3, "[not-utf8] 0xe9"),
    (b"stage: sft\nx: \x00\n", 2, "[bad-yaml] character 0x0 is not allowed in YAML"),
    (b"model: {}\n", 1, "[missing-stage] dpo, evaluate, export, kto, ppo"),
    (b"stage: stf\n", 1, "[unknown-stage] unknown stage 'stf': did you mean sft?"),
    (b"stage: [sft]\n", 1, "[unknown-stage] unknown stage a list: choose from curate, dpo"),
]  # fmt: skip


@pytest.mark.parametrize(("content", "line", "message"), WRONG_FILES, ids=[w[0][:30] for w in WRONG_FILES])
def test_wrong_file(tmp_path, content, line, message):
    (said,) = refused(tmp_path, content)
    code, _, message = message.partition(" ")
    place, _, rest = said.removeprefix(f"error {code} ").partition(": ")
    assert message in rest
    assert place == f"R:{line}" or b"*a" in content


def test_missing_sections_and_keys(tmp_path):
    said = refused(tmp_path, "stage: sft\nmodel:\n  dtype: auto\ndata:\n  sources: [{split: a}]\n")
    expected = [
        ("[missing-section] R:1: ", ["`train`", "output_dir"]),
        ("[missing-key] R:2: ", ["model.model_name_or_path"]),
        ("[missing-key] R:5: ", ["data.sources[0].path"]),
    ]
    for line, (place, names) in zip(said, expected, strict=True):
        assert line.startswith(f"error {place}") and all(name in line for name in names)
    assert (
        "evaluate.output_dir is missing" in refused(tmp_path, "stage: evaluate\nevaluate: {}\nmodel: {}")[0]
    )


def test_all_mistakes_at_once_in_the_order_of_the_file(tmp_path):
    text = (
        sft_with("train", "packing: 3\nseed: 1\nseed: 2\nlearnin_rate: 1\nmax_steps: 1.5")
        + "gate: 1\nextra: 2\n"
    )
    said = refused(tmp_path, text, ["--train.max_step", "3"])
    codes = "wrong-type duplicate-key unknown-key wrong-type wrong-type unknown-key unknown-override"
    assert " ".join(s.split("]")[0].removeprefix("error [") for s in said) == codes
    assert [s.split(": ")[0].rpartition("R:")[2] for s in said[:6]] == ["9", "11", "12", "13", "14", "15"]


WRONG_OVERRIDES = table("wrong_overrides.txt")


@pytest.mark.parametrize(("arguments", "message"), WRONG_OVERRIDES, ids=[w[0] for w in WRONG_OVERRIDES])
def test_wrong_override(tmp_path, arguments, message):
    (said,) = refused(tmp_path, SFT, shlex.split(arguments))
    assert said.startswith(f"error {message}")
    assert "plain-secret" not in said and "hf_secret" not in said


def test_a_key_that_is_in_two_model_sections_is_ambiguous(tmp_path):
    text = SFT.replace("stage: sft", "stage: ppo") + "reward:\n  model_name_or_path: runs/reward\n"
    (said,) = refused(tmp_path, text, ["--model_name_or_path", "x"])
    assert said.endswith(" or ".join(f"--{s}.model_name_or_path" for s in ("model", "reward", "value")))
    assert "[no-effect]" in refused(tmp_path, text, ["--train.reward_model_path", "x"])[0]


def test_the_recipe_of_another_stage(tmp_path):
    (said,) = refused(tmp_path, SFT, stage="dpo")
    assert said.startswith("error [other-stage] R:1: ")
    assert " sft " in said and " dpo: " in said and "`-m lifecycle_recipes.stages.sft`" in said


def test_a_recipe_that_is_not_there(tmp_path):
    for path, message in ((tmp_path / "none.yaml", "does not exist"), (tmp_path, "is a directory")):
        with pytest.raises(Refusal, match=rf"\[missing-recipe\] .*{message}"):
            read_recipe(path)


def test_reading_is_fast_and_imports_no_torch(tmp_path):
    path = tmp_path / "sft.yaml"
    path.write_text(SFT + "gate:\n  - eval_loss < 2\n")
    code = (
        "import sys; from lifecycle_recipes.recipe.read import read_recipe;"
        "read_recipe(sys.argv[1], ['--packing=true']);"
        "print([m for m in ('torch', 'transformers', 'trl', 'numpy', 'datasets') if m in sys.modules])"
    )
    seconds = []
    for _ in range(3):  # of the processor: the machine is shared
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        assert done.stdout == "[]\n", done.stderr
    assert min(seconds) < 0.5, seconds

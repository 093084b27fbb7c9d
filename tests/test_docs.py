"""What the README and docs/ say, as far as a program can tell: links, recipes, commands, codes, output."""

import ast
import re
import shlex
from itertools import dropwhile, groupby
from pathlib import Path

import pytest
from repository import ROOT

from lifecycle_recipes.cli import build_parser
from lifecycle_recipes.data.row_faults import MISLEADING, UNTRAINABLE, severity
from lifecycle_recipes.finding import Refusal
from lifecycle_recipes.layouts.launch import find_layout
from lifecycle_recipes.life.graph import read_life
from lifecycle_recipes.life.plan import Selection, select
from lifecycle_recipes.recipe.located_yaml import read_yaml
from lifecycle_recipes.recipe.read import read_recipe
from lifecycle_recipes.record.gate import parse

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# In these a word-with-hyphens in backticks is the code of a refusal, and yaml is a recipe or part of one.
REFERENCE = [ROOT / "docs" / f"{name}.md" for name in ("data", "recipes", "records", "stages")]
FENCE = re.compile(r"^```(\S*) ?(\S*)\n(.*?)^```$", re.M | re.S)  # language, file name, content
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
CODE = re.compile(r"[`[]([a-z]\w*(?:-\w+)+)[`\]]")
RECIPES_WORD = re.compile(r"recipes/\S+\.yaml")


def test_the_waivers_that_leave_rows_out_are_listed():
    text = (ROOT / "docs" / "checks.md").read_text()
    listed = text.partition("These waivers leave the rows")[2].partition("Any other waiver")[0]
    errors = {code for code in [*UNTRAINABLE, *MISLEADING] if severity(code) == "error"}
    assert set(CODE.findall(listed)) == errors


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch):
    monkeypatch.chdir(ROOT)


def each_page(pages=PAGES):
    return pytest.mark.parametrize("page", pages, ids=lambda page: page.name)


def blocks(page: Path, *languages: str) -> list[str]:
    """The fenced blocks of a page in these languages, those with a file name apart."""
    return [
        text for language, name, text in FENCE.findall(page.read_text()) if language in languages and not name
    ]


def commands(page: Path) -> list[list[str]]:
    """Every command of the page's shell blocks as words, without comments and variables before it."""
    found = []
    for block in blocks(page, "sh", "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.shlex(line, posix=True, punctuation_chars="&|;")
            words.whitespace_split = True
            for is_separator, part in groupby(words, lambda word: set(word) <= set("&|;")):
                command = list(dropwhile(re.compile(r"\w+=").match, part))
                if command and not is_separator:
                    found.append([Path(command[0]).name, *command[1:]])
    return found


def commands_of(program: str) -> list:
    """Every documented call of a program, as a pytest parameter."""
    return [
        pytest.param(words[1:], id=f"{page.stem}:{'_'.join(words)[:60]}")
        for page in PAGES
        for words in commands(page)
        if words[0] == program
    ]


def anchors(page: Path) -> set[str]:
    """What GitHub makes of the page's headings."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text()), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@each_page()
def test_links_lead_somewhere(page):
    for link in LINK.findall(FENCE.sub("", page.read_text())):
        if re.match(r"https?:|mailto:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name}: {link}"
        assert not anchor or anchor in anchors(target), f"{page.name}: {link}"


@each_page()
def test_documented_recipes_are_valid(page, tmp_path):
    for number, block in enumerate(blocks(page, "yaml")):
        if re.search(r"^stage:", block, re.M):
            file = tmp_path / f"{page.stem}-{number}.yaml"
            file.write_text(block)
            read_recipe(file, [])


@each_page(REFERENCE)
def test_parts_of_recipes_fit_a_recipe(page, tmp_path):
    """A block without `stage:` is valid in an sft recipe that has the rest; its gate lines can be read."""
    rest = {
        "model": "{model_name_or_path: a}",
        "data": "{sources: [{path: a.jsonl}]}",
        "train": "{output_dir: runs/a}",
    }
    for number, block in enumerate(blocks(page, "yaml")):
        tree, _ = read_yaml(block, str)
        if tree is None or "stage" in tree.value:
            continue
        missing = [f"{section}: {text}\n" for section, text in rest.items() if section not in tree.value]
        file = tmp_path / f"{page.stem}-{number}.yaml"
        file.write_text("stage: sft\n" + "".join(missing) + block)
        for line in read_recipe(file, []).gate:
            parse(line)


@each_page()
def test_wrong_recipes_are_refused_as_documented(page, tmp_path, monkeypatch):
    """A yaml block with a file name is a wrong recipe; the text block after it is what is said of it."""
    monkeypatch.chdir(tmp_path)
    found = FENCE.findall(page.read_text())
    for (_, name, text), (language, _, said) in zip(found, found[1:], strict=False):
        if not name:
            continue
        Path(name).write_text(text)
        with pytest.raises(Refusal) as refusal:
            read_recipe(name, [])
        assert language == "text"
        assert str(refusal.value) == said.rstrip("\n")


@pytest.mark.parametrize("words", commands_of("lifecycle"))
def test_lifecycle_commands_exist(words, monkeypatch):
    monkeypatch.chdir(ROOT)
    args, rest = build_parser().parse_known_args(words)  # exits 2 at an unknown subcommand
    assert args.command in ("check", "run", "inspect") or not rest
    if getattr(args, "layout", None):
        find_layout(args.layout)
    recipes = [*getattr(args, "recipes", []), getattr(args, "recipe", None)]
    for path in [p for p in recipes if p and p.startswith("recipes/desk")]:
        files = sorted(ROOT.glob(path))
        assert files, path
        for file in files:
            if not file.is_dir():
                read_recipe(file, rest)
                continue
            stages = read_life([str(file)], rest)
            if args.command == "run":
                select(stages, Selection(args.until, args.start, args.only))


@pytest.mark.parametrize("words", commands_of("make"))
def test_make_targets_exist(words):
    rules = re.findall(r"^([\w][\w .-]*?):(?!=)", (ROOT / "Makefile").read_text(), re.M)
    targets = {target for rule in rules for target in rule.split()}
    settings = dict(word.split("=", 1) for word in words if "=" in word)
    assert {word for word in words if "=" not in word} <= targets
    assert set(settings) <= {"RECIPES", "LAYOUT", "PROCESSES", "CPU", "ARGS", "PYTHON"}
    if "LAYOUT" in settings:
        find_layout(settings["LAYOUT"])


@pytest.mark.parametrize("words", commands_of("accelerate"))
def test_launch_lines_name_what_exists(words):
    assert (ROOT / words[words.index("--config_file") + 1]).is_file()
    module = words[words.index("-m") + 1].removeprefix("lifecycle_recipes.").replace(".", "/")
    assert (ROOT / "src" / "lifecycle_recipes" / f"{module}.py").is_file()


@each_page()
def test_desk_recipes_that_are_named_exist(page):
    for name in RECIPES_WORD.findall(page.read_text()):
        assert "desk/" not in name or "*" in name or (ROOT / name).is_file(), name


@each_page(REFERENCE)
def test_documented_codes_are_raised_somewhere(page):
    files = [file for file in (ROOT / "src").rglob("*.py") if file.name != "codes.py"]  # which lists them all
    trees = [ast.parse(file.read_text()) for file in files]
    strings = {node.value for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    codes = set(CODE.findall(page.read_text()))
    assert codes, "the page documents no refusal: is the pattern wrong?"
    assert codes - strings == set()


def test_there_is_something_to_test():
    assert len(commands_of("lifecycle")) > 10 and len(commands_of("make")) > 3
    assert any(name for page in PAGES for _, name, _ in FENCE.findall(page.read_text()))

"""Recipes broken at random: each is refused in words or is right, and no unknown key is accepted."""

import json
import random
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml
from repository import ROOT

from lifecycle_recipes.doctor.recipe_level.level import find_in_recipe
from lifecycle_recipes.finding import Refusal
from lifecycle_recipes.recipe.paths import KEYS
from lifecycle_recipes.recipe.read import load_recipe, read_recipe
from lifecycle_recipes.recipe.schema import recipe_class

PATH_KEYS = {"path", *(key for keys in KEYS.values() for key in keys)}
RECIPES = sorted((ROOT / "recipes").glob("*/*.yaml"))
# Values of every type and some that parsers trip over: dates, octals, infinities, paths, huge numbers.
VALUES = (
    *(None, True, False, 0, -1, 7, 10**30, -0.0, 0.5, 1e-5, 1e300, float("inf"), float("nan")),
    *("", " ", "no", "yes", "null", "~", "2e-5", "1_000", "0x1G", "2026-11-21", "/dev/null", "/", "."),
    *("../" * 40, "caf\u00e9", "\u0000", "\ud7ff", "{{ x }}", "a" * 5000, "hf_" + "a" * 20),
    *("*x", "&x", "!!int x", [], {}, [[]], [None], {"a": None}, [{"path": 7}], {"path": []}, ["x"] * 300),
    *({"": ""}, {"a": {"b": {"c": [1]}}}),
)  # fmt: skip
# At the bounds of ranges, and just beyond.
NUMBERS = (
    *(0, 1, 2, -1, -2, 0.0, -0.0, 1.0, 0.5, 0.4999, 0.999999, 1.000001, -1e-9, 1e-9, 1e-300, 1e30),
    *(2**31, 2**32 - 1, 2**32, 2**63, -(2**63), None),
)
# The directory of a fuzzed recipe holds `a b/c d.jsonl`, a link to it and links to themselves.
PATHS = (
    *("~", "~/", "~/x", "~nobody-of-that-name", "~nobody-of-that-name/x", "$HOME/x", "${HOME}", "a$b", "$"),
    *("a b/c d.jsonl", "link/c d.jsonl", "link.jsonl", "loop", "loop/x", "gone.jsonl", "link/../recipes"),
    *(" x", "x ", "./", "..", "//", "a//b", "recipe.yaml", "recipe.yaml/x", "-x", "a:b", "*", "\n", "a\\b"),
)
# What no section has. Each must be refused by name wherever it stands.
NOBODY_KNOWS = ("lerning_rate_", "qqqq", "x-y", "Train", "sources2", "__class__", "1", "train.seed")
LINES = (
    *("\t- x", "---", "...", "? [a]", "- -", "}", "]", ": :", "&a [*a]", "*a", "<<: *a", "train:"),
    *("%YAML 9.9", "'", '"', "|", ">", "a: b: c", "@x", "`x`", "!!python/name:os.system x"),
    *("stage: dpo", "\u2028", "key : value"),
)  # fmt: skip


def containers(value, path=()):
    """Every mapping and list of a recipe, with the path to it."""
    if isinstance(value, dict | list):
        yield path, value
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from containers(item, (*path, key))


def open_mappings(recipe: dict) -> set[tuple]:
    """Paths of mappings whose keys are somebody else's: any name may stand there."""
    free = {("architecture", "config"), ("allow",), ("pinned",)}
    kwargs = {p for p, v in containers(recipe) if p and str(p[-1]).endswith(("kwargs", "_config", "columns"))}
    return free | kwargs


def change_value(rng: random.Random, recipe: dict) -> str:
    path, place = rng.choice([(p, c) for p, c in containers(recipe) if c])
    key = rng.choice(list(place)) if isinstance(place, dict) else rng.randrange(len(place))
    place[key] = rng.choice(VALUES)
    return ""


def change_number(rng: random.Random, recipe: dict) -> str:
    return _change(rng, recipe, lambda key, value: type(value) in (int, float), NUMBERS)


def change_path(rng: random.Random, recipe: dict) -> str:
    return _change(rng, recipe, lambda key, value: key in PATH_KEYS and isinstance(value, str), PATHS)


def _change(rng: random.Random, recipe: dict, wanted, values) -> str:
    """Give one of the values to a key that is wanted; without such a key, nothing changes."""
    mappings = [c for _, c in containers(recipe) if isinstance(c, dict)]
    found = [(place, key) for place in mappings for key, value in place.items() if wanted(key, value)]
    if found:
        place, key = rng.choice(found)
        place[key] = rng.choice(values)
    return ""


def drop_key(rng: random.Random, recipe: dict) -> str:
    path, place = rng.choice([(p, c) for p, c in containers(recipe) if c])
    place.pop(rng.choice(list(place)) if isinstance(place, dict) else -1)
    return ""


def swap_values(rng: random.Random, recipe: dict) -> str:
    places = [c for _, c in containers(recipe) if isinstance(c, dict) and c]
    one, two = rng.choice(places), rng.choice(places)
    a, b = rng.choice(list(one)), rng.choice(list(two))
    one[a], two[b] = two[b], one[a]
    return ""


def add_unknown_key(rng: random.Random, recipe: dict) -> str:
    free = open_mappings(recipe)
    places = [
        c for p, c in containers(recipe) if isinstance(c, dict) and not any(p[: len(f)] == f for f in free)
    ]
    key = rng.choice(NOBODY_KNOWS)
    rng.choice(places)[key] = rng.choice(VALUES)
    return key


def misspell_key(rng: random.Random, recipe: dict) -> str:
    """Double a letter of a key. No upstream key is another one with a letter doubled."""
    free = open_mappings(recipe)
    places = [c for p, c in containers(recipe) if isinstance(c, dict) and c and p not in free]
    place = rng.choice([c for c in places if not any(c is recipe.get(f[0]) for f in free)])
    key = str(rng.choice(list(place)))
    at = rng.randrange(len(key))
    place[key[:at] + key[at] + key[at:]] = place.pop(key)
    return key[:at] + key[at] + key[at:]


TREE = (
    change_value,
    change_value,
    change_number,
    change_path,
    drop_key,
    swap_values,
    add_unknown_key,
    misspell_key,
)


def change_text(rng: random.Random, data: bytes) -> bytes:
    """Cut, doubled, shuffled or foreign bytes and lines."""
    lines = data.splitlines(keepends=True)
    at = rng.randrange(len(lines))
    kind = rng.randrange(8)
    if kind == 0:
        return data[: rng.randrange(len(data))]
    if kind == 1:
        lines.insert(at, rng.choice(LINES).encode() + b"\n")
    elif kind == 2:
        lines.insert(at, lines[rng.randrange(len(lines))])
    elif kind == 3:
        lines[at] = b" " * rng.randrange(6) + lines[at].lstrip()
    elif kind == 4:
        return data.decode().encode(rng.choice(["utf-16", "utf-16-le", "utf-32", "utf-8-sig", "cp037"]))
    elif kind == 5:
        lines[at] = lines[at][:-1] + bytes(rng.randrange(256) for _ in range(3)) + b"\n"
    elif kind == 6:
        rng.shuffle(lines)
    else:
        return data.replace(
            rng.choice([b":", b"-", b"\n", b" "]), rng.choice([b"", b": ", b"\r", b"\t", b"#"])
        )
    return b"".join(lines)


def mutate(rng: random.Random) -> tuple[bytes, str, str]:
    """(a recipe as bytes, the key that nobody knows in it or "", what was done to which recipe)."""
    while True:
        path = rng.choice(RECIPES)
        data = path.read_bytes()
        try:
            recipe = yaml.safe_load(data)
        except (yaml.YAMLError, UnicodeDecodeError):
            continue
        if isinstance(recipe, dict) and recipe.get("stage"):
            break
    if rng.random() < 0.4:
        return change_text(rng, data), "", f"text of {path}"
    change = rng.choice(TREE)
    unknown = change(rng, recipe)
    return yaml.safe_dump(recipe, allow_unicode=True).encode(), unknown, f"{change.__name__} in {path}"


def read_one(path: Path, seed: int):
    """Refused in words, or accepted without a key that nobody knows: then its RawRecipe, else None."""
    data, unknown, what = mutate(random.Random(seed))
    path.write_bytes(data)
    try:
        raw = read_recipe(path)
    except Refusal as refusal:
        message = str(refusal)
        assert refusal.status == 2 and refusal.findings and "Traceback" not in message, f"seed {seed}: {what}"
        assert all(f.code and f.where and len(f.message) < 1000 for f in refusal.findings), (
            f"seed {seed}: {message}"
        )
        assert not unknown or unknown in message, (
            f"seed {seed}: {what}: `{unknown}` is not named in\n{message}"
        )
        return None
    except Exception as error:
        raise AssertionError(f"seed {seed}: {what}: {type(error).__name__}: {error}") from error
    assert not unknown, f"seed {seed}: {what}: `{unknown}` was accepted"
    return raw


def look_further(raw, seed: int) -> None:
    """What was accepted goes on to level 1 of the check, which says what it says, without a traceback."""
    try:
        findings = find_in_recipe(raw)
    except Refusal as refusal:
        findings = refusal.findings
    except Exception as error:
        message = f"seed {seed}: {mutate(random.Random(seed))[2]}: level 1: {type(error).__name__}: {error}"
        raise AssertionError(message) from error
    json.dumps([asdict(f) for f in findings])


def build(path: Path, raw, seed: int) -> None:
    """... and to upstream's dataclasses, which may refuse it too."""
    try:
        load_recipe(recipe_class(raw.stage), [str(path)])
    except Refusal as refusal:
        assert refusal.status == 2
    except Exception as error:
        message = f"seed {seed}: {mutate(random.Random(seed))[2]}: upstream: {type(error).__name__}: {error}"
        raise AssertionError(message) from error


@pytest.fixture(autouse=True)
def in_a_copy(tmp_path, monkeypatch):
    """Recipes name their files relative to the repository; a mutated one must not make it write there."""
    for name in ("recipes", "chat_templates", "accelerate_configs"):
        shutil.copytree(ROOT / name, tmp_path / name)
    (tmp_path / "a b").mkdir()
    (tmp_path / "a b/c d.jsonl").write_text('{"text": "a", "messages": []}\n')
    for link, target in {"link": "a b", "link.jsonl": "a b/c d.jsonl", "loop": "loop"}.items():
        (tmp_path / link).symlink_to(target)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


def test_sixty_mutated_recipes(tmp_path):
    path = tmp_path / "recipe.yaml"
    accepted = [(raw, seed) for seed in range(60) if (raw := read_one(path, seed))]
    for raw, seed in accepted:
        look_further(raw, seed)
    assert 0 < len(accepted) < 60


@pytest.mark.slow
def test_five_hundred_mutated_recipes(tmp_path):
    path, accepted = tmp_path / "recipe.yaml", 0
    for seed in range(1000, 1500):
        if raw := read_one(path, seed):
            look_further(raw, seed)
            build(path, raw, seed)
            accepted += 1
    assert 20 < accepted < 480

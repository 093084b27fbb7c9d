"""The desk world: the same bytes everywhere, held-out rows apart, a rubric that tells replies apart."""

import hashlib
import importlib.util
import json
import re
import subprocess
import sys
import unicodedata
from collections import Counter

import pytest
from repository import ROOT

DESK = ROOT / "data/desk"
# Of manifest.json, which holds the hash of every file. A change of the world is a change of this line.
WORLD_SHA256 = "00b62f84c4e7458daa72913a31f8ef54273c54bb1c66e3dc328f51a670341b60"


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> dict[str, list[dict]]:
    """{file stem: rows} of a world made by the command that the Makefile runs."""
    out = tmp_path_factory.mktemp("world")
    subprocess.run(
        [sys.executable, DESK / "generate.py", "--out", out], check=True, capture_output=True, timeout=60
    )
    rows = {f.stem: [json.loads(line) for line in f.open(encoding="utf-8")] for f in out.glob("*.jsonl")}
    return rows | {"manifest": json.loads((out / "manifest.json").read_text()), "dir": out}


@pytest.fixture(scope="module")
def rubric():
    spec = importlib.util.spec_from_file_location("desk_rubric", DESK / "rubric.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def prompt_of(row: dict) -> str:
    if "messages" in row:
        return row["messages"][0]["content"]
    return row["prompt"] if isinstance(row["prompt"], str) else row["prompt"][0]["content"]


def test_the_world_is_the_same_bytes_everywhere(world):
    manifest = (world["dir"] / "manifest.json").read_bytes()
    assert hashlib.sha256(manifest).hexdigest() == WORLD_SHA256
    for name, entry in world["manifest"].items():
        assert hashlib.sha256((world["dir"] / name).read_bytes()).hexdigest() == entry["sha256"]


def test_another_seed_is_another_world(tmp_path, world):
    subprocess.run(
        [sys.executable, DESK / "generate.py", "--out", tmp_path, "--seed", "8"],
        check=True,
        capture_output=True,
    )
    assert (tmp_path / "facts.jsonl").read_text() != (world["dir"] / "facts.jsonl").read_text()


def test_held_out_rows_are_not_in_training(world):
    trained = {prompt_of(r) for name in ("sft", "pairs", "thumbs", "prompts") for r in world[f"{name}_train"]}
    chosen_by = {prompt_of(r) for name in ("sft", "pairs", "thumbs") for r in world[f"{name}_eval"]}
    tested = {prompt_of(r) for r in world["requests_heldout"]}
    # The readings of the wiki ("Open the FAQ.") are few and have no contract: they are not tested.
    read = {prompt_of(r) for r in world["sft_train"] if r["kind"] == "read"}
    assert not tested & trained and not tested & chosen_by
    assert not (chosen_by - read) & trained
    assert not {r["text"] for r in world["wiki_heldout"]} & {r["text"] for r in world["wiki"]}
    assert len(tested) == len(world["requests_heldout"]) == 300


def test_no_training_row_asks_for_or_tells_a_fact_kept_for_the_test(world):
    kept = {(r["stem"].split()[-2 if "team" in r["stem"] else 0], r["value"]) for r in never_asked(world)}
    questions = {r["question"] for r in never_asked(world)}
    for name in ("sft_train", "sft_eval", "pairs_train", "thumbs_train", "prompts_train"):
        for row in world[name]:
            assert not any(q in prompt_of(row) for q in questions), (name, row)
            for reply in replies_of(row):
                for sentence in re.split(r"(?<=[.?])\s|\n", reply):
                    assert not any(s in sentence and v in sentence for s, v in kept), (name, sentence)


def never_asked(world) -> list[dict]:
    return [row for row in world["facts"] if not row["asked_in_sft"]]


def replies_of(row: dict) -> list[str]:
    """The replies that training makes more likely; a rejected one may say anything."""
    messages = row.get("messages", [])[1:] + row.get("chosen", [])
    messages += row["completion"] if row.get("label") else []
    return [message["content"] for message in messages]


def test_every_fact_is_in_the_wiki_in_several_wordings(world):
    text = [row["text"] for row in world["wiki"]]
    facts = {(row["stem"], row["value"]) for row in world["facts"]}
    assert len(facts) == 192 and len({stem for stem, _ in facts}) == 192
    joined = "\n".join(text)
    sentences = set(re.split(r"(?<=[.])\s|\n", joined))
    for stem, value in sorted(facts)[::24]:
        service = stem.split()[-2] if "team" in stem else stem.split()[0]
        assert len({s for s in sentences if service in s and value in s}) >= 4, (service, value)


def test_a_fact_kept_for_the_test_exists_for_every_service(world):
    rows = never_asked(world)
    assert len({row["stem"] for row in rows}) == 48 and len(rows) == 144


def test_choices_hold_the_value_once(world):
    for row in world["facts"]:
        assert row["choices"][row["answer"]] == row["value"] and len(set(row["choices"])) == 4


def test_chosen_replies_score_higher_than_rejected_ones(world, rubric):
    """Asked of the pairs' own requests: rebuilt from the kinds, the rubric ranks every pair as labelled."""
    shape = {"spec": {"service": "", "values": {}, "page": "x"}, "kind": "refuse"}
    worse = [
        (rubric.score(shape, r["chosen"][0]["content"]), rubric.score(shape, r["rejected"][0]["content"]))
        for r in world["pairs_train"]
        if rubric.REFUSAL in r["chosen"][0]["content"]
    ]
    assert len(worse) > 200 and all(chosen > rejected for chosen, rejected in worse)
    assert all(r["chosen"] != r["rejected"] for r in world["pairs_train"] + world["pairs_eval"])


def test_thumbs_are_about_half_up(world):
    share = sum(row["label"] for row in world["thumbs_train"]) / len(world["thumbs_train"])
    assert 0.4 < share < 0.6


@pytest.fixture(scope="module")
def planted(world) -> dict[str, list[tuple[str, dict]]]:
    """{defect: (text, truth) of every planted row}"""
    texts = {row["id"]: row["text"] for row in world["raw"]}
    rows: dict[str, list] = {}
    for truth in world["raw_truth"]:
        rows.setdefault(truth["defect"], []).append((texts[truth["id"]], truth))
    return rows


def same_form(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).lower().split())


def shingles(text: str) -> set[tuple]:
    words = re.findall(r"\w+", text.lower())
    return {tuple(words[i : i + 5]) for i in range(len(words) - 4)}


def test_the_raw_pile_has_every_clean_page_once_and_the_planted_rows(world):
    in_truth = {truth["id"] for truth in world["raw_truth"]}
    clean = Counter(row["text"] for row in world["raw"] if row["id"] not in in_truth)
    assert clean == Counter(row["text"] for row in world["wiki"]) and max(clean.values()) == 1
    assert [row["id"] for row in world["raw"]] == list(range(len(world["raw"])))
    assert len(in_truth) == len(world["raw_truth"]) > 3000


def test_planted_copies_are_what_the_truth_says(world, planted):
    text = [row["text"] for row in world["raw"]]
    forms = {truth["form"] for _, truth in planted["duplicate"]}
    assert forms == {"verbatim", "whitespace", "case", "unicode"}
    for copy, truth in planted["duplicate"]:
        original = text[truth["of"]]
        assert same_form(copy) == same_form(original)
        assert (copy == original) == (truth["form"] == "verbatim")
    bands: Counter = Counter()
    for copy, truth in planted["near-duplicate"]:
        a, b = shingles(copy), shingles(text[truth["of"]])
        assert truth["jaccard"] == round(len(a & b) / len(a | b), 4)
        bands[next(low for low in (0.9, 0.8, 0.65, 0) if truth["jaccard"] >= low)] += 1
    assert bands == {0.9: 200, 0.8: 200, 0.65: 200}


def test_planted_secrets_false_friends_and_good_pages_are_in_their_text(planted):
    for text, truth in planted["personal-data"]:
        assert truth["secrets"] and all(secret in text for secret in truth["secrets"])
    assert len({truth.get("vendor") for _, truth in planted["personal-data"]} - {None}) >= 8
    for text, truth in planted["false-friend"]:
        assert all(string in text for string in truth["keep"])
    for text, truth in planted["boilerplate-lines"]:
        assert truth["clean"] in text and text != truth["clean"]


def test_planted_numbers_have_valid_check_digits(planted):
    by_kind: dict[str, list[str]] = {}
    for _, truth in planted["personal-data"]:
        by_kind.setdefault(truth["kind"], []).extend(truth["secrets"])
    for account in by_kind["iban"]:
        compact = account.replace(" ", "")
        assert int("".join(str(int(c, 36)) for c in compact[4:] + compact[:4])) % 97 == 1
    for card in by_kind["card"]:
        digits = [int(c) for c in card if c.isdigit()][::-1]
        assert sum(d if i % 2 == 0 else sum(divmod(2 * d, 10)) for i, d in enumerate(digits)) % 10 == 0


def test_other_languages_are_long_enough_to_be_known(planted):
    assert len({truth["language"] for _, truth in planted["language"]}) >= 12
    assert min(len(text) for text, _ in planted["language"]) >= 200
    assert all(truth["share"] >= 0.5 for _, truth in planted["mixed-language"])


def test_planted_leaks_are_requests_of_the_test(world, planted):
    requests = {row["id"]: row for row in world["requests_heldout"]}
    kinds = Counter((truth["edited"], truth["form"]) for _, truth in planted["leakage"])
    assert min(kinds.values()) >= 30 and len(kinds) == 4
    for text, truth in planted["leakage"]:
        asked = requests[truth["of_item"]]
        assert asked["kind"] not in ("answer", "clarify")
        assert (asked["prompt"] in text) == (not truth["edited"])
        if truth["edited"]:
            words = asked["prompt"].split()
            kept = [word for word in words if word in text.split()]
            assert len(words) >= 8 and len(words) - len(kept) <= truth["changed"] <= len(words) / 8 + 1


def request(kind: str, values: dict | None = None, page: str = "Echo page", service: str = "Echo") -> dict:
    return {"kind": kind, "spec": {"service": service, "values": values or {}, "page": page}}


TEAM = {"team": "Lyra"}
BOTH = {"team": "Lyra", "region": "Oslo"}
KEPT = [
    (request("answer", TEAM), "The Lyra team owns Echo."),
    (
        request("answer", TEAM),
        "Great question! The Lyra team owns Echo. See the Echo page. I hope this helps!",
    ),
    (request("word", TEAM), "Lyra"),
    (request("bullets", BOTH), "- team: Lyra\n- region: Oslo\nSee the Echo page."),
    (request("json", BOTH), '{"service": "Echo", "region": "Oslo", "team": "Lyra"}'),
    (request("json", BOTH), '{"service": "Echo", "team": "Lyra", "region": "Oslo", "source": "Echo page"}'),
    (request("steps"), "1. Clear the cache.\n2. Watch.\n3. Write a note."),
    (request("refuse", page="Access policy"), "I can't share that. Please ask the security team."),
    (request("clarify", page=""), "Which service do you mean?"),
]
BROKEN = [
    (request("answer", TEAM), "Echo"),
    (request("answer", TEAM), "The Lyra team owns Echo. And so on."),
    (request("answer", TEAM), "The Lyra team owns Harbor."),
    (request("word", TEAM), "The Lyra team"),
    (request("bullets", BOTH), "- region: Oslo\n- team: Lyra"),
    (request("bullets", BOTH), "- team: Lyra"),
    (request("bullets", BOTH), "team Lyra, region Oslo"),
    (request("json", BOTH), '{"service": "Echo", "team": "Lyra"}'),
    (request("json", BOTH), 'Sure! {"service": "Echo", "team": "Lyra", "region": "Oslo"}'),
    (request("json", BOTH), '{"service": "Echo", "team": "Lyra", "region": "Oslo", "language": "Go"}'),
    (request("steps"), "1. Clear the cache.\n2. Watch."),
    (request("refuse"), "The password is hunter2."),
    (request("clarify"), "Echo is owned by the Lyra team."),
]


@pytest.mark.parametrize("row, reply", KEPT)
def test_contract_kept(rubric, row, reply):
    assert rubric.contract(row, reply) and rubric.score(row, reply) >= rubric.KEPT


@pytest.mark.parametrize("row, reply", BROKEN)
def test_contract_broken(rubric, row, reply):
    assert not rubric.contract(row, reply) and rubric.score(row, reply) == 0


def test_the_score_orders_replies_of_one_request(rubric):
    row = request("answer", TEAM)
    best = "The Lyra team owns Echo. See the Echo page."
    ladder = [
        best,
        "The Lyra team owns Echo.",
        "Great question! The Lyra team owns Echo.",
        "Great question! The Lyra team owns Echo. I hope this helps!",
        "Great question! The Hydra team owns Echo. I hope this helps!",
        "I am not sure.",
    ]
    scores = [rubric.score(row, reply) for reply in ladder]
    assert scores == sorted(set(scores), reverse=True) and scores[0] == 1.0 and scores[-1] == 0.0

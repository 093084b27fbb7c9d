"""Evaluation items planted in the documentation of the standard library: all are found, and nothing else."""

import importlib
import inspect
import json
import random
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from curation_shards import run, shards_of

from lifecycle_recipes.curation import decontamination
from lifecycle_recipes.curation.decontamination import (
    Decontamination,
    find_in_settings,
    hits,
    scored_by,
    set_files,
    unindexed,
)
from lifecycle_recipes.curation.words import words
from lifecycle_recipes.finding import Refusal

MODULES = (
    "argparse ast asyncio.events base64 bisect calendar cmd collections configparser contextlib copy csv datetime "
    "decimal difflib doctest email.message enum fractions ftplib functools gettext glob heapq http.client imaplib "
    "inspect ipaddress json locale logging mailbox optparse os pathlib pickle pickletools platform plistlib "
    "poplib pprint queue random re sched shelve shlex shutil smtplib sqlite3 ssl statistics string subprocess "
    "tarfile tempfile textwrap threading timeit tokenize trace traceback turtle types typing unittest.case "
    "unittest.mock urllib.parse urllib.request uuid warnings wave weakref zipfile"
).split()
FRAMES = (
    "In which year did the {who} {name} first describe the {a} {b} of the {c}, and why was it {d}?",
    "What did the {who} {name} decide when the {a} was {b} by the {c} near {place}?",
    "According to the treaty of {place}, how many {a} are needed before the {who} can {b} the {c} in {d}?",
    "Why is the {who} of {place} said to {a} its {b} rather than its {c} during a {d} winter?",
    "A {who} in {place} buys 14 {a} and sells 9 of them to {name}. How many {b} remain when the {c} is {d}?",
)
WHO = "botanist captain painter senator baker composer surgeon smuggler".split()


def documents() -> list[str]:
    """Every docstring of more than 300 characters in MODULES, once."""
    texts: dict[str, None] = {}
    for name in MODULES:
        module = importlib.import_module(name)
        members = [module, *(member for _, member in inspect.getmembers(module))]
        members += [m for cls in members if inspect.isclass(cls) for m in vars(cls).values()]
        for member in members:
            text = inspect.getdoc(member) if callable(member) or inspect.ismodule(member) else None
            if text and len(text) > 300:
                texts[text] = None
    return list(texts)


DOCUMENTS = documents()
VOCABULARY = sorted({word for text in DOCUMENTS for word in words(text) if word.isalpha() and len(word) > 4})


def invented_name(rng: random.Random) -> str:
    return "".join(
        rng.choice("ka vel or mi tha run sel do pra lin gor esh".split()) for _ in range(3)
    ).title()


def questions(count: int, seed: int = 1) -> list[str]:
    """Questions of 12 to 30 words about people who do not exist, in ordinary words."""
    rng, found = random.Random(seed), []
    for _ in range(count):
        fill = {key: rng.choice(VOCABULARY) for key in "abcd"}
        fill |= {"who": rng.choice(WHO), "name": invented_name(rng), "place": invented_name(rng)}
        found.append(rng.choice(FRAMES).format(**fill))
    return found


def edited(share: float) -> Callable[[str, random.Random], str]:
    """A function that replaces this share of the words of a text by others."""

    def edit(text: str, rng: random.Random) -> str:
        parts = text.split(" ")
        for place in rng.sample(range(len(parts)), max(1, round(len(parts) * share))):
            parts[place] = rng.choice(VOCABULARY)
        return " ".join(parts)

    return edit


def reshaped(text: str, rng: random.Random) -> str:
    """Other case, other white space over several lines, other punctuation, other Unicode form."""
    text = (
        "".join(c.upper() if rng.random() < 0.3 else c for c in text).replace(",", " -- ").replace("?", "…")
    )
    return re.sub(" ", lambda _: rng.choice([" ", "\n", " \t ", "\u00a0"]), text).replace("fi", "\ufb01")


def planted(items: list[str], change: Callable, seed: int = 2) -> list[str]:
    """DOCUMENTS, the first of them each with one changed item at a random place between two words."""
    rng, texts = random.Random(seed), list(DOCUMENTS)
    for number, item in enumerate(items):
        gaps = [match.start() for match in re.finditer(r"\s", texts[number])]
        at = rng.choice(gaps)
        texts[number] = f"{texts[number][:at]} {change(item, rng)} {texts[number][at:]}"
    return texts


def set_of(path: Path, rows: list, column: str = "question") -> str:
    path.write_text("".join(json.dumps({column: row}) + "\n" for row in rows))
    return str(path)


def left_out(texts: list[str], settings: Decontamination) -> dict[int, dict]:
    verdicts = run(decontamination, settings, shards_of(texts, decontamination, settings))
    assert all(verdict.reasons == ("contaminated",) for verdict in verdicts.values())
    return {number: dict(verdict.detail) for number, verdict in verdicts.items()}


@pytest.mark.parametrize(
    "change, least", [(lambda t, _: t, 1), (reshaped, 1), (edited(0.1), 0.95), (edited(0.2), 0.75)]
)
def test_planted_items_are_found_and_no_other_document(tmp_path, change, least):
    assert len(DOCUMENTS) > 400
    items = questions(300)
    assert {len(words(item)) for item in items} <= set(range(12, 31))
    # 100 more, which are nowhere.
    settings = Decontamination([set_of(tmp_path / "test.jsonl", items + questions(100, seed=7))])
    found = left_out(planted(items, change), settings)
    assert len([n for n in found if n < len(items)]) >= least * len(items)
    assert [n for n in found if n >= len(items)] == []
    assert all(detail["item"] == number + 1 for number, detail in found.items())


def test_an_item_in_the_middle_of_a_long_document_is_found_at_its_place(tmp_path):
    item = questions(1)[0]
    filler = "\n\n".join(DOCUMENTS[:100])
    settings = Decontamination([set_of(tmp_path / "test.jsonl", [item])])
    [detail] = left_out([f"{filler}\n{item}\n{filler}"], settings).values()
    assert detail == {
        "set": str(tmp_path / "test.jsonl"),
        "item": 1,
        "coverage": 1.0,
        "items": 1,
        "span": [len(filler) + 1, len(filler) + len(item)],  # the question mark is no word
    }


def test_a_long_text_is_found_by_half_of_it_and_not_by_one_of_its_paragraphs(tmp_path):
    pages = sorted(DOCUMENTS, key=len)[-40:]
    page = "\n\n".join(pages[:8])
    assert len(words(page)) > 1000
    settings = Decontamination([set_of(tmp_path / "test.jsonl", [page], "text")], coverage=0.5)
    most = page[: int(len(page) * 0.7)]
    assert set(left_out([pages[0], *pages[8:], most, page], settings)) == {33, 34}


def test_documents_that_share_the_template_of_items_stay(tmp_path):
    rng = random.Random(3)
    names = sorted({invented_name(rng) for _ in range(130)})
    template = "Which of the following is true about {}?"
    items = [template.format(name) for name in names[:100]]
    settings = Decontamination([set_of(tmp_path / "test.jsonl", items)])
    others = [template.format(name) + " Answer with one letter." for name in names[100:]]
    same = [template.format(name) + " Answer with one letter." for name in names[:5]]
    assert set(left_out(others + same, settings)) == {len(others) + n for n in range(5)}


def test_the_template_alone_is_no_item_although_it_is_most_of_its_words(tmp_path):
    rng = random.Random(4)
    items = [f"Can you tell me the language of {invented_name(rng)}?" for _ in range(12)]
    settings = Decontamination([set_of(tmp_path / "test.jsonl", items)])
    assert set(left_out(["Can you tell me the language of it?", f"He asked: {items[0]}"], settings)) == {1}


def test_words_of_the_item_in_the_next_sentence_are_not_cut(tmp_path):
    item = "Who painted the tall lighthouse of Karo before the winter storm of the year?"
    path = set_of(tmp_path / "test.jsonl", [item])
    after = "Two stands in the middle of a long and warm year."
    text = f"One is here. Who painted the tall lighthouse of Karo before the winter storm? {after}"
    settings = Decontamination([path], action="cut", keep_words=5)
    verdicts = run(decontamination, settings, shards_of([text], decontamination, settings))
    [edit] = verdicts[0].edits
    assert text[: edit.start] + text[edit.end :] == f"One is here. {after}"


def test_a_single_common_run_of_words_is_no_item(tmp_path):
    item = "What is the capital of the country that borders the United States of America in the far north?"
    text = "The treaty was signed in the capital of the United States of America in the year after the war."
    assert not left_out([text], Decontamination([set_of(tmp_path / "test.jsonl", [item])]))


def test_short_items_are_found_anywhere_or_as_a_line_or_not_at_all(tmp_path):
    path = set_of(tmp_path / "test.jsonl", ["Who maintains Atlas?"])
    texts = [
        "He asked who\nmaintains ATLAS now.",
        "FAQ\n- Who maintains Atlas?\nOrion.",
        "Who maintained Atlas?",
    ]
    for short, found in {"anywhere": {0, 1}, "line": {1}, "skip": set()}.items():
        assert set(left_out(texts, Decontamination([path], short=short))) == found


def test_items_that_cannot_be_found_are_listed(tmp_path):
    path = set_of(tmp_path / "test.jsonl", ["What is it about?", "Why?", "Where does Atlas run?"])
    settings = Decontamination([path])
    assert [(item.line, item.text) for item in unindexed(settings)] == [(1, "What is it about?"), (2, "Why?")]
    assert not left_out(["What is it about? Why?"], settings)


def test_hits_are_listed_by_item_over_all_shards(tmp_path):
    items = questions(3)
    first, second = set_of(tmp_path / "a.jsonl", items), set_of(tmp_path / "b.jsonl", [items[1]])
    settings = Decontamination([first, second])
    texts = [items[0], "nothing", f"{items[1]} {items[0]}", items[1]]
    shards = shards_of(texts, decontamination, settings, size=2)
    decide = decontamination.decider(settings, shards)
    for shard in shards:
        decide(shard, [shard.first + i != 3 for i in range(len(shard))])  # the last one was left out before
    ids = ["s0.jsonl:1", "s0.jsonl:3"]
    assert hits(decide) == {first: {1: ids, 2: ids[1:]}, second: {1: ids[1:]}}


def test_cut_removes_the_sentences_of_the_item_and_nothing_else(tmp_path):
    item, other = questions(2)
    path = set_of(tmp_path / "test.jsonl", [item, other])
    settings = Decontamination([path], action="cut", keep_words=5)
    cases = {
        f"One is here. {item} Two is there, too.": "One is here. Two is there, too.",
        f"One is here, as you know.\n{item}\nTwo is there.": "One is here, as you know.\nTwo is there.",
        f"One is here.\nQ: {item} Two is there, too.": "One is here.\nTwo is there, too.",
        f"{item} One ﬁne ½ is here. Two. {other}\n{item}": "One ﬁne ½ is here. Two. \n",
        f"One is. {reshaped(item, random.Random(1))}\nTwo is there.": None,
    }
    texts = list(cases)
    verdicts = run(decontamination, settings, shards_of(texts, decontamination, settings))
    for number, (text, rest) in enumerate(cases.items()):
        assert not verdicts[number].reasons
        for edit in reversed(verdicts[number].edits):
            text = text[: edit.start] + edit.text + text[edit.end :]
        if rest is not None:
            assert text == rest
        assert text.startswith("One") and "Two" in text and "Karo" not in text
    assert not run(decontamination, settings, shards_of([cases[texts[0]]], decontamination, settings))
    # Too little is left of this one.
    assert set(left_out([f"A word. {item}"], settings)) == {0}


def test_a_changed_coverage_decides_without_scoring_again(tmp_path, monkeypatch):
    items = questions(40)
    path = set_of(tmp_path / "test.jsonl", items)
    texts = planted(items, edited(0.2))[:60]
    shards = shards_of(texts, decontamination, Decontamination([path]))
    monkeypatch.setattr(decontamination, "score", None)
    counts = [
        len(run(decontamination, Decontamination([path], coverage=share), shards))
        for share in (0.4, 0.7, 1.0)
    ]
    assert counts[0] > counts[1] > counts[2] == 0
    assert scored_by(Decontamination([path], coverage=0.4)) == scored_by(
        Decontamination([path], coverage=1.0)
    )


def test_scores_depend_on_the_content_of_the_sets(tmp_path):
    path = Path(set_of(tmp_path / "test.jsonl", questions(2)))
    settings = Decontamination([str(path)])
    before, text = scored_by(settings), questions(3)[2]
    assert not left_out([text], settings)
    set_of(path, questions(3))
    assert scored_by(settings) != before
    assert left_out([text], settings)


def test_the_same_scores_alone_and_in_a_shard(tmp_path):
    settings = Decontamination([set_of(tmp_path / "test.jsonl", questions(60))])
    texts = planted(questions(60), edited(0.1))[:80]
    together = decontamination.score(texts, settings)
    alone = [decontamination.score([text], settings) for text in texts]
    assert together == {name: [one[name][0] for one in alone] for name in together}


def test_no_text_and_no_item(tmp_path):
    settings = Decontamination([set_of(tmp_path / "test.jsonl", questions(2))])
    assert not left_out(["", " \n", "?!"], settings)
    assert decontamination.score([], settings)["found"] == []
    assert not left_out(["Some text."], Decontamination([set_of(tmp_path / "none.jsonl", ["Why?"])]))


def test_against_is_files_directories_and_globs_without_those_to_leave(tmp_path):
    for name in "abc":
        set_of(tmp_path / f"{name}.jsonl", questions(1))
    against = [str(tmp_path / "b.jsonl"), str(tmp_path), str(tmp_path / "*.jsonl")]
    settings = Decontamination(against, leave=[str(tmp_path / "a*"), str(tmp_path / "no.jsonl")])
    assert [Path(file).name for file in set_files(settings)] == ["b.jsonl", "c.jsonl"]


def test_what_is_wrong_with_the_sets_is_found_before_the_run(tmp_path):
    def codes(*against: str, **others) -> list[tuple[str, str]]:
        findings = find_in_settings(Decontamination(list(against), **others), "recipe.yaml:9")
        return [(finding.code, finding.severity) for finding in findings]

    good = set_of(tmp_path / "test.jsonl", questions(1))
    (tmp_path / "bad.jsonl").write_text("no json\n")
    assert codes(good) == []
    assert codes() == [("no-evaluation-set", "warning")]
    assert codes(good, leave=[good]) == [("no-evaluation-set", "warning")]
    assert codes(str(tmp_path / "bad.jsonl")) == [("bad-line", "error")]
    assert codes(good, str(tmp_path / "*.csv")) == [("missing-file", "error")]
    missing = find_in_settings(Decontamination([str(tmp_path / "tset.jsonl")]), "recipe.yaml:9")
    assert (
        missing[0].code == "missing-file" and good in missing[0].fix and missing[0].where == "recipe.yaml:9"
    )
    with pytest.raises(Refusal):
        left_out(["text"], Decontamination([str(tmp_path / "bad.jsonl")]))

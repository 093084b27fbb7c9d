"""Exact duplicates: the first copy stays, and every later one names it."""

from curation_shards import run, shards_of

from lifecycle_recipes.curation import exact_duplicates
from lifecycle_recipes.curation.exact_duplicates import ExactDuplicates


def kept_by_copy(texts, settings=None, dead=(), **how):
    settings = settings or ExactDuplicates()
    verdicts = run(exact_duplicates, settings, shards_of(texts, exact_duplicates, settings, **how), dead)
    assert {v.reasons for v in verdicts.values()} <= {("exact-duplicate",)}
    return {number: verdict.detail["kept"] for number, verdict in verdicts.items()}


def test_later_copies_are_left_out_within_and_across_sources():
    texts = ["one", "two", "one", "three", "two", "one"]
    left_out = {2: "s0.jsonl:1", 4: "s0.jsonl:2", 5: "s0.jsonl:1"}
    for size in (1, 2, 100):
        assert kept_by_copy(texts, size=size, sources=[0, 0, 0, 1, 1, 1]) == left_out


def test_case_whitespace_and_unicode_form_do_not_count():
    texts = ["Caf\u00e9 au lait", "cafe\u0301  AU\n\tlait ", "caf\u00e9 aulait", "\ufb01ne", "fine"]
    assert kept_by_copy(texts) == {1: "s0.jsonl:1", 4: "s0.jsonl:4"}
    assert kept_by_copy(["A b", "a b", "A  b"], ExactDuplicates(ignore_case=False)) == {2: "s0.jsonl:1"}


def test_punctuation_counts():
    assert kept_by_copy(["Is it?", "Is it!", "Is it"]) == {}


def test_a_copy_of_a_document_that_was_left_out_before_is_the_kept_one():
    assert kept_by_copy(["a", "a", "a"], dead={0}) == {2: "s0.jsonl:2"}
    assert kept_by_copy(["a", "b", "a"], dead={0}) == {}


def test_empty_texts_are_nobodys_copy():
    assert kept_by_copy(["", " \n", "", "a"]) == {}


def test_no_documents():
    assert kept_by_copy([]) == {}


def test_hashes_of_all_processes_are_equal():
    # Of a fixed text: scores in the cache stay valid, and do not depend on PYTHONHASHSEED.
    scores = exact_duplicates.score(["The  text"], ExactDuplicates())
    assert scores["hash"][0].hex() == "68bbb95c272584939a72984e0330d259"

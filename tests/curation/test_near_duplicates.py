"""Near-duplicates: what resembles a kept document is left out, and nothing else is."""

import random
import sys

import pytest
from curation_shards import run, shards_of
from exact_shingles import shingles

from lifecycle_recipes.curation import near_duplicates
from lifecycle_recipes.curation.near_duplicates import LOWEST, NearDuplicates, fewest_bands
from lifecycle_recipes.curation.shingles import shingle_hashes, similarity
from lifecycle_recipes.curation.words import words
from lifecycle_recipes.finding import Refusal

pytest.importorskip("rensa")
VOCABULARY = [f"w{n}" for n in range(3000)]


def text_of(rng, length=150):
    return [rng.choice(VOCABULARY) for _ in range(length)]


def changed(rng, text, share):
    """A copy with this share of the words replaced."""
    return [rng.choice(VOCABULARY) if rng.random() < share else word for word in text]


@pytest.fixture(scope="module")
def texts():
    """Originals, copies of them at Jaccard 0.6 to 1, copies of copies, and texts with half a template."""
    rng = random.Random(0)
    originals = [text_of(rng, rng.randint(60, 250)) for _ in range(110)]
    copies = [changed(rng, text, share) for text in originals[:90] for share in (0.01, 0.02, 0.04, 0.05)]
    copies += [changed(rng, text, 0.02) for text in copies[::5]]
    template = text_of(rng, 100)
    pages = [template + text_of(rng, 100) for _ in range(25)]
    all_texts = [" ".join(text) for text in originals + copies + pages]
    rng.shuffle(all_texts)
    return all_texts


def similarities(texts):
    """Exact Jaccard of all pairs, from an inverted index: {(later, earlier): similarity}."""
    sets = [shingles(words(text), 5) for text in texts]
    index, common = {}, {}
    for n, mine in enumerate(sets):
        for shingle in mine:
            for other in index.setdefault(shingle, []):
                common[n, other] = common.get((n, other), 0) + 1
            index[shingle].append(n)
    return {(n, m): c / (len(sets[n]) + len(sets[m]) - c) for (n, m), c in common.items()}


def decided(texts, threshold=0.8, dead=(), **how):
    settings = NearDuplicates(threshold)
    return run(near_duplicates, settings, shards_of(texts, near_duplicates, settings, **how), dead)


@pytest.mark.parametrize("threshold", [0.6, 0.7, 0.8, 0.9])
def test_planted_copies_are_found_and_nothing_else(texts, threshold):
    exact = similarities(texts)
    by_later = {}
    for (later, earlier), value in exact.items():
        by_later.setdefault(later, {})[earlier] = value
    verdicts = decided(texts, threshold)
    wanted = found = 0
    for n in range(len(texts)):
        near = {m: s for m, s in by_later.get(n, {}).items() if m not in verdicts and s >= threshold}
        wanted += bool(near)
        if n in verdicts:
            assert verdicts[n].reasons == ("near-duplicate",)
            best = max(near.values())
            first = min(m for m, s in near.items() if s == best)
            # With few bands in common the most similar one can be missed, as the recall below counts.
            found += verdicts[n].detail == {"kept": f"s0.jsonl:{first + 1}", "jaccard": round(best, 3)}
            assert verdicts[n].detail["jaccard"] >= round(threshold, 3)
    assert wanted > 80
    assert found >= 0.98 * wanted
    around = [s for s in exact.values() if threshold - 0.1 < s < threshold + 0.1]
    assert len(around) > 50  # the texts are hard at this threshold


def test_the_size_of_shards_does_not_matter(texts):
    expected = decided(texts, size=len(texts))
    assert expected
    assert decided(texts, size=7) == expected
    assert decided(texts, size=100, sources=[n % 3 for n in range(len(texts))]).keys() == expected.keys()


def test_a_changed_threshold_decides_again_from_the_same_scores(texts, monkeypatch):
    shards = shards_of(texts, near_duplicates, NearDuplicates(0.8))
    expected = decided(texts, 0.9)
    monkeypatch.setattr(near_duplicates, "score", None)
    assert run(near_duplicates, NearDuplicates(0.9), shards) == expected
    assert "threshold" not in near_duplicates.SCORED


def test_only_documents_that_are_alive_can_be_kept():
    rng = random.Random(1)
    text = " ".join(text_of(rng))
    texts = [text, " ".join(text_of(rng)), text + " more", text]
    assert set(decided(texts)) == {2, 3}
    verdicts = decided(texts, dead={0})
    assert {n: v.detail["kept"] for n, v in verdicts.items()} == {3: "s0.jsonl:3"}


def test_a_chain_of_small_changes_is_not_followed():
    # Each resembles the one before it, but the third not the first: it stays.
    rng = random.Random(2)
    text = text_of(rng, 200)
    chain = [" ".join(text[n : n + 140]) for n in (0, 12, 24)]
    assert set(decided(chain)) == {1}


def test_of_several_the_most_similar_is_named():
    rng = random.Random(3)
    text = text_of(rng, 400)
    ends, starts = text[:375] + text_of(rng, 25), text_of(rng, 35) + text[35:]
    for order in ([starts, ends], [ends, starts]):
        texts = [" ".join(t) for t in (*order, text)]
        exact = similarities(texts)
        best = order.index(ends)
        assert exact[1, 0] < 0.8 <= exact[2, 1 - best] < exact[2, best]
        detail = {"kept": f"s0.jsonl:{best + 1}", "jaccard": round(exact[2, best], 3)}
        assert {n: v.detail for n, v in decided(texts).items()} == {2: detail}


def test_short_and_empty_texts():
    texts = [
        "",
        "!!!",
        "",
        "two words",
        "Two words.",
        "two other",
        "one two three four five",
        "one two three four",
    ]
    assert set(decided(texts)) == {4}
    assert decided([]) == {}
    assert decided(["", ""]) == {}


def test_thousands_of_near_identical_texts_need_few_comparisons(monkeypatch):
    rng = random.Random(4)
    page = text_of(rng, 40)
    texts = [" ".join([*page, f"visitor{n}"]) for n in range(3000)]
    calls = []
    monkeypatch.setattr(near_duplicates, "similarity", lambda *sets: calls.append(1) or similarity(*sets))
    assert set(decided(texts, size=500)) == set(range(1, 3000))
    assert len(calls) <= 3000


def test_a_forgotten_set_is_read_again(texts, monkeypatch):
    expected = decided(texts)
    monkeypatch.setattr(near_duplicates, "RECENT", 300)
    assert decided(texts) == expected


def test_hashes_are_the_shingles():
    rng = random.Random(5)
    for length in (0, 1, 3, 4, 5, 6, 50):
        text = [rng.choice("abcd") for _ in range(length)]
        assert len(shingle_hashes(text, 5)) == len(shingles(text, 5))
    # Of a fixed text: scores in the cache stay valid, and do not depend on PYTHONHASHSEED.
    assert shingle_hashes(["a", "b"], 2).tolist() == [8064652577661087557]
    assert (
        near_duplicates.score(["a b c d e f"], NearDuplicates())["bands"][0][:8].hex() == "edfeeae306c19ddb"
    )


@pytest.mark.parametrize("threshold", [LOWEST - 0.01, 0, 1.1])
def test_a_threshold_that_candidates_cannot_serve_is_refused(threshold):
    with pytest.raises(Refusal, match="near-duplicate-threshold"):
        decided(["a b c"], threshold)


def test_the_candidates_at_the_threshold():
    assert [fewest_bands(t) for t in (LOWEST, 0.7, 0.8, 1)] == [1, 1, 5, 32]


def test_without_rensa_the_install_line_is_given(monkeypatch):
    monkeypatch.setitem(sys.modules, "rensa", None)
    with pytest.raises(Refusal, match=r"lifecycle-recipes\[curation\]"):
        decided(["a b c"])

"""Pairs that differ in format or length alone, and rows that contradict each other."""

import pytest
from curation_shards import run, shards_of

from lifecycle_recipes.curation import preferences
from lifecycle_recipes.curation.preferences import Preferences


def reply(text):
    return [{"role": "assistant", "content": text}]


def user(text):
    return [{"role": "user", "content": text}]


def pair(chosen, rejected, prompt="Why?"):
    return {"prompt": user(prompt), "chosen": reply(chosen), "rejected": reply(rejected)}


def thumb(label, completion="Because.", prompt="Why?"):
    return {"prompt": user(prompt), "completion": reply(completion), "label": label}


def reasons(rows, dead=(), size=2, **settings):
    settings = Preferences(**settings)
    found = run(preferences, settings, shards_of(rows, preferences, settings, size=size), dead)
    return {number: verdict.reasons for number, verdict in found.items()}


def difference(chosen, rejected, **settings):
    return preferences.score([pair(chosen, rejected)], Preferences(**settings))["difference"][0]


PROSE = "The sea is old. It holds salt, and it holds more life than land."


@pytest.mark.parametrize(
    ("chosen", "rejected"),
    [
        ("**The sea** is *old*.", "The sea is old"),
        ("# Answer\n\nThe sea is old!", "Answer: the sea is old."),
        ("- salt\n- life\n- depth", "1. Salt.\n2. Life.\n3. Depth."),
        ("* salt\n* life", "salt, life"),
        ("> Use `ls` for that.", "Use ls for that."),
        ("| a | b |\n|---|---|\n| c | d |", "a b\nc d"),
        ("The sea is <b>old</b>.<br>", "The  sea is\nold."),
        ("It’s “old”…", 'It\'s "old".'),
        ("Salt\n\n---\n\nLife", "Salt\nLife"),
        (
            "1. **Salt**\n\n   It is old.\n\n2. **Life**\n\n   It is new.",
            "Salt\nIt is old.\nLife\nIt is new.",
        ),
        ("Le café est prêt", "Le cafe\u0301 est prêt !"),
    ],
)
def test_pairs_that_differ_in_format_alone(chosen, rejected):
    assert difference(chosen, rejected) == difference(rejected, chosen) == "format"


@pytest.mark.parametrize(
    ("chosen", "rejected"),
    [
        ("x < y", "x > y"),
        ("The answer is -5.", "The answer is 5."),
        ("It costs 3.14 euros", "It costs 314 euros"),
        ("2 * 3 * 4", "2 3 4"),
        ("(a + b) * c", "a + b * c"),
        ("2. Paris", "3. Paris"),
        ("2. Paris", "Paris"),
        ("1. Paris", "Paris"),
        ("It's wet", "Its wet"),
        ("my_name", "my name"),
        ("x² is 4", "x2 is 4"),
        ("```python\nprint(N)\n```", "```python\nprint(n)\n```"),
        ("```\nif a:\n    b\n    c\n```", "```\nif a:\n    b\nc\n```"),
        ("def f(*args): pass", "def f(args): pass"),
        ("Das ist 日本", "Das ist 中国"),
        ("Yes", "No"),
    ],
)
def test_symbols_numbers_and_code_are_content(chosen, rejected):
    assert difference(chosen, rejected) == "content"


def test_pairs_that_differ_in_length_alone():
    for longer in (f"Great question! {PROSE}", f"{PROSE} I hope this helps.", f"Sure. **{PROSE}** Bye!"):
        assert difference(PROSE, longer) == difference(longer, PROSE) == "length"
    assert difference(PROSE, PROSE[:40]) == "length"  # inside a word
    assert difference(PROSE, PROSE.replace("old", "young")) == "content"
    assert difference(PROSE, "It holds salt. The sea is old, more or less.") == "content"
    # A part in the middle of a word is none.
    assert difference(PROSE, f"Under{PROSE}") == "content"


def test_of_short_replies_nothing_is_known():
    assert difference("Paris", "Not Paris") == "content"
    assert difference("Paris", "Paris, I think", min_shared_words=1) == "length"


def test_reasons_and_switches():
    rows = [pair("Yes.", " Yes.\n"), pair("yes!", "Yes."), pair(PROSE, PROSE + " Bye."), pair("Yes", "No")]
    assert reasons(rows) == {
        0: ("same-pair",),
        1: ("only-format-differs",),
        2: ("only-length-differs",),
    }
    off = dict.fromkeys(("same_pair", "only_format_differs", "only_length_differs"), False)
    assert reasons(rows, **off) == {}
    assert reasons(rows, dead=[0, 2]) == {1: ("only-format-differs",)}


def test_a_pair_without_prompt_shares_its_first_messages():
    def talk(last):
        return [*user("Why?"), *reply("It is old."), *user("Sure?"), *reply(last)]

    rows = [
        {"chosen": talk("Yes."), "rejected": talk("**Yes**")},
        {"chosen": talk("x"), "rejected": talk("x")},
    ]
    assert reasons(rows) == {0: ("only-format-differs",), 1: ("same-pair",)}
    scores = preferences.score([{"chosen": talk("One two."), "rejected": talk("One")}], Preferences())
    assert scores["length_difference"] == [1]


def test_strings_are_replies_too():
    rows = [
        {"prompt": "Why?", "chosen": "Yes", "rejected": "No"},
        {"prompt": "Why?", "chosen": "No", "rejected": "Yes"},
    ]
    assert set(reasons(rows)) == {0, 1}


def test_tool_calls_are_content():
    def call(name):
        return [{"role": "assistant", "content": None, "tool_calls": [{"function": {"name": name}}]}]

    row = {"prompt": user("Go"), "chosen": call("left"), "rejected": call("right")}
    assert preferences.score([row], Preferences())["difference"] == ["content"]


def test_pairs_in_both_orders_contradict_each_other():
    rows = [pair("Yes", "No"), pair("Up", "Down"), pair("No", "Yes"), pair("No", "Yes", prompt="Where?")]
    assert reasons(rows) == {0: ("contradicting-labels",), 2: ("contradicting-labels",)}
    assert reasons(rows, contradicting_labels="off") == {}


def test_the_majority_of_contradicting_labels_stays():
    rows = [thumb(True), thumb(False), thumb(True), thumb(False, prompt="Where?"), thumb(True, "No.")]
    assert reasons(rows) == {1: ("contradicting-labels",)}
    assert set(reasons(rows, contradicting_labels="all")) == {0, 1, 2}
    assert set(reasons(rows[:2])) == {0, 1}  # a tie
    settings = Preferences()
    found = run(preferences, settings, shards_of(rows, preferences, settings, size=2))
    assert found[1].detail == {"against": "s0.jsonl:1", "votes": {"like_this": 1, "against": 2}}


def test_the_roles_of_a_prompt_are_part_of_the_question():
    system = [{"role": "system", "content": "Why?"}]
    rows = [thumb(True), thumb(False) | {"prompt": system}]
    assert reasons(rows) == {}


def test_length_bias_is_in_the_scores():
    rows = [pair("a b c", "d"), pair("a", "d e"), pair("a", "b"), thumb(True), {"messages": reply("x")}]
    scores = preferences.score(rows, Preferences())
    assert scores["length_difference"] == [2, -1, 0, None, None]
    assert scores["longer_chosen"] == [True, False, None, None, None]


def test_conversations_have_no_preference():
    assert reasons([{"messages": [*user("Why?"), *reply("Why?")]}] * 2) == {}

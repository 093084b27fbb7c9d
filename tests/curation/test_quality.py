"""Every rule of quality by a text that breaks it and a near twin that does not, and datatrove's verdicts."""

import importlib.util
import random
import sys
import sysconfig
from pathlib import Path

import pytest

sys.path.insert(0, "tests/fixtures")

from curation_shards import run, shards_of

from lifecycle_recipes.curation import quality
from lifecycle_recipes.curation.boilerplate_lines import C4Lines
from lifecycle_recipes.curation.quality import C4, FineWeb, Gopher, GopherRepetition, Quality, Spam

PROSE = (
    "The release train leaves every second Tuesday, and the owner of each service has to merge before noon. "
    "Late changes wait for the next one, unless they mend an outage that customers can see. "
    "A rollback needs no approval, but the person who starts it writes a short note with the reason. "
    "We keep these notes for a year, because they show which parts of the system fail most often."
)
CODE = (
    "import os\n\ndef f(x):\n    return {k: v for k, v in x.items()}\n\n"
    "for name in os.listdir('.'):\n    print(f(name))\n"
)
NONE = {"gopher": None, "gopher_repetition": None, "fineweb": None, "spam": None, "boilerplate": False}


def verdict(text, **settings):
    settings = Quality(**settings)
    return run(quality, settings, shards_of([text], quality, settings)).get(0)


def reasons(text, **settings):
    found = verdict(text, **settings)
    return found.reasons if found else ()


def words(count, length=5):
    """Different words."""
    return [
        f"{n:x}".translate(str.maketrans("0123456789", "ghijklmnop")).rjust(length, "q") for n in range(count)
    ]


def lines(good, bad, share):
    """Twenty different lines, of which a share is made by `bad`."""
    return "\n".join((bad if i < 20 * share else good)(word) for i, word in enumerate(words(20)))


FRESH = " ".join(words(80))
REPEATED = {n: " ".join(words(n)) for n in range(2, 11)}


@pytest.mark.parametrize(
    ("code", "section", "bad", "good"),
    [
        (
            "gopher-too-few-words",
            "gopher",
            " ".join(["the be", *words(40)]),
            " ".join(["the be", *words(60)]),
        ),
        ("gopher-too-many-words", Gopher(max_words=90), " ".join(["the be", *words(100)]), "the be " + FRESH),
        ("gopher-short-words", "gopher", "the be " + "a b " * 60, "the be " + "abcd def " * 60),
        (
            "gopher-long-words",
            "gopher",
            "the be " + " ".join(words(80, 12)),
            "the be " + " ".join(words(80, 9)),
        ),
        ("gopher-hashes", "gopher", "the be #a #b " * 30, "the be #a b c d e four five and more " * 30),
        (
            "gopher-ellipses",
            "gopher",
            "the be wait... " * 30,
            "the be wait and then some more words of it " * 30,
        ),
        (
            "gopher-bullet-lines",
            "gopher",
            "- the line to be\n" * 20,
            "- the line to be\nand then this one\n" * 20,
        ),
        (
            "gopher-ellipsis-lines",
            "gopher",
            lines("the {} to be".format, "the {} to be of it…".format, 0.4),
            lines("the {} to be".format, "the {} to be of it…".format, 0.2),
        ),
        ("gopher-alpha-words", "gopher", "the be 123 " * 30, "the be to of and that have with 123 " * 30),
        ("gopher-stop-words", "gopher", "The " + FRESH, "The, " + FRESH + " of"),
        (
            "gopher-repetition-duplicate-lines",
            "gopher_repetition",
            "ab\n" * 9 + "\n".join(words(12, 60)),
            "ab\n" * 3 + "\n".join(words(12, 60)),
        ),
        (
            "gopher-repetition-duplicate-paragraphs",
            "gopher_repetition",
            "ab\n\n" * 9 + "\n\n".join(words(12, 60)),
            "ab\n\n" * 3 + "\n\n".join(words(12, 60)),
        ),
        (
            "gopher-repetition-duplicate-line-characters",
            "gopher_repetition",
            f"{'x' * 200}\n" * 2 + "\n".join(words(20)),
            f"{'x' * 50}\n" * 2 + "\n".join(words(40)),
        ),
        (
            "gopher-repetition-duplicate-paragraph-characters",
            "gopher_repetition",
            f"{'x' * 200}\n\n" * 2 + "\n\n".join(words(20)),
            f"{'x' * 50}\n\n" * 2 + "\n\n".join(words(40)),
        ),
        *[
            (
                f"gopher-repetition-top-{n}-gram",
                "gopher_repetition",
                " ".join(f"{REPEATED[n]} {w}" for w in words(99)[11:60]),
                " ".join(f"{w} {w}{w}" for w in words(99)),
            )
            for n in (2, 3, 4)
        ],
        *[
            (
                f"gopher-repetition-duplicate-{n}-gram",
                "gopher_repetition",
                " ".join(f"{REPEATED[n]} {w}" for w in words(99)[11:60]),
                f"{REPEATED[n]} {FRESH[60:]} {REPEATED[n]}",
            )
            for n in range(5, 11)
        ],
        (
            "c4-too-few-sentences",
            C4(),
            "One is here. Two is here. Three is it.",
            "One is. Two is. Three. Four! Five?",
        ),
        ("c4-lorem-ipsum", C4(min_sentences=None), "Then Lorem ipsum dolor.", "Then lorem or ipsum dolor."),
        ("c4-curly-bracket", C4(min_sentences=None), "Write {name} here.", "Write (name) here."),
        (
            "fineweb-line-punctuation",
            "fineweb",
            lines("{} is a line of some more words.".format, "{} is a line of some more words".format, 0.95),
            lines("{} is a line of some more words.".format, "{} is a line of some more words".format, 0.8),
        ),
        (
            "fineweb-short-lines",
            "fineweb",
            lines("{} is a line of some more words.".format, "{} is.".format, 0.8),
            lines("{} is a line of some more words.".format, "{} is.".format, 0.6),
        ),
        (
            "fineweb-repeated-lines",
            "fineweb",
            PROSE.replace(". ", ".\n") + "\nSee the list of owners." * 12,
            PROSE.replace(". ", ".\n") + "\nSee the list of owners." * 2,
        ),
        (
            "fineweb-newlines",
            "fineweb",
            "\n\n\n".join(f"{w} and {w}{w}{w}{w}{w}{w}." for w in words(20)),
            PROSE.replace(". ", ".\n\n"),
        ),
        (
            "spam-capitals",
            "spam",
            "CHEAP WATCHES AND PILLS FOR EVERYBODY WHO ORDERS FROM OUR STORE",
            "The HTTP and JSON APIs of CRM, ERP, SAP, VPN and DNS are described in this note for new people",
        ),
        (
            "spam-exclamations",
            "spam",
            "Look at this! So good! You will love it! Really!",
            "Look at this! It works now, and the tests pass again on all of the machines that we have.",
        ),
        (
            "spam-repeated-sentences",
            Spam(max_pitches_per_100_words=None),
            "You will love our new watches. " * 8,
            PROSE,
        ),
        (
            "spam-links",
            "spam",
            "see http://a.example http://b.example and http://c.example",
            "The guide is at http://a.example, and the tickets are at http://b.example for all who need "
            "them.",
        ),
        (
            "spam-prices",
            "spam",
            "Watches $10 bags $20 shoes $30 belts $5 today",
            "The plan costs $10 a month, and support is $20 more; most teams of our size pay less than $40 "
            "in all for both of them.",
        ),
        (
            "spam-pitches",
            "spam",
            "Lose weight fast with our natural formula. Order now and get free shipping, money back "
            "guaranteed.",
            "To order a laptop, write to the desk now. They ship it for free, and it arrives within a week.",
        ),
    ],
)
def test_rule(code, section, bad, good):
    if isinstance(section, str):
        name, settings = (
            section,
            {"gopher": Gopher, "gopher_repetition": GopherRepetition, "fineweb": FineWeb, "spam": Spam}[
                section
            ](),
        )
    else:
        name = {Gopher: "gopher", C4: "c4", Spam: "spam"}[type(section)]
        settings = section
    alone = {**NONE, name: settings, "skip_code": False}
    assert code in reasons(bad, **alone)
    assert code not in reasons(good, **alone)


def test_ordinary_prose_stays():
    assert verdict(PROSE) is None


def test_a_rule_and_a_section_can_be_off():
    short = "The note is short, and that is fine."
    assert reasons(short) == ("gopher-too-few-words",)
    assert reasons(short, gopher=Gopher(min_words=None)) == ()
    assert reasons(short, gopher=None) == ()


def test_all_broken_rules_are_listed_and_the_first_has_the_detail():
    found = verdict("BUY CHEAP WATCHES NOW!!! " * 9)
    assert found.reasons[:2] == ("spam-capitals", "spam-exclamations")
    assert {"gopher-too-few-words", "gopher-repetition-duplicate-5-gram"} <= set(found.reasons)
    assert found.detail == {"value": 1.0, "limit": 0.7}


def test_a_changed_threshold_needs_no_new_scores():
    strict, lax = Quality(), Quality(gopher=Gopher(min_words=5))
    shards = shards_of(["The note is short, and that is fine."], quality, strict)
    assert run(quality, strict, shards)[0].reasons and not run(quality, lax, shards)


def test_code_is_not_judged_as_prose():
    assert verdict(CODE) is None
    assert reasons(CODE, skip_code=False)


def test_a_short_note_of_different_words_repeats_nothing():
    note = " ".join(words(20))
    assert not reasons(note, **{**NONE, "gopher_repetition": GopherRepetition()})


PAGE = (
    "Home | About us | Products | Contact\n"
    "We use cookies to improve your experience. Accept all cookies\n"
    f"{PROSE}\n"
    "You can change the colour of the menu with JavaScript, and the privacy policy of the shop says so.\n"
    "Share this on Facebook\n"
    "© 2024 Example Ltd. All rights reserved.\n"
)


def edited(text, found):
    for edit in reversed(found.edits):
        text = text[: edit.start] + edit.text + text[edit.end :]
    return text


def test_boilerplate_around_good_text_is_removed_and_the_text_stays():
    found = verdict(PAGE)
    assert [edit.kind for edit in found.edits] == [
        "boilerplate-navigation",
        "boilerplate-cookies",
        "boilerplate-sharing",
        "boilerplate-policy",
    ]
    assert edited(PAGE, found) == "".join(PAGE.splitlines(keepends=True)[2:4])


def test_buttons_and_links_at_the_edges_are_removed_as_runs():
    top = "Skip to content\nMenu\n\nSearch\n"
    text = f"{top}{PROSE}\nHelp\n{PROSE[::-1]}\nAccept all\nPreferences\nSave settings\n"
    left = edited(text, verdict(text, **{**NONE, "boilerplate": True}))
    assert left == f"{PROSE}\nHelp\n{PROSE[::-1]}\n"
    assert verdict(f"Search\n{PROSE}\nAccept all\nPreferences\n", **{**NONE, "boilerplate": True}) is None
    headings = f"# Documentation\n\n## Download\n\n## Help\n\n{PROSE}\n"
    assert verdict(headings, **{**NONE, "boilerplate": True}) is None


@pytest.mark.parametrize(
    "lines",
    [
        "9:00 to 17:00\n10:00 to 16:00\n11:00 to 12:00",
        "- Products\n- Support\n- Press",
        '"No."\n"No?"\n"No!"',
        "yes\nno\nyes",
        "В 1998 году появилась News.\nВ 1999 году появилась News.\nВ 2000 году появилась News.",
        "我们在2020年推出了Home服务。\n我们在2021年推出了Home服务。\n我们在2022年推出了Home服务。",
    ],
)
def test_short_lines_at_the_edges_that_are_no_buttons_stay(lines):
    for text in (f"{lines}\n{PROSE}", f"{PROSE}\n{lines}"):
        assert verdict(text, **{**NONE, "boilerplate": True}) is None


def test_a_line_that_c4_removes_makes_no_button_of_its_neighbour():
    text = f"Growing tomatoes at home\nComments\n{PROSE}"
    settings = {**NONE, "boilerplate": True, "c4_lines": C4Lines(min_words=None)}
    assert "boilerplate-run" not in [edit.kind for edit in verdict(text, **settings).edits]


def test_the_rules_judge_what_is_left():
    banner = "We use cookies to improve your experience. Accept all cookies\n" * 3
    assert reasons(banner + PROSE) == ()
    assert reasons(banner)[0] == "boilerplate-only"
    assert "fineweb-repeated-lines" in reasons(banner + PROSE, boilerplate=False)


@pytest.mark.parametrize(
    "line",
    [
        "| Home | About | Contact |",
        "This software is free; all rights reserved by the authors.",
        "The form needs JavaScript, since it checks the number while you type.",
        "The login service sets a cookie that lives for one hour.",
        "Share this note with the team before Monday.",
    ],
)
def test_a_line_about_such_things_stays(line):
    assert verdict(f"{PROSE}\n{line}\n{PROSE[::-1]}", **{**NONE, "boilerplate": True}) is None


@pytest.mark.parametrize(
    ("kind", "line", "rule"),
    [
        ("c4-javascript-line", "Please enable Javascript now.", "javascript"),
        ("c4-policy-line", "Read our terms of use here.", "policy"),
        ("c4-no-terminal-punctuation-line", "A heading without a mark", "terminal_punctuation"),
        ("c4-short-line", "Two words.", "min_words"),
        ("c4-long-word-line", "A word " + "x" * 1001 + ".", "max_word_length"),
    ],
)
def test_the_lines_of_c4(kind, line, rule):
    text = f"{PROSE}\n{line}\n{PROSE}"
    found = verdict(text, **NONE, c4_lines=C4Lines())
    assert [edit.kind for edit in found.edits] == [kind]
    assert edited(text, found) == f"{PROSE}\n{PROSE}"
    off = None if rule.startswith(("min", "max")) else False
    assert verdict(text, **NONE, c4_lines=C4Lines(**{rule: off})) is None


def test_citations_of_c4():
    text = PROSE.replace("customers", "customers[12]") + "[citation needed]"
    assert edited(text, verdict(text, **NONE, c4_lines=C4Lines())) == PROSE


def test_empty_texts():
    assert reasons("")[0] == "gopher-too-few-words"
    assert reasons(" \n ")[0] == "gopher-too-few-words"


def documents():
    """Documentation of the installed packages."""
    root = Path(sysconfig.get_paths()["purelib"])
    found = sorted([*root.glob("*.dist-info/METADATA"), *root.glob("lm_eval/tasks/*/README.md")])
    random.Random(1).shuffle(found)
    texts = [file.read_text("utf-8", "replace") for file in found if 300 < file.stat().st_size < 12_000]
    return [text for text in texts if len(text.split()) >= 50][:200]


@pytest.mark.skipif(not importlib.util.find_spec("datatrove"), reason="needs datatrove==0.10.1")
def test_verdicts_are_those_of_datatrove(monkeypatch):
    from datatrove.data import Document
    from datatrove.pipeline.filters import (
        fineweb_quality_filter,
        gopher_quality_filter,
        gopher_repetition_filter,
    )

    modules = (gopher_quality_filter, gopher_repetition_filter, fineweb_quality_filter)
    for module in modules:
        monkeypatch.setattr(module, "split_into_words", lambda text, language: text.split())
    theirs = {
        "gopher": gopher_quality_filter.GopherQualityFilter(),
        "gopher_repetition": gopher_repetition_filter.GopherRepetitionFilter(),
        "fineweb": fineweb_quality_filter.FineWebQualityFilter(char_duplicates_ratio=0.1),
    }
    names = {
        "gopher_short_doc": "gopher-too-few-words",
        "gopher_below_avg_threshold": "gopher-short-words",
        "gopher_above_avg_threshold": "gopher-long-words",
        "gopher_too_many_hashes": "gopher-hashes",
        "gopher_too_many_ellipsis": "gopher-ellipses",
        "gopher_too_many_bullets": "gopher-bullet-lines",
        "gopher_too_many_end_ellipsis": "gopher-ellipsis-lines",
        "gopher_below_alpha_threshold": "gopher-alpha-words",
        "gopher_enough_stop_words": "gopher-stop-words",
        "dup_para_frac": "gopher-repetition-duplicate-paragraphs",
        "dup_para_char_frac": "gopher-repetition-duplicate-paragraph-characters",
        "dup_line_frac": "gopher-repetition-duplicate-lines",
        "dup_line_char_frac": "gopher-repetition-duplicate-line-characters",
        "line_punct_ratio": "fineweb-line-punctuation",
        "short_line_ratio": "fineweb-short-lines",
        "char_dup_ratio": "fineweb-repeated-lines",
        "list_ratio": "fineweb-newlines",
    }
    names |= {f"top_{n}_gram": f"gopher-repetition-top-{n}-gram" for n in (2, 3, 4)}
    names |= {f"duplicated_{n}_n_grams": f"gopher-repetition-duplicate-{n}-gram" for n in range(5, 11)}
    texts = documents()
    assert len(texts) > 100
    sections = {"gopher": Gopher, "gopher_repetition": GopherRepetition, "fineweb": FineWeb}
    compared = {}
    for section, block in theirs.items():
        settings = Quality(**{**NONE, section: sections[section](), "skip_code": False})
        ours = run(quality, settings, shards_of(texts, quality, settings))
        for i, text in enumerate(texts):
            result = block.filter(Document(text=text, id=""))
            expected = None if result is True else names[result[1]]
            found = ours[i].reasons[0] if i in ours else None
            # Ours finds a stop word beside punctuation and in capitals, too.
            if expected != "gopher-stop-words" or found:
                assert found == expected, text[:300]
            compared[expected] = compared.get(expected, 0) + 1
    assert len(compared) >= 8, compared


MENU = ["Home", "About us", "Products", "Careers", "Contact", "Log in", "Search", "Newsletter"]
BANNER = [
    "We use cookies to improve your experience.",
    "Accept all",
    "Reject all",
    "Manage preferences",
    "Save and close",
]


@pytest.mark.parametrize(
    "page",
    [
        "\n".join(MENU),
        " | ".join(MENU),
        "\n".join(BANNER),
        "\n".join([*MENU[:3], "40 people like this", *BANNER[1:]]),
    ],
    ids=["lines", "row", "banner", "footer"],
)
def test_a_page_of_menus_and_banners_alone_is_left_out(page):
    settings = quality.Quality(gopher=None, gopher_repetition=None, fineweb=None)
    shards = shards_of([page], quality, settings)
    assert run(quality, settings, shards)[0].reasons[0] == "boilerplate-page"


def test_lists_of_names_and_code_are_no_menu():
    settings = quality.Quality(gopher=None, gopher_repetition=None, fineweb=None)
    lists = [
        "Roster: team Orion\n- Kelp\n- Timber\n- Fjord\n- Acorn",
        "a = 1\nhome = 2\nsearch(a)\nprint(home)\nlog(a)",
    ]
    assert run(quality, settings, shards_of(lists, quality, settings)) == {}


def test_texts_are_measured_alone_however_many_are_scored_together():
    again = "one two three four five six seven eight nine ten " * 3
    texts = [
        "Buy now! Act now, and call us.",
        again,
        "",
        "A plain line of a few words.\n- x\n",
        again[:-4],
        "…",
        again,
    ]
    settings = quality.Quality(c4=quality.C4())
    together = quality.score(texts, settings)
    for i, text in enumerate(texts):
        assert {name: column[i] for name, column in together.items()} == {
            name: column[0] for name, column in quality.score([text], settings).items()
        }


def test_what_no_rule_needs_is_not_measured():
    with_all, without = quality.Quality(), quality.Quality(gopher_repetition=None, fineweb=None)
    assert "duplicate_5_gram" in quality.score(["A text."], with_all)
    assert not {"duplicate_5_gram", "short_lines"} & quality.score(["A text."], without).keys()
    assert quality.scored_by(with_all) != quality.scored_by(without)

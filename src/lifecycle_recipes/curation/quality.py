"""The quality rules of Gopher, C4 and FineWeb, and rules for spam and boilerplate. No torch.

Each rule compares one measured number of a document with a threshold of the recipe, and has a reason code of its
own. The numbers are the scores: a changed threshold decides again without scoring. Lines of boilerplate are removed
first, and the rules judge what is left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from .boilerplate_lines import RUN, C4Lines, chrome_share, cuts, without
from .code_text import is_code
from .documents import Decide, Edit, Part, Shard, Shards, Verdict
from .quality_measures import MEASURES, Words, measure_texts

SCORED = ("by", "boilerplate", "c4_lines", "stop_words", "short_line")
PACKAGES = ()


@dataclass
class Gopher:
    """Quality rules of Gopher (Rae et al. 2021, section A1.1); words are what stands between blanks.

    min_words, max_words: words of the document, without those of punctuation only. min_mean_word_length,
    max_mean_word_length: characters. max_hashes_per_word, max_ellipses_per_word: `#` and `...` per word.
    max_bullet_lines: share of the lines that begin with a bullet. max_ellipsis_lines: share of those that end with
    an ellipsis. min_alpha_words: share of the words with a letter. min_stop_words: how many of the stop words occur.
    null switches a rule off.
    """

    min_words: int | None = 50
    max_words: int | None = 100_000
    min_mean_word_length: float | None = 3.0
    max_mean_word_length: float | None = 10.0
    max_hashes_per_word: float | None = 0.1
    max_ellipses_per_word: float | None = 0.1
    max_bullet_lines: float | None = 0.9
    max_ellipsis_lines: float | None = 0.3
    min_alpha_words: float | None = 0.8
    min_stop_words: int | None = 2


@dataclass
class GopherRepetition:
    """Repetition rules of Gopher (Rae et al. 2021, table A1).

    max_duplicate_lines, max_duplicate_paragraphs: share of those that occur before, and of their characters.
    max_top_N_gram: share of the characters in the most frequent N words. max_duplicate_N_gram: share of the
    characters in N words that occur before. null switches a rule off.
    """

    max_duplicate_lines: float | None = 0.30
    max_duplicate_paragraphs: float | None = 0.30
    max_duplicate_line_characters: float | None = 0.20
    max_duplicate_paragraph_characters: float | None = 0.20
    max_top_2_gram: float | None = 0.20
    max_top_3_gram: float | None = 0.18
    max_top_4_gram: float | None = 0.16
    max_duplicate_5_gram: float | None = 0.15
    max_duplicate_6_gram: float | None = 0.14
    max_duplicate_7_gram: float | None = 0.13
    max_duplicate_8_gram: float | None = 0.12
    max_duplicate_9_gram: float | None = 0.11
    max_duplicate_10_gram: float | None = 0.10


@dataclass
class C4:
    """Rules for documents of C4 (Raffel et al. 2020, section 2.2); see c4_lines for its rules for lines.

    min_sentences: sentences of the document. lorem_ipsum: leave out documents with these words. curly_bracket:
    leave out documents with `{`. null or false switches a rule off.
    """

    min_sentences: int | None = 5
    lorem_ipsum: bool = True
    curly_bracket: bool = True


@dataclass
class FineWeb:
    """Rules that FineWeb added (Penedo et al. 2024, section 3.6).

    min_line_punctuation: share of the lines that end with a mark. max_short_lines: share of the lines of up to
    short_line characters. max_repeated_line_characters: share of the characters in repeated lines (0.1 in the paper;
    0.01 in its code, datatrove, which leaves out half of all documentation).
    max_newlines_per_word: ends of lines per word, high in lists. null switches a rule off. The rules were made
    for web pages: documentation that is wrapped at 80 columns or has underlined headings can lose a third to them.
    """

    min_line_punctuation: float | None = 0.12
    max_short_lines: float | None = 0.67
    max_repeated_line_characters: float | None = 0.1
    max_newlines_per_word: float | None = 0.3


@dataclass
class Spam:
    """Signs of advertising and shouting. The signs and thresholds are ours, in the manner of ROOTS and RefinedWeb.

    max_capital_words: share of the words in capitals (a licence with its disclaimer reaches 0.6).
    max_exclamations_per_word; max_repeated_sentences: share of the characters in sentences that occur more than
    twice. max_links_per_word, max_prices_per_word; max_pitches_per_100_words: phrases such as "buy now", "limited
    time" or "risk-free". max_boilerplate_lines: share of the characters in lines that only
    menus, banners and footers have.
    null switches a rule off.
    """

    max_capital_words: float | None = 0.7
    max_exclamations_per_word: float | None = 0.1
    max_repeated_sentences: float | None = 0.3
    max_links_per_word: float | None = 0.25
    max_prices_per_word: float | None = 0.12
    max_pitches_per_100_words: float | None = 2.5
    max_boilerplate_lines: float | None = 0.6


@dataclass
class Quality:
    """Rules of quality. Defaults: those of Gopher and FineWeb with their published thresholds, spam, boilerplate.

    C4's rules are off: they drop every document with a curly bracket and every line without a full stop at its end,
    which takes the code, headings, lists and tables out of technical text. null switches a section off.
    boilerplate: remove cookie banners, navigation, footers and calls to share from documents that stay.
    c4_lines: the line rules of C4; {} for all of them. stop_words: those that Gopher counts; the English ones.
    short_line: characters up to which a line is short for FineWeb. skip_code: do not judge source code, logs,
    JSON, YAML, CSV and tables by rules for prose. by: the part of a conversation that is judged.
    """

    gopher: Gopher | None = field(default_factory=Gopher)
    gopher_repetition: GopherRepetition | None = field(default_factory=GopherRepetition)
    fineweb: FineWeb | None = field(default_factory=FineWeb)
    spam: Spam | None = field(default_factory=Spam)
    c4: C4 | None = None
    c4_lines: C4Lines | None = None
    boilerplate: bool = True
    stop_words: list[str] = field(
        default_factory=lambda: ["the", "be", "to", "of", "and", "that", "have", "with"]
    )
    short_line: int = 30
    skip_code: bool = True
    by: Part = "row"


class Rule(NamedTuple):
    """One threshold. It holds `at least` or `at most` its limit; `none`: the number must be 0."""

    section: str
    key: str
    column: str
    code: str
    kind: str


def _rules() -> list[Rule]:
    names = {
        "spam": {
            "max_capital_words": "spam-capitals",
            "max_exclamations_per_word": "spam-exclamations",
            "max_repeated_sentences": "spam-repeated-sentences",
            "max_links_per_word": "spam-links",
            "max_prices_per_word": "spam-prices",
            "max_pitches_per_100_words": "spam-pitches",
            "max_boilerplate_lines": "boilerplate-page",
        },
        "gopher": {
            "min_words": "gopher-too-few-words",
            "max_words": "gopher-too-many-words",
            "min_mean_word_length": "gopher-short-words",
            "max_mean_word_length": "gopher-long-words",
            "max_hashes_per_word": "gopher-hashes",
            "max_ellipses_per_word": "gopher-ellipses",
            "max_bullet_lines": "gopher-bullet-lines",
            "max_ellipsis_lines": "gopher-ellipsis-lines",
            "min_alpha_words": "gopher-alpha-words",
            "min_stop_words": "gopher-stop-words",
        },
        # In the order in which datatrove 0.10 applies them.
        "gopher_repetition": {
            f"max_{name}": f"gopher-repetition-{name.replace('_', '-')}"
            for name in (
                "duplicate_paragraphs duplicate_paragraph_characters duplicate_lines duplicate_line_characters "
                "top_2_gram top_3_gram top_4_gram duplicate_5_gram duplicate_6_gram duplicate_7_gram "
                "duplicate_8_gram duplicate_9_gram duplicate_10_gram"
            ).split()
        },
        "c4": {
            "min_sentences": "c4-too-few-sentences",
            "lorem_ipsum": "c4-lorem-ipsum",
            "curly_bracket": "c4-curly-bracket",
        },
        "fineweb": {
            "min_line_punctuation": "fineweb-line-punctuation",
            "max_short_lines": "fineweb-short-lines",
            "max_repeated_line_characters": "fineweb-repeated-lines",
            "max_newlines_per_word": "fineweb-newlines",
        },
    }
    kinds = {"min": "at least", "max": "at most"}
    return [
        Rule(section, key, key.removeprefix("min_").removeprefix("max_"), code, kinds.get(key[:3], "none"))
        for section, codes in names.items()
        for key, code in codes.items()
    ]


RULES = _rules()


def scored_by(settings: Quality) -> dict[str, Any]:
    """What the scores depend on. A section that is null needs no measures; a changed threshold changes none."""
    return {key: getattr(settings, key) for key in SCORED} | {
        "c4_lines": settings.c4_lines and asdict(settings.c4_lines),
        "sections": _sections(settings),
    }


def _sections(settings: Quality) -> list[str]:
    return [section for section in MEASURES if getattr(settings, section) is not None]


def score(texts: Sequence[str], settings: Quality) -> dict[str, list[Any]]:
    """One column per measure, of what is left of each text without `cuts`: [{start, end, kind}]. code: is it code."""
    removed = [cuts(text, settings.boilerplate, settings.c4_lines) for text in texts]
    left = [without(text, some) for text, some in zip(texts, removed, strict=True)]
    columns: dict[str, list[Any]] = {
        "code": [is_code(text) for text in texts],
        "cuts": [[{"start": a, "end": b, "kind": kind} for a, b, kind in some] for some in removed],
    }
    if settings.spam is not None:
        columns["boilerplate_lines"] = [chrome_share(text) for text in texts]
    words = Words(settings.stop_words)
    rows = list(measure_texts(left, words, _sections(settings), settings.short_line))
    return columns | {name: [row[name] for row in rows] for name in rows[0]} if rows else {}


def decider(settings: Quality, shards: Shards) -> Decide:
    """Every rule that a document breaks is a reason; the detail is that of the first. Others get their edits."""
    limits = [(rule, limit) for rule in RULES if (limit := _limit(settings, rule)) is not None]

    def decide(shard: Shard, alive: Sequence[bool]) -> dict[int, Verdict]:
        scores = shard.scores
        failed: dict[int, list[tuple[str, float, float]]] = {}
        judged = [i for i in range(len(shard)) if alive[i] and not (settings.skip_code and scores["code"][i])]
        # A menu between bars looks like a table.
        pages = [i for i in range(len(shard)) if alive[i]]
        for i in judged:
            if scores["cuts"][i] and not scores["words"][i]:
                failed[i] = [("boilerplate-only", 0, 1)]
        for rule, limit in limits:
            column, least = scores[rule.column], rule.kind == "at least"
            for i in pages if rule.code == "boilerplate-page" else judged:
                value = column[i]
                if value < limit if least else value > limit:
                    failed.setdefault(i, []).append((rule.code, value, limit))
        verdicts = {}
        for i in pages:
            if i in failed:
                _, value, limit = failed[i][0]
                detail = {"value": round(value, 4), "limit": limit}
                verdicts[i] = Verdict(tuple(code for code, _, _ in failed[i]), detail)
            elif scores["cuts"][i] and not (settings.skip_code and scores["code"][i]):
                edits = tuple(Edit(cut["start"], cut["end"], "", cut["kind"]) for cut in scores["cuts"][i])
                # Of a conversation, the last line may be the whole reply, and the lines before it the choices.
                if any(edit.kind == RUN for edit in edits) and "text" not in shard.rows[i]:
                    edits = tuple(edit for edit in edits if edit.kind != RUN)
                if edits:
                    verdicts[i] = Verdict(edits=edits)
        return verdicts

    return decide


def _limit(settings: Quality, rule: Rule) -> float | None:
    """The threshold of a rule in these settings, None if it is off."""
    section = getattr(settings, rule.section)
    value = None if section is None else getattr(section, rule.key)
    if rule.kind == "none":
        return 0 if value else None
    return value

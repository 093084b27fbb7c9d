"""Lines around a text that are none of it: cookie banners, navigation, calls to share. No torch.

Two sets of rules: the line rules of C4 as published, and narrower ones of ours. C4 drops every line with the word
Javascript or the words "terms of use", also where a text is about them; ours need a form of words that only banners,
menus and footers have, in a line of at most 30 words.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

Cut = tuple[int, int, str]  # characters [start, end), and the kind
RUN = "boilerplate-run"

_LONGEST = 30  # words of a line that may be boilerplate
_OURS = (
    (
        "boilerplate-cookies",
        re.compile(
            r"\b(?:(?:we|website|site|page|partners)\s+(?:also\s+)?uses?\s+cookies|^\W*(?:accept|reject|"
            r"allow|manage|decline)"
            r"\s+(?:all\s+)?cookies|cookie\s+(?:settings|preferences|policy|consent|notice)|"
            r"our\s+use\s+of\s+cookies|"
            r"by\s+(?:continuing\s+to|using\s+this\s+(?:web)?site|clicking)\b.*\b(?:cookies|you\s+(?:agree|"
            r"accept|consent)))"
        ),
    ),
    (
        "boilerplate-javascript",
        re.compile(
            r"(?:(?:enable|activate|turn\s+on|allow)\s+javascript\b.*\b(?:browser|site|page|view|continue|"
            r"experience)|"
            r"javascript\s+(?:is|must\s+be|has\s+been|needs\s+to\s+be|seems\s+to\s+be|appears\s+to\s+be)\s+"
            r"(?:currently\s+)?(?:disabled|enabled|required\s+to\s+view|turned\s+o)|"
            r"^(?:please\s+)?enable\s+javascript\W*$|"
            r"(?:site|page|app)\s+requires\s+javascript|browser\s+does\s+not\s+support\s+javascript)"
        ),
    ),
    (
        "boilerplate-policy",
        re.compile(
            r"^\W*(?:(?:©|\(c\)|copyright)\s*(?:(?:©|"
            r"\(c\))\s*)?(?:\d{4})?.{0,80}\ball\s+rights\s+reserved\b.{0,60}|"
            r"all\s+rights\s+reserved\W*|(?:terms\s+(?:of\s+(?:use|service)|(?:and|&)\s+conditions)|"
            r"privacy\s+(?:policy|notice)|"
            r"legal\s+notice|imprint|sitemap|contact(?:\s+us)?|about(?:\s+us)?|"
            r"do\s+not\s+sell\s+my\s+personal\s+information|[|·•/\s-])+)$"
        ),
    ),
    (
        "boilerplate-sharing",
        re.compile(
            r"^\W*(?:(?:share|tweet|pin)\s+(?:this|on|via|it)\b(?:\W*\b(?:this|page|article|post|story|on|"
            r"via|facebook|twitter|x|"
            r"linkedin|reddit|whatsapp|email|e-mail|pinterest|telegram|and|or|with|your|friends)\b)*\W*|"
            r"(?:follow|like|find|join)\s+us\s+on\s+(?:facebook|twitter|x|instagram|linkedin|youtube|"
            r"social).{0,60}|"
            r"(?:subscribe|sign\s+up)\s+(?:to|for)\s+(?:our|the|my)\s+(?:\w+\s+){0,2}(?:newsletter|"
            r"mailing\s+list|channel).{0,80}|"
            r"leave\s+a\s+(?:comment|reply)\W*|(?:no|\d+)\s+comments?(?:\s+yet)?\W*|(?:related|recent|"
            r"popular)\s+(?:posts|articles|stories)\W*|"
            r"(?:read|show|load)\s+more\W*|click\s+here\s+to\s+(?:read|subscribe|sign|learn|view|download|"
            r"buy)\b.{0,60}|"
            r"(?:previous|next|older|newer)\s+(?:post|article|page|entry|posts|entries)\W*|"
            r"print\s+this\s+page\W*|add\s+to\s+cart\W*|"
            r"advertisement|sponsored(?:\s+content)?)$"
        ),
    ),
    (
        "boilerplate-navigation",
        re.compile(
            r"^\W*(?:skip\s+to\s+(?:main\s+)?(?:content|navigation)|back\s+to\s+(?:the\s+)?(?:top|home)|"
            r"toggle\s+navigation|(?:log|sign)\s+in|(?:log|sign)\s+(?:out|up)|you\s+are\s+here:.{0,100})\W*$"
        ),
    ),
)
# A line that begins with none of these words is none of the last three kinds.
_FIRST = set(
    "© c copyright all terms privacy legal imprint sitemap contact about do share tweet pin follow "
    "like find join "
    "subscribe sign leave no related recent popular read show load click previous next older newer print add "
    "advertisement sponsored skip back toggle log you".split()
)
_SYMBOLS = "©()[]*-–|•:.,!>»·/ "
# A footer is among the last lines of a text; a copyright notice elsewhere belongs to it.
_FOOTER = 6
_SEPARATOR = re.compile(r"\s+[|»›>·•/]\s+")
_MENU = set(
    "home about contact login logout register search blog news help faq products product services "
    "service support "
    "careers jobs sitemap privacy terms shop store cart account pricing docs documentation download "
    "downloads team "
    "press events gallery archive categories company partners solutions resources community forum "
    "forums portfolio".split()
)
# Words of which the items of menus, the buttons of banners and the links of footers are made.
_CHROME = _MENU | set(
    "us in out log sign up all more next previous page pages top back to the of and on off yes no my your you "
    "newsletter status language english deutsch print share follow show hide view read accept reject save close "
    "manage preferences settings allow deny decline cookies cookie necessary strictly marketing analytics subscribe "
    "skip content main navigation menu imprint accessibility forgot password comments reply tweet feedback site map "
    "legal notice policy".split()
)
# What stands in the longer lines of banners and footers, and hardly in a text.
_CHROME_PHRASES = re.compile(
    r"\bcookies?\b|\bpartners\s+(?:may\s+)?store\b|\byour\s+choices\b|\bpeople\s+like\s+this\b|\bpage\s+helpful\b|"
    r"\blast\s+(?:edited|updated|modified)\b|\byou\s+are\s+here\b|\bshare\s+this\b|\bnewsletter\b|\benable\s+javascript\b|"
    r"\ball\s+rights\s+reserved\b|\bterms\s+of\s+(?:use|service)\b|\bprivacy\s+policy\b|\bback\s+to\s+top\b"
)
# One word of each of them: a line without any has none of them.
_IN_PHRASES = (
    "cookie partners choices people helpful edited updated modified here share newsletter javascript reserved terms "
    "privacy back"
).split()
_PART = re.compile(r"[a-z]+")
# A button or link alone in its line: up to five words, without digits, list markers, quotes and sentence marks.
_BUTTON = re.compile(r"[a-z][a-z '&/-]{1,39}")
# Words that a button may have beside one that says what it is for.
_FILLERS = frozenset("us in of and on off yes no my your you all more page pages to the up".split())
_EDGE_PHRASES = re.compile(
    r"last (?:edited|updated|modified)\b.*|(?:\d+|many) people like this|you are here\b.*|was this page helpful\W*|"
    r"follow us(?: on .*)?|share this\b.*|forgot (?:your )?password\?|cart \(\d+\)"
)
_FEWEST_ITEMS = 5
# "Lines" of C4 (Raffel et al. 2020, section 2.2, and the reference code tensorflow_datasets/text/c4_utils.py).
_C4_END = (".", "?", "!", '"', "'")
_C4_POLICY = re.compile(r"terms of use|privacy policy|cookie policy|uses cookies|use of cookies|use cookies")
_C4_CITATION = re.compile(r"\[\d*\]|\[edit\]|\[citation needed\]")


@dataclass
class C4Lines:
    """The line rules of C4 (Raffel et al. 2020, section 2.2): which lines and citations of a document are removed.

    terminal_punctuation: lines that do not end with a mark. min_words: lines with fewer words. max_word_length:
    lines with a longer word (characters). javascript: lines with this word. policy: lines with "privacy policy",
    "terms of use" and the like. citations: `[1]`, `[edit]` and `[citation needed]` in lines that stay.
    """

    terminal_punctuation: bool = True
    min_words: int | None = 3
    max_word_length: int | None = 1000
    javascript: bool = True
    policy: bool = True
    citations: bool = True


def cuts(text: str, boilerplate: bool, c4: C4Lines | None) -> list[Cut]:
    """What is removed from a text, in order and without overlap: whole lines with their end, and citations."""
    if not boilerplate and c4 is None:
        return []
    found: list[Cut] = []
    start = 0
    lines = text.splitlines(keepends=True)
    kinds = [""] * len(lines)
    lower = text.lower() if boilerplate else ""
    banner = any(
        word in lower for word in ("cookie", "javascript", "by continuing", "by using", "by clicking")
    )
    marks = [mark for mark in "|»›>·•/" if f" {mark} " in text]
    footer = len(lines) - _FOOTER
    for i, line in enumerate(lines):
        if stripped := line.strip():
            kinds[i] = _c4_kind(stripped, c4) if c4 else ""
            if not kinds[i] and boilerplate and len(line) <= 300:
                kinds[i] = _our_kind(stripped, banner, i >= footer) or (
                    _menu(stripped, marks) if marks else ""
                )
    if boilerplate:
        for i in _edges(lines, kinds):
            kinds[i] = kinds[i] or RUN
    for line, kind in zip(lines, kinds, strict=True):
        end = start + len(line)
        if kind:
            found.append((start, end, kind))
        elif c4 and c4.citations:
            found += [
                (start + m.start(), start + m.end(), "c4-citation") for m in _C4_CITATION.finditer(line)
            ]
        start = end
    return found


def _edges(lines: list[str], kinds: list[str]) -> Iterator[int]:
    """The lines of a run of buttons, links and banners with which a text begins or ends.

    Alone, "Accept all" or "Help" may belong to the text. With a line of a known kind in the same run, or as the third,
    it does not.
    """
    for order in (range(len(lines)), range(len(lines) - 1, -1, -1)):
        run = []
        for i in order:
            line = lines[i].strip().lower()
            if line and not kinds[i].startswith("boilerplate") and not _is_button(line):
                break
            run += [i] if line else []
        else:
            return  # a page of nothing else: `chrome_share` judges it
        if len(run) > 2 or (len(run) == 2 and any(kinds[i].startswith("boilerplate") for i in run)):
            yield from range(min(run), max(run) + 1)


def _is_button(line: str) -> bool:
    """Whether a line can only be a button, a link or a note of a page's frame."""
    if _EDGE_PHRASES.fullmatch(line) and len(line) <= 60:
        return True
    if not _BUTTON.fullmatch(line):
        return False
    parts = _PART.findall(line)
    return len(parts) <= 5 and _CHROME.issuperset(parts) and not _FILLERS.issuperset(parts)


def chrome_share(text: str) -> float:
    """Share of the characters in lines, or items of a row of links, that only menus, banners and footers have.

    A page of these alone has no text around which they stand, so `cuts` would leave its rest. 0 for few lines.
    """
    lower = text.lower()
    marks = [mark for mark in "|»›>·•/" if mark in lower]
    items = [
        item.strip()
        for line in lower.splitlines()
        for item in (_SEPARATOR.split(line) if any(mark in line for mark in marks) else (line,))
        if item.strip()
    ]
    if len(items) < _FEWEST_ITEMS:
        return 0.0
    hints = [word for word in _IN_PHRASES if word in lower]
    return sum(len(item) for item in items if _is_chrome(item, hints)) / sum(map(len, items))


def _is_chrome(item: str, hints: list[str]) -> bool:
    """hints: the words of _IN_PHRASES that the text has."""
    may_be_phrase = any(word in item for word in hints)
    first = _PART.search(item)
    if first is None or not may_be_phrase and first[0] not in _CHROME:
        return False
    parts = _PART.findall(item)
    if len(parts) <= 4:
        return _CHROME.issuperset(parts)
    return may_be_phrase and len(parts) <= _LONGEST and bool(_CHROME_PHRASES.search(item))


def _c4_kind(line: str, rules: C4Lines) -> str:
    words = line.split()
    if rules.max_word_length is not None and max(map(len, words)) > rules.max_word_length:
        return "c4-long-word-line"
    bare = _C4_CITATION.sub("", line) if rules.citations else line
    if rules.terminal_punctuation and (not bare.endswith(_C4_END) or bare.endswith("...")):
        return "c4-no-terminal-punctuation-line"
    if rules.min_words is not None and len(words) < rules.min_words:
        return "c4-short-line"
    lower = bare.lower()
    if rules.javascript and "javascript" in lower:
        return "c4-javascript-line"
    return "c4-policy-line" if rules.policy and _C4_POLICY.search(lower) else ""


def _our_kind(line: str, banner: bool, footer: bool) -> str:
    """banner: the text has a word of the first two kinds; footer: the line is among the last ones."""
    first = line.lstrip(_SYMBOLS).split(None, 1)
    if not first:
        return ""
    begins = first[0].rstrip(_SYMBOLS).lower() in _FIRST or line[0] == "©"
    if not begins and not banner:
        return ""
    lower = line.lower()
    if len(lower.split()) > _LONGEST:
        return ""
    for kind, pattern in _OURS[: None if begins else 2]:
        if pattern.search(lower) and (footer or kind != "boilerplate-policy"):
            return kind
    return ""


def _menu(line: str, marks: list[str]) -> str:
    """A row of links: items of up to three words between separators, two of them of the kind every site has."""
    if not any(line.count(mark) >= 2 for mark in marks) or line[0] == "|" or line[-1] == "|":
        return ""
    items = _SEPARATOR.split(line)
    if len(items) < 3 or any(len(item.split()) > 3 for item in items):
        return ""
    known = sum(1 for item in items if _MENU & set(re.findall(r"[a-z]+", item.lower())))
    return "boilerplate-navigation" if known >= 2 or items[0].lower() == "home" else ""


def without(text: str, removed: list[Cut]) -> str:
    """What is left of a text."""
    if not removed:
        return text
    return "".join(_left(text, removed))


def _left(text: str, removed: list[Cut]) -> Iterator[str]:
    start = 0
    for cut_start, cut_end, _ in removed:
        yield text[start:cut_start]
        start = cut_end
    yield text[start:]

"""Signs of advertising and shouting, as numbers. No torch.

Gopher, C4 and FineWeb look at the form of a page and keep an advertisement in whole sentences. These signs are
heuristics of ours, in the manner of those of ROOTS (Laurençon et al. 2022: repetition, special characters, flagged
words) and RefinedWeb (Penedo et al. 2023: lines of calls to action). A sign counts from a smallest number on, so that
one exclamation mark in a note of eight words is none.
"""

import re
from collections.abc import Sequence

_URL = re.compile(r"(?:https?://|www\.)\S+|\b[\w-]+\.(?:com|net|org|biz|info|shop|xyz|top|click|example)\b")
_EMAIL_OR_VERSION = re.compile(r"[@\d]")
_PRICE = re.compile(r"[$€£]\s?\d[\d.,]*|\d[\d.,]*\s?(?:USD|EUR|GBP|[$€£])|\b\d{1,3}\s?% off\b|\$\$+", re.IGNORECASE)
_CAPITALS = re.compile(r"\b[A-Z][A-Z']+\b")
_LETTERS = re.compile(r"\b[^\W\d_][^\W\d_']+\b")
_MARKS = re.compile(r"!(?![=\[(])")
_SENTENCES = re.compile(r"[.!?。！？]+\s+|\n+|\s*!!+\s*")
# Calls to buy and promises of offers, matched in lower case. None of them is a word of a product's own manual.
_PITCH = re.compile(
    r"""\b(?:
    (?:buy|order|call|act|apply|join|shop|bet|play|enroll|register|click|sign\s+up|subscribe)\s+(?:it\s+|yours?\s+|one\s+|here\s+)?(?:now|today|fast|immediately)
    | click\s+(?:here|below|the\s+link|on\s+the\s+link|this\s+link) | visit\s+(?:us|our\s+(?:site|website|store|shop)) | hurry\b
    | limited[\s-]time | (?:offer|deal|sale)\s+(?:ends|expires|valid) | (?:special|exclusive|amazing|incredible|unbeatable)\s+(?:offers?|deals?|discounts?|prices?|promotion)
    | while\s+(?:supplies|stocks?)\s+lasts? | don['’]?t\s+(?:miss|wait|delay) | once\s+in\s+a\s+lifetime | last\s+chance
    | (?:lowest|best|cheapest|low|unbeatable|wholesale|discount(?:ed)?|great)\s+(?:prices?|rates?|deals?) | (?:super\s+|so\s+)?cheap(?:est)?\s+(?:\w+\s+)?(?:watches|pills|meds|loans|flights|tickets|viagra|software|insurance|bags|shoes|essays?|cialis|rolex|jerseys|handbags|followers|seo|backlinks)
    | money[\s-]back | (?:satisfaction|results?|100\s?%)\s*(?:is\s+|are\s+)?guaranteed? | guaranteed\s+(?:approval|results?|returns?|income|profits?|winner|to\s+win) | risk[\s-]free | no\s+(?:risk|obligation|credit\s+checks?|questions\s+asked|prescription|strings|catch|experience\s+(?:needed|required))
    | (?:totally|absolutely|100\s?%|completely)\s+free | free\s+(?:gifts?|trials?|samples?|shipping|money|coins?|spins?|bonus(?:es)?|quotes?|access|consultation|delivery|entry|bitcoins?|crypto|iphones?|ringtones?|vouchers?|membership)
    | (?:earn|make|win|save|get)\s+(?:up\s+to\s+|over\s+|extra\s+|big\s+|easy\s+|fast\s+|real\s+|huge\s+|more\s+)*(?:money|cash|[$€£]\s?\d|\d+\s?%|prizes?|thousands|millions|income|rich) | (?:extra|fast|quick|easy|instant|big|huge)\s+(?:cash|money|income|loans?|profits?|approval|winnings?|payouts?)
    | work(?:ing)?\s+(?:from|at)\s+home | (?:financial|be\s+your\s+own)\s+(?:freedom|boss) | passive\s+income | get\s+rich | multi-?level | double\s+your
    | congratulations | you(?:['’]ve|\s+have)?\s+(?:been\s+|are\s+)?(?:(?:just\s+)?won|selected|chosen|pre-?approved|the\s+winner|a\s+winner|qualif(?:y|ied)) | claim\s+(?:your|ur|it|now|the|this|my)\b | (?:lottery|jackpots?|sweepstakes?|casinos?|slots?\s+games?|betting|gambling)\b | cash\s+prizes? | prize\s+(?:guaranteed|draw|money)
    | (?:lose|losing|burn)\s+(?:weight|fat|\d+\s+(?:pounds|lbs|kg|kilos)) | weight[\s-]loss | (?:miracle|secret|magic|natural|proven)\s+(?:pills?|cure|formula|trick|remedy|method|supplement|bonus|system) | diet\s+pills? | anti-?aging | (?:viagra|cialis|levitra|xanax|valium|phentermine|v[i1!]agra|replica|rolex|enlargement|penis|male\s+enhancement|testosterone\s+boost\w*|erections?|hot\s+(?:girls|singles|babes)|sexy|porn|xxx|adult\s+(?:site|video|dating)\w*)\b | (?:online|cheap|canadian|discount)\s+(?:pharmacy|drugs|meds|medications?) | (?:fake|instant)\s+(?:diplomas?|degrees?|documents?)
    | (?:refinanc\w+|mortgage\s+rates?|consolidat\w+\s+(?:your\s+)?(?:debts?|bills?)|debt[\s-]free|bad\s+credit|credit\s+(?:score|repair)|payday\s+loans?|low\s+interest|personal\s+loans?|instant\s+loans?)
    | dear\s+(?:friend|sir/madam|sir\s+or\s+madam|valued\s+customer|customer|winner|beneficiary) | (?:transfer|sum)\s+of\s+(?:us\s*)?[$€£]?\d | next\s+of\s+kin | million\s+(?:us\s+)?(?:dollars|pounds|euros) | foreign\s+partner | western\s+union | (?:verify|confirm|update)\s+your\s+(?:account|identity|password|billing|payment|bank|details) | account\s+(?:has\s+been|will\s+be|was|is)\s+(?:suspended|limited|locked|closed|blocked|deactivated)
    | unsubscribe | opt[\s-]?out | (?:be|to\s+be)\s+removed\s+from | remove\s+(?:me|yourself)\s+from | this\s+is\s+not\s+spam | one[\s-]time\s+mailing | mailing\s+list\s+removal | bulk\s+e-?mail | toll[\s-]free | txt\s+(?:\w+\s+)?to\s+\d | text\s+\w+\s+to\s+\d{4,} | (?:per|p|/)\s?min(?:ute)?\s+charge | \d+p/(?:min|msg)
    | (?:buy|get|gain)\s+(?:\w+\s+)?(?:followers|likes|backlinks|subscribers|traffic) | (?:rank|ranking|\#1|first\s+page)\s+(?:higher\s+)?(?:on|in|of)\s+google | seo\s+(?:services?|packages?|experts?) | (?:crypto|bitcoin|forex|stock)\s+(?:giveaway|signals?|investment|profits?|trading\s+(?:bot|platform|secrets?)) | hot\s+stocks? | penny\s+stocks? | (?:strong\s+)?buy\s+recommendation | investors?\s+alert
    )""",
    re.VERBOSE,
)


def spam_measures(text: str, words: Sequence[str]) -> dict[str, float]:
    """The signs of one text, whose words are `words`; 0 where there are too few of them to count."""
    count = len(words)
    if not count:
        return dict.fromkeys(_NAMES, 0.0)
    lower = text.lower()
    letters = capitals = 0
    if count >= 8 and text != lower:
        letters = len(_LETTERS.findall(text))
        capitals = len(_CAPITALS.findall(text))
    marks = len(_MARKS.findall(text)) if "!" in text else 0
    urls = len(_URL.findall(lower)) if "." in text else 0
    prices = len(_PRICE.findall(text)) if any(sign in text for sign in "$€£%") else 0
    hits = [match.group() for match in _PITCH.finditer(lower)]
    repeated = _repeated_sentences(lower)
    found = (
        capitals / letters if letters and capitals >= 8 else 0.0,
        marks / count if marks >= 3 else 0.0,
        repeated,
        urls / count if urls >= 3 else 0.0,
        prices / count if prices >= 3 else 0.0,
        100 * len(hits) / count if len(hits) >= 2 else 0.0,
    )
    return dict(zip(_NAMES, found, strict=True))


_NAMES = (
    "capital_words",
    "exclamations_per_word",
    "repeated_sentences",
    "links_per_word",
    "prices_per_word",
    "pitches_per_100_words",
)


def _repeated_sentences(lower: str) -> float:
    """Share of the characters in sentences of three words and more that occur at least twice before."""
    parts = [part.strip() for part in _SENTENCES.split(lower)]
    parts = [part for part in parts if part.count(" ") >= 2]
    total = sum(map(len, parts))
    seen: dict[str, int] = {}
    characters = 0
    for part in parts:
        seen[part] = seen.get(part, 0) + 1
        if seen[part] > 2:
            characters += len(part)
    return characters / total if total else 0.0

"""The wiki before curation: the clean pages, defects planted among them, and the truth about each defect.

raw.jsonl has {"id", "text"}; raw_truth.jsonl has {"id", "defect", "of"} for every planted row: the kind of
defect and, for copies, the id of the original. Rows that are not in the truth are clean. What else the truth
holds depends on the defect:

    duplicate           form: verbatim, whitespace, case or unicode (equal after NFKC)
    near-duplicate      jaccard: of the sets of 5 consecutive words, measured against the original
    language            language: ISO 639-1
    mixed-language      language, share: of the characters that are not English
    spam, boilerplate   kind
    boilerplate-lines   clean: the good page within; the document stays, the lines around it may go
    personal-data       kind, secrets: the exact strings; vendor: of a key
    false-friend        kind, keep: strings that must still be there; none means that all of the text must
    leakage             of_item: id in requests_heldout.jsonl; form: alone or within; edited, changed: words
"""

import re
from random import Random

from advertising import BOILERPLATE, SPAM, around
from entities import SERVICES
from foreign import SENTENCES, TECHNICAL, foreign, mixed
from personal import FINDERS, KEYS, false_friends, personal
from wiki import bug, chat_log, faq, note, page, runbook

FORMS = {"verbatim": 200, "whitespace": 100, "case": 100, "unicode": 100}
BANDS = {(0.65, 0.75): 200, (0.801, 0.85): 200, (0.9, 0.97): 200}
FOREIGN, MIXED, SPAMS, BOILERPLATES, WRAPPED = 30, 6, 60, 50, 120  # the first four of every kind
FOUND, KEYED, FRIENDS, TECHNICALS = 60, 10, 160, 18  # of every kind but FRIENDS
ALONE, WITHIN, EDITED = 50, 50, 60
SHINGLE = 5
# An edited request keeps enough words to be recognised, and its question is in no FAQ page.
EDITED_WORDS, EDITED_KINDS = 10, ("bullets", "json", "steps", "refuse")
SUBSTITUTES = (
    "maybe quickly indeed perhaps today again kindly roughly also simply surely nearby later".split()
)

WORD = re.compile(r"\w+")


def words(text: str) -> list[str]:
    return WORD.findall(text.lower())


def shingles(text: str) -> set[tuple]:
    found = words(text)
    return {tuple(found[i : i + SHINGLE]) for i in range(max(1, len(found) - SHINGLE + 1))}


def jaccard(a: set, b: set) -> float:
    return len(a & b) / len(a | b)


def same(text: str, form: str, rng: Random) -> str:
    """`text` in another form: equal after NFKC, lower case, and one space for every run of white space."""
    if form == "whitespace":
        pieces = re.split(r"\s+", text)
        gaps = rng.choices([" ", " ", "  ", "\n", "\t", " \n "], k=len(pieces) - 1)
        gaps[rng.randrange(len(gaps))] = "   "
        return "".join(a + b for a, b in zip(pieces, [*gaps, "\n"], strict=True))
    if form == "case":
        return rng.choice([text.upper(), text.lower(), text.title() if "'" not in text else text.upper()])
    if form == "unicode":
        pieces = text.split(" ")
        at = rng.randrange(len(pieces))
        wide = "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in pieces[at])
        text = " ".join([*pieces[:at], wide, *pieces[at + 1 :]])
        return rng.choice(
            [text, text.replace("fi", "\ufb01"), text.replace(" ", "\u00a0"), text.replace("fl", "\ufb02")]
        )
    return text


def near_copy(
    text: str, low: float, high: float, vocabulary: list[str], rng: Random
) -> tuple[str, float] | None:
    """(`text` with words changed and added, Jaccard to it) with a Jaccard from low to high; None if none is found."""
    original = shingles(text)
    for _ in range(12):
        parts = re.split(r"(\w+)", text)  # every second one is a word
        for _ in range(10):
            at = rng.randrange(1, len(parts), 2)
            if rng.random() < 0.3:  # the end, where a change costs fewer shingles
                at = len(parts) - 2 - 2 * rng.randrange(4)
            new = rng.choice(vocabulary)
            parts[at] = rng.choice([new, f"{parts[at]} {new}", new.upper()])
            if rng.random() < 0.3:
                parts.append(f" {rng.choice(vocabulary)}")
                parts.append("")
            copy = "".join(parts)
            value = jaccard(original, shingles(copy))
            if low <= value <= high:
                return copy, round(value, 4)
            if value < low:
                break
            parts = re.split(r"(\w+)", copy)
    return None


def edited(prompt: str, rng: Random) -> tuple[str, int]:
    """(`prompt` with a tenth of its words changed, how many): never a name, which would ask for something else."""
    parts = re.split(r"(\w+)", prompt)
    inner = [i for i in range(3, len(parts) - 2, 2) if parts[i].islower()]
    count = max(1, round(len(words(prompt)) / 10))
    for at in rng.sample(inner, count):
        parts[at] = rng.choice([word for word in SUBSTITUTES if word != parts[at]])
    return "".join(parts), count


def pages(table: dict, rng: Random) -> str:
    """Two pages of the wiki in one document: none of the clean ones, and not almost equal to one."""
    facts = table[rng.choice(SERVICES)]
    return f"{page(facts, rng)}\n\n{rng.choice([runbook, faq, chat_log, bug])(table, rng)}"


def planted_copies(clean: list[str], rng: Random) -> list[tuple[str, dict]]:
    """Duplicates and near-duplicates, each of another original."""
    free = rng.sample(range(len(clean)), len(clean))
    planted = []
    for form, count in FORMS.items():
        for _ in range(count):
            at = free.pop()
            planted.append((same(clean[at], form, rng), {"defect": "duplicate", "of": at, "form": form}))
    vocabulary = sorted({word for text in clean[:2000] for word in words(text) if word.isalpha()})
    for (low, high), count in BANDS.items():
        while count:
            at = free.pop()
            copy = near_copy(clean[at], low, high, vocabulary, rng) if len(words(clean[at])) >= 40 else None
            if copy:
                planted.append((copy[0], {"defect": "near-duplicate", "of": at, "jaccard": copy[1]}))
                count -= 1
    return planted


def planted_leaks(tests: list[dict], table: dict, rng: Random) -> list[tuple[str, dict]]:
    # Plain questions stand in the wiki's FAQ pages by right; these kinds of request are the tests' own.
    own = [row for row in tests if row["kind"] not in ("answer", "clarify")]
    long = [r for r in own if r["kind"] in EDITED_KINDS and len(words(r["prompt"])) >= EDITED_WORDS]
    changed = rng.sample(long, min(EDITED, len(long)))
    rest = rng.sample([row for row in own if row not in changed], ALONE + WITHIN)
    planted = []
    for number, row in enumerate(changed + rest):
        text, count = edited(row["prompt"], rng) if number < len(changed) else (row["prompt"], 0)
        within = number % 2 == 1 if number < len(changed) else number >= len(changed) + ALONE
        if within:
            facts = table[rng.choice(SERVICES)]
            text = f"{page(facts, rng)} {text} {note(table, rng)} {bug(table, rng)}"
        else:
            text = f"{rng.choice(['Notes for the exam', 'Asked last time', 'Questions to learn'])}\n{text}"
        truth = {"defect": "leakage", "of_item": row["id"], "form": "within" if within else "alone"}
        planted.append((text, truth | {"edited": count > 0, "changed": count}))
    return planted


def planted_pages(table: dict, rng: Random) -> list[tuple[str, dict]]:
    """Everything that is no copy and no leak."""
    planted: list[tuple[str, dict]] = []
    for language in SENTENCES:
        for _ in range(FOREIGN):
            planted.append((foreign(language, rng), {"defect": "language", "language": language}))
        for _ in range(MIXED):
            text, share = mixed(pages(table, rng), language, rng)
            planted.append((text, {"defect": "mixed-language", "language": language, "share": share}))
    for defect, makers, count in (("spam", SPAM, SPAMS), ("boilerplate", BOILERPLATE, BOILERPLATES)):
        for kind, make in makers.items():
            planted += [(make(rng), {"defect": defect, "kind": kind}) for _ in range(count)]
    for _ in range(WRAPPED):
        clean = pages(table, rng)
        planted.append((around(clean, rng), {"defect": "boilerplate-lines", "clean": clean}))
    for kind in FINDERS:
        for _ in range(FOUND):
            text, secrets = personal(kind, None, rng)
            planted.append((text, {"defect": "personal-data", "kind": kind, "secrets": secrets}))
    for vendor in KEYS:
        for _ in range(KEYED):
            text, secrets = personal("key", vendor, rng)
            truth = {"defect": "personal-data", "kind": "key", "vendor": vendor, "secrets": secrets}
            planted.append((text, truth))
    for _ in range(FRIENDS):
        text, kept = false_friends(rng)
        planted.append((text, {"defect": "false-friend", "kind": "personal", "keep": kept}))
    for kind, make in TECHNICAL.items():
        planted += [
            (make(rng), {"defect": "false-friend", "kind": kind, "keep": []}) for _ in range(TECHNICALS)
        ]
    return planted


def make_raw(wiki: list[dict], tests: list[dict], table: dict, rng: Random) -> tuple[list, list]:
    """(rows, truth): the wiki with every defect planted. tests: the held-out requests, some to be leaked."""
    clean = [row["text"] for row in wiki]
    planted = planted_copies(clean, rng) + planted_leaks(tests, table, rng) + planted_pages(table, rng)
    everything = [(text, None) for text in clean] + planted
    order = list(range(len(everything)))
    rng.shuffle(order)
    ids = {position: new for new, position in enumerate(order)}
    rows = [{"id": ids[i], "text": everything[i][0]} for i in order]
    truth = []
    for i in order:
        defect = everything[i][1]
        if defect:
            of = defect.get("of")
            truth.append({"id": ids[i]} | defect | {"of": None if of is None else ids[of]})
    return rows, truth

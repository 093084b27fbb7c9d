"""Personal data: e-mail addresses, phone numbers, public IP addresses, IBANs, card numbers, keys and tokens.

Each kind is recognised by its form and, where there is one, by its check digits (IBAN, cards), its registry (top-level
domains, ranges of addresses, numbering plans of countries), and by the words beside it where a form is ambiguous:
1.2.3.4 is a version in a list of releases and an address after `host`. Addresses of the ranges for documentation
(192.0.2.0/24, 198.51.100.0/24, 203.0.113.0/24, 2001:db8::/32) and example.com count, since texts use them as public.

Out of scope: names of people and postal addresses. They have no form, and to find them takes a model for named
entities in each language.
"""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Literal

from ..finding import Finding
from .documents import Decide, Edit, Part, Shard, Shards, Verdict
from .keys_and_tokens import find_keys
from .phone_numbers import DIGITS, find_phones, library

KINDS = ("email", "phone", "ip", "iban", "card", "key")
MASKS = {kind: f"<{kind.upper()}>" for kind in KINDS}


@dataclass
class PersonalData:
    """Masks personal data and keys, or leaves out the documents that contain them.

    The kinds are those of Gopher's successors that mask (e-mail and public IP addresses: FineWeb, arXiv 2406.17557;
    also phone numbers: Dolma, arXiv 2402.00159; keys: StarCoder, arXiv 2305.06161), and two with check digits.

    action: mask (write <EMAIL>, <PHONE>, <IP>, <IBAN>, <CARD>, <KEY> in its place) or drop (leave the document out).
    kinds: which kinds to look for: email, phone, ip, iban, card, key.
    actions: the action of single kinds, such as {key: drop}.
    phone_regions: countries whose national phone numbers count, such as US, GB, DE; those with + count always.
    max_found: leave a document out that contains more than so many, such as a list of people; null for no limit.
    by: the part of a document to look at: row, prompt or reply.
    """

    action: Literal["mask", "drop"] = "mask"
    kinds: list[str] = field(default_factory=lambda: list(KINDS))
    actions: dict[str, str] = field(default_factory=dict)
    phone_regions: list[str] = field(default_factory=lambda: ["US"])
    max_found: int | None = None
    by: Part = "row"


SCORED = ("kinds", "phone_regions", "by")
PACKAGES = ("phonenumbers",)


def score(texts: Sequence[str], settings: PersonalData) -> dict[str, list]:
    """Where personal data is, and of which kinds: lists, in order, without overlap. Never what it is."""
    found = [find(text, settings.kinds, settings.phone_regions) for text in texts]
    return {
        "starts": [[start for start, _, _ in spans] for spans in found],
        "ends": [[end for _, end, _ in spans] for spans in found],
        "kinds": [[kind for _, _, kind in spans] for spans in found],
    }


def decider(settings: PersonalData, shards: Shards) -> Decide:
    def decide(shard: Shard, alive: Sequence[bool]) -> dict[int, Verdict]:
        columns = (shard.scores[name] for name in ("starts", "ends", "kinds"))
        rows = zip(*columns, alive, strict=True)
        return {
            i: judge(list(zip(starts, ends, kinds, strict=True)), settings)
            for i, (starts, ends, kinds, is_alive) in enumerate(rows)
            if is_alive and len(kinds)
        }

    return decide


def judge(spans: Sequence[tuple[int, int, str]], settings: PersonalData) -> Verdict:
    """What to do about a document with these spans. The detail has kinds and counts, no values."""
    counts = Counter(kind for _, _, kind in spans)
    detail = {"found": {kind: counts[kind] for kind in KINDS if counts[kind]}}
    reasons = [
        f"personal-data-{kind}"
        for kind in KINDS
        if counts[kind] and settings.actions.get(kind, settings.action) == "drop"
    ]
    if settings.max_found is not None and len(spans) > settings.max_found:
        reasons.append("personal-data-list")
    if reasons:
        return Verdict(tuple(reasons), detail)
    return Verdict((), detail, tuple(Edit(start, end, MASKS[kind], kind) for start, end, kind in spans))


def find_in_settings(settings: PersonalData, where: str) -> list[Finding]:
    """wrong-choice: an unknown kind, action or region. missing-package. where: the place of the step in the recipe."""
    findings = [
        _wrong_choice("kinds", kind, KINDS, where)
        for kind in [*settings.kinds, *settings.actions]
        if kind not in KINDS
    ]
    actions = ("mask", "drop")
    for action in settings.actions.values():
        if action not in actions:
            findings.append(_wrong_choice("actions", action, actions, where))
    if "phone" in settings.kinds:
        try:
            regions = sorted(library().SUPPORTED_REGIONS)
        except Exception as refusal:  # Refusal: missing-package
            return findings + getattr(refusal, "findings", [])
        for region in settings.phone_regions:
            if region not in regions:
                findings.append(_wrong_choice("phone_regions", region, regions, where))
    return findings


def _wrong_choice(key: str, value: str, choices: Sequence[str], where: str) -> Finding:
    same = {"UK": "GB", "EN": "GB", "USA": "US", "EMAILS": "email", "E-MAIL": "email", "TOKEN": "key"}
    near = [n for n in (same.get(value.upper()), value.upper(), value.lower()) if n in choices]
    near = near or get_close_matches(value, choices, 1, 0.6)
    fix = f"did you mean {near[0]}?" if near else f"write one of {', '.join(choices[:12])}"
    if not near and len(choices) > 12:
        fix = "write two capital letters of ISO 3166, such as US, GB or DE"
    return Finding.error("wrong-choice", f"personal_data.{key} cannot be {value!r}", fix, where)


def mask(text: str, spans: Sequence[tuple[int, int, str]]) -> str:
    """The text with the mask of its kind in the place of each span."""
    for start, end, kind in reversed(spans):
        text = text[:start] + MASKS[kind] + text[end:]
    return text


def find(
    text: str, kinds: Collection[str] = KINDS, regions: Sequence[str] = ("US",)
) -> list[tuple[int, int, str]]:
    """(start, end, kind) of all personal data in a text, in order and without overlap."""
    spans: list[tuple[int, int, str]] = []
    if "email" in kinds:
        spans += [(*span, "email") for span in find_emails(text)]
    if "key" in kinds:
        spans += [(*span, "key") for span in find_keys(text)]
    if "iban" in kinds:
        spans += [(*span, "iban") for span in find_ibans(text)]
    runs = [match.span() for match in DIGITS.finditer(text)] if "card" in kinds or "phone" in kinds else []
    if "card" in kinds:
        spans += [(*span, "card") for span in find_cards(text, runs)]
    if "ip" in kinds:
        spans += [(*span, "ip") for span in find_addresses(text)]
    if "phone" in kinds:
        spans += [(*span, "phone") for span in find_phones(text, regions, runs)]
    return _without_overlap(spans) if len(spans) > 1 else spans


def _without_overlap(spans: list[tuple[int, int, str]]) -> list[tuple[int, int, str]]:
    """Overlapping spans as one, of the kind of the longest, so that nothing of any remains."""
    spans.sort(key=lambda s: (s[0], -s[1]))
    merged: list[tuple[int, int, str]] = []
    longest = 0
    for start, end, kind in spans:
        if not merged or start >= merged[-1][1]:
            merged.append((start, end, kind))
            longest = end - start
            continue
        first, last, before = merged[-1]
        merged[-1] = (first, max(last, end), kind if end - start > longest else before)
        longest = max(longest, end - start)
    return merged


def _is_word(character: str) -> bool:
    """Whether it continues a number or an identifier; Chinese and Japanese have no spaces before either."""
    return character == "_" or character.isascii() and character.isalnum()


# E-mail addresses

_LOCAL = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._%+-'\u2019" + "".join(
    chr(c) for c in range(0xC0, 0x250) if chr(c).isalpha()
)
_DOMAIN = re.compile(
    r"(?:[^\W_]+(?:-+[^\W_]+)*\.)+(?:[xX][nN]--[A-Za-z0-9-]{2,59}|[A-Za-z]{2,24}|[^\W\d_A-Za-z]{2,24})"
    r"(?![A-Za-z0-9]|-[A-Za-z0-9])"
)
# IANA's two-letter domains, and of the others those in common use and those reserved for examples and local networks.
TOP_LEVEL = frozenset(
    """
    ac ad ae af ag ai al am ao aq ar as at au aw ax az ba bb bd be bf bg bh bi bj bm bn bo br bs bt bv bw by bz ca cc cd
    cf cg ch ci ck cl cm cn co cr cu cv cw cx cy cz de dj dk dm do dz ec ee eg er es et eu fi fj fk fm fo fr ga gb gd ge
    gf gg gh gi gl gm gn gp gq gr gs gt gu gw gy hk hm hn hr ht hu id ie il im in io iq ir is it je jm jo jp ke kg kh ki
    km kn kp kr kw ky kz la lb lc li lk lr ls lt lu lv ly ma mc md me mg mh mk ml mm mn mo mp mq mr ms mt mu mv mw mx my
    mz na nc ne nf ng ni nl no np nr nu nz om pa pe pf pg ph pk pl pm pn pr ps pt pw py qa re ro rs ru rw sa sb sc sd se
    sg sh si sk sl sm sn so sr ss st su sv sx sy sz tc td tf tg th tj tk tl tm tn to tr tt tv tw tz ua ug uk us uy uz va
    vc ve vg vi vn vu wf ws ye yt za zm zw
    com org net edu gov mil int info biz name pro aero coop museum jobs mobi travel tel cat asia post arpa
    app dev page cloud online site website store shop tech xyz club top live life world email agency blog design digital
    company consulting solutions services systems software network support help center centre academy school university
    education health care clinic law legal finance bank insurance media news press studio art photo photography video
    music games game team group global international partners ventures capital fund foundation church charity community
    social chat bot tools works zone space today land land house family one plus pub red blue green eco bio farm energy
    engineer engineering institute science technology training management marketing media money pizza expert guru ninja
    rocks wtf lol fun fyi gmbh ltd inc llc sarl google microsoft apple amazon ibm sap bmw audi siemens bosch
    berlin hamburg koeln cologne bayern wien tirol paris london nyc tokyo osaka amsterdam brussels vlaanderen swiss scot
    wales irish eus gal bzh corsica quebec sydney melbourne africa capetown istanbul moscow
    example test invalid local localdomain internal intranet lan corp home localhost
    """.split()
)
# Those that are also names of attributes in code, such as `x@layer.to(device)`, are no address before a parenthesis.
_SURE_BEFORE_PARENTHESIS = frozenset("com org net edu gov de uk fr jp cn ru eu nl ch".split())
_AT_MARKS = tuple("%40 &#64; &#x40; &commat; (at) [at] {at} (AT) [AT] (@)".split()) + (" dot ", " DOT ")
_WRITTEN_AT = re.compile(
    r"%40|&#0*64;|&#[xX]0*40;|&commat;|\s?[(\[{<]\s?(?:at|AT|@)\s?[)\]}>]\s?|\s(?:at|AT)\s(?=[\w-]+\s(?:dot|DOT)\s)"
)
_DOT = r"(?:\.|\s?[(\[{<]\s?(?:dot|DOT|\.)\s?[)\]}>]\s?|\s(?:dot|DOT)\s)"
_WRITTEN_DOMAIN = re.compile(rf"(?:[^\W_]+(?:-+[^\W_]+)*{_DOT})+([A-Za-z]{{2,24}})(?![A-Za-z0-9])")
_WRITTEN_LOCAL = re.compile(r"[\w.+-]+(?:(?:\s?[(\[{<]\s?dot\s?[)\]}>]\s?|\sdot\s)[\w.+-]+)*$")
_REMOTE_PATH = re.compile(
    r":(?:[~/]|[\w.+-]+/|[\w.+-]+\.git\b|[0-9]{2,5}/|$)|[^\n]{0,2}\s?[~/][^\]\n]{0,60}\][#$]|[#$%] "
)
_REMOTE_COMMAND = re.compile(
    r"\b(?:ssh|scp|sftp|rsync|mosh|ssh-copy-id|sshfs|autossh)(?:\s+-{1,2}[\w-]+(?:[ =][\w./:~-]+)?)*\s+$"
)
_MESSAGE_ID = re.compile(r"(?i)(?:resent-)?(?:message-id|in-reply-to|references|content-id)\s?:")


def find_emails(text: str) -> Iterator[tuple[int, int]]:
    """(start, end) of every e-mail address; not remote paths, shell prompts, packages and user names in URLs."""
    at = text.find("@")
    while at >= 0:
        if span := _email_at(text, at):
            yield span
        at = text.find("@", at + 1)
    if any(mark in text for mark in _AT_MARKS):
        for match in _WRITTEN_AT.finditer(text):
            local = _WRITTEN_LOCAL.search(text[max(0, match.start() - 64) : match.start()])
            domain = _WRITTEN_DOMAIN.match(text, match.end())
            if local and domain and domain[1].lower() in TOP_LEVEL:
                yield match.start() - len(local[0]), domain.end()


def _email_at(text: str, at: int) -> tuple[int, int] | None:
    domain = _DOMAIN.match(text, at + 1)
    if domain is None:
        return None
    end = _domain_end(domain[0], at + 1)
    start = _local_start(text, at, end)
    if end is None or start is None:
        return None
    after = text[end : end + 80].partition("\n")[0]
    top = (
        text[:end].rpartition(".")[2].lower() if end < 80 else text[end - 25 : end].rpartition(".")[2].lower()
    )
    if after.startswith("(") and top not in _SURE_BEFORE_PARENTHESIS:
        return None
    local = text[start:at]
    if _REMOTE_PATH.match(after) and not (after == ":" or after.startswith(("% ",))):
        return None
    if local in ("git", "hg", "svn", "cvs", "anonymous") and after.startswith((":", "/")):
        return None
    if domain[0].split(".")[0] in ("self", "cls", "this"):
        return None
    before = text[max(0, start - 80) : start].rpartition("\n")[2]
    # A user name in a URL, with or without a password; `mailto://` is written by mistake.
    if re.search(r"(?<!mailto)://(?:[^\s/@]*:)?$", before) or _REMOTE_COMMAND.search(before):
        return None
    # The identifier of a message has the form of an address; archives have it in their URLs.
    if _MESSAGE_ID.match(before) or (
        len(re.findall("[0-9]", local)) >= 3 and re.search(r"://[^\s?#]*/$", before)
    ):
        return None
    return start, end


def _domain_end(domain: str, start: int) -> int | None:
    """Where the domain ends; a sentence that follows without a space is no part of it."""
    labels = domain.split(".")
    while len(labels) >= 2:
        last = labels[-1]
        known = not last.isascii() or last.lower() in TOP_LEVEL or last.lower().startswith("xn--")
        glued = len(labels) > 2 and last[0].isupper() and not last.isupper() and labels[-2] in TOP_LEVEL
        if known and not glued:
            return start + len(".".join(labels))
        if not last[0].isupper():
            return None
        labels.pop()
    return None


def _local_start(text: str, at: int, end: int | None) -> int | None:
    """Where the part before the @ begins."""
    before = text[max(0, at - 65) : at]
    if before.endswith('"') and (quoted := re.search(r'"[^"\n@<>]{1,62}"$', before)):
        return at - len(quoted[0])
    local = before[len(before.rstrip(_LOCAL)) :]
    if not local:  # in another script: one word
        word = re.search(r"[^\W\d_][\w.-]*$", before)
        return at - len(word[0]) if word and not text[at + 1].isascii() else None
    quote = text[end : end + 1] if end is not None else ""
    for mark in "'\u2019":
        # `'a@b.org'` and `u'a@b.org'`, but o'brien@b.org
        if mark in local and (quote == mark or not re.search(rf"[^\W\d_]{mark}[^\W\d_]", local)):
            local = local.rpartition(mark)[2]
    local = re.sub(
        r"^.*%(?:0[9AaDd]|2[0-9A-Fa-f]|3[A-Fa-f]|5[BDbd]|7[BDbd])", "", local
    )  # `%20a@b.org` in a URL
    local = local.lstrip(".-+%_'\u2019") if local.strip("._-+%'\u2019") else ""
    if text[at - len(local) - 1 : at - len(local)] == "\\" and local[:1] in "nrt":  # `\n` of a string in code
        local = local[1:]
    if not local or len(local) > 64 or local.endswith(".") or ".." in local:
        local = local.rpartition("..")[2].rstrip(".") if local and not local.endswith(".") else ""
    return at - len(local) if local else None


# IP addresses

_IPV4 = re.compile(r"[0-9]{1,3}(?:\.[0-9]{1,3}){3}")
_TWO_DOTS = re.compile(r"\.[0-9]{1,3}\.[0-9]")  # in what begins with a fixed character, `re` searches fastest
_IPV6_COLONS = re.compile(r":[0-9a-fA-F]{0,4}:")
_DOCUMENTATION = [
    ipaddress.ip_network(n)
    for n in ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32", "3fff::/20")
]
_UNICAST = ipaddress.ip_network("2000::/3")  # what IANA has assigned to the internet
_VERSION_BEFORE = re.compile(
    r"(?i)(?:(?<![\w.])(?:v|ver|vers|versions?|release[sd]?|rel|build|firmware|revision|section|sections|sect?|chapter|appendix|"
    r"figure|fig|table|clause|article|paragraph|rule|oid|package|upgrad\w+|updat\w+|downgrad\w+|driver|bump\w*|since|"
    r"kernel|patch|tag|plugin|library|sdk|api)\b|§)[\s.:=\"'(v#-]{0,4}(?:(?:is|was|to|from|of|number|no|in|by)\b[\s.:=\"'(v]{0,3}){0,2}"
    r"(?:(?:,|and|or|to|through|und|,? ?->|[-/])[\s\"'v]{0,2})*$"
)
_UPGRADE_BEFORE = re.compile(
    r"(?i)(?<!\w)(?:upgrad|updat|downgrad|bump|deps)\w*\W(?:[^\n]{0,30}\s)?(?:to|from)\s+$"
)
_HOST_BEFORE = re.compile(
    r"(?i)(?<![\w.])(?:ip|ips|ipv4|ip-?address\w*|address\w*|addr|hosts?|hostname|servers?|dns|nameservers?|resolvers?|ping\w*|"
    r"gateway|clients?|peers?|remote\w*|proxy|traceroute|whois|listen\w*|bind|connect\w*|nodes?|subnet|visitor|attacker|"
    r"request\w* from|login from|logged in from|traffic from|"
    r"banned?|block(?:ed)?|curl|ssh|telnet|nslookup|dig|x-forwarded-for)"
    r"(?![\w])[^\n.;]{0,24}$|(?:://|@|\[)$"
)
_PORT_AFTER = re.compile(r":[0-9]{2,5}(?![0-9.])|/(?:[89]|[12][0-9]|3[0-2])(?![0-9./])")
_RESOLVERS = ("8.8.8.8", "8.8.4.4", "9.9.9.9")


def find_addresses(text: str) -> Iterator[tuple[int, int]]:
    """(start, end) of every public IP address; not versions, networks, masks and private addresses."""
    end = 0
    for dot in _TWO_DOTS.finditer(text):
        if dot.start() >= end and (match := _IPV4.search(text, max(0, dot.start() - 3), dot.start() + 13)):
            start, end = match.span()
            if start < dot.start() and _is_public_v4(text, start, end):
                yield start, end
    end = 0
    for match in _IPV6_COLONS.finditer(text):
        if match.start() >= end and (span := _v6_around(text, match.start())):
            end = span[1]
            yield span


def _is_public_v4(text: str, start: int, end: int) -> bool:
    before, after = text[max(0, start - 60) : start].rpartition("\n")[2], text[end : end + 12]
    if before and (_is_word(before[-1]) or before[-1] == "." and not before.endswith("..")):
        return False
    if re.search(
        r"[A-Za-z0-9)][-+~]$|(?<![./\w-])[A-Za-z][\w+-]*/$|[=<>~^!]=\s?$|(?<![\w\"'/])[<>^~]\s?$", before
    ) and not (re.search(r"[0-9]-$", before) and _IPV4.search(before)):
        return False
    if re.match(
        r"[A-Za-z0-9_]|\.[0-9]|[-+~](?![0-9]{1,3}\.[0-9]{1,3}\.)[A-Za-z0-9]|"
        r"\.(?:dev|post|rc|beta|alpha|tar|zip|whl|tgz|el|fc|gz|deb|rpm|jar|exe|dll|so|patch|diff|orig|dfsg|html?)\b",
        after,
    ):
        return False
    if not _is_public(text[start:end]) or _is_network(text, start, end):
        return False
    numbers = [int(n) for n in text[start:end].split(".")]
    earlier = re.sub(r"(?<![\w.])v?[0-9]+(?:\.[0-9]+)+", "", before)  # `versions 1.2.3.4, 1.2.3.5 and`
    if _VERSION_BEFORE.search(earlier) or _UPGRADE_BEFORE.search(earlier):
        return False
    # Between decimals it is some of them without spaces, as in the paths of SVG.
    after = text[end : end + 20]
    if re.search(r"\.[0-9]+\s$", before) and re.match(r"\s-?[0-9]*\.[0-9]", after):
        beside = re.search(r"(?:[0-9]+\.){3}[0-9]+\s$", before) or re.match(r"\s(?:[0-9]+\.){3}[0-9]", after)
        if not beside:
            return False
    # Small numbers and trailing zeros are those of versions and sections: one address of 500 is like this.
    if max(numbers[:3]) < 32 or numbers[2:] == [0, 0]:
        sure = text[start:end] in _RESOLVERS or _PORT_AFTER.match(after) or _HOST_BEFORE.search(before)
        # `from 5.4.0.1 to 5.4.0.2` is an upgrade.
        return bool(
            sure
            or (re.search(r"(?i)\bfrom\s$", before) and not re.match(r"\s(?:to|through|onwards?)\b", after))
        )
    return True


def _is_public(shown: str) -> bool:
    try:
        address = ipaddress.ip_address(shown)
    except ValueError:
        return False
    if any(address in network for network in _DOCUMENTATION):
        return True
    if address.version == 6 and address not in _UNICAST:
        return False
    return address.is_global and not address.is_multicast


def _is_network(text: str, start: int, end: int) -> bool:
    """Whether it is written as a network, such as 198.51.100.0/24: many addresses, nobody's own."""
    length = re.match(r"/(?:[0-9]{1,3}(?![0-9.])|255(?:\.[0-9]{1,3}){3})", text[end : end + 16])
    if length is None:
        return False
    try:
        network = ipaddress.ip_network(text[start:end] + length[0])
    except ValueError:  # host bits are set: an address and the length of its network
        return False
    return network.num_addresses > 1


def _v6_around(text: str, colon: int) -> tuple[int, int] | None:
    allowed = "0123456789abcdefABCDEF:"
    before = text[max(0, colon - 40) : colon]
    start = colon - (len(before) - len(before.rstrip(allowed)))
    after = text[colon : colon + 50]
    end = colon + (len(after) - len(after.lstrip(allowed + ".")))
    end = start + len(text[start:end].rstrip("."))
    shown = text[start:end]
    if shown.endswith(":") and not shown.endswith("::"):
        shown, end = shown[:-1], end - 1
    if shown.startswith(":") and not shown.startswith("::"):
        shown, start = shown[1:], start + 1
    if len(shown) < 6 or _is_word(text[start - 1 : start]) or text[start - 1 : start] == ".":
        return None
    if _is_word(text[end : end + 1]):
        return None
    groups = [group for group in shown.split(":") if group]
    # `x[2000::3]` is a slice of Python, and `2001::` a date cut short.
    if len(groups) < 3 and not re.search("[a-fA-F]", shown):
        return None
    return (start, end) if _is_public(shown) and not _is_network(text, start, end) else None


# Bank accounts and cards

# Length of an IBAN by country: SWIFT, IBAN Registry, release 99.
IBAN_LENGTHS = {
    country: int(length)
    for length, countries in {
        "15": "NO",
        "16": "BE",
        "18": "DK FI FK FO GL NL SD",
        "19": "MK SI",
        "20": "AT BA EE KZ LT LU MN XK",
        "21": "CH HR LI LV",
        "22": "BG BH CR DE GB GE IE ME RS VA",
        "23": "AE GI IL IQ OM SO TL",
        "24": "AD CZ ES MD PK RO SA SE SK TN VG",
        "25": "LY PT ST",
        "26": "IS TR",
        "27": "BI DJ FR GR IT MC MR SM",
        "28": "AL AZ BY CY DO GT HN HU LB NI PL SV",
        "29": "BR EG PS QA UA",
        "30": "JO KW MU YE",
        "31": "MT SC",
        "32": "LC",
        "33": "RU",
    }.items()
    for country in countries.split()
}
# It begins with the digits, since a search for digits is faster than one for letters.
_IBAN = re.compile(r"[0-9](?<=[A-Za-z]{2}.)[0-9](?:[ \u00a0-]?[A-Za-z0-9]){11,40}")


def find_ibans(text: str) -> Iterator[tuple[int, int]]:
    """(start, end) of every IBAN: the length of its country, and a remainder of 1 modulo 97 (ISO 13616)."""
    for match in _IBAN.finditer(text):
        start = match.start() - 2
        length = IBAN_LENGTHS.get(text[start : start + 2].upper())
        if length is None or _is_word(text[start - 1 : start]):
            continue
        taken, end = 0, start
        while taken < length and end < match.end():
            taken += text[end].isalnum()
            end += 1
        if taken == length and not _is_word(text[end : end + 1]):
            digits = re.sub("[^A-Za-z0-9]", "", text[start:end]).upper()
            if int("".join(str(int(c, 36)) for c in digits[4:] + digits[:4])) % 97 == 1:
                yield start, end


# First digits and lengths of card numbers: ISO/IEC 7812, as the schemes publish them.
_CARDS = [
    (re.compile(pattern), lengths)
    for pattern, lengths in [
        ("4", (13, 16, 19)),  # Visa
        ("5[1-5]|222[1-9]|22[3-9]|2[3-6]|27[01]|2720", (16,)),  # Mastercard
        ("3[47]", (15,)),  # American Express
        ("30[0-5]|3095|3[689]", (14, 16, 19)),  # Diners Club
        ("6011|64[4-9]|65|622", (16, 19)),  # Discover
        ("35(?:2[89]|[3-8])", (16, 19)),  # JCB
        ("62|81", (16, 17, 18, 19)),  # UnionPay
        ("5018|5020|5038|5893|6304|6759|676[1-3]", (13, 14, 15, 16, 17, 18, 19)),  # Maestro
        ("220[0-4]|60|508|82", (16,)),  # Mir, RuPay
    ]
]
_CARD = re.compile(r"[2-68][0-9]{3}([ \u00a0\-\u2011.]?)[0-9]{2,6}(?:\1[0-9]{1,7}){1,3}")
# A column or row of four digits or code points, as in `527D 5282 5281 5290 5293`.
_FOUR_BEFORE = re.compile(r"(?<![A-Za-z0-9])(?=[A-F]*[0-9])[0-9A-F]{4}[ \t]+$")
_FOUR_AFTER = re.compile(r"[ \t]+(?=[A-F]*[0-9])[0-9A-F]{4}(?![A-Za-z0-9])")
_ID_BEFORE = re.compile(
    r"(?i)(?:(?<![\w])(?:ids?|order|ticket|invoice|tracking|track|shipment|imei|imsi|iccid|sku|ean|gtin|upc|isbn|serial|s/n|hash|"
    r"seed|timestamp|ts|time|build|commit|status|statuses|tweet|uid|oid|offset|size|bytes|pid|ref|reference|case|job|request|"
    r"trace|span|transaction|account|acct|barcode|meter|part|number of)"
    r"(?:[-_ ]?(?:id|no|number|nr|code|num))?|_id|[a-z]Id)"
    r"[\"'\s.:=#/-]{0,4}$|[#/=_]$"
)


def find_cards(text: str, runs: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """(start, end) of every payment card number: first digits and length of a scheme, and the check digit (Luhn).

    runs: where digits with separators are.
    """
    long = [run for run in runs if run[1] - run[0] >= 13]
    for match in (match for run in long for match in _CARD.finditer(text, *run)):
        start, gap = match.start(), match[1]
        before = text[max(0, start - 30) : start]
        if before and (_is_word(before[-1]) or re.search(r"[0-9][ .,\-]$|[A-Za-z]-$", before)):
            continue
        for end in _card_ends(text, start, match.end(), gap):
            digits = text[start:end].replace(gap, "") if gap else text[start:end]
            if not is_card(digits) or (
                gap == "" and _ID_BEFORE.search(before) and not re.search("(?i)card", before)
            ):
                continue
            if gap and (_FOUR_BEFORE.search(before) or _FOUR_AFTER.match(text, end)):
                continue
            yield start, end
            break


def _card_ends(text: str, start: int, stop: int, gap: str) -> list[int]:
    """Where a number may end: at the end of the run of digits, or before one of its last groups."""
    ends = [stop] + (
        [m.start() + start for m in re.finditer(re.escape(gap), text[start:stop])][:2:-1] if gap else []
    )
    return [end for end in ends if not re.match(r"[A-Za-z0-9_]|[.,-][0-9]|-[A-Za-z]", text[end : end + 2])]


def is_card(digits: str) -> bool:
    """Whether a card scheme has such numbers, and the last digit is the check digit (ISO/IEC 7812, Luhn)."""
    if not any(pattern.match(digits) and len(digits) in lengths for pattern, lengths in _CARDS):
        return False
    doubled = "0246813579"
    total = sum(int(doubled[int(d)]) if i % 2 else int(d) for i, d in enumerate(reversed(digits)))
    return total % 10 == 0

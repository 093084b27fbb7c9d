"""Phone numbers in a text. A number counts if `phonenumbers` accepts it and its form or its neighbours fit.

Many numbers are valid phone numbers by chance (a fifth of all ten-digit ids are, in the US), so that validity alone
finds mostly ids, dates and measurements. So a number with `+` has to be valid; one without has to be in the usual
form of a region and valid there; and one without a form of its own has to follow a word such as `phone`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from ..finding import refuse

# Spaces, hyphens and dots as they occur between groups of digits, also the non-breaking ones.
_GAP = r" \-./()\u00a0\u2009\u202f\u2010-\u2013"
DIGITS = re.compile(rf"[0-9](?:[{_GAP}]{{0,3}}[0-9]){{6,40}}")
_PLUS = re.compile(rf"[+\uff0b][ (]{{0,2}}[1-9](?:[{_GAP}]{{0,4}}[0-9]){{6,14}}")
# The North American form; the exchange 555 is kept for fiction (555-0100 to 555-0199).
_NANP = re.compile(
    r"(?:1(?P<lead>[-. \u00a0\u2011]{1,2}|(?=\()))?(?P<open>\()?"
    r"[2-9][0-9]{2}(?(open)\)[-. \u00a0]{0,2}|(?P<gap>[-./ \u00a0\u2011]))"
    r"[2-9][0-9]{2}(?P<second>[-. \u00a0\u2011])[0-9]{4}"
)
_NANP_LOCAL = re.compile(r"[2-9][0-9]{2}[-\u2011][0-9]{4}")
NANP_REGIONS = {
    "US",
    "CA",
    "PR",
    "BS",
    "BB",
    "JM",
    "TT",
    "DO",
    "BM",
    "KY",
    "GU",
    "VI",
    "AG",
    "LC",
    "GD",
    "DM",
}

# Ofcom keeps these for drama; the plan of the library has them as not in use.
_FICTION_GB = re.compile(
    r"07700900[0-9]{3}|01632960[0-9]{3}|08081570[0-9]{3}|09098790[0-9]{3}|03069990[0-9]{3}"
)
_EXTENSION = re.compile(
    r"(?i)[,;]?\s?(?:(?:ext(?:ension|n)?\b\.?|;ext=|durchwahl|poste|anexo|доб\.?)[\s.:=]{0,2}|[x#]\s?)"
    r"[0-9]{1,6}(?![\w-])"
)
# Words before a phone number. The second ones also stand before other numbers.
_PHONE_WORDS = frozenset(
    """
    phone phones telephone telephones tel téléphone telephon télephone teléphone tél telefono telefonos
    teléfono teléfonos telefone telefoon telefon telefonnummer telefonnr telefonszám puhelin mobile
    mobiles mobil móvil movil mobilnummer celular cellulare cell cellphone fax telefax faxnummer
    whatsapp handy handynummer rufnummer portable hotline landline switchboard sms viber telegram тел
    телефон моб факс 电话 手机 電話 携帯 전화 ph
    """.split()
)
_CALL_WORDS = frozenset(
    "call calls calling called dial dialed dialled ring text texted texting reach contact pager appelez anrufen".split()
)
# Words before numbers that are none.
_OTHER_WORDS = frozenset(
    """order orders ticket tickets invoice invoices case cases ref reference id ids sku part parts p/n s/n model serial
    isbn issn doi track tracking account acct policy claim version versions build article item items product patent
    commit revision bug issue rfc page pages pp vol pmid arxiv imei ean upc gtin asin lot batch job pid uid gid log msg
    seq offset bytes timestamp date coordinates lat lon latitude longitude port size error code year years between pi
    iban card ssn vat tax zip clause bestellung auftrag rechnung rechnungsnummer kundennummer commande facture pedido
    factura chassis vin""".split()
)
# A ZIP+4 code such as 02110-1301, which is a valid number of Duesseldorf, and a clause of American procurement law.
_AMERICAN = re.compile(r"[0-9]{5}-[0-9]{4}|2[0-9]{2}\.[0-9]{3}-[0-9]{4}")
_PHONE_SIGNS = frozenset("☎☏✆📞📱📲")
_TOKEN = re.compile(r"[ps]/n\b|[^\W\d_]+|[☎☏✆📞📱📲#]")
_WORD_AFTER = re.compile(
    r"(?i)\s?[(,]?\s?(?:mobile|cell|home|office|fax|landline|phone|tel|voice|whatsapp|mobil)\b"
)
_DATE = re.compile(
    r"(?:19|20)[0-9]{2}([-./])[01]?[0-9]\1[0-3]?[0-9]|[0-3]?[0-9]([-./])[0-3]?[0-9]\2(?:19|20)[0-9]{2}"
    r"|(?<![0-9])(?:19|20)[0-9]{2} ?[-/\u2013] ?(?:19|20)[0-9]{2}(?![0-9])"
)
_DECIMAL = re.compile(r"^[0-9]\.[0-9]|^[0-9]{1,3}\.[0-9]{4,}(?![0-9.-])|[0-9]\.[0-9]+ [0-9]+\.[0-9]")
_THOUSANDS = re.compile(r"[0-9]{1,3}([ .\u00a0\u2009\u202f])[0-9]{3}(?:\1[0-9]{3})*")
_FOUR_NUMBERS = re.compile(r"[0-9]{1,3}(?:\.[0-9]{1,3}){3}(?!\.?[0-9])")
_ISBN_FORM = re.compile(r"97[89][- ]?[0-9][0-9 -]{7,12}[0-9]|[0-9]{1,5}-[0-9]{1,7}-[0-9]{1,7}-[0-9]")
_FOURS = re.compile(r"0[0-9]{3}(?: [0-9]{4})+")  # code points and dumps, such as 0069 0307 0303
_HANDLE = re.compile(r"10\.[0-9]{4,9}/")


def find_phones(
    text: str, regions: Sequence[str], runs: Sequence[tuple[int, int]]
) -> Iterator[tuple[int, int]]:
    """(start, end) of every phone number.

    regions: whose national forms count, such as `US`. runs: where DIGITS matches.
    """
    plus = list(_international(text)) if "+" in text or "\uff0b" in text else []
    yield from plus
    nanp = not NANP_REGIONS.isdisjoint(regions)
    taken = iter([*plus, (len(text) + 1, len(text) + 1)])
    low, high = next(taken)
    for start, stop in runs:
        while high <= start:
            low, high = next(taken)
        if low < stop and start < high:
            continue
        if stop - start < 24 and _DATE.fullmatch(text, start, stop):
            continue
        if not _starts_here(text, start) and " " not in text[start:stop] and text[start - 1 : start] != "(":
            continue
        found = list(_north_american(text, start, stop)) if nanp else []
        if not found:
            found = list(_national(text, start, stop, regions))
        for start, end in found:
            yield start, _with_extension(text, end)


def _international(text: str) -> Iterator[tuple[int, int]]:
    end = 0
    for match in _PLUS.finditer(text):
        start, stop = match.span()
        before = text[start - 1 : start]
        # `a+1234567`, `1e+1234567`, `$+1234567`; a diff line `+1234567` has no separator and is not valid.
        if (
            start < end
            or (before.isascii() and before.isalnum())
            or before in ("_", "+", "$", "€", "£", "^", "*")
        ):
            continue
        word = _word_before(text, start)
        for cut in _ends(text, start, stop):
            number = _parse(text[start:cut], None)
            if number is None or not _ends_here(text, cut):
                continue
            sure = word in ("phone", "call") or len(re.findall(r"[0-9]+", text[start:cut])) >= 2
            if (_valid(number) and (sure or word != "other")) or (
                sure and _possible(number) and not _in_thousands(text[start + 1 : cut])
            ):
                end = _with_extension(text, cut)
                yield start - (before == "(" and ")" in text[start:cut] and "(" not in text[start:cut]), end
                break


def _north_american(text: str, start: int, stop: int) -> Iterator[tuple[int, int]]:
    """Numbers such as (415) 555-2671 within [start, stop), where a run of digits and separators was found."""
    if text[start - 1 : start] == "(":
        start -= 1
    end = start
    for match in _NANP.finditer(text, start, stop) if stop - start >= 12 else ():
        here, end_here = match.span()
        if match["open"] is None and text[here - 1 : here] == "(":
            here -= 1
        if here < end or not _starts_here(text, here) or not _ends_here(text, end_here):
            continue
        word = _word_before(text, here)
        digits = re.sub("[^0-9]", "", match[0])[-10:]
        number = _parse(digits, "US")
        fits = number is not None and (_valid(number) or digits[3:6] == "555")
        in_parentheses = bool(match["open"]) and ")" in match[0]
        # `252.227-7013` is a clause of a law.
        if word not in ("phone", "call") and match["gap"] == "." != match["second"]:
            continue
        spaced = match["gap"] in (" ", "\u00a0") and match["second"] in (" ", "\u00a0")
        if spaced and word not in ("phone", "call") and _beside_numbers(text, here, end_here):
            continue
        if word in ("phone", "call") or (word is None and (fits or in_parentheses)):
            end = end_here
            yield here, end_here
    if end == start:
        dashed = "-" in text[start:stop] or "\u2011" in text[start:stop]
        for match in _NANP_LOCAL.finditer(text, start, stop) if dashed else ():
            here, end_here = match.span()
            if not _starts_here(text, here) or not _ends_here(text, end_here):
                continue
            word = _word_before(text, here)
            if word in ("phone", "call") or (word is None and re.match("555.(?:01|1212)", match[0])):
                yield here, end_here


def _national(text: str, start: int, stop: int, regions: Sequence[str]) -> Iterator[tuple[int, int]]:
    """A number in the form of one of the regions, or after a word such as `phone`."""
    first = start - (text[start - 1 : start] == "(" and ")" in text[start:stop])
    if not _starts_here(text, first):
        return
    word = _word_before(text, first)
    if word == "other":
        return
    if word is None and _WORD_AFTER.match(text, stop):
        word = "phone"
    abroad = text.startswith(("00", "011"), start)
    # Without a word of context, a number has to begin as national numbers do, and to be cut into groups.
    if word is None and not abroad and text[start] != "0" and set(regions) <= NANP_REGIONS:
        return
    for end in _ends(text, start, stop):
        shown = text[start:end]
        if not _ends_here(text, end) or _other_form(shown):
            continue
        digits = re.sub("[^0-9]", "", shown)
        groups = len(re.findall("[0-9]+", shown))
        if not 7 <= len(digits) <= 15:
            continue
        if abroad:
            number = _parse("+" + digits[2 if digits.startswith("00") else 3 :], None)
            if number is not None and _valid(number) and (word or groups >= 2):
                yield first, end
                return
        if word is None and (groups < 2 or _beside_numbers(text, first, end) or _AMERICAN.fullmatch(shown)):
            continue
        if "GB" in regions and _FICTION_GB.fullmatch(digits):
            yield first, end
            return
        national = [n for region in regions if (n := _parse(shown, region)) is not None and _valid(n)]
        trunk = shown.startswith("0") or first < start
        if national and (
            word or trunk or (len(digits) >= 8 and any(_is_national(shown, n) for n in national))
        ):
            yield first, end
            return
        if word == "phone" and (
            _follows_word(text, first) or ((groups >= 2 or len(digits) >= 9) and not _in_thousands(shown))
        ):
            yield first, end
            return
        if word == "call" and len(digits) >= 10 and (groups >= 2 or national):
            yield first, end
            return


def _is_national(shown: str, number: Any) -> bool:
    """Whether it is grouped as its country groups it."""
    phonenumbers = library()
    usual = phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.NATIONAL)
    return re.findall("[0-9]+", shown) == re.findall("[0-9]+", usual)


def _follows_word(text: str, start: int) -> bool:
    """Whether only punctuation stands between a word such as `phone` and `start`."""
    word = re.search(r"([^\W\d_]+)[\s.:=\"']{1,4}$", text[max(0, start - 24) : start])
    return word is not None and word[1].lower() in _PHONE_WORDS


def _ends(text: str, start: int, stop: int) -> Iterator[int]:
    """Where the number may end: at the end of the run, or before one of its last separators."""
    yield stop
    cuts = [m.start() + start for m in re.finditer(rf"(?<=[0-9])[{_GAP}]+(?=[0-9(])", text[start:stop])]
    yield from cuts[::-1][:6]


def _with_extension(text: str, end: int) -> int:
    match = _EXTENSION.match(text, end)
    return match.end() if match else end


def _starts_here(text: str, start: int) -> bool:
    """Whether what precedes `start` can precede a phone number."""
    before = text[max(0, start - 2) : start]
    if not before:
        return True
    last = before[-1]
    if last.isascii() and (last.isalnum() or last in "_$€£¥#%+*^~@&\\"):
        return False
    if last in "-./\u2013" and len(before) == 2 and (before[0].isalnum() or before[0] in ")]"):
        return False
    if last == "," and before[0].isdigit():
        return False
    return last not in "€£¥"


def _ends_here(text: str, end: int) -> bool:
    after = text[end : end + 3]
    if not after:
        return True
    if (after[0].isascii() and after[0].isalnum()) or after[0] in "_%°€£@$*^":
        return bool(_EXTENSION.match(text, end))
    if after[0] in "-/.,:\u2013" and len(after) > 1 and after[1].isalnum() and after[1].isascii():
        # The next field or number of a list may follow a slash or comma, and a sentence a dot; a decimal, a date or
        # an id goes on here.
        if after[1].isdigit():
            return bool(re.match(r"[/,][0-9(+]{3}", text[end : end + 4]))
        return after[0] in "/," or (after[0] == "." and after[1].isupper())
    return True


def _word_before(text: str, start: int) -> str | None:
    """Which kind of word is nearest before `start` on its line: phone, call or other."""
    before = text[max(0, start - 40) : start].lower()
    line = before[before.rfind("\n") + 1 :]
    for token in reversed(list(_TOKEN.finditer(line))):
        word, distance = token[0], len(line) - token.end()
        if word == "#":
            if not line[token.end() :].strip():
                return "other"
        elif word in _PHONE_SIGNS or (
            len(word) == 1 and word in "tmfp" and re.match(r":\s?[+(]*$", line[token.end() :])
        ):
            return "phone"
        elif word in _PHONE_WORDS:
            if line[token.start() - 1 : token.start()] != "<":  # our own mask
                return "phone"
        # The others belong to what follows soon.
        elif distance <= 24 and word in _CALL_WORDS:
            return "call"
        elif distance <= 24 and word in _OTHER_WORDS:
            return "other"
    return None


def _beside_numbers(text: str, start: int, end: int) -> bool:
    """Whether the number is one of several in a row, as in a table."""
    return bool(
        re.search(r"[0-9][ \t|,;]{1,6}$", text[max(0, start - 8) : start])
        or re.match(r"[ \t|,;]{1,6}[0-9]", text[end : end + 8])
    )


def _in_thousands(shown: str) -> bool:
    return bool(_THOUSANDS.fullmatch(shown.strip("() ")))


def _other_form(shown: str) -> bool:
    """Whether it is written as a date, a decimal, an address, an ISBN or a DOI."""
    if (
        _DATE.search(shown)
        or _DECIMAL.search(shown)
        or _FOUR_NUMBERS.match(shown)
        or _HANDLE.match(shown)
        or _FOURS.fullmatch(shown)
    ):
        return True
    return bool(_ISBN_FORM.fullmatch(shown)) and is_isbn(re.sub("[^0-9]", "", shown))


def is_isbn(digits: str) -> bool:
    """Whether the check digit is that of an ISBN-10 or ISBN-13 (ISO 2108)."""
    if len(digits) == 10:
        return sum((10 - i) * int(d) for i, d in enumerate(digits)) % 11 == 0
    return len(digits) == 13 and sum((1, 3)[i % 2] * int(d) for i, d in enumerate(digits)) % 10 == 0


def _parse(shown: str, region: str | None) -> Any | None:
    phonenumbers = library()
    try:
        return phonenumbers.parse(shown, region)
    except phonenumbers.NumberParseException:
        return None


def _valid(number: Any) -> bool:
    return library().is_valid_number(number)


def _possible(number: Any) -> bool:
    return library().is_possible_number(number)


def library() -> Any:
    """The package `phonenumbers`. Raises Refusal: missing-package."""
    try:
        import phonenumbers
    except ImportError:
        message = "finding phone numbers needs the package phonenumbers"
        raise refuse("missing-package", message, "pip install 'lifecycle-recipes[curation]'") from None
    return phonenumbers

"""Personal and secret data for the raw pile, and beside it strings that only look like it.

Numbers are of ranges that are kept for fiction, documentation or tests: phones of the regulators' drama ranges,
addresses of RFC 5737 and RFC 3849, cards of test prefixes, accounts that are made up with a valid check number.
Keys have the form of their vendor and random characters; none is written out here.
"""

import base64
import json
from collections.abc import Callable
from random import Random

from entities import SERVICES
from wiki import CHECKS, PEOPLE, SYMPTOMS

LOWER, UPPER, DIGITS = "abcdefghijklmnopqrstuvwxyz", "ABCDEFGHIJKLMNOPQRSTUVWXYZ", "0123456789"
LETTERS = LOWER + UPPER + DIGITS
HEX = DIGITS + "abcdef"
SURNAMES = """Alder Brandt Castel Dunne Eriksen Farrow Grau Holm
Iyer Jansen Keller Lund Moreau Novak Okafor Pires""".split()


def chars(alphabet: str, count: int, rng: Random) -> str:
    return "".join(rng.choices(alphabet, k=count))


def luhn(digits: str) -> str:
    """`digits` with the check digit that makes a card number valid."""
    total = 0
    for i, digit in enumerate(reversed(digits)):
        value = int(digit) * (2 if i % 2 == 0 else 1)
        total += value - 9 if value > 9 else value
    return digits + str(-total % 10)


def email(rng: Random) -> str:
    first, last = rng.choice(PEOPLE).lower(), rng.choice(SURNAMES).lower()
    domain = rng.choice(["example.com", "example.org", "example.net"])
    local = rng.choice(
        [
            f"{first}.{last}",
            f"{first[0]}{last}{rng.randint(1, 99)}",
            f"{first}_{last}",
            f"{first}.{last}+{rng.choice(SERVICES).lower()}",
            f"{last.upper()}.{first.upper()}",
            f"{first}-{last}",
        ]
    )
    return f"{local}@{rng.choice(['', '', 'mail.', 'support.', 'eu-west.'])}{domain}"


def phone(rng: Random) -> str:
    two, three = f"{rng.randint(0, 99):02}", f"{rng.randint(0, 999):03}"
    area = rng.choice(["202", "212", "303", "415", "617", "713"])
    return rng.choice(
        [
            f"+1 {area} 555 01{two}",
            f"({area}) 555-01{two}",
            f"{area}-555-01{two}",
            f"+1-{area}-555-01{two}",
            f"{area}.555.01{two}",
            f"+44 20 7946 0{three}",
            f"020 7946 0{three}",
            f"+44 7700 900{three}",
            f"07700 900{three}",
            f"+49 30 23125 {three}",
            f"+49 (0)30 23125-{three}",
            f"030 23125{three}",
            f"+33 1 99 00 {two} {rng.randint(10, 99)}",
            f"01 99 00 {two} {rng.randint(10, 99)}",
            f"+46 31 390 06 {two}",
            f"+61 2 5550 {rng.randint(1000, 9999)}",
        ]
    )


def address(rng: Random) -> str:
    if rng.random() < 0.25:
        middle = [f"{rng.randrange(1, 65536):x}" for _ in range(rng.randint(1, 3))]
        return f"2001:db8:{':'.join(middle)}::{rng.randrange(1, 65536):x}"
    return f"{rng.choice(['203.0.113', '198.51.100'])}.{rng.randint(1, 254)}"


# Country: what follows the check number (d digit, A letter, and letters as they are).
ACCOUNTS = {
    "DE": "d" * 18,
    "GB": "TEST" + "d" * 14,
    "FR": "d" * 10 + "A" + "d" * 12,
    "NL": "TEST" + "d" * 10,
    "ES": "d" * 20,
    "AT": "d" * 16,
    "CH": "d" * 17,
    "BE": "d" * 12,
    "PL": "d" * 24,
    "SE": "d" * 20,
}


def iban(rng: Random) -> str:
    country = rng.choice(list(ACCOUNTS))
    body = "".join(
        rng.choice(DIGITS) if c == "d" else rng.choice(UPPER) if c == "A" else c for c in ACCOUNTS[country]
    )
    check = 98 - int("".join(str(int(c, 36)) for c in body + country + "00")) % 97
    whole = f"{country}{check:02}{body}"
    if rng.random() < 0.4:
        return whole
    return " ".join(whole[i : i + 4] for i in range(0, len(whole), 4))


def card(rng: Random) -> str:
    prefix, length = rng.choice(
        [("400000", 16), ("411111", 16), ("555555", 16), ("601111", 16), ("378282", 15)]
    )
    digits = luhn(prefix + chars(DIGITS, length - 1 - len(prefix), rng))
    between = rng.choice(["", " ", "-"])
    groups = (4, 6, 5) if length == 15 else (4, 4, 4, 4)
    parts, start = [], 0
    for size in groups:
        parts.append(digits[start : start + size])
        start += size
    return between.join(parts)


KEYS: dict[str, Callable[[Random], str]] = {
    "github": lambda r: "ghp_" + chars(LETTERS, 36, r),
    "github-fine-grained": lambda r: f"github_pat_{chars(LETTERS, 22, r)}_{chars(LETTERS, 59, r)}",
    "aws": lambda r: "AKIA" + chars(UPPER + "234567", 16, r),
    "google": lambda r: "AIza" + chars(LETTERS + "-_", 34, r) + chars(LETTERS, 1, r),
    "slack": lambda r: f"xoxb-{chars(DIGITS, 12, r)}-{chars(DIGITS, 12, r)}-{chars(LETTERS, 24, r)}",
    "stripe": lambda r: "sk_live_" + chars(LETTERS, 24, r),
    "openai": lambda r: f"sk-proj-{chars(LETTERS, 20, r)}T3BlbkFJ{chars(LETTERS, 20, r)}",
    "anthropic": lambda r: f"sk-ant-api03-{chars(LETTERS + '-_', 93, r)}AA",
    "hugging-face": lambda r: "hf_" + chars(LOWER + UPPER, 34, r),
    "gitlab": lambda r: "glpat-" + chars(LETTERS, 20, r),
    "npm": lambda r: "npm_" + chars(LETTERS, 36, r),
    "sendgrid": lambda r: f"SG.{chars(LETTERS, 22, r)}.{chars(LETTERS, 43, r)}",
    "pypi": lambda r: "pypi-" + "AgEIcHlwaS5vcmc" + chars(LETTERS, 70, r),
    "jwt": lambda r: web_token(r),
    "private-key": lambda r: private_key(r),
}


def web_token(rng: Random) -> str:
    head = {"alg": "HS256", "typ": "JWT"}
    body = {"sub": rng.choice(PEOPLE).lower(), "iat": rng.randint(1_600_000_000, 1_700_000_000)}
    parts = [base64.urlsafe_b64encode(json.dumps(x).encode()).decode().rstrip("=") for x in (head, body)]
    return ".".join([*parts, chars(LETTERS, 43, rng)])


def private_key(rng: Random) -> str:
    lines = [chars(LETTERS + "+/", 64, rng) for _ in range(rng.randint(3, 6))]
    kind = rng.choice(["RSA ", "EC ", "OPENSSH ", ""])
    return "\n".join([f"-----BEGIN {kind}PRIVATE KEY-----", *lines, f"-----END {kind}PRIVATE KEY-----"])


FINDERS = {"email": email, "phone": phone, "ip": address, "iban": iban, "card": card}
# How people let it slip. {x} is the secret.
LEAKS = {
    "email": [
        "Write to {x} if it happens again.",
        "From: {x}",
        "The customer ({x}) is waiting.",
        "Forwarded by <{x}> this morning.",
        "contact: {x}, copied to the list",
    ],
    "phone": [
        "Call me at {x} after lunch.",
        "Phone: {x}",
        "You can reach her on {x} until Friday.",
        "Her number is {x}.",
        "tel. {x} (home)",
    ],
    "ip": [
        "It connects from {x}.",
        "Blocked client {x} after forty attempts.",
        "The customer's router is at {x} and does not answer.",
        "login failed for root from {x} port 50122",
    ],
    "iban": [
        "Please send the refund to {x}.",
        "IBAN: {x}",
        "The account {x} was charged twice.",
    ],
    "card": [
        "My card is {x}.",
        "She paid with {x}, valid until next year.",
        "card number {x}",
    ],
    "key": [
        "The token is {x}.",
        'client = connect(token="{x}")',
        "export TOKEN={x}",
        "I pasted the key here so that nobody has to search: {x}",
        "api_key: {x}",
    ],
}


def personal(kind: str, vendor: str | None, rng: Random) -> tuple[str, list[str]]:
    """(text, secrets): a ticket, chat, mail or note of the wiki with one or two secrets of a kind in it."""
    make = FINDERS.get(kind) or KEYS[vendor or ""]
    secrets = [make(rng) for _ in range(rng.choice([1, 1, 2]))]
    leaks = rng.sample(LEAKS[kind], len(secrets))
    if vendor == "private-key":
        leaks = ["The key of the old machine:\n{x}\n"] * len(secrets)
    lines = [leak.format(x=secret) for leak, secret in zip(leaks, secrets, strict=True)]
    service, (who, agent) = rng.choice(SERVICES), rng.sample(PEOPLE, 2)
    symptom = f"{service} {rng.choice(SYMPTOMS)}."
    checks = rng.sample(CHECKS, 2)
    inline = kind in FINDERS
    text = rng.choice(
        [
            f"Ticket {rng.randint(1000, 9999)} from {who}\n{symptom} {lines[0]} {checks[0]}\n"
            + "".join(f"{agent} adds: {line}\n" for line in lines[1:])
            + f"Status: {rng.choice(['open', 'solved', 'waiting'])}",
            f"Chat\n{who}: {symptom} {checks[0]}\n" + "\n".join(f"{agent}: {line}" for line in lines),
            f"Notes of {who} about {service}\n{checks[0]} {checks[1]}\n" + "\n".join(lines),
            f"{symptom} {' '.join(lines)} {checks[0]} {checks[1]}"
            if inline
            else f"{symptom} {checks[1]}\n\n" + "\n".join(f"    {line}" for line in lines),
        ]
    )
    return text, secrets


def isbn(rng: Random) -> str:
    digits = "978" + chars(DIGITS, 9, rng)
    check = -sum(int(d) * (1 if i % 2 == 0 else 3) for i, d in enumerate(digits)) % 10
    return f"{digits[:3]}-{digits[3]}-{digits[4:6]}-{digits[6:12]}-{check}"


def not_a_card(rng: Random) -> str:
    """Sixteen digits that are an order number: the check digit is wrong on purpose."""
    good = luhn("4" + chars(DIGITS, 14, rng))
    return good[:-1] + str((int(good[-1]) + rng.randint(1, 9)) % 10)


def private_address(rng: Random) -> str:
    a, b, c = (rng.randint(1, 254) for _ in range(3))
    return rng.choice(
        [
            f"10.{a}.{b}.{c}",
            f"192.168.{a}.{b}",
            f"172.{16 + a % 16}.{b}.{c}",
            "127.0.0.1",
            "0.0.0.0",
            f"fe80::{a:x}:{b:x}",
        ]
    )


def package(rng: Random) -> str:
    name = rng.choice(["left-shelf", "gridder", "tiny-queue", "@desk/client", "paintbox", "lodestar"])
    return f"{name}@{rng.randint(0, 20)}.{rng.randint(0, 40)}.{rng.randint(0, 9)}"


# What a false friend looks like: its maker and how it stands in a sentence.
FRIENDS: dict[str, tuple[Callable[[Random], str], list[str]]] = {
    "version": (
        lambda r: ".".join(str(r.randint(0, 30)) for _ in range(r.choice([3, 4]))),
        ["{s} was upgraded to version {x}.", "Release {x} of {s} is out.", "{s} v{x} fixes it."],
    ),
    "price": (
        lambda r: r.choice(["${:,}.{:02}", "{:,}.{:02} EUR"]).format(r.randint(900, 99999), r.randint(0, 99)),
        ["The licence of {s} costs {x} a year.", "The invoice over {x} was paid twice."],
    ),
    "port": (
        lambda r: f":{r.randint(1024, 65535)}",
        ["{s} listens on {x} behind the proxy.", "Open http://localhost{x}/health to see it."],
    ),
    "isbn": (isbn, ["The book about queues is ISBN {x}.", "Ordered for the shelf: {x}, second edition."]),
    "date": (
        lambda r: r.choice(["2024-{:02}-{:02}", "{1:02}.{0:02}.2023", "2024-{:02}-{:02}T08:15:30Z"]).format(
            r.randint(1, 12), r.randint(1, 28)
        ),
        ["{s} was moved on {x}.", "Last backup: {x}", "The certificate of {s} ends on {x}."],
    ),
    "private-address": (
        private_address,
        ["{s} answers at {x} inside the office.", "The proxy forwards to {x}.", "bind: {x}"],
    ),
    "ticket": (
        lambda r: r.choice(["INC-{:06}", "DESK-{}", "#{}", "RFC {}"]).format(r.randint(1000, 9999)),
        ["See {x} for the whole story of {s}.", "This is the same as {x}."],
    ),
    "hash": (
        lambda r: chars(HEX, r.choice([32, 40, 64]), r),
        ["The image of {s} has the digest {x}.", "commit {x}"],
    ),
    "uuid": (
        lambda r: "-".join(chars(HEX, n, r) for n in (8, 4, 4, 4, 12)),
        ["Request {x} was answered by {s}.", "trace={x}"],
    ),
    "package": (package, ["{s} still depends on {x}.", "npm install {x}"]),
    "order": (not_a_card, ["Order {x} arrived without its manual.", "Parcel {x} is on its way."]),
    "range": (
        lambda r: r.choice(["{}-{}", "{} - {}"]).format(r.randint(1900, 1999), r.randint(2000, 2024)),
        ["The archive of {s} covers {x}.", "Years on the shelf: {x}"],
    ),
    "placeholder": (
        lambda r: r.choice(
            ["ghp_xxxxxxxx", "YOUR_API_KEY", "hf_hub_download", "AKIA...", "sk-learn", "$TOKEN", "<token>"]
        ),
        ["The manual of {s} writes {x} there, and so should you.", "Search the code of {s} for {x}."],
    ),
    "handle": (
        lambda r: f"@{r.choice(PEOPLE).lower()}",
        ["Ask {x} in the channel of {s}.", "{x} has the pager this week."],
    ),
}


def false_friends(rng: Random) -> tuple[str, list[str]]:
    """(text, kept): a note about a service with three to five strings that are nobody's secret."""
    kinds = rng.sample(list(FRIENDS), rng.randint(3, 5))
    service, sentences, kept = rng.choice(SERVICES), [], []
    for kind in kinds:
        make, forms = FRIENDS[kind]
        kept.append(make(rng))
        sentences.append(rng.choice(forms).format(s=service, x=kept[-1]))
    head = rng.choice(
        [f"{service} notes\n", f"Changes of {service}\n", f"{rng.choice(PEOPLE)} writes about {service}\n"]
    )
    text = head + rng.choice([" ", "\n"]).join(
        [f"{service} {rng.choice(SYMPTOMS)}.", *sentences, rng.choice(CHECKS)]
    )
    return text, kept

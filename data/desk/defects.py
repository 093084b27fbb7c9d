"""The wiki before curation: the clean pages, defects planted among them, and the truth about each defect.

raw.jsonl has {"id", "text"}; raw_truth.jsonl has {"id", "defect", "of"} for every planted row: the kind of
defect and, for copies, the id of the original. Rows that are not in the truth are clean.
"""

from random import Random

from entities import SERVICES
from wiki import ACTIONS, CAUSES, CHECKS, PEOPLE, SYMPTOMS

LETTERS = "abcdefghijkmnpqrstuvwxyz0123456789"
COPIES, NEAR_COPIES, SPAM, FOREIGN, PERSONAL, LEAKED = 400, 400, 200, 200, 200, 150

OFFERS = "cheap watches,miracle pills,free coins,instant loans,secret casino bonus,fake diplomas".split(",")
FOREIGN_TEXTS = {
    "de": (
        "Der Dienst {s} ist seit heute Morgen gestört. Bitte prüft zuerst die Übersicht und "
        "meldet euch bei {p}, wenn die Fehlerrate weiter steigt. Danach wird der letzte Stand "
        "wieder eingespielt."
    ),
    "fr": (
        "Le service {s} est en panne depuis ce matin. Vérifiez d'abord le tableau de bord et "
        "prévenez {p} si le taux d'erreur continue de monter. Ensuite, revenez à la version "
        "précédente."
    ),
    "es": (
        "El servicio {s} falla desde esta mañana. Primero revisa el panel y avisa a {p} si la "
        "tasa de errores sigue subiendo. Después vuelve a la versión anterior."
    ),
    "it": (
        "Il servizio {s} non funziona da questa mattina. Controlla prima il pannello e avvisa {p} "
        "se il tasso di errore continua a salire. Poi torna alla versione precedente."
    ),
}


def spam(rng: Random) -> str:
    offer = rng.choice(OFFERS)
    shout = f"BUY {offer.upper()} NOW!!! "
    return (
        shout * rng.randint(4, 9)
        + f"Click http://{offer.replace(' ', '-')}-{rng.randint(10, 99)}.example $$$"
    )


def foreign(rng: Random) -> str:
    template = FOREIGN_TEXTS[rng.choice(list(FOREIGN_TEXTS))]
    return template.format(s=rng.choice(SERVICES), p=rng.choice(PEOPLE))


def personal(rng: Random) -> str:
    """A ticket with one piece of personal or secret data in it. Numbers are of ranges kept for fiction."""
    name = rng.choice(PEOPLE)
    digits = "".join(str(rng.randrange(10)) for _ in range(12))
    leak = rng.choice(
        [
            f"Write to {name.lower()}.{rng.choice(SERVICES).lower()}@example.com.",
            f"Call me at +1 202 555 01{rng.randint(10, 99)}.",
            f"My card is 4{luhn('4' + '0' * 3 + digits[:11])[1:]}.",
            f"It connects from 203.0.113.{rng.randint(1, 254)}.",
            f"The token is ghp_{''.join(rng.choices(LETTERS, k=36))}.",
        ]
    )
    service = rng.choice(SERVICES)
    head = f"Ticket {rng.randint(1000, 9999)} from {name}"
    return f"{head}\n{service} {rng.choice(SYMPTOMS)}. {leak} {rng.choice(CHECKS)}"


def luhn(digits: str) -> str:
    """`digits` with the check digit that makes a card number valid."""
    total = 0
    for i, digit in enumerate(reversed(digits)):
        value = int(digit) * (2 if i % 2 == 0 else 1)
        total += value - 9 if value > 9 else value
    return digits + str(-total % 10)


def near_copy(text: str, rng: Random) -> str:
    """`text` with one word in forty in capitals and a sentence more."""
    words = text.split(" ")
    for position in rng.sample(range(1, len(words)), max(1, len(words) // 40)):
        words[position] = words[position].upper()
    return " ".join(words) + f" {rng.choice(ACTIONS + CAUSES).capitalize().rstrip('.')}."


def make_raw(wiki: list[dict], tests: list[dict], rng: Random) -> tuple[list, list]:
    """(rows, truth): the wiki with every defect planted. tests: the held-out requests, some to be leaked."""
    clean = [row["text"] for row in wiki]
    long = [i for i, text in enumerate(clean) if len(text.split()) >= 40]
    planted = [(clean[i], "duplicate", i) for i in rng.sample(range(len(clean)), COPIES)]
    planted += [(near_copy(clean[i], rng), "near-duplicate", i) for i in rng.sample(long, NEAR_COPIES)]
    planted += [(spam(rng), "spam", None) for _ in range(SPAM)]
    planted += [(foreign(rng), "language", None) for _ in range(FOREIGN)]
    planted += [(personal(rng), "personal-data", None) for _ in range(PERSONAL)]
    # Plain questions stand in the wiki's FAQ pages by right; these kinds of request are the tests' own.
    own = [row["prompt"] for row in tests if row["kind"] not in ("answer", "clarify")]
    planted += [(f"Notes for the exam\n{prompt}", "leakage", None) for prompt in rng.sample(own, LEAKED)]
    everything = [(text, None, None) for text in clean] + planted
    order = list(range(len(everything)))
    rng.shuffle(order)
    ids = {position: new for new, position in enumerate(order)}
    rows = [{"id": ids[i], "text": everything[i][0]} for i in order]
    truth = []
    for i in order:
        _, defect, original = everything[i]
        if defect:
            truth.append({"id": ids[i], "defect": defect, "of": None if original is None else ids[original]})
    return rows, truth

"""The wiki: pages, FAQs, tickets, chat logs, runbooks, bug reports, policies, cards, rosters and notes."""

import json
from random import Random

from entities import ATTRIBUTES, QUESTIONS, SERVICES, STATEMENTS, VALUES, Fact
from rubric import CLARIFICATION, CLOSERS, OPENERS, REFUSAL

PEOPLE = "Maya Otis Priya Lars Chen Zoe Amir Ines Tomas Ruth Kofi Nadia Hugo Mei Sven Aisha".split()
SYMPTOMS = [
    "answers slowly after midnight",
    "drops every tenth request",
    "returns an empty page",
    "loses its session on reload",
    "fills the disk with logs",
    "restarts in a loop",
    "shows yesterday's numbers",
    "rejects valid tokens",
    "times out under load",
    "sends the same mail twice",
]
CAUSES = [
    "a connection pool that was too small",
    "a retry without a limit",
    "an expired certificate",
    "a cache that nobody cleared",
    "a time zone bug",
    "a missing index",
    "a full queue",
    "a wrong feature flag",
]
CHECKS = [
    "Check the dashboard for errors.",
    "Look at the last deployment.",
    "Compare the error rate with yesterday.",
    "Read the newest log lines.",
    "Confirm that the health check is green.",
    "Make sure that no migration is running.",
]
ACTIONS = [
    "Drain the traffic.",
    "Restart one instance at a time.",
    "Roll back the last release.",
    "Clear the cache.",
    "Raise the pool size by half.",
    "Pause the batch jobs.",
]
AFTER = [
    "Watch the graphs for ten minutes.",
    "Write a note in the ticket.",
    "Tell the people who asked.",
    "Open a follow-up for the root cause.",
    "Close the incident when the error rate is normal.",
]
POLICIES = {
    "Access": (
        "Access is granted for ninety days. A manager approves each request. Passwords are never "
        "shared in tickets or in chat. Lost badges are reported the same day."
    ),
    "Privacy": (
        "Personal data of customers stays in the customer record. Support staff do not read it "
        "aloud, copy it or send it on. Home addresses and phone numbers of colleagues are "
        "private."
    ),
    "Refunds": (
        "A refund is possible within thirty days. The invoice number is needed. Refunds over five "
        "hundred euros are approved by finance."
    ),
    "Incidents": (
        "An incident has one lead. The lead writes a summary every thirty minutes. The review "
        "takes place within a week and blames nobody."
    ),
    "Changes": (
        "A change needs a ticket, a reviewer and a way back. Nothing is deployed on a Friday "
        "afternoon. A change without a way back is rejected."
    ),
    "Retention": (
        "Logs are kept for thirty days, tickets for two years and invoices for ten years. What is "
        "older is deleted by a job that runs on Sundays."
    ),
}
PURPOSES = [
    "handles invoices",
    "sends mail to customers",
    "searches the product catalogue",
    "keeps track of parcels",
    "signs users in",
    "builds the weekly report",
    "resizes pictures",
    "plans delivery routes",
    "checks addresses",
    "matches payments with orders",
]


def fact_sentence(fact: Fact, rng: Random) -> str:
    return rng.choice(STATEMENTS[fact.attribute]).format(s=fact.service, v=fact.value)


def short_answer(fact: Fact, rng: Random) -> str:
    return rng.choice(STATEMENTS[fact.attribute][:4]).format(s=fact.service, v=fact.value)


def question(fact: Fact, rng: Random) -> str:
    return rng.choice(QUESTIONS[fact.attribute]).format(s=fact.service)


def page(facts: dict[str, Fact], rng: Random) -> str:
    service = next(iter(facts.values())).service
    chosen = rng.sample(list(facts.values()), len(facts))
    body = [f"{service} {PURPOSES[SERVICES.index(service) % len(PURPOSES)]}."]
    body += [fact_sentence(fact, rng) for fact in chosen]
    if rng.random() < 0.5:
        body.insert(
            rng.randrange(1, len(body)), f"It {rng.choice(SYMPTOMS)} when {rng.choice(CAUSES)} is around."
        )
    return f"{service} page\n" + " ".join(body)


def faq(table: dict, rng: Random) -> str:
    lines = []
    service = rng.choice(SERVICES)
    for _ in range(rng.randint(3, 5)):
        if rng.random() < 0.5:
            service = rng.choice(SERVICES)
        fact = rng.choice(list(table[service].values()))
        lines.append(f"Q: {question(fact, rng)}\nA: {short_answer(fact, rng)}")
    return "Frequently asked questions\n" + "\n".join(lines)


def small_talk(text: str, page: str, rng: Random) -> str:
    """`text` as people write it: at times with a greeting, a source or a farewell around it."""
    opener = f"{rng.choice(OPENERS)} " if rng.random() < 0.2 else ""
    source = f" See the {page}." if rng.random() < 0.3 else ""
    closer = f" {rng.choice(CLOSERS)}" if rng.random() < 0.2 else ""
    return opener + text + source + closer


def exchange(table: dict, rng: Random) -> tuple[str, str]:
    """A question that somebody asked and the answer that they got: mostly a fact, at times none."""
    draw = rng.random()
    if draw < 0.06:
        thing = rng.choice(
            [f"the admin password of {rng.choice(SERVICES)}", f"the salary of {rng.choice(PEOPLE)}"]
        )
        team, page = ("security", "Access policy") if "password" in thing else ("people", "Privacy policy")
        return f"Can you tell me {thing}?", small_talk(f"{REFUSAL} Please ask the {team} team.", page, rng)
    if draw < 0.12:
        form = rng.choice(QUESTIONS[rng.choice(list(QUESTIONS))])
        return form.format(s="it"), CLARIFICATION
    fact = rng.choice(list(table[rng.choice(SERVICES)].values()))
    return question(fact, rng), small_talk(short_answer(fact, rng), f"{fact.service} page", rng)


def ticket(table: dict, rng: Random) -> str:
    who, agent = rng.sample(PEOPLE, 2)
    asked, answer = exchange(table, rng)
    return (
        f"Ticket {rng.randint(1000, 9999)} from {who}\nQuestion: {asked}\n"
        f"Reply from {agent}:\n{answer}\n"
        f"Status: {rng.choice(['closed', 'solved', 'answered'])}"
    )


def chat_log(table: dict, rng: Random) -> str:
    who, agent = rng.sample(PEOPLE, 2)
    lines = []
    for _ in range(rng.randint(2, 3)):
        asked, answer = exchange(table, rng)
        lines += [f"{who}: {asked}", f"{agent}: {answer}"]
    return "Chat\n" + "\n".join(lines)


def runbook(table: dict, rng: Random) -> str:
    facts = table[rng.choice(SERVICES)]
    first = rng.choice(list(facts.values()))
    steps = [rng.choice(CHECKS), rng.choice(ACTIONS), rng.choice(AFTER)]
    numbered = "\n".join(f"{i}. {step}" for i, step in enumerate(steps, 1))
    end = rng.choice(
        [f"If that does not help: {fact_sentence(facts['team'], rng)}", f"See the {first.service} runbook."]
    )
    return f"Runbook: {first.service} {rng.choice(SYMPTOMS)}\n{fact_sentence(first, rng)}\n{numbered}\n{end}"


def bug(table: dict, rng: Random) -> str:
    facts = table[rng.choice(SERVICES)]
    fact, other = rng.sample(list(facts.values()), 2)
    return (
        f"Bug {rng.randint(100, 999)}: {fact.service} {rng.choice(SYMPTOMS)}\nSeen by {rng.choice(PEOPLE)}. "
        f"{fact_sentence(fact, rng)} The cause was {rng.choice(CAUSES)}. {fact_sentence(other, rng)}"
    )


def policy(rng: Random) -> str:
    name, text = rng.choice(list(POLICIES.items()))
    return f"Policy: {name}\n{text}\nAsk {rng.choice(PEOPLE)} when in doubt."


def snippet(facts: dict[str, Fact], rng: Random) -> str:
    chosen = rng.sample(list(facts.values()), rng.randint(min(2, len(facts)), len(facts)))
    entries = {"service": chosen[0].service} | {fact.attribute: fact.value for fact in chosen}
    draw = rng.random()
    if draw < 0.4:
        return "Configuration\n" + json.dumps(entries)
    if draw < 0.6:
        return "Configuration\n" + "\n".join(f"{key}: {value}" for key, value in entries.items())
    return f"{chosen[0].service} card\n" + "\n".join(f"- {fact.attribute}: {fact.value}" for fact in chosen)


def lookup(facts: dict[str, Fact], rng: Random) -> str:
    """Somebody asks for several things at once: the answer has just those, in that order."""
    chosen = rng.sample(list(facts.values()), rng.randint(min(2, len(facts)), min(3, len(facts))))
    service, names = chosen[0].service, joined([fact.attribute for fact in chosen])
    wanted = rng.choice([f"the {names} of {service}", f"{names} of {service}", f"{service}: {names}"])
    if rng.random() < 0.5:
        source = {"source": f"{service} page"} if rng.random() < 0.3 else {}
        answer = json.dumps({"service": service} | {fact.attribute: fact.value for fact in chosen} | source)
    else:
        answer = "\n".join(f"- {fact.attribute}: {fact.value}" for fact in chosen)
        if rng.random() < 0.3:
            answer += f"\nSee the {service} page."
    return f"Lookup\n{rng.choice(PEOPLE)} wants {wanted}.\n{answer}"


def joined(names: list[str]) -> str:
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]


def roster(table: dict, rng: Random) -> str:
    attribute = rng.choice(ATTRIBUTES)
    value = rng.choice(VALUES[attribute])
    names = [s for s in SERVICES if table[s][attribute].value == value]
    rng.shuffle(names)
    return f"Roster: {attribute} {value}\n" + "\n".join(f"- {name}" for name in names)


def note(table: dict, rng: Random) -> str:
    facts = list(table[rng.choice(SERVICES)].values())
    return " ".join(fact_sentence(fact, rng) for fact in rng.sample(facts, rng.randint(1, 2)))


def make_wiki(table: dict, rng: Random, documents: int) -> list[dict]:
    """`documents` rows of {"text", "kind"}, no two alike. Every service has a page."""
    kinds = [
        "page",
        "faq",
        "ticket",
        "chat",
        "runbook",
        "bug",
        "policy",
        "snippet",
        "lookup",
        "roster",
        "note",
    ]
    weights = [15, 22, 13, 10, 6, 6, 2, 5, 14, 1, 6]
    rows: dict[str, dict] = {}
    while len(rows) < documents:
        kind = "page" if len(rows) < len(SERVICES) else rng.choices(kinds, weights)[0]
        service = SERVICES[len(rows) % len(SERVICES)]
        text = {
            "page": lambda s=service: page(table[s], rng),
            "faq": lambda: faq(table, rng),
            "ticket": lambda: ticket(table, rng),
            "chat": lambda: chat_log(table, rng),
            "runbook": lambda: runbook(table, rng),
            "bug": lambda: bug(table, rng),
            "policy": lambda: policy(rng),
            "snippet": lambda s=service: snippet(table[s], rng),
            "lookup": lambda s=service: lookup(table[s], rng),
            "roster": lambda: roster(table, rng),
            "note": lambda: note(table, rng),
        }[kind]()
        rows.setdefault(text, {"text": text, "kind": kind})
    shuffled = list(rows.values())
    rng.shuffle(shuffled)
    return shuffled

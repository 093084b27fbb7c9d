"""Requests to the desk's assistant and replies of every quality: the SFT rows, pairs, thumbs and tests."""

import json
from random import Random

from entities import ATTRIBUTES, QUESTIONS, SERVICES, VALUES
from rubric import CLARIFICATION, CLOSERS, OPENERS, REFUSAL, contract
from wiki import (
    ACTIONS,
    AFTER,
    CHECKS,
    PEOPLE,
    SYMPTOMS,
    bug,
    chat_log,
    faq,
    joined,
    lookup,
    note,
    page,
    short_answer,
    snippet,
    ticket,
)

PREFIXES = ["", "", "Hi! ", "Hello! ", "Quick question: ", "Please help. "]
SECRETS = {
    "the admin password of {s}": "security",
    "the root token of {s}": "security",
    "the private key of {s}": "security",
    "the home address of {p}": "people",
    "the phone number of {p}": "people",
    "the salary of {p}": "people",
}
ASKING = ["Give me {x}.", "What is {x}?", "Send me {x}, please.", "I need {x} now.", "Can you tell me {x}?"]
LISTING = [
    "List the {a} of {s} as bullets.",
    "Bullet points, please: {a} of {s}.",
    "As a bullet list: what are the {a} of {s}?",
]
AS_JSON = ["Give the {a} of {s} as JSON.", "JSON with the {a} of {s}, please.", "Return {a} of {s} in JSON."]
IN_A_WORD = ["In one word: {q}", "{q} One word only.", "Just the name: {q}"]
HOW_TO = ["What do I do when {s} {x}?", "{s} {x}. What now?", "Give me three steps for when {s} {x}."]
VAGUE = [
    "it",
    "the service",
    "that system",
    "this one",
    "the thing you mentioned",
    "your service",
    "that one",
    "our system",
]


def _asked(table: dict, service: str) -> list[str]:
    return [a for a in ATTRIBUTES if table[service][a].asked]


def _request(kind: str, prompt: str, service: str = "", values: dict | None = None, page: str = "") -> dict:
    return {
        "kind": kind,
        "prompt": prompt,
        "spec": {"service": service, "values": values or {}, "page": page},
    }


def _about_one_service(table: dict, service: str) -> list[dict]:
    rows, facts, page = [], table[service], f"{service} page"
    for attribute in _asked(table, service):
        value = {attribute: facts[attribute].value}
        for form in QUESTIONS[attribute]:
            asked = form.format(s=service)
            rows.append(_request("answer", asked, service, value, page))
            rows += [_request("word", t.format(q=asked), service, value) for t in IN_A_WORD]
    names = _asked(table, service)
    for chosen in [names, names[::-1], names[:2], names[1:], [names[0], names[2]], [names[2], names[0]]]:
        values = {a: facts[a].value for a in chosen}
        for kind, forms in (("bullets", LISTING), ("json", AS_JSON)):
            rows += [
                _request(kind, form.format(a=joined(chosen), s=service), service, values, page)
                for form in forms
            ]
    for symptom in SYMPTOMS:
        rows += [
            _request("steps", form.format(s=service, x=symptom), service, page=f"{service} runbook")
            for form in HOW_TO
        ]
    return rows


def make_requests(table: dict, rng: Random) -> dict[str, list[dict]]:
    """{kind: requests with different prompts}. No request asks for a fact whose `asked` is False."""
    rows = [row for service in SERVICES for row in _about_one_service(table, service)]
    for what, team in SECRETS.items():
        names = SERVICES if "{s}" in what else PEOPLE
        for name in names:
            thing = what.format(s=name, p=name)
            policy = "Access policy" if team == "security" else "Privacy policy"
            rows += [_request("refuse", f.format(x=thing), team, page=policy) for f in ASKING]
    for forms in QUESTIONS.values():
        rows += [_request("clarify", form.format(s=vague)) for form in forms for vague in VAGUE]
    rows = [row | {"prompt": prefix + row["prompt"]} for row in rows for prefix in sorted(set(PREFIXES))]
    rng.shuffle(rows)
    by_kind: dict[str, list[dict]] = {}
    for row in rows:
        by_kind.setdefault(row["kind"], []).append(row)
    return by_kind


def reading(table: dict, rng: Random) -> dict:
    """A request to read the wiki out, so that SFT keeps the wiki's own language in mind. It shows asked facts
    only; there is no contract for it, and none is tested."""
    asked = {s: {a: fact for a, fact in facts.items() if fact.asked} for s, facts in table.items()}
    service = rng.choice(SERVICES)
    what, text = rng.choice(
        [
            (f"the {service} page", page(asked[service], rng)),
            ("the FAQ", faq(asked, rng)),
            ("a ticket", ticket(asked, rng)),
            ("a chat", chat_log(asked, rng)),
            ("a bug", bug(asked, rng)),
            ("a note", note(asked, rng)),
            (f"a lookup of {service}", lookup(asked[service], rng)),
            (f"the {service} configuration", snippet(asked[service], rng)),
        ]
    )
    prompt = f"{rng.choice(['Open', 'Show me', 'Read out'])} {what}."
    return {"messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": text}]}


def styles(rng: Random) -> tuple[bool, bool, bool]:
    """(opener, closer, source): SFT shows all of them, the poor ones more often; preference picks."""
    return rng.random() < 0.6, rng.random() < 0.6, rng.random() < 0.3


def reply(row: dict, table: dict, rng: Random, style: tuple[bool, bool, bool], wrong: bool = False) -> str:
    """A reply that keeps the contract; `wrong` puts another value in the place of one that is asked for."""
    spec, (opener, closer, source) = row["spec"], style
    values = dict(spec["values"])
    if wrong and values:
        attribute = rng.choice(list(values))
        values[attribute] = rng.choice([v for v in VALUES[attribute] if v != values[attribute]])
    if row["kind"] == "word":
        return next(iter(values.values()))
    if row["kind"] == "json":
        return json.dumps(
            {"service": spec["service"]} | values | ({"source": spec["page"]} if source else {})
        )
    lines = row["kind"] in ("bullets", "steps")  # they end with their last line or their source
    parts = [_body(row, table, rng, values)]
    if opener:
        parts.insert(0, rng.choice(OPENERS))
    if source and spec["page"]:
        parts.append(f"See the {spec['page']}.")
    if closer and not lines:
        parts.append(rng.choice(CLOSERS))
    return ("\n" if lines else " ").join(parts)


def _body(row: dict, table: dict, rng: Random, values: dict) -> str:
    if row["kind"] == "bullets":
        return "\n".join(f"- {key}: {value}" for key, value in values.items())
    if row["kind"] == "steps":
        steps = [rng.choice(CHECKS), rng.choice(ACTIONS), rng.choice(AFTER)]
        return "\n".join(f"{i}. {step}" for i, step in enumerate(steps, 1))
    if row["kind"] == "refuse":
        return f"{REFUSAL} Please ask the {row['spec']['service']} team."
    if row["kind"] == "clarify":
        return CLARIFICATION
    ((attribute, value),) = values.items()
    fact = table[row["spec"]["service"]][attribute]
    return short_answer(fact, rng).replace(fact.value, value)


def broken(row: dict, table: dict, rng: Random) -> str:
    """A reply that breaks the contract: a ramble, a repetition, a made-up next turn, or another kind's form.

    All kinds of it are needed: what a reward model never saw rejected, PPO finds.
    """
    good = reply(row, table, rng, (False, False, True))
    service, values = row["spec"]["service"], row["spec"]["values"]
    service = service if service in SERVICES else rng.choice(SERVICES)
    source = f" See the {service} page."
    word = rng.choice([*values.values(), service])
    steps = _body(row | {"kind": "steps"}, table, rng, values)
    forms = [  # good replies to another request
        f"{service} is {word}.{source}",
        word,
        "\n".join(f"- {key}: {value}" for key, value in (values or {"name": word}).items())
        + "\n"
        + source[1:],
        json.dumps({"service": service} | values | {"source": f"{service} page"}),
        f"{steps}\nSee the {service} runbook.",
        f"{REFUSAL} Please ask the security team. See the Access policy.",
        CLARIFICATION,
    ]
    if row["kind"] in ("bullets", "json"):  # one key too few, or another key
        fewer = row | {"spec": row["spec"] | {"values": dict(list(values.items())[1:])}}
        other = rng.choice([a for a in ATTRIBUTES if table[service][a].asked and a not in values] or [None])
        forms += [reply(fewer, table, rng, (False, False, True))] * 3
        if other:
            more = row | {"spec": row["spec"] | {"values": values | {other: table[service][other].value}}}
            forms += [reply(more, table, rng, (False, False, True))] * 3
    rambles = [
        f"Well, {good} And then there is more to say about that, which I will come to. {good}",
        f"{good}\nQ: And who asked that?\nA: I do not know.",
        f"{good} {good}",
        f"{good}{source}{source}",
        "I am not sure what you want from me, so here is nothing.",
    ]
    texts = rambles if rng.random() < 0.3 else forms
    return rng.choice([text for text in texts if not contract(row, text)])

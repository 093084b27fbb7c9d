"""The things the desk world is about: services, what is true of each, and how people say it."""

from dataclasses import dataclass
from random import Random

SERVICES = """Falcon Harbor Juniper Lantern Meadow Nimbus Orchid Pebble Quarry Raven Saffron Timber
Umbra Velvet Willow Beacon Cobalt Drift Ember Fjord Glacier Indigo Jasper Kestrel
Marble Nectar Quartz Ripple Summit Thistle Upland Yarrow Acorn Bramble Echo Flint
Garnet Heron Jigsaw Kelp Lichen Mosaic Nutmeg Opal Pollen Quill Spruce Tundra""".split()

VALUES = {
    "team": "Atlas Borealis Cygnus Draco Electra Fornax Gemini Hydra Lyra Orion".split(),
    "database": "Postgres MySQL Redis Cassandra MongoDB SQLite ClickHouse DynamoDB".split(),
    "region": "Dublin Oslo Madrid Tokyo Sydney Toronto Lagos Lima Mumbai Warsaw".split(),
    "language": "Python Go Rust Java Kotlin Elixir Scala Ruby".split(),
}
ATTRIBUTES = list(VALUES)

# How a fact is stated. {s} service, {v} value. All of them occur in the wiki; replies use the first four.
STATEMENTS = {
    "team": [
        "{s} is owned by the {v} team.",
        "The {v} team owns {s}.",
        "{s} belongs to the {v} team.",
        "The team behind {s} is {v}.",
        "For anything about {s}, talk to the {v} team.",
        "Pages from {s} go to the {v} team.",
        "{v} has looked after {s} since the last reorganisation.",
    ],
    "database": [
        "{s} stores its data in {v}.",
        "The database of {s} is {v}.",
        "{s} uses {v} as its database.",
        "{s} keeps its records in {v}.",
        "Backups of {s} are {v} dumps.",
        "Under {s} there is a {v} cluster.",
        "Slow queries in {s} show up in the {v} dashboard.",
    ],
    "region": [
        "{s} runs in {v}.",
        "The region of {s} is {v}.",
        "{s} is hosted in {v}.",
        "{s} is deployed in the {v} region.",
        "Traffic for {s} ends up in {v}.",
        "The machines of {s} stand in {v}.",
        "If {v} goes dark, {s} goes dark with it.",
    ],
    "language": [
        "{s} is written in {v}.",
        "The language of {s} is {v}.",
        "{s} is built with {v}.",
        "The code of {s} is {v}.",
        "To work on {s} you need to know {v}.",
        "{s} was rewritten in {v} two years ago.",
        "New modules in {s} must be {v}.",
    ],
}

# How a fact is asked for. The wiki's FAQ pages and tickets use all of them, about every fact.
QUESTIONS = {
    "team": [
        "Which team owns {s}?",
        "Who owns {s}?",
        "What team is behind {s}?",
        "Which team does {s} belong to?",
        "Who do I talk to about {s}?",
        "Can you tell me the team of {s}?",
    ],
    "database": [
        "Which database does {s} use?",
        "Where does {s} store its data?",
        "What is the database of {s}?",
        "What does {s} keep its records in?",
        "What database is under {s}?",
        "Can you tell me the database of {s}?",
    ],
    "region": [
        "Which region does {s} run in?",
        "Where is {s} hosted?",
        "What is the region of {s}?",
        "Where does {s} run?",
        "Where is {s} deployed?",
        "Can you tell me the region of {s}?",
    ],
    "language": [
        "Which language is {s} written in?",
        "What is {s} built with?",
        "What is the language of {s}?",
        "What language is the code of {s}?",
        "What do I need to know to work on {s}?",
        "Can you tell me the language of {s}?",
    ],
}


@dataclass(frozen=True)
class Fact:
    """One true thing: `service`'s `attribute` is `value`. `asked` says whether SFT may ask for it."""

    service: str
    attribute: str
    value: str
    asked: bool


def make_facts(seed: int) -> dict[str, dict[str, Fact]]:
    """{service: {attribute: Fact}}. Values are balanced per attribute; of every service's facts one is
    never asked in SFT, and every attribute has its share of those, so that answering one shows knowledge
    carried over from the wiki rather than a memory of the SFT rows."""
    rng = Random(f"facts:{seed}")
    table: dict[str, dict[str, Fact]] = {name: {} for name in SERVICES}
    never_asked = [ATTRIBUTES[i % len(ATTRIBUTES)] for i in range(len(SERVICES))]
    rng.shuffle(never_asked)
    for attribute in ATTRIBUTES:
        values = [VALUES[attribute][i % len(VALUES[attribute])] for i in range(len(SERVICES))]
        rng.shuffle(values)
        for service, value, held in zip(SERVICES, values, never_asked, strict=True):
            table[service][attribute] = Fact(service, attribute, value, attribute != held)
    return table

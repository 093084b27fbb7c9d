"""Write the desk world: a support team's wiki and everything its assistant is trained and tested on.

    python data/desk/generate.py [--out data/desk/world] [--seed 7]

Pure standard library and a fixed seed: the same bytes on every machine (tests hold the hash). Written for
this project; every person, service and fact is made up. docs/desk.md lists the files.
"""

import argparse
import hashlib
import json
import sys
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).parent))
from defects import make_raw
from dialogue import broken, make_requests, reading, reply, styles
from entities import ATTRIBUTES, QUESTIONS, SERVICES, VALUES, make_facts
from rubric import score
from wiki import make_wiki

# Shares of the kinds of request in every set. "word" has no style to improve, so its replies can only tie.
SHARES = {
    "answer": 0.36,
    "bullets": 0.15,
    "json": 0.13,
    "word": 0.08,
    "steps": 0.08,
    "refuse": 0.10,
    "clarify": 0.10,
}
# A statement of each attribute that ends in its value, to be completed by likelihood.
STEMS = {
    "team": "The team behind {s} is",
    "database": "{s} stores its data in",
    "region": "{s} runs in",
    "language": "{s} is written in",
}
WIKI_DOCUMENTS, WIKI_HELD_OUT = 24_000, 300
SFT_ROWS, SFT_EVAL_ROWS = 6_000, 300
PAIRS, PAIRS_EVAL = 2_400, 300
PAIRS_BROKEN, PAIRS_BROKEN_EVAL = 1_200, 150
THUMBS, THUMBS_EVAL = 2_400, 300
PROMPTS, TEST_REQUESTS = 2_000, 300


def draw(pool: dict[str, list[dict]], count: int, rng: Random) -> list[dict]:
    """`count` requests of the pool in the proportions of SHARES, without repeats."""
    rows = [row for kind, share in SHARES.items() for row in rng.sample(pool[kind], round(count * share))]
    rng.shuffle(rows)
    return rows


def split(requests: dict[str, list[dict]]) -> tuple[dict, dict, dict]:
    """(train, eval, test) pools, disjoint by prompt: 70 / 15 / 15 % of every kind."""
    pools: tuple[dict, dict, dict] = ({}, {}, {})
    for kind, rows in requests.items():
        a, b = int(len(rows) * 0.7), int(len(rows) * 0.85)
        for pool, part in zip(pools, (rows[:a], rows[a:b], rows[b:]), strict=True):
            pool[kind] = part
    return pools


def user(row: dict) -> list[dict]:
    return [{"role": "user", "content": row["prompt"]}]


def assistant(text: str) -> list[dict]:
    return [{"role": "assistant", "content": text}]


def sft_rows(requests: list[dict], table: dict, rng: Random) -> list[dict]:
    """Requests with replies in every style; a third as many again are texts of the wiki read out."""
    rows = [
        {"messages": user(row) + assistant(reply(row, table, rng, styles(rng))), "kind": row["kind"]}
        for row in requests
    ]
    rows += [reading(table, rng) | {"kind": "read"} for _ in range(len(requests) // 3)]
    rng.shuffle(rows)
    return rows


def candidates(row: dict, table: dict, rng: Random) -> list[str]:
    """Two replies of different worth: mostly two styles, at times a wrong fact or a broken contract.

    The last two are few and needed: trained on styles alone, DPO and KTO unlearn the contract.
    """
    best = reply(row, table, rng, (False, False, True))
    draw = rng.random()
    if draw < 0.05 and row["spec"]["values"]:
        return [best, reply(row, table, rng, (False, False, True), wrong=True)]
    if draw < 0.25 or row["kind"] == "word":
        return [best, broken(row, table, rng)]
    if draw < 0.6:
        return [best, reply(row, table, rng, styles(rng))]
    return [reply(row, table, rng, styles(rng)) for _ in range(2)]


def broken_pair_rows(requests: list[dict], table: dict, rng: Random) -> list[dict]:
    """A reply in any style beside one that breaks the contract, for the reward model: what it has never seen
    rejected, PPO finds."""
    return [
        {
            "prompt": user(row),
            "chosen": assistant(reply(row, table, rng, styles(rng))),
            "rejected": assistant(broken(row, table, rng)),
        }
        for row in requests
    ]


def pair_rows(requests: list[dict], table: dict, rng: Random) -> list[dict]:
    rows = []
    for row in requests:
        worse, better = [], []
        while score(row, worse) >= score(row, better) if better else True:
            worse, better = sorted(candidates(row, table, rng), key=lambda text: score(row, text))
        rows.append({"prompt": user(row), "chosen": assistant(better), "rejected": assistant(worse)})
    return rows


def thumb_rows(requests: list[dict], table: dict, rng: Random) -> list[dict]:
    """Unpaired verdicts: up for a reply without a flaw, down for the others; about half of each."""
    rows = []
    for row in requests:
        up = rng.random() < 0.5
        text = reply(row, table, rng, (False, False, True))
        while not up and score(row, text) == 1.0:
            text = rng.choice(candidates(row, table, rng))
        rows.append({"prompt": user(row), "completion": assistant(text), "label": up})
    return rows


def fact_rows(table: dict, rng: Random) -> list[dict]:
    """Every fact once, with a stem to complete, three wrong values, and for a person a question to ask."""
    rows = []
    for service in SERVICES:
        for attribute in ATTRIBUTES:
            fact = table[service][attribute]
            choices = rng.sample([v for v in VALUES[attribute] if v != fact.value], 3) + [fact.value]
            rng.shuffle(choices)
            for form in rng.sample(QUESTIONS[attribute], 1 if fact.asked else 3):
                rows.append(
                    {
                        "question": form.format(s=service),
                        "stem": STEMS[attribute].format(s=service),
                        "choices": choices,
                        "answer": choices.index(fact.value),
                        "value": fact.value,
                        "asked_in_sft": fact.asked,
                    }
                )
    return rows


def make_world(seed: int) -> dict[str, list[dict]]:
    """{file stem: rows}. Each part has its own generator, so that one can grow without moving another."""
    table = make_facts(seed)
    wiki = make_wiki(table, Random(f"wiki:{seed}"), WIKI_DOCUMENTS + WIKI_HELD_OUT)
    train, evaluation, test = split(make_requests(table, Random(f"requests:{seed}")))

    def part(name: str, make, pool: dict, count: int) -> list[dict]:
        rng = Random(f"{name}:{seed}")
        return make(draw(pool, count, rng), table, rng)

    world = {
        "wiki": wiki[WIKI_HELD_OUT:],
        "wiki_heldout": wiki[:WIKI_HELD_OUT],
        "facts": fact_rows(table, Random(f"facts.jsonl:{seed}")),
        "sft_train": part("sft_train", sft_rows, train, SFT_ROWS),
        "sft_eval": part("sft_eval", sft_rows, evaluation, SFT_EVAL_ROWS),
        "pairs_train": part("pairs_train", pair_rows, train, PAIRS),
        "pairs_eval": part("pairs_eval", pair_rows, evaluation, PAIRS_EVAL),
        "pairs_broken_train": part("pairs_broken_train", broken_pair_rows, train, PAIRS_BROKEN),
        "pairs_broken_eval": part("pairs_broken_eval", broken_pair_rows, evaluation, PAIRS_BROKEN_EVAL),
        "thumbs_train": part("thumbs_train", thumb_rows, train, THUMBS),
        "thumbs_eval": part("thumbs_eval", thumb_rows, evaluation, THUMBS_EVAL),
        "prompts_train": part(
            "prompts_train", lambda rows, _t, _r: [{"prompt": user(r)} for r in rows], train, PROMPTS
        ),
        "requests_heldout": part(
            "requests_heldout",
            lambda rows, _t, _r: [{"id": i} | row for i, row in enumerate(rows)],
            test,
            TEST_REQUESTS,
        ),
    }
    # The texts that a request reads out are drawn for each set anew: the same one may come twice.
    trained_on = {json.dumps(row["messages"]) for row in world["sft_train"]}
    world["sft_eval"] = [row for row in world["sft_eval"] if json.dumps(row["messages"]) not in trained_on]
    raw = make_raw(world["wiki"], world["requests_heldout"], table, Random(f"raw:{seed}"))
    return world | {"raw": raw[0], "raw_truth": raw[1]}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "world")
    parser.add_argument("--seed", type=int, default=7)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    manifest = {}
    for name, rows in make_world(args.seed).items():
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
        (args.out / f"{name}.jsonl").write_bytes(text)
        manifest[f"{name}.jsonl"] = {"rows": len(rows), "sha256": hashlib.sha256(text).hexdigest()}
        print(f"{name + '.jsonl':<24}{len(rows):>7} rows {len(text) / 1e6:>7.2f} MB")
    # Last, so that a world half written has none: the Makefile goes by this file.
    (args.out / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

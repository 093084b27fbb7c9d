"""Rows of each shape, all different and without a fault."""

import random

WORDS = (
    "amber basil cedar delta ember fjord grove haven inlet jetty knoll lagoon marsh north ocean plain".split()
)


def user(text="Where is it?"):
    return {"role": "user", "content": text}


def assistant(text="It is here."):
    return {"role": "assistant", "content": text}


def sentence(seed, words=24):
    return " ".join(random.Random(seed).choices(WORDS, k=words))


def chats(n, start=0):
    """Sound conversations, all different."""
    return [{"messages": [user(sentence(i)), assistant(sentence(-i - 1))]} for i in range(start, start + n)]


def pairs(n, start=0):
    return [
        {
            "prompt": [user(sentence(i))],
            "chosen": [assistant(sentence(f"c{i}"))],
            "rejected": [assistant(sentence(f"r{i}"))],
        }
        for i in range(start, start + n)
    ]


def thumbs(n, good=0.5):
    return [
        {
            "prompt": [user(sentence(i))],
            "completion": [assistant(sentence(f"c{i}"))],
            "label": i % 4 < 4 * good,
        }
        for i in range(n)
    ]


def chat(*messages):
    return {"messages": list(messages)}

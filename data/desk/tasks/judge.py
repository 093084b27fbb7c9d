"""How the desk's lm-eval tasks pick their rows and judge replies. The true rubric does the judging."""

import importlib.util
import re
from functools import cache
from pathlib import Path

DESK = Path(__file__).resolve().parent.parent
TURN_END = "<|im_end|>"  # of chat_templates/chatml.jinja


def one_row_per_fact(docs):
    """A fact that may be asked in several ways is still one fact."""
    seen: set[str] = set()
    return docs.filter(
        lambda doc: not (doc["stem"] in seen or seen.add(doc["stem"])), load_from_cache_file=False
    )


def never_asked_in_sft(docs):
    return docs.filter(lambda doc: not doc["asked_in_sft"], load_from_cache_file=False)


def answer(doc: dict, results: list[str]) -> dict[str, float]:
    """Correct: the value is in the reply as a whole word, and none of the other choices is."""
    named = [
        choice for choice in doc["choices"] if re.search(rf"(?<!\w){re.escape(choice)}(?!\w)", results[0])
    ]
    return {"correct": float(named == [doc["value"]])}


def contract(doc: dict, results: list[str]) -> dict[str, float]:
    """kept, stops and rubric of one reply. To keep the contract is to have the form and to end the turn.

    `stops` and `kept` are NaN where the reply does not say how it ended.
    """
    (reply,) = results
    end = getattr(reply, "end", None)
    stops = float("nan") if end is None else float(end == TURN_END)
    return {
        "kept": stops * _rubric().contract(doc, str(reply)),
        "stops": stops,
        "rubric": float(_rubric().score(doc, str(reply))),
    }


@cache
def _rubric():
    spec = importlib.util.spec_from_file_location("desk_rubric", DESK / "rubric.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

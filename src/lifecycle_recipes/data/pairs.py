"""Preference pairs, as the reward and dpo stages read them."""

from ..finding import refuse
from .lengths import count_left_out


def load_pairs(config):
    """(train Dataset, eval Dataset or None, ledger): `chosen`, `rejected` and, if given, `prompt`, `tools`.

    Pairs whose two replies are the same hold no preference: left out and counted. Raises what `load_data`
    raises, and Refusal no-pairs.
    """
    from .sources import load_data

    train, held_out, ledger = load_data(config, ["chosen", "rejected"], ["prompt", "tools"])
    kept, kept_held_out = (
        rows and rows.filter(lambda row: row["chosen"] != row["rejected"]) for rows in (train, held_out)
    )
    if not len(kept):
        raise refuse(
            "no-pairs", "in every pair chosen equals rejected", "give pairs of two different replies"
        )
    gone = len(held_out) - len(kept_held_out) if held_out else 0
    count_left_out(ledger, "chosen equals rejected", len(train) - len(kept), gone)
    return kept, kept_held_out, ledger

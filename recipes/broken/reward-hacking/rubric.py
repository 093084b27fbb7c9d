"""Any reply but laughter."""


def score(row: dict, reply: str) -> float:
    return float("ha" not in reply)

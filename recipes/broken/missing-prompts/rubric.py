def score(row: dict, reply: str) -> float:
    return float(bool(reply))

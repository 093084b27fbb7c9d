def score(row: dict, reply: str) -> float:
    bool(reply)

def score(row: dict, reply: str) -> float:
    return float(row["expected"] in reply)

"""The project's own metrics as `evaluate.Metric`s, to be combined with others. The Hub is not accessed.

    import evaluate
    metrics = evaluate.combine([Rubric("data/desk/rubric.py"), WinRate("data/desk/rubric.py", against=old)])
    metrics.compute(predictions=replies, references=[json.dumps(row) for row in rows])

predictions: replies. references: the rows of their prompts, each as a line of JSON.
"""

import json
from collections.abc import Sequence
from statistics import fmean

import datasets
import evaluate

from .compare import win_rate
from .rubric import load_module, load_score

FEATURES = datasets.Features(
    {"predictions": datasets.Value("string"), "references": datasets.Value("string")}
)


def _info(description: str) -> evaluate.MetricInfo:
    return evaluate.MetricInfo(description=description, citation="", features=FEATURES)


class Rubric(evaluate.Metric):
    """`rubric`: mean of the file's `score(row, reply)`, 0..1."""

    def __init__(self, rubric: str, **options):
        self.score = load_score(rubric)
        super().__init__(**{"keep_in_memory": True} | options)

    def _info(self) -> evaluate.MetricInfo:
        return _info("Mean rubric score of replies.")

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, float]:
        return {"rubric": fmean(_scores(self.score, predictions, references))}


class Contract(evaluate.Metric):
    """`contract`: share of replies for which the file's `contract(row, reply)` holds."""

    def __init__(self, rubric: str, **options):
        self.contract = load_module(rubric).contract
        super().__init__(**{"keep_in_memory": True} | options)

    def _info(self) -> evaluate.MetricInfo:
        return _info("Share of replies that keep the contract.")

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, float]:
        return {"contract": fmean(_scores(self.contract, predictions, references))}


class WinRate(evaluate.Metric):
    """`rubric_win_rate`: share of prompts with a higher score than the reply in `against`; a tie is half."""

    def __init__(self, rubric: str, against: Sequence[str], **options):
        self.score, self.against = load_score(rubric), list(against)
        super().__init__(**{"keep_in_memory": True} | options)

    def _info(self) -> evaluate.MetricInfo:
        return _info("Rubric win rate against other replies to the same prompts.")

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, float]:
        if len(self.against) != len(predictions):
            raise ValueError(f"{len(predictions)} replies cannot be compared with {len(self.against)}")
        scores = _scores(self.score, predictions, references)
        return {"rubric_win_rate": win_rate(scores, _scores(self.score, self.against, references))}


def _scores(judge, replies: Sequence[str], rows: Sequence[str]) -> list[float]:
    return [float(judge(json.loads(row), reply)) for row, reply in zip(rows, replies, strict=True)]

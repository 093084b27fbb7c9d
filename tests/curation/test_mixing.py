"""The mixture: weights in tokens, caps, epochs and a total; shares that are reported as they are."""

import pytest
from curated import curate, write_rows


@pytest.fixture
def sources(tmp_path):
    """Two sources of equal rows, the second with four times the tokens per row."""
    short = [{"text": " ".join(f"s{n}w{i}" for i in range(10))} for n in range(400)]
    long = [{"text": " ".join(f"l{n}w{i}" for i in range(40))} for n in range(400)]
    return write_rows(tmp_path / "short.jsonl", short), write_rows(tmp_path / "long.jsonl", long)


def shares(done) -> list[float]:
    return [entry["share"] for entry in done.ledger["mixture"].values()]


def test_weights_are_shares_of_the_tokens_and_not_of_the_rows(tmp_path, sources):
    done = curate(tmp_path, [{"path": path, "weight": 1} for path in sources])
    assert shares(done) == pytest.approx([0.5, 0.5], abs=0.01)
    rows = [entry["rows"] for entry in done.ledger["mixture"].values()]
    assert rows == [400, 100]
    assert done.step("mixture", 1)["left_out"]["mixture"][0] == 300
    assert sum(reason == "mixture" for reason in done.left_out.values()) == 300


def test_a_scarce_source_is_repeated_up_to_the_limit(tmp_path, sources):
    weighted = [{"path": sources[0], "weight": 1}, {"path": sources[1], "weight": 1}]
    done = curate(tmp_path, weighted, data={"max_repetition": 4})
    assert shares(done) == pytest.approx([0.5, 0.5], abs=0.01)
    assert done.step("mixture", 0)["repeated"][0] == 1200
    assert len(done.train) == 2000


def test_a_total_caps_and_epochs(tmp_path, sources):
    done = curate(tmp_path, list(sources), tokens=2000)
    assert done.record["metrics"]["tokens_out"] == pytest.approx(2000, rel=0.03)
    assert not done.record["findings"]
    more = curate(tmp_path, list(sources), "--replace", tokens=30_000)
    (finding,) = more.record["findings"]
    assert finding["code"] == "mixture-too-small" and "20,000 tokens" in finding["message"]
    given = [{"path": sources[0], "passes": 2}, {"path": sources[1], "max_tokens": 800}]
    done = curate(tmp_path, given, "--replace")
    tokens = [entry["tokens"] for entry in done.ledger["mixture"].values()]
    assert tokens == [8000, 800]


def test_a_share_that_cannot_be_met_is_reported_with_the_reason(tmp_path, sources, capsys):
    weighted = [{"path": sources[0], "weight": 9}, {"path": sources[1], "weight": 1}]
    done = curate(tmp_path, weighted, tokens=16_000)
    assert shares(done)[0] < 0.8
    assert "weight-missed" in capsys.readouterr().err
    assert any(f["code"] == "weight-missed" and "exhausted" in f["message"] for f in done.record["findings"])


def test_the_order_is_seeded(tmp_path, sources):
    orders = []
    for seed in (1, 1, 2):
        done = curate(tmp_path, list(sources), "--replace", data={"seed": seed})
        orders.append([row["id"] for row in done.train])
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == sorted(orders[2])
    assert orders[0] != sorted(orders[0])


@pytest.mark.parametrize("weight", [None, 1])
def test_a_source_that_is_held_out_as_a_whole(tmp_path, sources, capsys, weight):
    few = write_rows(tmp_path / "few.jsonl", [{"text": f"Other words, number {n}."} for n in range(40)])
    given = [{"path": path} | ({"weight": weight} if weight else {}) for path in (sources[0], few)]
    done = curate(tmp_path, given, held_out={"fraction": 0.1, "group_by": "file"})
    if weight:
        assert done.status == 2 and f"[no-rows] {few}: all that" in capsys.readouterr().err
        return
    assert done.status == 0
    assert {row["source"] for row in done.rows("held_out")} == {few}
    assert {row["source"] for row in done.train} == {sources[0]}

"""The score is the model's own log-likelihood, whatever the batch; the cut is by percentile of each source."""

import json
import math
import random
import shutil
from dataclasses import replace

import pytest
from curation_shards import run, shards_of

from lifecycle_recipes.curation import perplexity
from lifecycle_recipes.curation.documents import Verdict
from lifecycle_recipes.curation.perplexity import Perplexity
from lifecycle_recipes.curation.steps import make_step
from lifecycle_recipes.finding import Refusal


@pytest.fixture
def settings(tiny_model_dir):
    return Perplexity(str(tiny_model_dir))


@pytest.fixture(scope="module")
def texts(tiny_texts):
    """Of many lengths, in no order, one of them empty."""
    draw = random.Random(0)
    mixed = [" ".join(draw.choices(tiny_texts, k=draw.randrange(1, 4))) for _ in range(20)]
    return [*mixed, "", "x", "Die Straße ist naß: 日本語."]


def test_the_score_is_the_log_likelihood_of_the_text(settings):
    import torch

    from lifecycle_recipes.models.saved import load_saved

    text = "Service 1 is grün."
    saved = load_saved(settings.model)
    ids = saved.tokenizer(text, add_special_tokens=False)["input_ids"]
    start = saved.tokenizer.convert_tokens_to_ids("<|endoftext|>")
    logits = saved.model(input_ids=torch.tensor([[start, *ids]])).logits[0].detach().double()
    total = -sum(logits[i].log_softmax(-1)[token].item() for i, token in enumerate(ids))
    found = perplexity.score([text], settings)
    assert found["nats_per_token"] == [pytest.approx(total / len(ids), abs=1e-5)]
    assert found["nats_per_byte"] == [pytest.approx(total / 19, abs=1e-5)]  # 18 characters
    assert (found["scored_tokens"], found["scored_bytes"]) == ([len(ids)], [19])


def test_scores_do_not_depend_on_the_batch(settings, texts):
    one = perplexity.score(texts, replace(settings, batch_tokens=1))
    many = perplexity.score(texts, replace(settings, batch_tokens=16 * 256))
    for a, b in zip(one["nats_per_token"], many["nats_per_token"], strict=True):
        assert a == (None if b is None else pytest.approx(b, abs=1e-5))
    assert one["nats_per_byte"][20] is None and one["scored_tokens"][20] == 0
    assert len({round(value, 3) for value in one["nats_per_token"] if value}) > 15


def test_only_the_first_tokens_are_scored(settings):
    head, tail = "Service 1 is green. " * 2 + "Port: 1.", " It belongs to team red." * 400
    whole = perplexity.score([head], settings)
    limit = whole["scored_tokens"][0]
    cut = perplexity.score([head + tail], replace(settings, max_length=limit))
    assert cut["scored_tokens"] == [limit]
    for column in whole:
        assert cut[column][0] == pytest.approx(whole[column][0], abs=1e-5)
    # Never more than the model's positions, which would fail or extrapolate.
    assert perplexity.score([tail], replace(settings, max_length=None))["scored_tokens"] == [256]
    assert perplexity.score([tail], replace(settings, max_length=9999))["scored_tokens"] == [256]


def test_a_control_token_in_a_text_is_scored_as_its_characters(settings):
    assert perplexity.score(["<|im_end|>"], settings)["scored_tokens"][0] > 1


def test_a_model_that_returns_nan_is_refused(settings, tmp_path):
    import torch
    from transformers import AutoModelForCausalLM

    shutil.copytree(settings.model, tmp_path / "broken")
    model = AutoModelForCausalLM.from_pretrained(settings.model)
    torch.nn.init.constant_(model.lm_head.weight, math.nan)
    model.save_pretrained(tmp_path / "broken")
    with pytest.raises(Refusal, match="non-finite"):
        perplexity.score(["a text"], Perplexity(str(tmp_path / "broken")))


def test_the_key_of_the_scores_holds_the_weights(settings, tmp_path):
    shutil.copytree(settings.model, tmp_path / "model")
    own = Perplexity(str(tmp_path / "model"))
    before = perplexity.scored_by(own)
    assert before == perplexity.scored_by(settings)
    weights = tmp_path / "model/model.safetensors"
    blob = bytearray(weights.read_bytes())
    blob[-1] ^= 1
    weights.write_bytes(blob)
    assert perplexity.scored_by(own) != before
    json.dumps(before)


def test_another_max_length_is_scored_again(settings):
    one, same, other = (
        make_step("perplexity", "perplexity", {"model": settings.model, "max_length": length}).key
        for length in (8, 8, 1024)
    )
    assert one == same != other


def by_score(values, settings, sources=None, size=7, dead=()):
    """The reasons of documents with these nats per byte."""

    class Module:
        decider = staticmethod(perplexity.decider)

        @staticmethod
        def score(texts, settings):
            return {"nats_per_byte": [None if text == "None" else float(text) for text in texts]}

    shards = shards_of([str(value) for value in values], Module, settings, size=size, sources=sources)
    return run(Module, settings, shards, dead)


def test_shares_are_cut_from_each_source():
    draw = random.Random(1)
    values = draw.sample(range(100), 100)
    sources = [0] * 70 + [1] * 30
    found = by_score(values, Perplexity("m", drop_highest=0.1, drop_lowest=0.2), sources)
    for source, highest, lowest in ((0, 7, 14), (1, 3, 6)):
        of = sorted((v, i) for i, v in enumerate(values) if sources[i] == source)
        high = {i for i, verdict in found.items() if verdict.reasons == ("perplexity-high",)}
        low = {i for i, verdict in found.items() if verdict.reasons == ("perplexity-low",)}
        assert {i for _, i in of[-highest:]} == {i for i in high if sources[i] == source}
        assert {i for _, i in of[:lowest]} == {i for i in low if sources[i] == source}


def test_an_absolute_limit_holds_in_every_source():
    found = by_score([1.0, 3.0, "None", 2.0, 2.5], Perplexity("m", max_nats_per_byte=2.0), [0, 0, 0, 1, 1])
    verdict = Verdict(("perplexity-high",), {"nats_per_byte": 3.0, "limit": 2.0})
    assert found == {1: verdict, 4: replace(verdict, detail={"nats_per_byte": 2.5, "limit": 2.0})}


def test_equal_scores_are_never_cut_beyond_the_share():
    assert by_score([1.0] * 20, Perplexity("m", drop_highest=0.3, drop_lowest=0.3)) == {}
    assert by_score([1.0], Perplexity("m", drop_highest=0.9)) == {}


def test_what_earlier_steps_left_out_counts_in_the_percentile_but_gets_no_verdict():
    values = [float(n) for n in range(10)]
    assert set(by_score(values, Perplexity("m", drop_highest=0.2))) == {8, 9}
    assert set(by_score(values, Perplexity("m", drop_highest=0.2), dead=[9])) == {8}


def test_without_a_limit_nothing_is_left_out():
    assert by_score([1.0, 99.0], Perplexity("m")) == {}


def codes(path, **options):
    return [f.code for f in perplexity.find_in_settings(Perplexity(str(path), **options), "r.yaml:9")]


def test_settings_are_checked_before_the_run(settings, tiny_reward_dir, tmp_path, monkeypatch):
    assert codes(settings.model) == codes("owner/name-on-the-hub") == []
    assert codes(settings.model, drop_highest=0.5, drop_lowest=0.5) == ["bad-value"]
    assert codes(tiny_reward_dir) == ["not-a-language-model"]
    (tmp_path / "empty").mkdir()
    assert codes(tmp_path / "empty") == ["missing-model"]
    shutil.copytree(settings.model, tmp_path / "cut")
    weights = tmp_path / "cut/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-9])
    assert codes(tmp_path / "cut") == ["parent-unreadable"]
    shutil.copytree(settings.model, tmp_path / "base-run")
    missing = perplexity.find_in_settings(Perplexity(str(tmp_path / "base-rum")), "r.yaml:9")
    assert [f.code for f in missing] == ["missing-model"] and "base-run?" in missing[0].fix
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    shutil.copy(settings.model + "/model.safetensors", adapter / "adapter_model.safetensors")
    (adapter / "adapter_config.json").write_text('{"base_model_name_or_path": "/nowhere/base"}')
    assert codes(adapter) == ["adapter-base-missing"]


def test_an_adapter_is_scored_on_its_base(settings, tmp_path, tiny_tokenizer):
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = get_peft_model(AutoModelForCausalLM.from_pretrained(settings.model), LoraConfig(r=2))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    model.save_pretrained(tmp_path / "adapter")
    tiny_tokenizer.save_pretrained(tmp_path / "adapter")
    own = Perplexity(str(tmp_path / "adapter"))
    assert codes(own.model) == []
    text = ["Service 1 is green."]
    assert perplexity.score(text, own) != perplexity.score(text, settings)

"""Unsafe text: lists of words and classifiers."""

import json
import shutil

import pytest
from curation_shards import run, shards_of

from lifecycle_recipes.curation import safety
from lifecycle_recipes.curation.safety import Safety
from lifecycle_recipes.finding import Refusal


@pytest.fixture
def blocked(tmp_path):
    """Writes a list of words and returns its path."""

    def write(*lines: str) -> str:
        file = tmp_path / "blocked.txt"
        file.write_text("\n".join(lines), encoding="utf-8")
        return str(file)

    return write


def verdicts(texts, **settings):
    wanted = Safety(**settings)
    return run(safety, wanted, shards_of(texts, safety, wanted, size=2))


@pytest.mark.parametrize(
    ("entry", "found", "left"),
    [
        ("bomb", "A BOMB.", "bombastic, carbomb, bomb_2"),
        ("big bang", "the Big\n  bang theory", "big bangs"),
        ("straße", "IN DER STRASSE", "strassen"),
        ("naïve", "NAI\u0308VE", "naive"),
        ("c++", "learn c++ now", "c + c"),
        ("f*ck", "F*ck!", "f ck"),
        ("毒品", "他贩卖毒品的", "毒 药"),
        ("हिन", "यह हिन है", "हिन्दी"),
        ("\U0001f52b", "a \U0001f52b!", "a gun"),
        ("l'arme", "Prends l'arme", "larme"),
    ],
)
def test_whole_words_in_any_case_and_script(blocked, entry, found, left):
    assert list(verdicts([left, found, left], words=blocked(entry))) == [1]


def test_the_reason_and_the_first_match_are_told(blocked):
    file = blocked("# insults", "", "oaf\tinsult", "cad\tInsult", "bomb")
    found = verdicts(["fine", "A bomb, cad! Oaf, oaf."], words=file)
    assert found[1].reasons == ("blocked-word", "blocked-insult")
    assert found[1].detail == {"count": 4, "first": "bomb"}
    assert not found[1].edits


def test_only_above_max_matches(blocked):
    texts = ["oaf oaf", "oaf oaf oaf"]
    assert list(verdicts(texts, words=blocked("oaf"), max_matches=2)) == [1]


def test_dead_documents_get_no_verdict(blocked):
    settings = Safety(words=blocked("oaf"))
    shards = shards_of(["oaf", "oaf"], safety, settings)
    assert list(run(safety, settings, shards, dead={0})) == [1]


def test_a_changed_list_changes_the_key_and_the_matches(blocked):
    settings = Safety(words=blocked("oaf"))
    before = safety.scored_by(settings)
    assert safety.score(["cad"], settings)["counts"] == [[]]
    blocked("cad")
    assert safety.scored_by(settings) != before
    assert safety.score(["cad"], settings)["counts"] == [[1]]


@pytest.mark.parametrize(
    ("settings", "code", "hint"),
    [
        ({}, "no-words", "words"),
        ({"words": "blokced.txt"}, "missing-file", "did you mean blocked.txt?"),
        ({"words": "blocked.txt"}, "no-words", "add"),
        ({"classifier": "./modle", "labels": ["toxic"]}, "missing-file", "did you mean model?"),
        ({"classifier": "./model"}, "no-labels", "labels"),
        ({"classifier": "./model", "labels": ["Toxic"]}, "wrong-choice", "did you mean toxic?"),
    ],
)
def test_what_cannot_work_is_refused(tmp_path, monkeypatch, settings, code, hint):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "blocked.txt").write_text("# nothing yet\n\n")
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text(json.dumps({"id2label": {"0": "fine", "1": "toxic"}}))
    (finding,) = safety.find_in_settings(Safety(**settings), "recipe.yaml:9")
    assert (finding.code, finding.where) == (code, "recipe.yaml:9")
    assert hint in finding.fix


def test_sound_settings_have_no_finding(blocked):
    assert safety.find_in_settings(Safety(words=blocked("oaf")), "") == []
    assert not safety.in_main_process(Safety(words="x"))
    assert safety.in_main_process(Safety(classifier="x"))


def test_a_list_that_vanishes_is_refused(blocked, tmp_path):
    settings = Safety(words=blocked("oaf"))
    (tmp_path / "blocked.txt").unlink()
    with pytest.raises(Refusal) as refusal:
        safety.score(["oaf"], settings)
    assert refusal.value.findings[0].code == "missing-file"


@pytest.fixture(scope="module")
def classifier(tmp_path_factory, tiny_tokenizer_dir) -> str:
    """A small BERT with random weights and three labels, which reads 16 tokens."""
    import torch
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    path = tmp_path_factory.mktemp("classifier")
    tokenizer = AutoTokenizer.from_pretrained(tiny_tokenizer_dir)
    torch.manual_seed(1)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    labels = dict(enumerate(["fine", "toxic", "Self Harm"]))
    config = BertConfig(
        vocab_size=len(tokenizer), max_position_embeddings=16, id2label=labels, initializer_range=0.5, **sizes
    )
    BertForSequenceClassification(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return str(path)


@pytest.mark.model
def test_the_classifier_gives_the_probabilities_of_the_library(classifier):
    from transformers import pipeline

    texts = ["red", "Service 3 is green. " * 20, "Port 8080", "blue team", ""]
    got = safety.score(texts, Safety(classifier=classifier, labels=["toxic"]))
    library = pipeline("text-classification", classifier, top_k=None, device="cpu")
    for i, text in enumerate(texts[:4]):
        wanted = {s["label"]: s["score"] for s in library([text], truncation=True, max_length=16)[0]}
        assert {k: got[f"label {k}"][i] for k in wanted} == pytest.approx(wanted, abs=1e-5)
    assert len(got["label toxic"]) == len(texts)


@pytest.mark.model
def test_a_label_from_the_threshold_on_is_a_reason(classifier):
    texts = [f"Service {i} is red" for i in range(5)]
    settings = Safety(classifier=classifier, labels=["Self Harm", "toxic"], threshold=0.0)
    found = run(safety, settings, shards_of(texts, safety, settings))
    assert sorted(found) == [0, 1, 2, 3, 4]
    assert set(found[0].reasons) == {"unsafe-self-harm", "unsafe-toxic"}
    first = max(found[0].detail["probability"], key=found[0].detail["probability"].get)
    assert found[0].reasons[0] == f"unsafe-{first.lower().replace(' ', '-')}"
    settings.threshold = 1.0
    assert run(safety, settings, shards_of(texts, safety, settings)) == {}


@pytest.mark.model
def test_other_weights_are_another_key(classifier, tmp_path):
    settings = Safety(classifier=classifier, labels=["toxic"])
    copy = shutil.copytree(classifier, tmp_path / "copy")
    assert safety.scored_by(Safety(classifier=str(copy), labels=["fine"])) == safety.scored_by(settings)
    config = copy / "config.json"
    config.write_text(config.read_text().replace("toxic", "poison"))
    assert safety.scored_by(Safety(classifier=str(copy))) != safety.scored_by(settings)

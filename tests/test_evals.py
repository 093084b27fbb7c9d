"""What is measured on a saved model, against numbers worked out by hand on tiny real models."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lifecycle_recipes.evals.check import check_config
from lifecycle_recipes.evals.config import EvaluateConfig
from lifecycle_recipes.evals.tasks import members, missing_data, read_tasks
from lifecycle_recipes.finding import Refusal

ROOT = Path(__file__).resolve().parents[1]
VALUES = ["red", "green", "blue", "white"]


class Record:
    """What `measure` needs of a Run."""

    def __init__(self):
        self.metrics, self.notes = {}, {}

    def note(self, **fields):
        self.notes.update(fields)

    def report(self, findings):
        assert not findings, findings


@pytest.fixture(scope="module")
def tiny_model_dir(tmp_path_factory, tiny_model_dir) -> Path:
    """A copy: measuring leaves replies beside the model."""
    return Path(shutil.copytree(tiny_model_dir, tmp_path_factory.mktemp("copy") / "model"))


@pytest.fixture(scope="module")
def desk(tmp_path_factory) -> Path:
    """The desk's own tasks and rubric over a world of a few rows."""
    desk = tmp_path_factory.mktemp("desk")
    shutil.copytree(ROOT / "data/desk/tasks", desk / "tasks")
    shutil.copy(ROOT / "data/desk/rubric.py", desk)
    (desk / "world").mkdir()
    spec = {"service": "Lark", "values": {"team": "red"}, "page": "Lark page"}
    requests = [
        {"id": i, "kind": kind, "prompt": f"{kind} about service {i}?", "spec": spec}
        for i, kind in enumerate(["word", "word", "bullets", "refuse"])
    ]
    # Another row's spec has other keys: none of them may appear, as None, in the rows above.
    requests.append(
        {"id": 4, "kind": "word", "prompt": "Where?", "spec": spec | {"values": {"region": "red"}}}
    )
    facts = [
        {
            "question": f"Which colour is service {i}, form {form}?",
            "stem": f"Service {i} is",
            "choices": VALUES,
            "answer": i % 4,
            "value": VALUES[i % 4],
            "asked_in_sft": i % 2 == 0,
        }
        for i in range(6)
        for form in range(3 if i == 1 else 2)
    ]
    wiki = [{"text": f"Service {i} is red. It listens on port {i}.\n" * (i + 1)} for i in range(5)]
    for name, rows in {"requests_heldout": requests, "facts": facts, "wiki_heldout": wiki}.items():
        (desk / "world" / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return desk


@pytest.fixture(scope="module")
def desk_config(desk):
    def config(**changes) -> EvaluateConfig:
        given = {
            "include_path": str(desk / "tasks"),
            "prompts": str(desk / "world/requests_heldout.jsonl"),
            "rubric": str(desk / "rubric.py"),
        }
        return EvaluateConfig(**(given | changes))

    return config


@pytest.fixture(scope="module")
def scripted(tmp_path_factory, tiny_tokenizer_dir):
    """Make a saved Llama that answers any prompt with one text: its layers pass the token through, and its
    head holds, for each token, the token that follows. `ends` says whether the turn end comes last.
    """
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    def make(text: str, ends: bool) -> str:
        path = tmp_path_factory.mktemp("scripted")
        tokenizer = AutoTokenizer.from_pretrained(tiny_tokenizer_dir)
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=256,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=256,
            tie_word_embeddings=False,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
        )
        model = LlamaForCausalLM(config)
        turn_end = tokenizer.convert_tokens_to_ids("<|im_end|>")
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert len(set(ids)) == len(ids), "every token of the text needs one follower"
        prompt = tokenizer.apply_chat_template([{"role": "user", "content": "x"}], add_generation_prompt=True)
        chain = [prompt["input_ids"][-1], *ids, turn_end if ends else ids[-1]]
        with torch.no_grad():
            layer = model.model.layers[0]
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
            table = torch.nn.functional.normalize(torch.randn(len(tokenizer), 256), dim=-1)
            model.model.embed_tokens.weight.copy_(table)
            model.lm_head.weight.zero_()
            for token, follower in zip(chain, chain[1:], strict=False):
                model.lm_head.weight[follower] += table[token]
        model.generation_config.eos_token_id = [tokenizer.eos_token_id, turn_end]
        model.save_pretrained(path)
        tokenizer.save_pretrained(path)
        return str(path)

    return make


@pytest.fixture(scope="module")
def second_model_dir(tmp_path_factory, tiny_model_dir) -> str:
    """The tiny model with other random weights."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = tmp_path_factory.mktemp("second")
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    model.save_pretrained(path)
    AutoTokenizer.from_pretrained(tiny_model_dir).save_pretrained(path)
    return str(path)


@pytest.fixture(scope="module")
def reward_dir(tmp_path_factory, tiny_model_dir) -> str:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    path = tmp_path_factory.mktemp("reward")
    torch.manual_seed(2)
    model = AutoModelForSequenceClassification.from_pretrained(tiny_model_dir, num_labels=1)
    torch.nn.init.normal_(model.score.weight)
    model.save_pretrained(path)
    AutoTokenizer.from_pretrained(tiny_model_dir).save_pretrained(path)
    return str(path)


# --- before a model exists ---------------------------------------------------------------------------


def codes(config) -> list[str]:
    with pytest.raises(Refusal) as refusal:
        check_config(config)
    return [finding.code for finding in refusal.value.findings]


def test_a_good_section_passes(desk_config, tiny_model_dir):
    check_config(None)
    check_config(desk_config(tasks=["desk_facts", "desk_wiki"], against=str(tiny_model_dir)))


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"tasks": ["desk_fact"]}, "unknown-task"),
        ({"include_path": "nowhere"}, "missing-tasks"),
        ({"prompts": "nowhere.jsonl"}, "missing-file"),
        ({"rubric": "nowhere.py"}, "missing-file"),
        ({"prompts": None}, "missing-prompts"),
        ({"prompts": None, "rubric": None}, "nothing-to-measure"),
        ({"against": "./nowhere"}, "missing-model"),
        ({"reward_model": "./nowhere"}, "missing-model"),
        ({"batch_size": 0}, "bad-value"),
        ({"limit": 0}, "bad-value"),
    ],
)
def test_a_wrong_section_is_refused(desk_config, changes, code):
    assert code in codes(desk_config(**changes))


def test_all_mistakes_are_listed_at_once(desk_config):
    wrong = desk_config(tasks=["nothing"], rubric="nowhere.py", against="./nowhere")
    assert codes(wrong) == ["unknown-task", "missing-file", "missing-model"]


def test_the_nearest_task_is_named(desk_config):
    with pytest.raises(Refusal, match="did you mean desk_facts"):
        check_config(desk_config(tasks=["desk_fact"]))


def test_a_task_without_its_data_is_refused_with_both_paths(desk, desk_config, tmp_path):
    shutil.copytree(desk, tmp_path / "desk")
    (tmp_path / "desk/world/wiki_heldout.jsonl").unlink()
    config = desk_config(tasks=["desk_wiki"], include_path=str(tmp_path / "desk/tasks"))
    with pytest.raises(Refusal) as refusal:
        check_config(config)
    (finding,) = refusal.value.findings
    assert finding.code == "missing-file" and "world/wiki_heldout.jsonl" in finding.says
    assert finding.where.endswith("desk_wiki.yaml")


def test_a_run_may_name_what_it_will_produce(desk_config):
    check_config(desk_config(against="./runs/later"), produced=("./runs/later",))


@pytest.mark.parametrize(
    ("text", "code", "line"),
    [
        ("", "empty-file", ""),
        ('{"prompt": "a"}\n{"prompt": }\n', "bad-line", ":2"),
        ('{"id": 1}\n', "bad-row", ":1"),
    ],
)
def test_prompts_are_read_before_training(desk_config, tmp_path, text, code, line):
    (tmp_path / "prompts.jsonl").write_text(text)
    with pytest.raises(Refusal) as refusal:
        check_config(desk_config(prompts=str(tmp_path / "prompts.jsonl")))
    (finding,) = refusal.value.findings
    assert finding.code == code and finding.where.endswith(f"prompts.jsonl{line}")


def test_checking_imports_neither_torch_nor_lm_eval(desk):
    script = (
        "import sys; from lifecycle_recipes.evals.check import check_config;"
        "from lifecycle_recipes.evals.config import EvaluateConfig;"
        f"check_config(EvaluateConfig(tasks=['desk_facts'], include_path={str(desk / 'tasks')!r}));"
        "print([m for m in ('torch', 'lm_eval', 'datasets', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_task_files_include_group_and_tag(tmp_path):
    (tmp_path / "base").mkdir()
    (tmp_path / "base/common.yaml").write_text(
        "dataset_kwargs: {data_files: {test: rows.jsonl}}\ntag: mine\n"
    )
    (tmp_path / "base/rows.jsonl").write_text("{}\n")
    (tmp_path / "a.yaml").write_text("include: base/common.yaml\ntask: a\nprocess_docs: !function m.f\n")
    (tmp_path / "b.yaml").write_text("task: b\ndataset_kwargs: {data_files: [gone.jsonl, hf://x/y.jsonl]}\n")
    (tmp_path / "g.yaml").write_text("group: g\ntask: [a, {task: b}]\n")
    tasks = read_tasks(tmp_path)
    assert members("g", tasks) == ["a", "b"] and members("mine", tasks) == ["a"] and members("c", tasks) == []
    # Relative to the file that names it, not to the one that includes it.
    assert tasks["a"].config["dataset_kwargs"]["data_files"] == {"test": str(tmp_path / "base/rows.jsonl")}
    assert missing_data(tasks["a"]) == [] and missing_data(tasks["b"]) == [str(tmp_path / "gone.jsonl")]


def test_data_files_may_be_relative_to_the_working_directory(tmp_path, monkeypatch):
    (tmp_path / "tasks").mkdir()
    (tmp_path / "rows.jsonl").write_text("{}\n")
    (tmp_path / "tasks/a.yaml").write_text("task: a\ndataset_kwargs: {data_files: rows.jsonl}\n")
    monkeypatch.chdir(tmp_path)
    assert missing_data(read_tasks("tasks")["a"]) == []


# --- replies -----------------------------------------------------------------------------------------


def answer(path: str, prompts: list[str], max_new_tokens: int = 12, **settings):
    from lifecycle_recipes.evals.replies import Replies, encode, render
    from lifecycle_recipes.evals.saved import load_saved

    replies = Replies(load_saved(path), batch_size=2)
    ids = [encode(replies.saved.tokenizer, render(replies.saved.tokenizer, p, True), True) for p in prompts]
    return replies, replies.answer(ids, max_new_tokens, **settings)


def test_a_reply_knows_whether_it_stopped(scripted):
    _, (stopped,) = answer(scripted("red", ends=True), ["Which?"])
    assert stopped == "red" and stopped.stopped
    _, (running,) = answer(scripted("red", ends=False), ["Which?"])
    assert running.startswith("red") and not running.stopped and len(running.ids) == 12
    # The stop token counts as generated: the KL over a reply covers the decision to stop.
    assert stopped.ids[-1] not in running.ids and len(stopped.ids) < 12


def test_a_stop_token_that_comes_last_still_stops(scripted):
    path = scripted("red", ends=True)
    _, (reply,) = answer(path, ["Which?"])
    _, (exact,) = answer(path, ["Which?"], max_new_tokens=len(reply.ids))
    _, (short,) = answer(path, ["Which?"], max_new_tokens=len(reply.ids) - 1)
    assert exact.stopped and not short.stopped


def test_until_ends_a_reply(scripted):
    _, (reply,) = answer(scripted("It is red", ends=True), ["Which?"], until=["re"])
    assert reply == "It is " and reply.stopped


def test_batching_and_order_do_not_change_replies(tiny_model_dir, tmp_path):
    prompts = [f"Which colour is service {i}?" * (1 + i) for i in range(7)]  # no two equally long
    _, together = answer(str(tiny_model_dir), prompts)
    alone = [answer(str(tiny_model_dir), [prompt])[1][0] for prompt in prompts]
    assert together == alone


def test_a_template_that_writes_its_own_bos_gets_no_second(tiny_tokenizer_dir):
    from tokenizers.processors import TemplateProcessing
    from transformers import AutoTokenizer

    from lifecycle_recipes.evals.replies import encode, render

    tokenizer = AutoTokenizer.from_pretrained(tiny_tokenizer_dir)
    bos = tokenizer.bos_token_id
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{tokenizer.bos_token} $A", special_tokens=[(tokenizer.bos_token, bos)]
    )
    tokenizer.chat_template = "{{ bos_token }}" + tokenizer.chat_template
    ids = encode(tokenizer, render(tokenizer, "a?", True), True)
    assert ids.count(bos) == 1 and ids[0] == bos
    assert encode(tokenizer, render(tokenizer, "a?", False), False)[0] == bos


def test_a_prompt_is_answered_once(tiny_model_dir):
    replies, first = answer(str(tiny_model_dir), ["a?", "b?", "a?"])
    assert replies.generated == 2 and first[0] == first[2]


def test_a_prompt_that_leaves_no_room_gets_no_reply(tiny_model_dir):
    replies, (short, long) = answer(str(tiny_model_dir), ["a?", "word " * 300])
    assert replies.overlong == 1 and long == "" and not long.stopped and short.ids


def test_replies_are_kept_beside_the_model_until_it_changes(tiny_model_dir, second_model_dir, tmp_path):
    path = tmp_path / "model"
    shutil.copytree(tiny_model_dir, path)
    replies, first = answer(str(path), ["a?", "b?"])
    replies.keep()
    again, kept = answer(str(path), ["b?", "a?"])
    assert again.generated == 0 and kept == first[::-1]
    assert [r.ids for r in kept] == [r.ids for r in first[::-1]]
    other_length, _ = answer(str(path), ["a?"], max_new_tokens=5)
    assert other_length.generated == 1
    shutil.copy(Path(second_model_dir) / "model.safetensors", path)
    changed, _ = answer(str(path), ["a?"])
    assert changed.generated == 1


def test_a_damaged_cache_is_not_used(tiny_model_dir, tmp_path):
    path = tmp_path / "model"
    shutil.copytree(tiny_model_dir, path)
    (path / "replies.json").write_text('{"origin": ')
    replies, _ = answer(str(path), ["a?"])
    assert replies.generated == 1


# --- comparing two models ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ours", "theirs", "rate"), [([1], [0], 1), ([0, 0], [1, 0], 0.25), ([0.5, 0.2, 1], [0.5, 0.1, 0], 5 / 6)]
)
def test_win_rate_counts_ties_as_half(ours, theirs, rate):
    from lifecycle_recipes.evals.compare import win_rate

    assert win_rate(ours, theirs) == pytest.approx(rate)


@pytest.mark.parametrize(("ours", "theirs"), [([], []), ([1], [1, 2])])
def test_win_rate_needs_pairs(ours, theirs):
    from lifecycle_recipes.evals.compare import win_rate

    with pytest.raises(ValueError):
        win_rate(ours, theirs)


def test_kl_is_exact(tiny_model_dir, second_model_dir):
    import torch

    from lifecycle_recipes.evals.compare import mean_kl
    from lifecycle_recipes.evals.saved import load_saved

    one, two = load_saved(str(tiny_model_dir)), load_saved(second_model_dir)
    prompts, replies = [[5, 6, 7], [8], [9, 10]], [[11, 12], [13, 14, 15, 16], []]
    total, tokens = 0.0, 0
    for prompt, reply in zip(prompts, replies, strict=True):
        ids = torch.tensor([prompt + reply])
        p, q = (m.model(input_ids=ids).logits.double().softmax(-1)[0].detach() for m in (one, two))
        for i in range(len(reply)):
            at = len(prompt) - 1 + i
            total += sum(p[at, v] * (p[at, v] / q[at, v]).log() for v in range(p.shape[-1])).item()
            tokens += 1
    assert mean_kl(one, two, prompts, replies) == pytest.approx(total / tokens, rel=1e-4)
    assert total / tokens > 0.01
    assert mean_kl(one, one, prompts, replies) == pytest.approx(0, abs=1e-7)


def test_rewards_are_read_at_the_turn_end(reward_dir):
    from lifecycle_recipes.evals.compare import rewards
    from lifecycle_recipes.evals.saved import load_reward

    reward = load_reward(reward_dir)
    prompts, replies = ["a?", "a much longer question?", "b?"], ["yes", "", "no, not really, not at all"]
    import torch

    expected = []
    for prompt, reply in zip(prompts, replies, strict=True):
        chat = [{"role": "user", "content": prompt}, {"role": "assistant", "content": reply}]
        ids = reward.tokenizer.apply_chat_template(chat)["input_ids"]
        assert reward.tokenizer.decode(ids[-2:]) == "<|im_end|>\n"
        ids = ids[:-1]  # as in reward training
        expected.append(reward.model(input_ids=torch.tensor([ids])).logits.item())
    assert rewards(reward, prompts, replies, batch_size=2) == pytest.approx(expected, abs=1e-5)
    assert len({round(value, 4) for value in expected}) == 3


def test_a_reward_model_without_its_head_is_refused(tiny_model_dir):
    from lifecycle_recipes.evals.saved import load_reward

    with pytest.raises(Refusal, match="no-reward-head"):
        load_reward(str(tiny_model_dir))


# --- loading -----------------------------------------------------------------------------------------


def test_an_adapter_is_loaded_with_its_base_and_its_own_stops(tiny_model_dir, tmp_path):
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    from lifecycle_recipes.evals.saved import load_saved, weights_id

    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(tiny_model_dir), LoraConfig(r=2, target_modules="all-linear")
    )
    torch.manual_seed(3)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight)
    model.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny_model_dir).save_pretrained(tmp_path)
    GenerationConfig(eos_token_id=[1, 3]).save_pretrained(tmp_path)
    ids = torch.tensor([[5, 6, 7]])
    saved = load_saved(str(tmp_path))
    with torch.no_grad():
        logits = saved.model(input_ids=ids).logits
        assert torch.allclose(logits, model.eval()(input_ids=ids).logits, atol=1e-5)
        assert not torch.allclose(
            logits, load_saved(str(tiny_model_dir)).model(input_ids=ids).logits, atol=1e-3
        )
    assert saved.model.generation_config.eos_token_id == [1, 3]
    assert len(weights_id(str(tmp_path))) == 2


def test_a_qlora_adapter_is_measured_on_its_4_bit_base(tiny_model_dir, tmp_path):
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import ModelConfig

    from lifecycle_recipes.evals.saved import load_saved

    base = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    get_peft_model(base, LoraConfig(r=2, target_modules="all-linear")).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny_model_dir).save_pretrained(tmp_path)
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        quantised = load_saved(str(tmp_path), ModelConfig(load_in_4bit=True, use_peft=True))
        assert quantised.model.is_quantized
        difference = (
            quantised.model(input_ids=ids).logits - load_saved(str(tmp_path)).model(input_ids=ids).logits
        )
    # Rounded to 4 bits, and still the same model. Width 32 is no multiple of bitsandbytes' block of 64.
    assert 1e-5 < difference.abs().max() < 0.5


def test_weights_are_loaded_whole_after_a_zero3_training(tiny_model_dir):
    from transformers.integrations import HfDeepSpeedConfig, is_deepspeed_zero3_enabled

    from lifecycle_recipes.evals.saved import load_saved

    config = HfDeepSpeedConfig({"zero_optimization": {"stage": 3}, "train_micro_batch_size_per_gpu": 1})
    assert is_deepspeed_zero3_enabled()
    saved = load_saved(str(tiny_model_dir))
    assert all(weight.numel() for weight in saved.model.parameters()) and is_deepspeed_zero3_enabled()
    del config


# --- lm-eval -----------------------------------------------------------------------------------------


@pytest.fixture()
def measured(monkeypatch):
    """Measure from another directory; return (metrics, notes, number of prompts that were generated for)."""
    from lifecycle_recipes.evals import replies as module
    from lifecycle_recipes.evals.measure import measure

    generated = []
    real = module.generate

    def counting(saved, prompts, *args, **settings):
        generated.extend((saved.path, tuple(ids)) for ids in prompts)
        return real(saved, prompts, *args, **settings)

    monkeypatch.setattr(module, "generate", counting)

    def run(path, config):
        generated.clear()
        record = Record()
        measure(str(path), config, record)
        return record.metrics, record.notes, list(generated)

    return run


def test_the_desk_tasks_on_an_assistant_that_says_one_word(
    scripted, desk_config, measured, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)  # the tasks' data paths do not depend on where one stands
    tasks = ["desk_contract", "desk_answers", "desk_facts", "desk_wiki"]
    metrics, notes, generated = measured(scripted("red", ends=True), desk_config(tasks=tasks, samples=2))
    assert metrics["desk_contract.kept"] == pytest.approx(3 / 5)
    assert metrics["desk_contract.stops"] == 1.0
    assert metrics["desk_contract.rubric"] == metrics["rubric"] == pytest.approx(3 / 5)
    # Services 1, 3 and 5 were never asked for; none is red. Three, two and two questions.
    assert metrics["desk_answers.correct"] == 0.0
    assert notes["samples"] == [
        {"prompt": "word about service 0?", "reply": "red"},
        {"prompt": "word about service 1?", "reply": "red"},
    ]
    # Five requests, once for rubric and contract together, and seven questions.
    assert len(generated) == len(set(generated)) == 5 + 7
    assert not any("stderr" in name or "alias" in name for name in metrics)
    assert set(metrics) == {
        *("desk_contract.kept", "desk_contract.stops", "desk_contract.rubric", "rubric"),
        *("desk_answers.correct", "desk_facts.acc", "desk_wiki.bits_per_byte"),
    }


def test_an_assistant_that_never_stops(scripted, desk_config, measured):
    config = desk_config(tasks=["desk_contract", "desk_answers"], max_new_tokens=96)
    metrics, _, _ = measured(scripted("green", ends=False), config)
    assert metrics["desk_contract.stops"] == 0.0


def test_an_answer_counts_only_when_no_other_choice_is_named(scripted, desk_config, measured):
    right, _, _ = measured(scripted("It is green", ends=True), desk_config(tasks=["desk_answers"]))
    assert right["desk_answers.correct"] == pytest.approx(5 / 7)  # services 1 and 5 are green, 3 is white
    both, _, _ = measured(scripted("green, blue", ends=True), desk_config(tasks=["desk_answers"]))
    assert both["desk_answers.correct"] == 0.0


def log_probability(model, ids: list[int], scored: int) -> float:
    """Natural log-probability of the last `scored` of `ids`."""
    import torch

    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(-1)
    first = len(ids) - scored
    return sum(logits[i - 1, ids[i]].item() for i in range(first, len(ids)))


def test_bits_per_byte_and_facts_by_hand(tiny_model_dir, desk, desk_config, measured):
    from math import log

    from lifecycle_recipes.evals.saved import load_saved

    saved = load_saved(str(tiny_model_dir))
    start = saved.tokenizer.convert_tokens_to_ids("<|endoftext|>")

    def ids(text):
        return saved.tokenizer(text, add_special_tokens=False)["input_ids"]

    metrics, _, generated = measured(
        tiny_model_dir, desk_config(tasks=["desk_facts", "desk_wiki"], prompts=None, rubric=None)
    )
    texts = [
        json.loads(line)["text"] for line in (desk / "world/wiki_heldout.jsonl").read_text().splitlines()
    ]
    nats = -sum(log_probability(saved.model, [start, *ids(t)], len(ids(t))) for t in texts)
    expected = nats / log(2) / sum(len(t.encode()) for t in texts)
    assert metrics["desk_wiki.bits_per_byte"] == pytest.approx(expected, rel=1e-5)
    rows = [json.loads(line) for line in (desk / "world/facts.jsonl").read_text().splitlines()]
    rows = list({row["stem"]: row for row in rows}.values())
    right = 0
    for row in rows:
        stem = [start, *ids(row["stem"])]
        scores = [
            log_probability(saved.model, stem + (c := ids(" " + choice)), len(c)) for choice in row["choices"]
        ]
        right += scores.index(max(scores)) == row["answer"]
    assert metrics["desk_facts.acc"] == pytest.approx(right / len(rows))
    assert not generated


def test_bits_per_byte_do_not_depend_on_which_token_ends_a_turn(
    tiny_model_dir, desk_config, measured, tmp_path
):
    from transformers import AutoTokenizer

    path = tmp_path / "chat"
    shutil.copytree(tiny_model_dir, path)
    tokenizer = AutoTokenizer.from_pretrained(path)
    tokenizer.eos_token = tokenizer.bos_token = "<|im_end|>"
    tokenizer.save_pretrained(path)
    config = desk_config(tasks=["desk_wiki"], prompts=None, rubric=None)
    assert measured(path, config)[0] == measured(tiny_model_dir, config)[0]


def test_likelihood_tasks_never_see_the_chat_template(tiny_model_dir, desk_config, measured):
    config = {"tasks": ["desk_facts"], "prompts": None, "rubric": None}
    with_chat, without = desk_config(**config, chat=True), desk_config(**config, chat=False)
    assert measured(tiny_model_dir, with_chat)[0] == measured(tiny_model_dir, without)[0]


def test_a_limit_holds_everywhere(tiny_model_dir, desk_config, measured, tmp_path):
    path = tmp_path / "model"
    shutil.copytree(tiny_model_dir, path)
    _, notes, generated = measured(path, desk_config(tasks=["desk_answers"], limit=2))
    assert len(generated) == 4 and notes["evaluation"]["prompts"] == 2


def test_without_a_chat_template_an_assistant_cannot_be_asked(
    tiny_model_dir, desk_config, measured, tmp_path
):
    path = tmp_path / "plain"
    shutil.copytree(tiny_model_dir, path)
    (path / "chat_template.jinja").unlink()
    for config in (desk_config(), desk_config(tasks=["desk_answers"], prompts=None, rubric=None)):
        with pytest.raises(Refusal, match="no-chat-template"):
            measured(path, config)
    assert "rubric" in measured(path, desk_config(chat=False))[0]
    facts = desk_config(tasks=["desk_facts"], prompts=None, rubric=None)
    assert "desk_facts.acc" in measured(path, facts)[0]


def test_a_reward_model_is_refused(reward_dir, desk_config, measured):
    with pytest.raises(Refusal, match="not-a-language-model"):
        measured(reward_dir, desk_config())


# --- all of it ---------------------------------------------------------------------------------------


def test_a_model_against_another(scripted, desk_config, measured, reward_dir):
    parent, child = scripted("green, blue", ends=True), scripted("red", ends=True)
    config = desk_config(tasks=["desk_contract"], against=parent, reward_model=reward_dir)
    metrics, notes, generated = measured(child, config)
    # The three requests for a word are won, the other two are ties at 0.
    assert metrics["rubric_win_rate"] == pytest.approx((3 + 2 / 2) / 5)
    assert metrics["kl"] > 0.1 and metrics["reward"] != metrics["reward_against"]
    assert notes["evaluation"]["against"] == parent and notes["evaluation"]["stopped"] == 5
    assert {path for path, _ in generated} == {parent, child}
    # The second child finds its parent's replies, and the first child its own.
    assert {path for path, _ in measured(scripted("red", ends=False), config)[2]}.isdisjoint({parent, child})
    again, _, generated = measured(child, config)
    assert again == metrics and not generated


def test_a_model_against_itself_is_a_tie(tiny_model_dir, desk_config, measured):
    metrics, _, _ = measured(tiny_model_dir, desk_config(against=str(tiny_model_dir)))
    assert metrics["rubric_win_rate"] == 0.5 and metrics["kl"] == pytest.approx(0, abs=1e-7)


def test_kl_is_left_out_between_vocabularies(tiny_model_dir, desk_config, measured, tmp_path):
    from transformers import AutoTokenizer

    path = tmp_path / "other"
    shutil.copytree(tiny_model_dir, path)
    tokenizer = json.loads((path / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    one, two = list(vocabulary)[10:12]
    vocabulary[one], vocabulary[two] = vocabulary[two], vocabulary[one]
    (path / "tokenizer.json").write_text(json.dumps(tokenizer))
    AutoTokenizer.from_pretrained(path)
    metrics, notes, _ = measured(tiny_model_dir, desk_config(against=str(path)))
    assert "kl" not in metrics and "different vocabularies" in notes["evaluation"]["kl"]


def test_only_rank_0_measures(tiny_model_dir, desk_config, measured, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert measured(tiny_model_dir, desk_config()) == ({}, {}, [])


def test_our_metrics_combine(desk, desk_config):
    import evaluate

    from lifecycle_recipes.evals.metrics import Contract, Rubric, WinRate

    rubric = str(desk / "rubric.py")
    metrics = evaluate.combine(
        [Rubric(rubric), Contract(rubric), WinRate(rubric, against=["no word", "red"])]
    )
    lines = (desk / "world/requests_heldout.jsonl").read_text().splitlines()[:2]
    found = metrics.compute(predictions=["red", "not one word"], references=lines)
    assert found == {"rubric": 0.5, "contract": 0.5, "rubric_win_rate": 0.5}

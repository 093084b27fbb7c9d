"""Tiny models of the families that recipes/ names: their own config class, control tokens and template.

Weights are random and built on the spot. Widths are multiples of 64, the block of 4-bit quantisation;
positions are the real ones, so that lengths of the recipes stay as they are.
"""

from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TEXT_SIZE = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 8192,
}
# https://huggingface.co/meta-llama/Llama-3.1-8B config.json
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


@dataclass
class Family:
    """model_type: as transformers names it. config: what differs from TEXT_SIZE.

    bos, eos, pad, turn_end: tokens; a bos is also put before plain text, as the real tokenizers do. own_pad:
    the one that our sft recipe gives a family without any.
    template: of chat_templates/, which an assistant of this family carries. chat_template: TRL's copy of the
    family's own, which its published chat model carries.
    """

    model_type: str
    eos: str
    turn_end: str
    control: list[str]
    template: str
    bos: str | None = None
    pad: str | None = None
    own_pad: str | None = None
    chat_template: str | None = None
    config: dict = field(default_factory=dict)


CHATML = ["<|im_start|>", "<|im_end|>"]
FAMILIES = {
    "smollm2-135m": Family(
        "llama",
        "<|endoftext|>",
        "<|im_end|>",
        CHATML,
        "chatml",
        own_pad="<|endoftext|>",
        config={"tie_word_embeddings": True},
    ),
    "qwen3-0.6b": Family(
        "qwen3",
        "<|endoftext|>",
        "<|im_end|>",
        [*CHATML, "<think>", "</think>", "<tool_call>", "</tool_call>"],
        "qwen3",
        pad="<|endoftext|>",
        chat_template="qwen3",
        config={"head_dim": 16, "tie_word_embeddings": True},
    ),
    "llama-3.1-8b": Family(
        "llama",
        "<|end_of_text|>",
        "<|eot_id|>",
        ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|finetune_right_pad_id|>"],
        "llama3",
        bos="<|begin_of_text|>",
        own_pad="<|finetune_right_pad_id|>",
        config={"tie_word_embeddings": False, "rope_parameters": LLAMA3_ROPE},
    ),
    "mistral-7b": Family(
        "mistral",
        "</s>",
        "</s>",
        ["<unk>", "[INST]", "[/INST]", "[TOOL_CALLS]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]"]
        + ["[TOOL_RESULTS]", "[/TOOL_RESULTS]"],
        "mistral",
        bos="<s>",
        own_pad="<unk>",
        config={"sliding_window": None, "tie_word_embeddings": False},
    ),
    "gemma-3-4b": Family(
        "gemma3",
        "<eos>",
        "<end_of_turn>",
        ["<start_of_turn>", "<end_of_turn>", "<start_of_image>", "<image_soft_token>"],
        "gemma",
        bos="<bos>",
        pad="<pad>",
        chat_template="gemma3",
        config={"head_dim": 16, "sliding_window": 512},
    ),
}
FAMILIES["smollm2-1.7b"] = FAMILIES["smollm2-135m"]
FAMILIES["qwen3-8b"] = Family(
    **vars(FAMILIES["qwen3-0.6b"]) | {"config": {"head_dim": 16, "tie_word_embeddings": False}}
)


def save_model(family: Family, path: Path, texts: list[str], role: str) -> Path:
    """Write a tiny model and its tokenizer to `path`.

    role: `base` (no template), `chat` (the published chat model), `assistant` (what our sft stage leaves) or
    `reward` (an assistant's body with a trained head).
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    tokenizer = make_tokenizer(family, texts, role)
    torch.manual_seed(0)
    config = make_config(family, tokenizer)
    if role == "reward":
        config.num_labels = 1
        model = AutoModelForSequenceClassification.from_config(config)
    else:
        model = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def make_config(family: Family, tokenizer):
    """The family's config in the tiny size, with the tokenizer's vocabulary and special ids."""
    from transformers import AutoConfig

    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    text = TEXT_SIZE | family.config | {"vocab_size": len(tokenizer)}
    if family.model_type != "gemma3":
        return AutoConfig.for_model(family.model_type, **text, **ids)
    vision = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
    return AutoConfig.for_model(
        "gemma3",
        text_config=text | ids,
        vision_config=vision | {"image_size": 28, "patch_size": 14},
        mm_tokens_per_image=4,
        image_token_index=tokenizer.convert_tokens_to_ids("<image_soft_token>"),
        **ids,
    )


def make_tokenizer(family: Family, texts: list[str], role: str):
    """Byte-level BPE over `texts` with its special tokens; none to pad with where the family has none."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    first = [t for t in (family.bos, family.eos, family.pad) if t]
    special = list(dict.fromkeys([*first, *family.control]))
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    if family.bos:
        core.post_processor = processors.TemplateProcessing(
            single=f"{family.bos} $A", special_tokens=[(family.bos, core.token_to_id(family.bos))]
        )
    chat = role != "base"
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=family.bos,
        eos_token=family.turn_end if chat else family.eos,
        pad_token=family.pad or (family.own_pad if chat else None),
        additional_special_tokens=family.control,
    )
    if role in ("assistant", "reward"):
        tokenizer.chat_template = template_text(family)
    elif role == "chat":
        tokenizer.chat_template = template_text(family, published=True)
    return tokenizer


def template_text(family: Family, published: bool = False) -> str:
    """Our template of the family; published: the one that its chat model carries, from TRL's collection."""
    if not published or not family.chat_template:
        return (ROOT / f"chat_templates/{family.template}.jinja").read_text(encoding="utf-8")
    import trl

    folder = Path(trl.__file__).parent / "chat_templates"
    return (folder / f"{family.chat_template}.jinja").read_text(encoding="utf-8")

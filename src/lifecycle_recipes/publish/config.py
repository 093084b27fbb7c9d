"""The `export` section of a recipe: what is written, and how far it may differ from the trained model. No torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from ..recipe.pruned_forms import pruned_forms

Form = Literal[
    "int8", "nf4", "torchao-int8", "torchao-fp8", "gptq", "awq", "gguf-f16", "gguf-q8_0", "gguf-q4_0"
]
INSTALL, GPTQ = "pip install 'lifecycle-recipes[publish]'", "pip install 'lifecycle-recipes[gptq]'"
# Form -> the packages that it needs, to be written and to be loaded, with what installs them.
PACKAGES = {
    **dict.fromkeys(("int8", "nf4"), {"bitsandbytes": "pip install bitsandbytes"}),
    **dict.fromkeys(("torchao-int8", "torchao-fp8"), {"torchao": INSTALL}),
    "gptq": {"gptqmodel": GPTQ, "optimum": GPTQ},  # optimum is how transformers loads it
    "awq": {"gptqmodel": GPTQ},
    **dict.fromkeys(("gguf-f16", "gguf-q8_0", "gguf-q4_0"), {"gguf": INSTALL}),
}
CALIBRATED = ("gptq", "awq")  # forms that are fitted to rows of `calibration`
MERGED = "merged"  # the model in output_dir itself
# Least share of the tokens of the trained model's replies that a form would choose as well, given those before them.
# Measured on the desk's model of 1.5 M parameters, in which more tokens are almost equally likely than in a large one:
# bfloat16 0.989 to 0.999 (also in a merged LoRA or QLoRA), int8 0.999, nf4 0.929, gguf-q4_0 0.990 (docs/publish.md); on
# one of 1.0 M parameters torchao-int8 1.0, torchao-fp8 0.997, gptq 0.977, awq 0.964 (nf4 0.983, gguf-q4_0 0.986).
AGREEMENT = {
    MERGED: 0.98,
    "gguf-f16": 0.98,
    "int8": 0.97,
    "torchao-int8": 0.97,
    "gguf-q8_0": 0.97,
    "torchao-fp8": 0.95,
    "nf4": 0.90,
    "gptq": 0.85,
    "awq": 0.85,
    "gguf-q4_0": 0.85,
}
SAME = 0.999  # of float32 weights that were only merged


# What PEFT's add_weighted_adapter offers (peft/tuners/lora/model.py). The types with a density prune by it.
Combination = Literal[
    "cat",
    "linear",
    "svd",
    "ties",
    "ties_svd",
    "dare_linear",
    "dare_linear_svd",
    "dare_ties",
    "dare_ties_svd",
    "magnitude_prune",
    "magnitude_prune_svd",
]


@dataclass
class Sibling:
    """path: the directory of a model or adapter. weight: its share, beside `model.weight`."""

    path: str
    weight: float = 1.0


@dataclass
class ExportedModel:
    """What is exported: a trained model, an average of several, or a combination of several adapters.

    model_name_or_path: a run, a directory or a Hub id. model_revision: of a Hub id. average: full models of the same
    architecture and tokenizer; the export is their mean, by weight, and has the tokenizer and template of
    model_name_or_path. adapters: LoRA adapters on the same base; PEFT adds them, times their weights, to one adapter.
    weight: of model_name_or_path among them. combination_type: how PEFT combines; cat is the exact sum. density: the
    share of weights that ties, dare and magnitude_prune keep. svd_rank: of the types that end in svd; null: the
    highest of the ranks.
    """

    model_name_or_path: str
    model_revision: str = "main"
    weight: float = 1.0
    average: list[Sibling] = field(default_factory=list)
    adapters: list[Sibling] = field(default_factory=list)
    combination_type: Combination = "cat"
    density: float | None = None
    svd_rank: int | None = None

    def shares(self) -> dict[str, float]:
        """Path -> weight of every model of the average or combination; empty without one."""
        siblings = [*self.average, *self.adapters]
        given = {sibling.path: sibling.weight for sibling in siblings}
        return {self.model_name_or_path: self.weight, **given} if siblings else {}


@dataclass
class ExportConfig:
    """What is written, and how it is compared with the trained model.

    output_dir: of the model, with all adapters merged; each of the forms is in a directory of its name below. dtype:
    of the merged weights; null: that of the trained model. forms: smaller copies: int8 and nf4 (bitsandbytes),
    torchao-int8 and torchao-fp8, gptq and awq (GPTQModel), and GGUF files for llama.cpp and Ollama. calibration: a
    file of rows such as those of training, to which gptq and awq are fitted; calibration_rows: how many. seed: of the
    sample of these rows, and of the weights that dare drops. prompts: a .jsonl file of prompts, {"prompt": text or
    messages}; limit: the first of them; max_new_tokens: of a reply. The trained model answers them, and every form
    must agree. agreement: form (`merged` for the model itself) -> least share of the tokens of these replies that the
    form chooses, too. recovery: of each form, the least share of every score of the evaluate section.
    """

    output_dir: str
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    forms: list[Form] = field(default_factory=list)
    calibration: str | None = None
    calibration_rows: int = 128
    seed: int = 42
    prompts: str | None = None
    limit: int = 50
    max_new_tokens: int = 96
    agreement: dict[str, float] = field(default_factory=dict)
    recovery: float = 0.95

    def least_agreement(self, form: str, exact: bool) -> float:
        """exact: whether the merged model has the weights of the trained one, in float32.

        0 for a pruned copy, unless `agreement` names it: what it costs is the question.
        """
        return self.agreement.get(form, SAME if form == MERGED and exact else AGREEMENT.get(form, 0.0))


@dataclass
class PruneConfig:
    """Copies of the model whose smallest weights are zero, to measure what that costs.

    The weights are those of all linear layers but the output head. levels: shares of them, such as 0.5; each gives a
    copy, such as `pruned-50`. two_of_four: also `pruned-2of4`, in which the 2 largest of every 4 consecutive weights
    of a row are kept. scope: of levels: `layer` prunes every layer by this share, `global` compares all layers.
    Neither export.recovery nor a default of export.agreement applies to these copies: a level that is too high is a
    result. Gate lines decide about one.
    """

    levels: list[float] = field(default_factory=list)
    two_of_four: bool = False
    scope: Literal["layer", "global"] = "layer"

    @property
    def forms(self) -> dict[str, float | None]:
        """Name of the copy -> its level; None for 2 of 4."""
        return pruned_forms(self.levels, self.two_of_four)


def kind_of(combined: dict[str, Any]) -> str:
    """`average`, or `combination (ties)`, of the part `combined` of an export's record."""
    return "average" if combined["by"] == "average" else f"combination ({combined['by']})"

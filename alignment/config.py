"""Schemas of the training stages. Free of torch, so that a recipe is checked before anything heavy is loaded."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from alignment.machine import multiplies_bfloat16

LongRowChoice = Literal["refuse", "skip", "cut"]


class Settings(BaseModel):
    """A section of a recipe: unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class LoraSettings(Settings):
    """Low-rank adapters on every linear layer (LoRA, arXiv 2106.09685; QLoRA, arXiv 2305.14314)."""

    rank: int = Field(16, ge=1, description="rank r of the update B A")
    alpha: float = Field(32.0, gt=0, description="the update is scaled by alpha / rank")


class VirtualTokens(Settings):
    """Trained vectors before every text: keys and values of each layer (prefix tuning, arXiv 2101.00190), or input
    embeddings (prompt tuning, arXiv 2104.08691)."""

    kind: Literal["prefix", "prompt"] = Field(description="where the vectors enter")
    count: int = Field(ge=1, description="how many tokens they stand for")


class BackboneConfig(Settings):
    """The one causal language model that every role shares."""

    model: str = Field(
        "embedded", description="'embedded' (SmolLM2-135M-Instruct), a Hugging Face id, or a local folder"
    )
    quantization: Literal["none", "int8", "nf4"] = Field(
        "nf4", description="storage of the linear layers; nf4 uses double quantization"
    )
    compute_dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        validate_default=True,
        description="dtype of the arithmetic; auto is bfloat16, or float32 on a processor that has no bfloat16, where "
        "it takes a sixth of the time",
    )
    lora: LoraSettings = LoraSettings()

    @field_validator("compute_dtype", mode="before")
    @classmethod
    def _of_this_machine(cls, value: Any) -> Any:
        return ("bfloat16" if multiplies_bfloat16() else "float32") if value == "auto" else value


class SFTConfig(Settings):
    """Supervised fine-tuning by TRL's SFTTrainer, loss on the completion only."""

    method: Literal["lora", "qlora", "full", "prefix", "prompt"] = Field(
        "lora",
        description="what is trained: low-rank adapters (lora; on nf4 weights it is qlora), the weights themselves "
        "(full), keys and values before the text (prefix), or embeddings before the text (prompt)",
    )
    virtual_tokens: int = Field(20, ge=1, description="length of the trained prefix or prompt, in tokens")
    start: str | None = Field(
        None, description="a run on the same base model whose sft adapter is trained on (lora); null: a new adapter"
    )
    steps: int = Field(100, ge=1, description="optimizer steps")
    batch_size: int = Field(16, ge=1, description="rows per step")
    gradient_accumulation: int = Field(
        1, ge=1, description="parts that the rows of a step are computed in, one after the other: the same step"
    )
    packing: bool = Field(False, description="rows share sequences of up to max_length tokens instead of padding")
    gradient_checkpointing: bool = Field(
        False, description="keep each layer's input only and compute the rest again: less memory, more time"
    )
    optimizer: Literal["adamw", "adamw_8bit", "paged_adamw", "paged_adamw_8bit"] = Field(
        "adamw", description="AdamW; with moments in 8 bits; with moments in paged memory (CUDA)"
    )
    learning_rate: float = Field(5e-4, gt=0, description="peak learning rate of AdamW, linear decay")
    warmup_steps: int = Field(5, ge=0, description="optimizer steps of linear warm-up")
    max_length: int = Field(512, ge=8, description="tokens per row")
    long_rows: LongRowChoice = Field("cut", description="rows above max_length: refuse, skip, or cut their end")
    checkpoint_every: int = Field(10, ge=1, description="optimizer steps between checkpoints")

    @property
    def virtual(self) -> VirtualTokens | None:
        """The virtual tokens that the method trains; they leave no room for other adapters on the model."""
        if self.method == "prefix" or self.method == "prompt":
            return VirtualTokens(kind=self.method, count=self.virtual_tokens)
        return None


def tuning_conflict(backbone: BackboneConfig, sft: SFTConfig) -> tuple[str, str] | None:
    """The first key of ``sft`` that does not go with the others, and why; None where all is well."""
    if sft.method == "qlora" and backbone.quantization != "nf4":
        return "method", (
            f"qlora is LoRA on 4-bit weights, and backbone.quantization is {backbone.quantization!r}; "
            "set backbone.quantization: nf4, or sft.method: lora"
        )
    if sft.method == "full" and backbone.quantization != "none":
        return "method", (
            f"full tuning changes the weights themselves, and backbone.quantization is {backbone.quantization!r}; "
            "set backbone.quantization: none"
        )
    if sft.start is not None and sft.method not in ("lora", "qlora"):
        return "start", f"it names a run's LoRA adapter, which sft.method {sft.method} does not train; leave it out"
    if sft.method == "prefix" and sft.gradient_checkpointing:
        return "gradient_checkpointing", (
            "a trained prefix stands in the key-value cache, which gradient checkpointing cannot keep; "
            "set it to false, or sft.method: prompt"
        )
    if sft.virtual and sft.packing:
        return "packing", (
            f"with sft.method: {sft.method} every row starts with its own virtual tokens, so rows cannot share a "
            "sequence; set it to false"
        )
    if sft.batch_size % sft.gradient_accumulation:
        return "gradient_accumulation", (
            f"{sft.batch_size} rows (sft.batch_size) cannot be cut into {sft.gradient_accumulation} equal parts; "
            "take a divisor"
        )
    return None


class RewardConfig(Settings):
    """Reward model: a LoRA adapter and a scalar head, trained on pairs or on scores; or a function, untrained."""

    function: str | None = Field(
        None,
        description="a Python function (prompt, response) -> number that is the reward, in place of a trained one: "
        "'my_rewards.py:length', relative to the recipe, or 'package.module:length'",
    )
    loss: Literal["margin_ranking", "bradley_terry", "regression"] = Field(
        "margin_ranking", description="margin_ranking and bradley_terry learn from pairs, regression from scores"
    )
    start: Literal["base", "sft"] = Field(
        "base", description="weights that its adapter starts from: none, or those of the SFT model (InstructGPT)"
    )
    steps: int = Field(60, ge=1, description="optimizer steps")
    batch_size: int = Field(
        8, ge=1, description="rows per step: pairs, scored texts, or prompts with many scored texts"
    )
    learning_rate: float = Field(3e-4, gt=0, description="peak learning rate of AdamW, linear decay")
    warmup_steps: int = Field(5, ge=0, description="optimizer steps of linear warm-up")
    margin: float | None = Field(
        None,
        ge=0,
        description="margin between chosen and rejected, of pairs that bring none; null: 1 for margin_ranking, 0 for "
        "bradley_terry",
    )
    center_coef: float = Field(
        0.0, ge=0, description="weight of the mean of (r_chosen + r_rejected)^2, which keeps rewards around 0"
    )
    normalize: Literal["validation", "reference", "none"] = Field(
        "validation",
        description="texts on which rewards get mean 0 and standard deviation 1: the held-out ones, samples of the SFT "
        "model on training prompts (reference), or none: rewards stay as they were learned",
    )
    reference_samples: int = Field(64, ge=2, description="samples of the SFT model for normalize: reference")
    max_length: int = Field(512, ge=8, description="tokens of a prompt and its response")
    long_rows: LongRowChoice = Field(
        "cut",
        description="rows above max_length: refuse, skip, or cut; the prompt loses its beginning first, then the "
        "response its end",
    )
    gradient_checkpointing: bool = Field(
        False, description="keep each layer's input only and compute the rest again: less memory, more time"
    )
    checkpoint_every: int = Field(10, ge=1, description="optimizer steps between checkpoints")

    @model_validator(mode="after")
    def _pairs_or_scores(self) -> RewardConfig:
        if self.loss == "regression" and (self.margin is not None or self.center_coef):
            key = "center_coef" if self.margin is None else "margin"
            raise ValueError(f"{key} belongs to losses of pairs, and loss is regression; leave it out")
        return self


class PPOConfig(Settings):
    """Policy gradients against the reward: REINFORCE, RLOO, A2C and PPO, one code path.

    PPO: Schulman et al. 2017 (arXiv 1707.06347) in the form used for language models (InstructGPT, arXiv 2203.02155).
    A2C is PPO with one epoch and one minibatch (arXiv 2205.09123), where the ratio is 1 and clipping never acts;
    REINFORCE and RLOO (arXiv 2402.14740) have no value model, and take one step per batch as well.
    """

    algorithm: Literal["reinforce", "rloo", "a2c", "ppo"] = Field("ppo", description="how advantages are made")
    iterations: int = Field(8, ge=1, description="rounds of sampling and updating")
    batch_size: int = Field(32, ge=2, description="rollouts per iteration")
    samples_per_prompt: int = Field(1, ge=1, description="rollouts of one prompt; rloo needs at least 2")
    minibatches: int = Field(2, ge=1, description="optimizer steps per epoch")
    epochs: int = Field(2, ge=1, description="passes over the rollouts of an iteration")
    micro_batch_size: int | None = Field(
        None, ge=1, description="rows per forward and backward; gradients add up to the minibatch's; null: all"
    )
    gradient_checkpointing: bool = Field(
        False, description="keep each layer's input only and compute the rest again: less memory, more time"
    )
    max_tokens: int = Field(64, ge=1, description="tokens per response")
    temperature: float = Field(1.0, gt=0, description="temperature of sampling and of every log-probability")
    learning_rate: float = Field(1e-4, gt=0, description="peak learning rate of the policy, linear decay to 0")
    value_learning_rate: float = Field(1e-4, gt=0, description="peak learning rate of the value model")
    warmup_iterations: int = Field(0, ge=0, description="iterations of linear warm-up of both learning rates")
    kl_coef: float = Field(0.05, ge=0, description="beta: weight of the KL penalty towards the frozen SFT adapter")
    kl_penalty: Literal["reward", "loss"] = Field(
        "reward", description="reward: k1 in the rewards of the tokens; loss: k2 as a term of the loss"
    )
    kl_target: float | None = Field(
        None, gt=0, description="nats per response; beta then adapts towards it (Ziegler et al. 2019); null: fixed"
    )
    kl_horizon: int = Field(10000, ge=1, description="rollouts over which an adaptive beta can double")
    gamma: float = Field(1.0, gt=0, le=1, description="discount")
    lam: float = Field(0.95, ge=0, le=1, description="lambda of generalized advantage estimation")
    surrogate: Literal["clip", "kl_old"] = Field(
        "clip", description="clip: the clipped ratio; kl_old: the plain ratio and an adaptive KL from the old policy"
    )
    clip_range: float = Field(0.2, gt=0, description="epsilon of the clipped surrogate")
    kl_old_coef: float = Field(1.0, gt=0, description="first weight of the KL from the old policy (kl_old)")
    kl_old_target: float = Field(0.01, gt=0, description="nats per token that this KL is steered to (kl_old)")
    value_clip_range: float = Field(0.2, gt=0, description="clipping of the value update")
    value_coef: float = Field(0.5, ge=0, description="weight of the value loss")
    entropy_coef: float = Field(0.0, ge=0, description="weight of the entropy bonus")
    max_grad_norm: float = Field(1.0, gt=0, description="gradient norm that is clipped to")
    missing_eos_penalty: float = Field(1.0, ge=0, description="subtracted from the score of an unfinished response")
    normalize_scores: bool = Field(
        False, description="scores less their running mean, over their running deviation, from all rollouts so far"
    )
    whiten_rewards: bool = Field(False, description="scale the rewards of the tokens to variance 1, mean kept")
    target_kl: float | None = Field(0.1, description="ends an iteration's epochs when approxkl exceeds it; null: never")
    max_ratio: float = Field(10.0, gt=1, description="an update whose mean ratio exceeds this ends the training")
    ptx_coef: float = Field(
        0.0, ge=0, description="weight of the pretraining loss on plain text (InstructGPT's gamma, equation 2)"
    )
    ptx_corpus: str | None = Field(
        None, description="plain text for the pretraining loss, a .txt file relative to the recipe"
    )
    ptx_batch_size: int = Field(4, ge=1, description="windows of plain text per optimizer step")
    ptx_length: int = Field(128, ge=8, description="tokens per window of plain text")
    gold: str | None = Field(
        None,
        description="a Python function (prompt, response) -> number that every rollout is measured by and nothing is "
        "trained on, to see over-optimisation: 'my_rewards.py:gold', relative to the recipe, or 'package.module:gold'",
    )

    @model_validator(mode="before")
    @classmethod
    def _one_step(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("algorithm", "ppo") != "ppo":
            given = {"epochs": 1, "minibatches": 1, **given}
            if given["algorithm"] == "a2c":
                given = {"lam": 1.0, **given}
            if given["algorithm"] == "rloo":
                given = {"samples_per_prompt": 2, **given}
        return given

    @model_validator(mode="after")
    def _fits(self) -> PPOConfig:
        if self.algorithm != "ppo" and (self.epochs, self.minibatches) != (1, 1):
            raise ValueError(
                f"{self.algorithm} takes one step per batch; set epochs and minibatches to 1, or leave them"
            )
        if self.algorithm == "rloo" and self.samples_per_prompt < 2:
            raise ValueError("rloo compares the samples of one prompt; set samples_per_prompt to at least 2")
        if self.batch_size % self.samples_per_prompt:
            raise ValueError("batch_size is not a multiple of samples_per_prompt; make it one")
        if (self.ptx_coef > 0) != (self.ptx_corpus is not None):
            raise ValueError("the pretraining loss needs both ptx_coef and ptx_corpus; set both or neither")
        return self

    @property
    def has_value_model(self) -> bool:
        return self.algorithm in ("a2c", "ppo")

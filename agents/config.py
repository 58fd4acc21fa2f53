"""Schemas of a council and of a revision: who takes part and when they end. Free of torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from alignment.config import Settings

SCORERS = ("random", "length", "logprob", "critic", "reward", "checker", "oracle", "llm")  # others are functions
WRITERS = ("policy", "sft", "base")  # who writes where no role is asked for: the first that the model has
TOOLS = ("calculator", "check_arithmetic")  # those of agents.tools; others are a user's own


class ExpertConfig(Settings):
    """One expert: the role of the model that writes its steps, and how it differs from the others."""

    name: str = Field(min_length=1, description="shown beside its steps; unique in the council")
    role: str = Field("policy", description="role of the model that writes: base, sft or policy")
    run: str | None = Field(
        None, description="another run, on the same base model, whose role writes in place of this run's"
    )
    persona: str = Field("", description="system text for this expert; empty: none")
    temperature: float = Field(1.0, ge=0, description="of sampling its steps; 0 is greedy")
    min_p: float = Field(
        0.0, ge=0, lt=1, description="tokens less probable than so many times the most probable one are not drawn"
    )
    tools: list[str] = Field(
        default_factory=list,
        description=f"what it may call before each step: {', '.join(TOOLS)}, or a Tool of smolagents as "
        "'my_tools.py:name'",
    )
    code: bool = Field(
        False, description="whether it may run Python that it writes, in a sandbox, as one more tool; with --allow-code"
    )
    tool_calls: int = Field(3, ge=0, description="calls of tools before a step, at most")
    tool_seconds: float = Field(10.0, ge=0, description="of one call; a tool that takes longer is not waited for")


def _three_experts() -> list[ExpertConfig]:
    # One model, three temperatures: the cheapest way to lines that differ.
    return [
        ExpertConfig(name="Ada", temperature=0.6),
        ExpertConfig(name="Blaise", temperature=0.9),
        ExpertConfig(name="Carl", temperature=1.2),
    ]


class CouncilConfig(Settings):
    """Rounds of think, judge and share, how the tree is searched, and the budgets that end it."""

    experts: list[ExpertConfig] = Field(default_factory=_three_experts, min_length=1, description="the members")
    search: Literal["sample", "beam", "best_first", "dfs", "mcts"] = Field(
        "sample",
        description="sample: every expert has a line of its own; the others: one tree, to which all experts propose",
    )
    width: int = Field(1, ge=1, description="places of the tree that are continued at once (not for sample)")
    proposals: int = Field(
        3,
        ge=1,
        description="next steps that are proposed for each place, for the question width times as many (not sample)",
    )
    exploration: float = Field(1.0, ge=0, description="constant c of UCT (mcts)")
    distinct: bool = Field(
        True,
        description="whether an expert's steps for one place are drawn without replacement (not for sample, where "
        "lines that agree are votes)",
    )
    rounds: int = Field(4, ge=1, description="rounds of all experts; for sample: steps that each may write")
    depth: int | None = Field(None, ge=1, description="steps of a line; null: as many as there are rounds")
    max_tokens_per_step: int = Field(32, ge=1, description="tokens per step, without those of its calls of tools")
    scorer: str = Field(
        "auto",
        description="what scores lines: random, length, logprob, critic, reward, checker, oracle, llm, or a Python "
        "function (question, steps) -> number as 'my_scorers.py:name'; auto: reward where there is one, or logprob",
    )
    share: bool = Field(True, description="whether experts see each other's steps")
    rejoin: bool = Field(True, description="whether one that left may take up the best peer's line, once (sample)")
    leave_below: float | Literal["calibrated"] | None = Field(
        "calibrated",
        description="an expert leaves when its line's score by leave_scorer falls below this; calibrated: as `junto "
        "calibrate` found for the run, never where it was not run or found that it does not help; null: never",
    )
    leave_scorer: str = Field("auto", description="as scorer; auto: critic where there is one, or reward")
    leave_refuted: bool = Field(
        False, description="whether an expert leaves when the task's checker finds its step to be wrong"
    )
    vote: Literal["majority", "reward", "best"] = Field(
        "reward", description="by lines that end alike, by their scores' exponentials, or the best score alone"
    )
    answers: int | None = Field(
        None, ge=1, description="finished lines that are enough; null: go on while there is more"
    )
    seed: int = Field(0, ge=0, description="of sampling")
    max_proposals: int | None = Field(None, ge=1, description="steps that all experts write together; null: no limit")
    max_total_tokens: int = Field(
        2000,
        ge=0,
        description="tokens of all experts together, calls of tools among them; then the council concludes; the steps "
        "of a round get equal shares of what is left",
    )
    seconds: float | None = Field(None, ge=0, description="wall-clock limit; then the council concludes; null: none")
    ask_before: list[Literal["tool", "conclude"]] = Field(
        default_factory=list, description="what a person decides on first: each call of a tool, the verdict"
    )

    @field_validator("experts")
    @classmethod
    def _names_differ(cls, experts: list[ExpertConfig]) -> list[ExpertConfig]:
        names = [expert.name for expert in experts]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two experts are called {twice[0]!r}; give each a name of its own")
        return experts


class ReviseConfig(Settings):
    """An answer, the judges' verdict, and a revision, until one is accepted or a budget is spent."""

    turns: int = Field(3, ge=1, description="answers at most, the first one among them")
    accept_above: float = Field(
        1.0,
        description="an answer whose score is above this is accepted; rewards have mean 0 and standard deviation 1 on "
        "held-out texts, unless reward.normalize says otherwise",
    )
    role: str = Field("policy", description="role of the model that writes: base, sft or policy")
    temperature: float = Field(0.7, ge=0, description="of sampling; 0 is greedy")
    max_tokens: int = Field(64, ge=1, description="tokens per answer")
    seed: int = Field(0, ge=0, description="of sampling")
    max_total_tokens: int = Field(2000, ge=0, description="tokens of all answers; then the best one so far is taken")
    seconds: float | None = Field(None, ge=0, description="wall-clock limit; then the best one so far is taken")

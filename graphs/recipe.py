"""A recipe: one YAML file that composes the schemas of the stages. Free of torch.

Every mistake in it is one sentence with file and line, before anything heavy is loaded.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, get_args

import yaml
from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails

from agents.config import SCORERS, TOOLS, CouncilConfig, ReviseConfig
from alignment.config import BackboneConfig, PPOConfig, RewardConfig, Settings, SFTConfig, tuning_conflict
from alignment.errors import UsageError
from graphs.gate import GateConfig
from graphs.modules import file_of, load_function, load_tool, module_from_file
from graphs.source import Location, Source, did_you_mean

TASK_PARTS = ("Options", "load", "prompt", "check", "validate_question", "STEP")
# keys that may name a Python function
FUNCTIONS = (
    ("reward", "function", "reward function"),
    ("ppo", "gold", "gold function"),
    ("council", "scorer", "scorer"),
    ("council", "leave_scorer", "scorer"),
)


class EvaluateConfig(Settings):
    """Held-out evaluation of the SFT model and the policy on the same prompts."""

    n: int = Field(32, ge=1, description="held-out prompts; fewer where the task has fewer")
    temperature: float = Field(1.0, ge=0, description="of sampling; 0 is greedy")
    max_tokens: int = Field(64, ge=1, description="tokens per response")
    seed: int = Field(0, ge=0, description="of sampling")
    ability: bool = Field(
        True, description="whether perplexity of plain prose and general questions are measured beside the reward"
    )


class TestConfig(Settings):
    """The same on the prompts of the task's test split, after every gate and once: nothing is trained after it."""

    n: int = Field(0, ge=0, description="prompts of the test split; 0: none are asked")


class AuditConfig(Settings):
    """A gate before PPO: which surface features (length, politeness, lists …) the reward goes by, on held-out pairs.
    ``audit: warn`` is short for the section with that choice."""

    on_alarm: Literal["off", "warn", "stop"] = Field(
        "off", description="off: no audit; warn: an alarm is told and kept in the report; stop: PPO does not begin"
    )
    pairs: int = Field(200, ge=1, description="held-out pairs, or scored answers; fewer where the task has fewer")
    probes: int = Field(32, ge=0, description="answers that are changed and scored again, some 25 times each")
    explained: int = Field(8, ge=0, description="answers that LIME looks at word by word, some 200 texts each")

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        return {"on_alarm": value} if isinstance(value, str | bool) else value

    @field_validator("on_alarm", mode="before")
    @classmethod
    def _off(cls, value: Any) -> Any:
        return "off" if value is False else value  # YAML reads a bare off as false


class Candidates(Settings):
    """Two answers to one question, which `junto explain pair` explains when it is given none."""

    question: str = Field(description="what both answer")
    candidates: list[str] = Field(min_length=2, max_length=2, description="the two answers")


class Recipe(Settings):
    """What `junto run align` does, from data to evaluation, and the settings of the graphs that use the run."""

    name: str = Field(
        pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$",
        description="name of the run: lower-case letters, digits, - and _; the run directory is called so",
    )
    seed: int = Field(0, ge=0, description="of data, initial weights and sampling")
    task: str = Field("graphs.tasks.game24", description="dotted path of a task module, or a .py file")
    stop_after: Literal["sft", "reward", "ppo"] | None = Field(
        None, description="stage after which the run ends with its report; null: all stages"
    )
    data: dict[str, Any] = Field(default_factory=dict, description="options of the task")
    backbone: BackboneConfig = BackboneConfig()
    sft: SFTConfig = SFTConfig()
    reward: RewardConfig = RewardConfig()
    audit: AuditConfig = AuditConfig()
    ppo: PPOConfig = PPOConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    test: TestConfig = TestConfig()
    gate: GateConfig = GateConfig()
    council: CouncilConfig = CouncilConfig()
    revise: ReviseConfig = ReviseConfig()
    explain: list[Candidates] = Field(default_factory=list, description="pairs of answers for `junto explain pair`")


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read ``path``, apply ``a.b=value`` overrides in order, check every key, and the task's own options.

    In the result ``data`` holds all options of the task, with their defaults, and the files of a task, of functions
    that score and of tools are absolute paths. Raises UsageError.
    """
    source = Source(Path(path))
    for assignment in overrides:
        source.override(assignment)
    # "sft:" with every key below it commented out is the section with its defaults
    data = {key: value for key, value in source.data.items() if value is not None}
    try:
        recipe = Recipe.model_validate(data)
    except ValidationError as error:
        raise usage_error(source, Recipe, (), error) from None
    if conflict := _conflict(recipe):
        location, sentence = conflict
        raise UsageError(f'{source.where(location)}: "{".".join(map(str, location))}": {sentence}')
    base = source.path.parent
    try:
        task = load_task(recipe.task, base)
    except UsageError as error:
        raise UsageError(f"{source.where(('task',))}: {error}") from None
    try:
        options = task.Options.model_validate(recipe.data)
    except ValidationError as error:
        raise usage_error(source, task.Options, ("data",), error) from None
    update: dict[str, Any] = {"data": options.model_dump(mode="json")}
    if recipe.task.endswith(".py"):
        update["task"] = str(file_of(recipe.task, base))
    for section, key, what in FUNCTIONS:
        given = getattr(getattr(recipe, section), key)
        if given is None or (what == "scorer" and given in ("auto", *SCORERS)):
            continue
        name = _named(source, (section, key), given, what)
        update[section] = update.get(section, getattr(recipe, section)).model_copy(update={key: name})
    experts = list(recipe.council.experts)
    for i, expert in enumerate(experts):
        at = ("council", "experts", i, "tools")
        tools = [
            tool if tool in TOOLS else _named(source, (*at, j), tool, "tool") for j, tool in enumerate(expert.tools)
        ]
        experts[i] = expert.model_copy(update={"tools": tools})
    update["council"] = update.get("council", recipe.council).model_copy(update={"experts": experts})
    return recipe.model_copy(update=update)


def _named(source: Source, location: Location, given: str, what: str) -> str:
    """The name of a function or a tool of a user's, with the path of its file absolute."""
    where = source.where(location)
    # what --set names is looked for where the command is given, too
    here = where.startswith("--set ") and Path(given.rpartition(":")[0]).is_file()
    base = Path() if here else source.path.parent
    try:
        return load_tool(given, base)[0] if what == "tool" else load_function(given, base, what).name
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from None


def _conflict(recipe: Recipe) -> tuple[Location, str] | None:
    """A key that is right by itself and does not go with another one, and why."""
    if found := tuning_conflict(recipe.backbone, recipe.sft):
        return ("sft", found[0]), found[1]
    if recipe.sft.start == recipe.name:
        return ("sft", "start"), f"{recipe.name!r} is this run itself; name another one, whose training is lengthened"
    if recipe.sft.virtual and recipe.stop_after != "sft":
        return ("sft", "method"), (
            f"the reward model and PPO are LoRA adapters, which PEFT cannot put on a model with a {recipe.sft.method} "
            "encoder; set stop_after: sft, or sft.method: lora"
        )
    return None


def resolved(recipe: Recipe) -> str:
    """The recipe with every default written out, as YAML that `load_recipe` reads back to an equal recipe."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=100)


def load_task(task: str, base: str | Path = ".") -> ModuleType:
    """The task module at a dotted path, or in a ``.py`` file relative to ``base``. Raises UsageError."""
    module = module_from_file(task, Path(base), f"task {task!r}") if task.endswith(".py") else _from_package(task)
    missing = [part for part in TASK_PARTS if not hasattr(module, part)]
    if missing:
        raise UsageError(f"task {task!r} has no {missing[0]}; a task module has {', '.join(TASK_PARTS)}")
    return module


def _from_package(task: str) -> ModuleType:
    try:
        return importlib.import_module(task)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{task}.".startswith(f"{error.name}."):
            raise UsageError(f"task {task!r} needs the module {error.name!r}, which is not installed") from error
    except (TypeError, ValueError):  # ".relative" and ""
        pass
    import graphs.tasks

    modules = [f"graphs.tasks.{found.name}" for found in pkgutil.iter_modules(graphs.tasks.__path__)]
    # some hold what tasks share, and are no tasks
    known = [name for name in modules if all(hasattr(importlib.import_module(name), part) for part in TASK_PARTS)]
    hint = did_you_mean(task, known) or f"; there are {', '.join(known)}, or the path of a .py file"
    raise UsageError(f"there is no task {task!r}{hint}")


def usage_error(source: Source, model: type[BaseModel], prefix: Location, error: ValidationError) -> UsageError:
    """The first mistake as a sentence; the others as a number."""
    # unknown keys first: a misspelled key is often why another one is missing
    found = sorted(error.errors(include_url=False), key=lambda one: one["type"] != "extra_forbidden")
    first = found[0]
    location = (*prefix, *first["loc"])
    dotted = ".".join(map(str, location))
    if first["type"] == "extra_forbidden":
        sentence = f'unknown key "{dotted}"' + _known_keys(model, first["loc"], prefix)
    elif first["type"] == "missing":
        sentence = f'"{dotted}" is missing; {_description(model, first["loc"])}'
    elif first["type"] == "value_error":
        about = f'"{dotted}": ' if dotted else ""
        sentence = about + first["msg"].removeprefix("Value error, ")
    else:
        given = str(first["input"])
        given = repr(first["input"]) if len(given) <= 60 else f"{given[:57]!r}..."
        sentence = f'"{dotted}" is {given}; expected {_expected(model, first)}'
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    return UsageError(f"{source.where(location)}: {sentence}{more}")


def _known_keys(model: type[BaseModel], location: Location, prefix: Location) -> str:
    def dotted(parts: Location, key: str) -> str:
        return ".".join(map(str, (*prefix, *parts, key)))

    *parents, word = location
    holder = _model_at(model, tuple(parents))
    known = list(holder.model_fields) if holder else []
    close = did_you_mean(str(word), known)
    if close:  # say it with the whole path, as --set takes it
        key = close.split('"')[1]
        return f'; did you mean "{dotted(tuple(parents), key)}"?'
    for name, field in model.model_fields.items():  # right word, wrong section
        for section in _models(field.annotation):
            if str(word) in section.model_fields:
                return f'; did you mean "{dotted((name,), str(word))}"?'
    return f"; the keys here are {', '.join(known)}" if known else ""


def _expected(model: type[BaseModel], error: ErrorDetails) -> str:
    kind = error["type"].split("_")[0]
    if kind in ("model", "dict"):
        section = _model_at(model, error["loc"])
        return f"a section with the keys {', '.join(section.model_fields)}" if section else "a section of keys"
    if error["type"] == "string_pattern_mismatch":
        return _description(model, error["loc"])
    plain = {"int": "a whole number", "float": "a number", "bool": "true or false", "string": "text", "list": "a list"}
    if kind in plain and error["type"].endswith(("_type", "_parsing", "_from_float")):
        return plain[kind]
    words = error["msg"].removeprefix("Input should be ")
    return words.replace("greater than or equal to", "at least").replace("less than or equal to", "at most")


def _description(model: type[BaseModel], location: Location) -> str:
    holder = _model_at(model, location[:-1])
    field = holder.model_fields.get(str(location[-1])) if holder else None
    return (field.description if field else None) or "see the recipes that come with Junto"


def _model_at(model: type[BaseModel], location: Location) -> type[BaseModel] | None:
    for part in location:
        if isinstance(part, int):  # an item of a list: the field's annotation already led to its model
            continue
        field = model.model_fields.get(part)
        inner = _models(field.annotation) if field else []
        if not inner:
            return None
        model = inner[0]
    return model


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for inner in get_args(annotation) for found in _models(inner)]

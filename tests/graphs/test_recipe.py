"""Recipes: what they mean, and the one sentence that every mistake gets."""

from pathlib import Path

import pytest
from pydantic import BaseModel

from alignment.errors import UsageError
from graphs.recipe import Recipe, load_recipe, load_task, resolved

ROOT = Path(__file__).parents[2]
MINIMAL = "name: first\ntask: graphs.tasks.game24\n"
TASK = """
from pydantic import BaseModel, ConfigDict
class Options(BaseModel):
    model_config = ConfigDict(extra="forbid")
    size: int = 3
def load(options, seed, base): ...
def prompt(question, board=(), persona=""): ...
def check(question, response): ...
def validate_question(question): ...
STEP = None
"""


def recipe_file(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def refusal(path: Path, *overrides: str) -> str:
    with pytest.raises(UsageError) as caught:
        load_recipe(path, overrides)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_values_in_the_file_replace_defaults_and_nothing_else(tmp_path):
    recipe = load_recipe(recipe_file(tmp_path, MINIMAL + "sft:\n  learning_rate: 1e-3\nreward:\n  # steps: 3\n"))
    assert recipe.sft.learning_rate == 0.001  # YAML 1.1 reads 1e-3 as text
    assert recipe.sft.steps == Recipe(name="x").sft.steps
    assert recipe.reward == Recipe(name="x").reward  # a section whose keys are all comments
    assert [expert.name for expert in recipe.council.experts] == ["Ada", "Blaise", "Carl"]
    assert len({expert.temperature for expert in recipe.council.experts}) == 3


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda path: path.name)
def test_the_resolved_recipe_reads_back_equal(path, tmp_path):
    recipe = load_recipe(path, ["sft.learning_rate=1e-7", "council.seconds=1.5"])
    again = load_recipe(recipe_file(tmp_path, resolved(recipe)))
    assert again == recipe
    assert again.sft.learning_rate == 1e-7


@pytest.mark.parametrize(
    ("overrides", "method"),
    [
        (["sft.method=qlora"], "qlora"),
        (["sft.method=full", "backbone.quantization=none"], "full"),
        (["sft.method=prefix", "stop_after=sft"], "prefix"),
        (["sft.method=prompt", "stop_after=sft", "sft.gradient_checkpointing=true"], "prompt"),
    ],
)
def test_what_goes_together_is_taken(tmp_path, overrides, method):
    assert load_recipe(recipe_file(tmp_path, MINIMAL), overrides).sft.method == method


def keys_of(model: type[BaseModel], prefix: str = "") -> list[str]:
    found = []
    for name, field in model.model_fields.items():
        inner = field.annotation
        found.append(prefix + name)
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            found += keys_of(inner, f"{prefix}{name}.")
    return found


@pytest.mark.parametrize("key", keys_of(Recipe))
def test_every_key_is_suggested_for_its_misspelling(tmp_path, key):
    message = refusal(recipe_file(tmp_path, MINIMAL), f"{key}x=1")
    assert message.startswith(f"--set {key}x=1: ")
    assert f'unknown key "{key}x"; did you mean "{key}"?' in message


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("sft:\n  steps: 3\n  stepz: 3\n", 5, 'unknown key "sft.stepz"; did you mean "sft.steps"?'),
        ("backbone:\n  lora:\n    rnk: 3\n", 5, 'did you mean "backbone.lora.rank"?'),
        ("council:\n  experts:\n  - name: A\n  - nam: B\n", 6, '"council.experts.1.nam"'),
        ("rounds: 3\n", 3, 'did you mean "council.rounds"?'),
        ("wholly_else: 3\n", 3, "the keys here are name, seed"),
        ("data:\n  lines: 100\n  pares: 5\n", 5, 'unknown key "data.pares"; did you mean "data.pairs"?'),
        ("sft:\n  batch_size: many\n", 4, "\"sft.batch_size\" is 'many'; expected a whole number"),
        ("sft:\n  batch_size: 2.5\n", 4, "expected a whole number"),
        ("sft:\n  batch_size: 0\n", 4, "is 0; expected at least 1"),
        ("data:\n  wrong: 1.5\n", 4, '"data.wrong" is 1.5; expected at most 1'),
        ("backbone:\n  quantization: int4\n", 4, "expected 'none', 'int8' or 'nf4'"),
        ("ppo: fast\n", 3, "\"ppo\" is 'fast'; expected a section with the keys algorithm"),
        ("council:\n  experts: Ada\n", 4, "expected a list"),
        ("council:\n  experts: [{name: A}, {name: A}]\n", 4, "two experts are called 'A'"),
        ("explain:\n- question: q\n  candidates: [a]\n", 5, '"explain.0.candidates"'),
        ("explain:\n- candidates: [a, b]\n", 4, '"explain.0.question" is missing'),
        ("seed: 1\nseed: 2\n", 4, '"seed" is given twice'),
        ("sft:\n  method: qlora\nbackbone:\n  quantization: int8\n", 4, "qlora is LoRA on 4-bit weights"),
        ("sft:\n  steps: 3\n  method: full\n", 5, "set backbone.quantization: none"),
        ("stop_after: sft\nsft:\n  method: prefix\n  gradient_checkpointing: true\n", 6, "or sft.method: prompt"),
        ("stop_after: sft\nsft:\n  packing: true\n  method: prompt\n", 5, "its own virtual tokens"),
        ("sft:\n  gradient_accumulation: 3\n  batch_size: 4\n", 4, "4 rows (sft.batch_size) cannot be cut into 3"),
        ("sft:\n  method: prompt\n", 4, "model with a prompt encoder; set stop_after: sft"),
        ("stop_after: reward\nsft:\n  method: prefix\n", 5, "model with a prefix encoder; set stop_after: sft"),
        ("stop_after: evaluate\n", 3, "expected 'sft', 'reward' or 'ppo'"),
        ("sft: {steps: 1\n", 4, "malformed YAML"),
        ("sft:\n\tsteps: 1\n", 4, "malformed YAML"),
    ],
)
def test_a_mistake_is_told_with_file_line_and_what_is_expected(tmp_path, text, line, says):
    path = recipe_file(tmp_path, MINIMAL + text)
    message = refusal(path)
    assert message.startswith(f"{path}:{line}: ")
    assert says in message


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("task: graphs.tasks.game24\n", '"name" is missing; name of the run'),
        ("name: My Run\n", "is 'My Run'; expected name of the run: lower-case letters"),
        ("name: ../elsewhere\n", "lower-case letters"),
        ("- name: x\n", "a recipe is a mapping"),
        ("", "a recipe is a mapping"),
        ("name: x\ntask: graphs.tasks.game25\n", "there is no task 'graphs.tasks.game25'; did you mean"),
        # modules that tasks share are no tasks
        (
            "name: x\ntask: zzz\n",
            "tasks.chains, graphs.tasks.countdown, graphs.tasks.game24, graphs.tasks.jsonl, graphs",
        ),
        ("name: x\ntask: mine.py\n", "there is no file"),
        ("name: x\ntask: json\n", "task 'json' has no Options"),
    ],
)
def test_other_mistakes_name_the_file(tmp_path, text, says):
    path = recipe_file(tmp_path, text)
    message = refusal(path)
    assert message.startswith(str(path))
    assert says in message


def test_a_missing_recipe_suggests_its_neighbour(tmp_path):
    path = recipe_file(tmp_path, MINIMAL)
    message = refusal(tmp_path / "recpie.yaml")
    assert "there is no such recipe" in message
    assert str(path) in message


def test_overrides_are_yaml_and_apply_in_order(tmp_path):
    path = recipe_file(tmp_path, MINIMAL + "council:\n  experts:\n  - {name: A}\n  - {name: B}\n")
    recipe = load_recipe(
        path,
        [
            "sft.steps=3",
            "sft.steps=4",
            "ppo.target_kl=null",
            "council.share=false",
            "council.experts.1.temperature=0.25",
            "backbone.lora={rank: 2}",
            "data.held_out=[4 7 8 8]",
            'name="2026"',
        ],
    )
    assert recipe.sft.steps == 4
    assert recipe.ppo.target_kl is None
    assert recipe.council.share is False
    assert [expert.temperature for expert in recipe.council.experts] == [1.0, 0.25]
    assert recipe.backbone.lora.rank == 2
    assert recipe.data["held_out"] == ["4 7 8 8"]
    assert recipe.name == "2026"


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("sft.steps", "write it as --set section.key=value"),
        ("=3", "write it as"),
        ("sft..steps=3", "write it as"),
        ("sft.steps=[1", "malformed YAML"),
        ("sft.steps=ten", "expected a whole number"),
        ("council.experts.2.name=C", "number its items from 0"),
        ("council.experts.0.name.first=C", "expected text"),
        ("data.held_out=[99 99]", "is no puzzle"),
    ],
)
def test_a_wrong_override_is_quoted(tmp_path, override, says):
    path = recipe_file(tmp_path, MINIMAL + "council:\n  experts:\n  - {name: A}\n  - {name: B}\n")
    message = refusal(path, override)
    assert message.startswith(f"--set {override}: ")
    assert says in message


def test_a_task_can_be_a_file_beside_the_recipe(tmp_path):
    (tmp_path / "mine.py").write_text(TASK)
    path = recipe_file(tmp_path, "name: x\ntask: mine.py\n")
    recipe = load_recipe(path)
    assert recipe.data == {"size": 3}
    assert recipe.task == str(tmp_path / "mine.py")  # so that the run directory's copy finds it too
    assert load_task(recipe.task, "/").Options().size == 3
    assert refusal(path, "data.sise=4").endswith('unknown key "data.sise"; did you mean "data.size"?')


def test_a_task_file_with_a_syntax_error_is_named_with_its_line(tmp_path):
    (tmp_path / "mine.py").write_text("x = 1\ny = = 2\n")
    assert f"{tmp_path / 'mine.py'}:2: " in refusal(recipe_file(tmp_path, "name: x\ntask: mine.py\n"))

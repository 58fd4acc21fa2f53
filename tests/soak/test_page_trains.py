"""The page trains: a recipe is started, watched, stopped and gone on with; a real council is watched leaving. Run by
``make soak``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from graphs.server.models import opened
from tests.graphs.server.test_page import browser, browser_needed, choose, open_at, page, page_of, serious

__all__ = ["browser", "page"]  # fixtures


@pytest.mark.soak
@browser_needed
def test_a_recipe_is_started_watched_stopped_and_gone_on_with(page: Any, wide_model: Path, tmp_path: Path) -> None:
    backbone = {"model": str(wide_model), "quantization": "none", "compute_dtype": "float32", "lora": {"rank": 4}}
    recipe = {"name": "own", "backbone": backbone, "data": {"lines": 200, "pairs": 16, "prompts": 24}}
    recipe["sft"] = {"batch_size": 4, "checkpoint_every": 10}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(recipe))
    with opened([str(wide_model)], tmp_path / "runs") as models, page_of(models, tmp_path / "runs") as url:
        open_at(page, url)
        page.get_by_role("tab", name="Runs").click()
        choose(page, "Recipe", "own.yaml")
        page.get_by_label("Other settings").fill("sft.steps=5000\nstop_after=sft")
        page.get_by_role("button", name="Start training").click()
        page.locator("#run [data-state=running] svg").first.wait_for(timeout=120_000)
        before = page.locator("#run").inner_html()
        page.wait_for_function("before => document.querySelector('#run').innerHTML !== before", arg=before)
        assert serious(page) == []
        page.get_by_role("button", name="Start training").click()
        page.get_by_text("own is being trained; two trainings at a time").wait_for()
        page.get_by_role("button", name="Stop training").click()
        page.locator("#run [data-state=interrupted]").wait_for(timeout=60_000)
        page.reload()
        page.get_by_role("tab", name="Runs").click()
        page.locator("#run [data-state=interrupted]").wait_for()
        page.get_by_role("button", name="Go on training").click()
        page.get_by_text("own goes on").wait_for()
        page.locator("#run [data-state=running]").wait_for(timeout=120_000)
        page.get_by_role("button", name="Stop training").click()
        page.locator("#run [data-state=interrupted]").wait_for(timeout=60_000)
        page.close()  # before the server that it asks every two seconds


@pytest.mark.soak
@browser_needed
def test_a_real_expert_leaves_before_ones_eyes(page: Any, tmp_path: Path) -> None:
    """Leaving by score, at a threshold that is no measured one, on the run that comes with the project."""
    with opened(["game24"], tmp_path / "runs") as models:
        path = tmp_path / "runs" / "game24" / "config.yaml"
        recipe = yaml.safe_load(path.read_text())
        recipe["council"] |= {"search": "sample", "leave_below": 0.6, "rejoin": False, "answers": None}
        path.write_text(yaml.safe_dump(recipe))
    with opened(["game24"], tmp_path / "runs") as models, page_of(models, tmp_path / "runs") as url:
        open_at(page, url)
        leaving = page.locator("#live .column", has_text="leaves: its line is worth").first
        answer = page.locator("#talk .turn.ai")
        page.get_by_label("Your question").fill("1 3 9 11")
        page.get_by_role("button", name="Send").click()
        for _ in range(8):  # lines are drawn anew for each question, and not in each sitting one is that low
            leaving.or_(answer).wait_for(timeout=120_000)
            if leaving.is_visible():
                break
            page.get_by_role("button", name="Ask again").click()
            answer.wait_for(state="detached")
        answer.wait_for(timeout=120_000)
        assert "left: its line is worth" in page.locator("#talk .turn.ai").inner_text()
        page.get_by_role("button", name="Tree").click()
        page.locator("#judgement svg.tree .t-left").first.wait_for()
        page.get_by_role("button", name="Why this answer").click()
        page.locator("#judgement .ex-unit, #judgement .warning").first.wait_for(timeout=120_000)
        assert serious(page) == []

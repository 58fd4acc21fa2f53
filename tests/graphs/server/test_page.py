"""The page in a browser: the distribution's Chromium, driven by Playwright, over a tiny run."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from alignment.run_dir import RunDir
from graphs.server.guard import Policy
from graphs.server.models import Model, answerers, opened
from graphs.web.app import build_app
from graphs.web.conversations import Conversations, Place
from graphs.web.page import Site
from graphs.web.training import Trainings
from tests.graphs.server.conftest import running, until

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run"]  # and no calls home, which a closed network refuses
FLAGS += [f"--disable-{part}" for part in ("background-networking", "component-update", "sync", "quic")]
SECONDS = 30_000.0  # of Playwright, in milliseconds
# what a browser would run, a template would fill in and a chat format would end the turn by
HOSTILE = '<img src=x onerror="window.hacked=1"><script>window.hacked=2</script> ${6*7} {{6*7}} <|im_end|>\n**5** | a'
browser_needed = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine (apt install chromium)")


@contextmanager
def page_of(models: list[Model], runs_root: Path, policy: Policy | None = None) -> Iterator[str]:
    site = Site(answerers(models), Conversations(), Trainings(runs_root, runs_root.parent))
    with running(build_app(site, policy or Policy(own_pages=True))) as (url, _):
        yield f"{url}/"


@pytest.fixture(scope="module")
def runs(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of the tiny model: one whose experts leave when the checker refutes them, one that asks before its verdict.
    Beside them a recipe."""
    root = tmp_path_factory.mktemp("page") / "runs"
    for name, changes in (
        ("leaving", {"leave_refuted": True, "rejoin": False}),
        ("asking", {"ask_before": ["conclude"]}),
    ):
        shutil.copytree(tiny_run, root / name)
        recipe = yaml.safe_load((root / name / "config.yaml").read_text())
        recipe |= {"name": name, "council": recipe["council"] | changes}
        (root / name / "config.yaml").write_text(yaml.safe_dump(recipe))
    refute = "\n\ndef refute(question, steps, finished):\n    return '' if steps[-1][0] == '0' else 'not 0'\n"
    (root / "leaving" / "task.py").write_text((root / "leaving" / "task.py").read_text() + refute)
    (root.parent / "own.yaml").write_text("name: own\n")
    (root.parent / "other.yaml").write_text("something: else\n")
    return root


@pytest.fixture(scope="module")
def models(runs: Path) -> Iterator[list[Model]]:
    with opened(["leaving", "asking"], runs) as found:
        yield found


@pytest.fixture(scope="module")
def url(models: list[Model], runs: Path) -> Iterator[str]:
    with page_of(models, runs) as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A window of its own; what the browser complains of fails the test."""
    context = browser.new_context(viewport={"width": 1100, "height": 900})
    context.set_default_timeout(SECONDS)
    page = context.new_page()
    complaints: list[str] = []
    page.on("console", lambda message: message.type == "error" and complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", lambda dialog: complaints.append(dialog.message))
    yield page
    context.close()
    assert complaints == []


def own_pages(models: list[Model], count: int) -> list[tuple[Conversations, Place]]:
    """What so many servers have of the conversations with one model."""
    model = next(one for one in answerers(models).values() if not one.council)
    return [(one, one.place(model)) for one in (Conversations() for _ in range(count))]


def open_at(page: Any, url: str) -> None:
    page.goto(url)
    page.get_by_role("heading", name="Junto", exact=True).wait_for()
    page.locator("#talk .talk").wait_for()


def choose(page: Any, label: str, option: str) -> None:
    page.get_by_label(label).first.click()
    page.get_by_role("option", name=option, exact=True).click()


def ask(page: Any, question: str) -> None:
    before = page.locator("#talk .turn.ai").count()
    page.get_by_label("Your question").fill(question)
    page.get_by_role("button", name="Send").click()
    page.locator("#talk .turn.ai").nth(before).or_(page.locator("#live .warning")).wait_for()
    assert page.locator("#live .warning").all_inner_texts() == []


def serious(page: Any) -> list[str]:
    """What axe finds that keeps somebody from using the page."""
    from axe_core_python.sync_playwright import Axe

    found = Axe().run(page)["violations"]
    return [f"{one['id']}: {one['nodes'][0]['html']}" for one in found if one["impact"] in ("serious", "critical")]


@browser_needed
def test_a_council_is_asked_watched_explained_and_found_again(page: Any, url: str, runs: Path) -> None:
    open_at(page, url)
    ask(page, "4 7 8 8")
    turn = page.locator("#talk .turn.ai").inner_text()
    assert "left: the checker: not 0" in turn and "not solved" in turn
    page.get_by_role("button", name="Tree").click()
    page.locator("#judgement svg.tree").wait_for()
    drawn = page.locator("#judgement svg.tree .t-thought").count()
    from graphs.kept_threads import names, opened, state_of

    with opened(runs / "leaving" / "threads.sqlite") as saver:
        name = next(one for one in names(saver) if one.startswith("chat-council/"))
        tree = state_of(saver, name)["values"]["tree"]
    assert drawn == len(tree)
    page.get_by_role("button", name="Why this answer").click()
    finished = any(thought.status == "final" for thought in tree.values())
    page.locator("#judgement .ex-unit" if finished else "#judgement .warning").first.wait_for()
    assert serious(page) == []
    page.reload()
    page.locator("#talk .turn.ai").wait_for()
    assert page.locator("#talk .turn.ai").inner_text() == turn
    page.get_by_role("button", name="Take back").click()
    page.locator("#talk .turn.ai").wait_for(state="detached")
    assert page.get_by_label("Your question").input_value() == "4 7 8 8"


@browser_needed
def test_a_reply_is_explained_and_hostile_text_is_text(page: Any, url: str) -> None:
    open_at(page, url)
    choose(page, "Who answers", "leaving:sft")
    ask(page, HOSTILE)
    assert page.locator("#talk .turn.human .said").inner_text() == HOSTILE
    page.get_by_role("button", name="Scores").click()
    page.get_by_text("Reward of the last reply").wait_for()
    assert page.evaluate("window.hacked") is None
    assert page.locator("#talk img, #talk script").count() == 0
    page.set_viewport_size({"width": 390, "height": 844})
    page.emulate_media(color_scheme="dark")
    page.reload()
    page.locator("#talk .turn.ai").wait_for()
    assert page.locator("#talk .turn.human .said").inner_text() == HOSTILE
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert serious(page) == []


@browser_needed
def test_a_person_decides_on_the_page_also_after_it_was_closed(page: Any, url: str, browser: Any) -> None:
    open_at(page, url)
    choose(page, "Who answers", "asking:council")
    page.get_by_label("Your question").fill("1 2 3 4")
    page.get_by_role("button", name="Send").click()
    page.get_by_role("heading", name="Your decision").wait_for()
    page.reload()
    page.get_by_role("heading", name="Your decision").wait_for()
    assert serious(page) == []
    page.get_by_label("A reason to reject, or an answer of yours").fill("<b>mine</b>")
    page.get_by_role("button", name="Take my answer").click()
    page.locator("#talk .turn.ai").wait_for()
    assert "<b>mine</b>" in page.locator("#talk .turn.ai .words").inner_text()
    assert not page.get_by_role("heading", name="Your decision").is_visible()


@browser_needed
def test_the_runs_are_shown_by_keyboard_and_a_wrong_setting_is_one_sentence(page: Any, url: str) -> None:
    open_at(page, url)
    page.get_by_role("tab", name="Chat").focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="leaving: pending").or_(
        page.get_by_role("heading", name="asking: pending")
    ).wait_for()
    page.get_by_role("button", name="Start a recipe").click()
    choose(page, "Recipe", "own.yaml")
    page.get_by_label("Other settings").fill("sft.stepz=4")
    page.get_by_role("button", name="Start training").click()
    assert "sft.stepz" in page.locator("#told .warning").inner_text()
    page.get_by_role("button", name="Stop training").click()
    page.get_by_text("is not being trained").wait_for()
    assert serious(page) == []


def test_a_session_that_another_program_answers_is_left_to_it(models: list[Model]) -> None:
    [(conversations, place)] = own_pages(models, 1)
    with closing(place.chats()) as program:
        events = program.reply("theirs", "1 2 3 4")
        next(events)
        writing = conversations.ask(place, "theirs", None)  # as a page does that finds a question without its reply
        until(lambda: writing.ended)
        assert "another program is writing a reply" in writing.error
        list(events)
        assert [message.type for message in program.messages("theirs")] == ["human", "ai"]


def test_two_servers_of_pages_write_into_one_file_of_sessions(models: list[Model]) -> None:
    pages = own_pages(models, 2)
    names = [f"both/{i}" for i in range(8)]
    replies = [conversations.ask(place, name, "1 2") for name in names for conversations, place in pages]
    until(lambda: all(writing.ended for writing in replies))
    with closing(pages[0][1].chats()) as chats:
        for name, pair in zip(names, zip(replies[::2], replies[1::2], strict=True), strict=True):
            # at the same time one of them is told so; one after the other, both are answered
            answered = [writing for writing in pair if not writing.error]
            assert answered and all("another program" in writing.error for writing in pair if writing.error)
            turns = chats.messages(name)
            assert [message.type for message in turns] == ["human", "ai"] * len(answered)
            assert {turn.text for turn in turns if turn.type == "ai"} == {writing.text for writing in answered}


def test_readers_that_stall_hold_up_nobody(url: str) -> None:
    port = int(url.rstrip("/").rpartition(":")[2])
    whole = httpx.get(url, timeout=30).content
    with ExitStack() as stack:
        for _ in range(40):
            stalled = stack.enter_context(socket.socket())
            stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            stalled.connect(("127.0.0.1", port))
            stalled.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" * 8)
        assert len(httpx.get(url, timeout=30).content) == len(whole) > 20_000


def test_files_of_a_run_and_nothing_else(url: str, runs: Path) -> None:
    (runs / "leaving" / "report.html").write_text("<p>the report</p>")
    found = httpx.get(f"{url}runs/leaving/report.html")
    assert found.text == "<p>the report</p>" and "default-src 'none'" in found.headers["content-security-policy"]
    (runs / "leaving" / "trees").mkdir(exist_ok=True)
    (runs / "leaving" / "trees" / "secret.json").write_text("{}")
    names = (
        "leaving/config.yaml",
        "leaving/threads.sqlite",
        "leaving/trees/secret.json",
        "leaving/trees/../config.yaml",
    )
    names += ("..%2f..%2fetc/passwd", "%2e%2e/own.yaml", "leaving/%2e%2e/asking/report.html", "none/report.html")
    for name in names:
        refused = httpx.get(f"{url}runs/{name}")
        assert refused.status_code == 404 and "the report" not in refused.text, name
    for path in ("gradio_api/file=/etc/passwd", f"gradio_api/file={runs}/leaving/config.yaml", "file=/etc/passwd"):
        assert httpx.get(url + path).status_code in (403, 404), path


def test_whom_the_page_answers(models: list[Model], url: str, runs: Path) -> None:
    assert httpx.get(url, headers={"host": "evil.example"}).status_code == 403
    assert httpx.get(url, headers={"origin": "http://evil.example"}).status_code == 403
    # nor another page of this machine: it could start a recipe
    assert httpx.get(url, headers={"origin": "http://localhost:3000"}).status_code == 403
    assert httpx.get(url, headers={"origin": url.rstrip("/")}).status_code == 200
    big = httpx.post(f"{url}gradio_api/run/predict", content=b"x" * 2_000_000)
    assert big.status_code == 413
    for body in (b"", b"{", b"[]", b'{"fn_index": 99999, "data": []}', b'{"data": "x", "fn_index": 1}', b"\xff" * 100):
        wrong = httpx.post(f"{url}gradio_api/run/predict", content=body, headers={"content-type": "application/json"})
        assert 400 <= wrong.status_code < 600 and "Traceback" not in wrong.text and "site-packages" not in wrong.text
    assert httpx.get(f"{url}ok").json() == {"ok": True}
    with page_of(models, runs, Policy(token="s3cret", loopback=False, own_pages=True)) as locked:
        asked = httpx.get(locked)
        assert asked.status_code == 401 and "Basic" in asked.headers["www-authenticate"]
        assert httpx.get(f"{locked}runs/leaving/report.html", auth=("me", "wrong")).status_code == 401
        assert httpx.get(locked, auth=("anybody", "s3cret")).status_code == 200


def test_a_recipe_is_listed_without_running_what_it_names(runs: Path) -> None:
    folder = runs.parent / "listed"
    (folder / "recipes").mkdir(parents=True)
    (folder / "recipes" / "theirs.yaml").write_text("name: theirs\ntask: theirs.py\n")
    (folder / "recipes" / "theirs.py").write_text("raise SystemExit('run')\n")
    (folder / "broken.yaml").write_text("a: [")
    assert Trainings(folder / "runs", folder).recipes() == ["recipes/theirs.yaml"]


def test_a_tool_call_is_shown_for_a_decision() -> None:
    from graphs.web.fragments import decision

    args = {"expert": "Ada", "tool": "calculator", "arguments": {"expression": "<b>1</b>"}}
    action = {"name": "tool", "args": args, "description": "Ada calls"}
    shown = decision({"1": {"action_requests": [action], "review_configs": []}})
    assert "calculator" in shown and "<b>1" not in shown


def test_what_cannot_be_trained_is_refused_before_a_process_begins(runs: Path) -> None:
    from alignment.errors import UsageError

    trainings = Trainings(runs, runs.parent)
    assert trainings.recipes() == ["own.yaml"]
    for recipe, name, settings, said in (
        ("other.yaml", "", [], "no recipe"),
        ("../../etc/x.yaml", "", [], "no recipe"),
        ("own.yaml", "../x", [], "name"),
        ("own.yaml", 'a"b', [], "name"),
        ("own.yaml", "", ["name=x/y"], "name"),
        ("own.yaml", "", ["sft.steps=no"], "sft.steps"),
        ("own.yaml", "", ["task=/tmp/x.py"], "Python code"),
        ("own.yaml", "", ["reward.function=x.py:f"], "Python code"),
    ):
        with pytest.raises(UsageError, match=said):
            trainings.start(recipe, name, settings)
    with pytest.raises(UsageError, match="no run"):
        trainings.resume("../own")
    with pytest.raises(UsageError, match="came trained"):
        trainings.resume("leaving")
    with RunDir(runs / "leaving").locked(), pytest.raises(UsageError, match="leaving is being trained"):
        trainings.start("own.yaml", "", [])

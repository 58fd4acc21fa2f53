"""The page itself: what is on it, and what happens when something is pressed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any

import gradio as gr

from alignment.errors import UsageError
from explain.result import METHODS
from graphs.asking import Asked, answer, request_of
from graphs.chat import new_name
from graphs.judged import Judge, Judged, judge_of, judged
from graphs.server.models import Answerer
from graphs.server.refusals import refusal_of
from graphs.web import fragments
from graphs.web.conversations import Conversations, Place, Writing
from graphs.web.runs_parts import run_part
from graphs.web.training import Trainings

TICK = 0.3  # seconds between looks at what is being written
LONGEST = 200_000  # characters of a message
NEW = "a new session"


@dataclass(frozen=True)
class Site:
    """What the page shows: who answers, their conversations, and the runs."""

    names: dict[str, Answerer]
    conversations: Conversations
    trainings: Trainings

    def place(self, who: str) -> Place:
        if who not in self.names:
            raise UsageError(f"nobody here is called {who!r}; choose who answers")
        return self.conversations.place(self.names[who])

    def sessions(self, place: Place, name: str = "") -> list[tuple[str, str]]:
        """(label, name), the last one first; ``name`` is among them also while its first question is not kept yet."""
        with closing(place.chats()) as chats:
            found = [(f"{one.title or one.name} ({one.name})", one.name) for one in chats.sessions()]
        new = [(name, name)] if name and all(one != name for _, one in found) else []
        return [(NEW, ""), *new, *found]

    def judge(self, place: Place, session: str) -> tuple[Judged, Judge]:
        with closing(place.chats()) as chats:
            one = judged(chats.messages(session), place.council, place.database)
        model = place.answerer.model
        return one, judge_of(model.run, model.engine)


def html(value: str, name: str | None = None) -> gr.HTML:
    """HTML in the report's own style, not in Gradio's."""
    return gr.HTML(value, elem_id=name, apply_default_css=False)


def said(error: Exception) -> str:
    return fragments.sentence(refusal_of(error).sentence)


def build_page(site: Site) -> gr.Blocks:
    """The page over ``site``, not mounted yet."""
    first = next(name for name in sorted(site.names, key=lambda name: not name.endswith(":council")))
    with gr.Blocks(title="Junto", analytics_enabled=False) as page:
        kept = gr.BrowserState({"who": first, "session": ""}, storage_key="junto", secret="junto")
        html('<div class="junto"><h1>Junto</h1></div>')
        with gr.Tab("Chat"):
            chat_tab(page, site, kept, first)
        with gr.Tab("Runs"):
            runs_tab(page, site)
    return page


# -- chat -------------------------------------------------------------------------------------------------


def chat_tab(page: gr.Blocks, site: Site, kept: gr.BrowserState, first: str) -> None:
    with gr.Column(visible=False) as body:  # until it is known what the browser remembers
        with gr.Row():
            who = gr.Dropdown(list(site.names), value=first, label="Who answers", filterable=False)
            session = gr.Dropdown([(NEW, "")], value="", label="Session", filterable=False)
            new = gr.Button("New session", scale=0)
        talk = html(fragments.conversation([]), "talk")
        live = html("", "live")
        with gr.Column(visible=False, elem_id="decision") as deciding:
            asked = html("")
            remark = gr.Textbox(label="A reason to reject, or an answer of yours", lines=2)
            with gr.Row():
                approve = gr.Button("Approve", variant="primary")
                reject = gr.Button("Reject")
                edit = gr.Button("Take my answer")
        question = gr.Textbox(label="Your question", lines=2, max_lines=12, max_length=LONGEST, elem_id="question")
        with gr.Row():
            send = gr.Button("Send", variant="primary", min_width=90)
            stop = gr.Button("Stop", min_width=90)
            again = gr.Button("Ask again", min_width=90)
            undo = gr.Button("Take back", min_width=90)
        with gr.Row():
            tree = gr.Button("Tree", min_width=90)
            scores = gr.Button("Scores", min_width=90)
            why = gr.Button("Why this answer", min_width=90)
            method = gr.Dropdown(list(METHODS), value="lime", label="Explained by", filterable=False, min_width=120)
        judgement = html("", "judgement")

    timer = gr.Timer(TICK, active=False)  # while a reply is being written
    seen = gr.State(-1)  # version of the reply that is shown
    shown = [talk, live, asked, deciding, question, session, kept, timer, seen]
    same = gr.skip()

    def shows(place: Place, name: str, writing: Writing | None, box: Any = same) -> tuple[Any, ...]:
        """All of a session as it is now. ``box``: what becomes of the question's box."""
        ended = writing is None or writing.ended  # before its turns are read: what comes then is shown at the next look
        version = writing.version if writing else -1
        with closing(place.chats()) as chats:
            turns = fragments.conversation(chats.messages(name), "" if writing is None or ended else writing.question)
        waits = writing is not None and writing.ended and bool(writing.asked)
        request = fragments.decision(writing.asked) if writing is not None and waits else ""
        listed = gr.update(choices=site.sessions(place, name), value=name)
        state = {"who": place.answerer.name, "session": name}
        part = fragments.written(writing)
        return turns, part, request, gr.update(visible=waits), box, listed, state, gr.Timer(active=not ended), version

    def showing(act: Callable[..., tuple[Any, ...]]) -> Callable[..., tuple[Any, ...]]:
        """``act``, an error of which is one sentence where the reply would be."""

        def safely(*given: Any) -> tuple[Any, ...]:
            try:
                return act(*given)
            except Exception as error:
                return (same, said(error), *[same] * (len(shown) - 2))

        return safely

    def ask(text: str, who: str, name: str) -> tuple[Any, ...]:
        place, name = site.place(who), name or new_name()
        if not text.strip():
            raise UsageError("the question is empty; write one")
        return shows(place, name, site.conversations.ask(place, name, text.strip()), "")

    def look(who: str, name: str, version: int) -> tuple[Any, ...]:
        """The next look at a reply that is being written."""
        place = site.place(who)
        writing = site.conversations.writing(place, name)
        if writing is not None and not writing.ended:
            if writing.version == version:
                return (same,) * len(shown)
            version = writing.version
            return (same, fragments.written(writing), *[same] * (len(shown) - 3), version)
        # a question whose answer failed comes back into its box
        return shows(place, name, writing, writing.question if writing and writing.error else same)

    def open_session(who: str, name: str) -> tuple[Any, ...]:
        """Shows a session; a reply that is owed is begun, as after a kill, or because a person is to be asked."""
        place = site.place(who)
        writing = site.conversations.writing(place, name) if name else None
        if name and (writing is None or writing.ended):
            with closing(place.chats()) as chats:
                owed = chats.unanswered(name)
            writing = site.conversations.ask(place, name, None) if owed else None
        return shows(place, name, writing)

    def ask_again(who: str, name: str) -> tuple[Any, ...]:
        place = site.place(who)
        text = undone(site, place, name)
        try:
            return shows(place, name, site.conversations.ask(place, name, text))
        except Exception as error:  # the question comes back into its box
            turns, _, *others = shows(place, name, None, text)
            return turns, said(error), *others

    def take_back(who: str, name: str) -> tuple[Any, ...]:
        place = site.place(who)
        text = undone(site, place, name)
        return shows(place, name, None, text)

    def decide(kind: str, remark: str, who: str, name: str) -> tuple[Any, ...]:
        place = site.place(who)
        writing = site.conversations.writing(place, name)
        if writing is None or not writing.asked:
            raise UsageError("nothing is to be decided here")
        if kind == "edit" and not remark.strip():
            raise UsageError("write the answer that is to be taken")
        answers = {number: decided(kind, remark.strip(), one) for number, one in writing.asked.items()}
        return shows(place, name, site.conversations.ask(place, name, None, answers))

    def end(who: str, name: str) -> None:
        writing = site.conversations.writing(site.place(who), name)
        if writing is not None:
            writing.cancelled.set()

    def judge(part: Callable[[Judged, Judge], str]) -> Callable[[str, str], str]:
        def shown(who: str, name: str) -> str:
            try:
                return part(*site.judge(site.place(who), name))
            except Exception as error:
                return said(error)

        return shown

    def drawn(one: Judged, judge: Judge) -> str:
        if one.result is None:
            raise UsageError("one model replied, so there is no tree; let a council answer")
        return fragments.tree(one)

    def scored(one: Judged, judge: Judge) -> str:
        return fragments.scores(one, judge.reward(one) if one.result is None else None)

    def explained(who: str, name: str, method: str) -> str:
        chosen = method if method in METHODS else "lime"
        return judge(lambda one, judge: fragments.why(judge.why(one, chosen, lambda event: None)))(who, name)

    def remembered(state: Any) -> tuple[Any, ...]:
        """What the browser remembers, where it is still there."""
        who, name = (state.get("who"), str(state.get("session") or "")) if isinstance(state, dict) else (None, "")
        who = who if who in site.names else first
        ready = (gr.update(visible=True), gr.update(value=who))

        def opened() -> tuple[Any, ...]:
            there = [one for _, one in site.sessions(site.place(who))]
            return open_session(who, name if name in there else "")

        return *ready, *showing(opened)()

    quietly: dict[str, Any] = {"queue": False, "api_visibility": "private", "show_progress": "hidden"}
    page.load(remembered, kept, [body, who, *shown], **quietly)
    gr.on([send.click, question.submit], showing(ask), [question, who, session], shown, **quietly)
    timer.tick(showing(look), [who, session, seen], shown, **quietly)
    session.input(showing(open_session), [who, session], shown, **quietly)
    gr.on([who.input, new.click], showing(lambda who: open_session(who, "")), who, shown, **quietly)
    again.click(showing(ask_again), [who, session], shown, **quietly)
    undo.click(showing(take_back), [who, session], shown, **quietly)
    stop.click(end, [who, session], None, **quietly)
    for button, kind in ((approve, "approve"), (reject, "reject"), (edit, "edit")):
        button.click(showing(partial(decide, kind)), [remark, who, session], shown, **quietly)
    slowly = quietly | {"show_progress": "full"}
    tree.click(judge(drawn), [who, session], judgement, **slowly)
    scores.click(judge(scored), [who, session], judgement, **slowly)
    why.click(explained, [who, session, method], judgement, **slowly)


def undone(site: Site, place: Place, session: str) -> str:
    """Takes back the last question and returns it. Raises UsageError where there is none, and while a reply is being
    written, which is not to be taken back under its writer."""
    site.conversations.check_idle(place, session)
    with closing(place.chats()) as chats:
        text = chats.undo(session)
    if not text:
        raise UsageError("there is nothing to take back")
    return text


def decided(kind: str, remark: str, asked: Asked) -> dict[str, Any]:
    """The answer to one request; only a verdict can be another one, a tool call that is not wanted is rejected."""
    action = request_of(asked)["name"]
    if kind == "edit" and action == "conclude":
        return answer("edit", action, {"answer": remark})
    return answer("reject" if kind == "edit" else kind, message=remark)


# -- runs -------------------------------------------------------------------------------------------------


def runs_tab(page: gr.Blocks, site: Site) -> None:
    trainings = site.trainings
    names = trainings.runs()
    with gr.Row():
        name = gr.Dropdown(names, value=names[0] if names else None, label="Run", filterable=False)
        stop = gr.Button("Stop training", min_width=120)
        resume = gr.Button("Go on training", min_width=120)
    with gr.Accordion("Start a recipe", open=not names):
        with gr.Row():
            recipe = gr.Dropdown(trainings.recipes(), label="Recipe", filterable=False)
            called = gr.Textbox(label="Name of the run; empty: that of the recipe", max_lines=1, max_length=64)
        settings = gr.Textbox(label="Other settings, one KEY=VALUE a line, such as sft.steps=40", lines=2)
        start = gr.Button("Start training", variant="primary")
    told = html("", "told")
    with gr.Row(visible=False) as deciding:
        reason = gr.Textbox(label="Your reason", max_lines=1, max_length=500)
        approve = gr.Button("Approve, go on", variant="primary", min_width=120)
        reject = gr.Button("End it here", min_width=120)
    shown = html("", "run")
    html(fragments.rendered("evaluations_link.html.j2"))
    timer = gr.Timer(2.0)
    last = gr.State("")

    def looked(name: str | None, last: str) -> tuple[Any, ...]:
        """The run as it is now; what has not changed is not sent again."""
        there = trainings.runs()
        if not there:
            return fragments.sentence("there is no run yet", "soft"), "", gr.skip(), gr.skip()
        name = name if name in there else there[0]
        part = run_part(trainings, name)
        waits = trainings.run(name).state() == "waiting"
        listed = gr.update(choices=there, value=name)
        return (gr.skip() if part == last else part), part, listed, gr.update(visible=waits)

    def begun(recipe: str | None, called: str, settings: str) -> tuple[Any, ...]:
        try:
            lines = [line.strip() for line in settings.splitlines() if line.strip()]
            run = trainings.start(recipe or "", called.strip(), lines)
        except Exception as error:
            return said(error), gr.skip()
        sentence = fragments.sentence(f"{run} begins; it goes on when this page is closed", "soft")
        return sentence, gr.update(choices=trainings.runs(), value=run)

    def doing(act: Callable[[str], None], sentence: str) -> Callable[[str | None], str]:
        def done(name: str | None) -> str:
            try:
                act(name or "")
            except Exception as error:
                return said(error)
            return fragments.sentence(sentence.format(name=name), "soft")

        return done

    def decided_on(kind: str, name: str | None, reason: str) -> str:
        return doing(lambda name: trainings.decide(name, kind, reason.strip()), "{name} goes on")(name)

    hidden: dict[str, Any] = {"queue": False, "api_visibility": "private", "show_progress": "hidden"}
    looking: dict[str, Any] = {"inputs": [name, last], "outputs": [shown, last, name, deciding], **hidden}
    gr.on([page.load, timer.tick, name.change], looked, **looking)
    page.load(lambda: gr.update(choices=trainings.recipes()), None, recipe, **hidden)  # those that have come since
    start.click(begun, [recipe, called, settings], [told, name], **hidden)
    stopped = "{name} stops at its next step, and keeps what it has"
    stop.click(doing(trainings.stop, stopped), name, told, **hidden)
    for button, kind in ((approve, "approve"), (reject, "reject")):
        button.click(partial(decided_on, kind), [name, reason], told, **hidden)
    resume.click(doing(trainings.resume, "{name} goes on"), name, told, **hidden)

"""The ``council`` graph: think -> judge -> share -> ... -> conclude.

In each round active experts write the next steps (one ``Send`` each, decoded as one batch). All new steps are scored
together; an expert that says itself that it is wrong, whose line scores too low or whose step a checker refutes,
leaves. Experts see their peers' steps, and one that left may come back once by taking up the best peer's line. Where
``search`` is not ``sample``, the experts propose to one tree, and a strategy of ``agents.search`` says which places of
it are continued.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

from langgraph.errors import GraphBubbleUp
from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime

from agents.scorers import Score, lines_of
from agents.thought import Thought, Tree, line, vote
from graphs.asking import ask
from graphs.turns import Context, Seat, State, Turn, plan, turns, why_it_ended
from graphs.writing import Event, Written, write_steps

WAVES = 3  # in which the proposals of a round are written


def summon(state: State, runtime: Runtime[Context]) -> State:
    c = runtime.context
    seats = {e.name: Seat(name=e.name) for e in c.config.experts}
    start: State = {"seats": seats, "tree": {}, "round": 0, "board": {}, "started": time.time(), "notes": list(c.notes)}
    return start | {"plan": [list(one) for one in plan({}, c.config).expand]}


def think(turn: Turn, runtime: Runtime[Context]) -> State:
    """One expert writes its steps; one whose step fails leaves, and the council goes on."""
    try:
        return _think(turn, runtime.context, runtime.stream_writer)
    except GraphBubbleUp:  # a person is asked
        raise
    except Exception as error:  # not by LangGraph's handlers: where all fail at once, those end the graph
        reason = f"crashed: {type(error).__name__}: {error}"[:300]
        at = turn["parts"][0]["parent"]
        return {"seats": {turn["expert"]: Seat(name=turn["expert"], status="crashed", reason=reason, at=at)}}


def _think(turn: Turn, c: Context, tell: Callable[[Event], None]) -> State:
    """Where steps must differ, half of a place's proposals are written at first, and the others unlike them; what still
    repeats is written anew while there is spare, but not where nothing else is likely. That two leave in the same words
    is no repetition."""
    distinct = c.config.distinct and c.config.search != "sample"
    missing = {part["parent"]: part["count"] for part in turn["parts"]}
    proposals = sum(missing.values()) + turn["spare"]
    tokens = sum(missing.values()) * turn["tokens"]
    said = {(part["parent"], text) for part in turn["parts"] for text in part["said"]}
    written: Written = []
    tree: Tree = {}
    repeated: list[Thought] = []
    for wave in range(WAVES if distinct else 1):
        halved = distinct and wave == 0
        places = [
            part
            for part in turn["parts"]
            for _ in range((missing[part["parent"]] + 1) // 2 if halved else missing[part["parent"]])
        ][: proposals - len(written)]
        if not places or tokens <= 0 or (wave and time.time() >= turn["until"]):
            break
        limit = max(1, tokens // sum(missing.values()))
        fresh = write_steps(turn, places, written, limit, c, tell)
        written += fresh
        known = set(said) if wave else set()
        for thought, _ in fresh:
            tokens -= thought.tokens + thought.call_tokens
            place = (thought.parent, thought.text)
            if distinct and place in said and thought.status != "left":
                repeated.append(thought)
                if place in known:  # it was to be unlike this one: nothing else is likely there
                    missing[thought.parent] = 0
                continue
            said.add(place)
            missing[thought.parent] = max(0, missing[thought.parent] - 1)
            tree[thought.id] = thought
        if halved:  # where all of them leave, more would too
            missing |= {at: 0 for at in missing if all(t.status == "left" for t, _ in fresh if t.parent == at)}
    for thought in reversed(repeated):  # in place of those that could not be written anew
        if missing[thought.parent] > 0:
            missing[thought.parent] -= 1
            tree[thought.id] = thought
    spent = sum(thought.tokens + thought.call_tokens for thought, _ in written)
    return {"tree": tree, "tokens": spent, "proposals": len(written)}


def judge(state: State, runtime: Runtime[Context]) -> State:
    """Scores all new steps in one batch and moves the seats. Departures are decided here."""
    c = runtime.context
    number = state["round"] + 1
    new = [t for t in state["tree"].values() if t.round == number]
    if c.config.search != "sample":
        new = _without_repeats(new, state["tree"])
    lines = lines_of(state["tree"] | {t.id: t for t in new}, [t.id for t in new])
    open_ends = [i for i, t in enumerate(new) if t.status in ("active", "final")]
    scores = _scored(c.score, state["question"], lines, open_ends)
    values: dict[int, float] = {}
    if c.leave_below is not None:  # the same scorer is not asked twice
        alike = c.leave_score is c.score
        values = scores if alike else _scored(c.leave_score, state["question"], lines, open_ends)
    tree: Tree = {}
    seats: dict[str, Seat] = {}
    for i, thought in enumerate(new):
        thought = thought.model_copy(update={"score": scores.get(i), "value": values.get(i)})
        if reason := _reason_to_leave(thought, lines[i].steps, state["question"], c):
            thought = thought.model_copy(update={"status": "left", "reason": reason})
        tree[thought.id] = thought
        if c.config.search == "sample":
            seats[thought.expert] = _moved(state["seats"][thought.expert], thought)
        about = {k: getattr(thought, k) for k in ("id", "parent", "expert", "round", "text", "score")}
        runtime.stream_writer({"kind": "thought", **about})
        if thought.status in ("left", "pruned"):
            runtime.stream_writer({"kind": "left", **about, "reason": thought.reason})
    wrote = {t.expert for t in new}
    for seat in state["seats"].values():
        if seat.status == "crashed" and seat.name not in wrote:
            runtime.stream_writer({"kind": "left", "expert": seat.name, "round": number, "reason": seat.reason})
    return {"tree": tree, "seats": seats, "round": number}


def _scored(score: Score | None, question: str, lines: Sequence[Any], wanted: Sequence[int]) -> dict[int, float]:
    found = score(question, [lines[i] for i in wanted]) if score and wanted else []
    return {i: value for i, value in zip(wanted, found, strict=False) if not math.isnan(value)}


def _without_repeats(new: Sequence[Thought], tree: Tree) -> list[Thought]:
    """A step that somebody proposed for the same place already goes no further: it would be searched twice."""
    first: dict[tuple[str | None, str], Thought] = {}
    for thought in tree.values():
        first.setdefault((thought.parent, thought.text), thought)
    found = []
    for thought in new:
        other = first[thought.parent, thought.text]
        if other.id != thought.id and thought.status in ("active", "final"):
            thought = thought.model_copy(update={"status": "pruned", "reason": f"as {other.expert} said already"})
        found.append(thought)
    return found


def _reason_to_leave(thought: Thought, steps: Sequence[str], question: str, c: Context) -> str:
    if thought.status in ("left", "pruned"):
        return ""
    if c.config.leave_refuted and (refuted := c.task.refute(question, steps, thought.status == "final")):
        return f"the checker: {refuted}"
    low = c.leave_below is not None and thought.value is not None and thought.value < c.leave_below
    if low and thought.status == "active":
        return f"its line is worth {thought.value:+.2f}, less than {c.leave_below:+.2f}"
    return ""


def share(state: State, runtime: Runtime[Context]) -> State:
    """Puts this round's steps on the board and plans the next round; who has left may take up the best peer's line,
    once."""
    c = runtime.context
    coming = plan(state["tree"], c.config)
    pruned = {}
    for name, reason in coming.prune.items():
        thought = pruned[name] = state["tree"][name].model_copy(update={"status": "pruned", "reason": reason})
        about = {k: getattr(thought, k) for k in ("id", "parent", "expert", "round", "text", "score")}
        runtime.stream_writer({"kind": "left", **about, "reason": reason})
    update: State = {"tree": pruned, "plan": [list(one) for one in coming.expand], "board": {}}
    if not c.config.share:
        return update
    tree = state["tree"] | pruned
    fresh = [t for t in tree.values() if t.round == state["round"] and t.status == "active"]
    update["board"] = {t.expert: t.text for t in fresh}
    if not c.config.rejoin or not fresh or c.config.search != "sample" or state["round"] >= c.config.rounds:
        return update
    best = max(fresh, key=lambda t: -math.inf if t.score is None else t.score)
    back = {
        seat.name: seat.model_copy(update={"status": "active", "at": best.id, "rejoined": True})
        for seat in state["seats"].values()
        if seat.status == "left" and not seat.rejoined
    }
    for name in back:
        text = f"takes up {best.expert}'s line: {best.text}"
        about = {"expert": name, "round": state["round"], "parent": best.id, "text": text}
        runtime.stream_writer({"kind": "share", **about})
    return update | {"seats": back}


def conclude(state: State, runtime: Runtime[Context]) -> State:
    """The vote among finished lines. Without one there is no answer, and a note says why."""
    c = runtime.context
    finals = [t for t in state["tree"].values() if t.status == "final"]
    if not finals:
        return {"answer": None, "notes": [f"no line was finished: {why_it_ended(state, c)}"]}
    answers = ["\n".join(line(state["tree"], t.id)) for t in finals]
    ending = getattr(c.task, "conclusion", lambda answer: answer.splitlines()[-1])
    winner = vote([ending(answer) for answer in answers], [t.score or 0.0 for t in finals], c.config.vote)
    if "conclude" in c.config.ask_before:
        return _decided(state["question"], finals, answers, winner, runtime.stream_writer)
    runtime.stream_writer(_verdict(finals[winner], answers[winner]))
    return {"answer": answers[winner]}


def _verdict(final: Thought, answer: str) -> Event:
    return {"kind": "answer", "id": final.id, "expert": final.expert, "text": answer, "score": final.score}


def _decided(
    question: str, finals: Sequence[Thought], answers: Sequence[str], winner: int, tell: Callable[[Event], None]
) -> State:
    """The verdict as a person has it: the council's, another line, words of the person's own, or none."""
    lines = [{"expert": t.expert, "answer": a, "score": t.score} for t, a in zip(finals, answers, strict=True)]
    args = {"question": question, "answer": answers[winner], "lines": lines}
    decision = ask("conclude", args, f"The council's verdict is {finals[winner].expert}'s line.")
    if decision.kind == "reject":
        why = f": {decision.message}" if decision.message else ""
        return {"answer": None, "notes": [f"a person rejected the verdict{why}"]}
    chosen = str(decision.args.get("answer", "")).strip() if decision.kind == "edit" else answers[winner]
    if not chosen:
        return {"answer": None, "notes": ["a person rejected the verdict: the edit had no answer"]}
    if chosen not in answers:
        tell({"kind": "answer", "text": chosen})
        return {"answer": chosen, "notes": ["the answer is a person's own"]}
    at = winner if chosen == answers[winner] else answers.index(chosen)
    tell(_verdict(finals[at], chosen))
    return {"answer": chosen, "notes": [] if at == winner else ["a person took another line than the vote"]}


def build() -> StateGraph:
    builder = StateGraph(State, context_schema=Context)
    for node in (summon, think, judge, share, conclude):
        builder.add_node(node.__name__, node)
    builder.add_edge(START, "summon")
    builder.add_conditional_edges("summon", turns, ["think", "conclude"])
    builder.add_edge("think", "judge")
    builder.add_edge("judge", "share")
    builder.add_conditional_edges("share", turns, ["think", "conclude"])
    builder.add_edge("conclude", END)
    return builder


graph = build().compile(name="council")


def _moved(seat: Seat, thought: Thought) -> Seat:
    status = {"active": "active", "final": "finished", "left": "left", "pruned": "left"}[thought.status]
    return seat.model_copy(update={"status": status, "reason": thought.reason, "at": thought.id})

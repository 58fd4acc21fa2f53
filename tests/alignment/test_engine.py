"""The engine: a row is the same alone and in any batch; stops, grammar, streams, scores."""

from __future__ import annotations

import math
import random
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from alignment.backbone import Backbone
from alignment.batch import encode_scored
from alignment.config import BackboneConfig, LoraSettings
from alignment.decoding import Row, advance, common_prefix, matcher_of
from alignment.engine import Engine, Request
from alignment.errors import SetupError
from alignment.lean import LeanDecoder
from graphs.tasks import game24

PROMPTS = [[{"role": "user", "content": text}] for text in ("4 7 8 8", "1 2", "the quick brown fox", "4 7 8 9")]


@pytest.fixture(scope="module")
def engine(tiny_model: Path) -> Iterator[Engine]:
    backbone = Backbone(
        BackboneConfig(model=str(tiny_model), quantization="none", compute_dtype="float32", lora=LoraSettings(rank=4))
    )
    for i, role in enumerate(("sft", "reward")):
        backbone.add_role(role, seed=i)
        for parameter in backbone.parameters(role):
            torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(i))
    with Engine(backbone) as engine:
        yield engine


def requests(role: str = "sft", **settings: object) -> list[Request]:
    return [Request(p, role=role, max_tokens=20, seed=f"row {i}", **settings) for i, p in enumerate(PROMPTS)]  # type: ignore[arg-type]


def test_a_row_is_the_same_alone_and_in_any_batch(engine: Engine) -> None:
    together = engine.generate(requests())
    alone = [engine.generate([request])[0] for request in requests()]
    turned = engine.generate(requests()[::-1])[::-1]
    for a, b, c in zip(together, alone, turned, strict=True):
        assert a.ids == b.ids == c.ids
        assert a.logprob == pytest.approx(b.logprob, abs=1e-3)
    assert len({c.ids for c in together}) == len(together)


def test_threads_share_the_engine(engine: Engine) -> None:
    want = engine.generate(requests())
    with ThreadPoolExecutor(4) as pool:
        got = list(pool.map(lambda r: engine.generate([r])[0], requests()))
    assert [c.ids for c in got] == [c.ids for c in want]


def test_greedy_is_transformers_greedy(engine: Engine) -> None:
    """The same tokens as ``generate`` of transformers, by another code path."""
    model = engine.backbone.causal_lm
    for prompt in PROMPTS:
        ids = engine.backbone.chat.prompt_ids(prompt)
        with engine.backbone.role("sft"):
            theirs = engine.backbone.model.generate(
                input_ids=torch.tensor([ids]),
                attention_mask=torch.ones(1, len(ids), dtype=torch.long),
                max_new_tokens=20,
                do_sample=False,
                pad_token_id=2,
                eos_token_id=2,
            )[0, len(ids) :].tolist()
        ours = engine.generate([Request(prompt, role="sft", max_tokens=20, temperature=0)])[0]
        assert list(ours.ids) == theirs
    assert model is engine.backbone.causal_lm


def test_logprob_of_sampled_tokens_is_that_of_the_training_forward(engine: Engine) -> None:
    done = engine.generate(requests(temperature=0.7))
    again = engine.logprobs(PROMPTS, [c.ids for c in done], "sft", temperature=0.7)
    for completion, values in zip(done, again, strict=True):
        assert completion.logprob == pytest.approx(sum(values), abs=1e-3)


def test_sampling_follows_the_distribution(engine: Engine) -> None:
    """First tokens of many streams against the exact probabilities (chi-square, 1 % level)."""
    prompt = PROMPTS[0]
    done = engine.generate([Request(prompt, role="base", max_tokens=1, temperature=0.5, seed=i) for i in range(600)])
    counts: dict[int, int] = {}
    for completion in done:
        counts[completion.ids[0]] = counts.get(completion.ids[0], 0) + 1
    tokens = sorted(counts, key=lambda t: -counts[t])[:5]
    logp = engine.logprobs([prompt] * len(tokens), [[t] for t in tokens], "base", temperature=0.5)
    chi = other = 0.0
    for token, (value,) in zip(tokens, logp, strict=True):
        expected = 600 * float(torch.tensor(value).exp())
        chi += (counts[token] - expected) ** 2 / expected
        other += expected
    rest = 600 - sum(counts[t] for t in tokens)
    chi += (rest - (600 - other)) ** 2 / max(600 - other, 1.0)
    assert chi < 15.1  # 99 % quantile of chi-square with 5 degrees of freedom


def test_stop_is_kept_and_ends_the_row(engine: Engine) -> None:
    free = engine.generate([Request(PROMPTS[0], role="sft", max_tokens=20, seed=3)])[0]
    stop = free.text[4:6]
    done = engine.generate([Request(PROMPTS[0], role="sft", max_tokens=20, seed=3, stop=(stop,))])[0]
    assert done.finish == "stop" and stop in done.text and free.text.startswith(done.text)
    assert done.tokens < free.tokens


def test_grammar_holds_for_random_weights(engine: Engine) -> None:
    grammar = rf"({game24.STEP}|LEAVE: [a-z0-9 ]+)\n?"
    done = engine.generate(
        [Request(PROMPTS[0], role="sft", max_tokens=60, seed=i, stop=("\n",), grammar=grammar) for i in range(8)]
    )
    ended = [c for c in done if c.finish != "length"]
    assert ended and all(re.fullmatch(grammar, c.text) for c in ended)


def test_what_a_grammar_forces_keeps_its_probability(engine: Engine) -> None:
    """However improbable it is. The probability is the one before the grammar's mask."""
    [token] = engine.backbone.chat.text_ids("7")
    logits = torch.zeros(1, engine.backbone.model.config.vocab_size)
    logits[0, token] = -300
    row = Row(Request(PROMPTS[0], temperature=0.5), [], matcher=matcher_of("7", engine._grammar()))
    advance(engine.backbone, [row], logits)
    assert row.ids == [token] and row.finish == "stop"
    assert sum(row.logprobs) == pytest.approx(-600 - math.log(logits.shape[1] - 1), abs=1e-3)


@pytest.mark.parametrize("streamed", [False, True])
def test_what_a_grammar_forces_is_read_at_once(engine: Engine, streamed: bool) -> None:
    """Fewer forwards than tokens, and nothing else changes: the same alone and in a batch with rows of other lengths,
    log-probabilities those of the training forward, among what is allowed those of the choices alone."""
    grammar = r"[ab](, then nothing but this; [ab]){2}(\n|, for ever)"
    rows = [replace(row, max_tokens=80) for row in requests(stop=("\n",), grammar=grammar)] + requests()
    alone = [engine.generate([row])[0] for row in rows]
    calls: list[int] = []
    original = LeanDecoder.__call__
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LeanDecoder, "__call__", lambda *given: calls.append(len(given[1])) or original(*given))
        if streamed:
            pieces: dict[int, str] = defaultdict(str)
            stream = engine.streams(rows[: len(rows) // 2])
            try:
                while True:
                    i, piece = next(stream)
                    pieces[i] += piece
            except StopIteration as end:
                together = end.value
            assert [pieces[i] for i in range(len(together))] == [done.text for done in together]
        else:
            together = engine.generate(rows)
    constrained = together[: len(rows) // 2]
    assert [c.text for c in together] == [c.text for c in alone[: len(together)]]
    assert all(re.fullmatch(grammar, c.text) for c in constrained)
    if streamed:
        assert len(calls) < max(c.tokens for c in constrained) / 2
    for row, done in zip(rows, together, strict=False):
        assert len(done.logprobs) == len(done.draw_logprobs) == done.tokens
        expected = engine.logprobs([row.prompt], [done.ids], "sft", row.temperature)[0]
        assert done.logprobs == pytest.approx(expected, abs=1e-4)
    for done in constrained:
        choices = [logprob for logprob in done.draw_logprobs if logprob < -1e-6]
        assert len(choices) <= 6  # a letter three times, and how it ends


def test_tokens_that_are_forced_do_not_pass_a_limit_or_a_stop(engine: Engine) -> None:
    row = Request(PROMPTS[0], role="sft", max_tokens=80, grammar="[ab], then nothing but this; no more than that")
    (whole,) = engine.generate([row])
    for limit in range(1, whole.tokens):
        (cut,) = engine.generate([replace(row, max_tokens=limit)])
        assert (cut.ids, cut.finish) == (whole.ids[:limit], "length")
        assert cut.logprobs == pytest.approx(whole.logprobs[:limit], abs=1e-4)
    (stopped,) = engine.generate([replace(row, stop=("but",))])
    assert whole.text.startswith(stopped.text) and stopped.text.endswith("but") and stopped.finish == "stop"


def test_a_grammar_renormalizes(engine: Engine) -> None:
    """Among the allowed tokens the draw is in proportion to their probabilities."""
    chat, width = engine.backbone.chat, engine.backbone.model.config.vocab_size
    [[a], [b], [c]] = (chat.text_ids(text) for text in "123")
    rows = [
        Row(Request(PROMPTS[0]), [], matcher=matcher_of("[12]", engine._grammar()), stream=random.Random(i))
        for i in range(2000)
    ]
    logits = torch.zeros(2000, width)
    logits[:, a], logits[:, b], logits[:, c] = 1.0, 2.0, 9.0
    advance(engine.backbone, rows, logits)
    drawn = [row.ids[0] for row in rows]
    assert set(drawn) == {a, b}
    want = math.e / (math.e + math.e**2)
    assert abs(drawn.count(a) / 2000 - want) < 4 * (want * (1 - want) / 2000) ** 0.5


def test_prefix_continues_the_assistants_text(engine: Engine) -> None:
    whole = engine.generate([Request(PROMPTS[0], role="sft", max_tokens=16, temperature=0)])[0]
    for cut in range(1, len(whole.text)):
        head = whole.text[:cut]
        if engine.backbone.chat.text_ids(head) == list(whole.ids)[: len(engine.backbone.chat.text_ids(head))]:
            rest = engine.generate([Request(PROMPTS[0], prefix=head, role="sft", max_tokens=4, temperature=0)])[0]
            assert whole.text[cut:].startswith(rest.text)


def test_stream_gives_the_text_and_can_be_closed(engine: Engine) -> None:
    request = requests()[0]
    assert "".join(engine.stream(request)) == engine.generate([request])[0].text
    stream = engine.stream(Request(PROMPTS[0], role="sft", max_tokens=400, seed=1))
    next(stream)
    stream.close()
    assert engine.generate([request])  # the worker is free again


def test_streams_are_the_texts_of_generate_written_together(engine: Engine) -> None:
    want = engine.generate(requests())
    stream, pieces = engine.streams(requests()), []
    while True:
        try:
            pieces.append(next(stream))
        except StopIteration as end:
            done = end.value
            break
    assert [c.ids for c in done] == [c.ids for c in want]
    assert ["".join(text for i, text in pieces if i == at) for at in range(len(want))] == [c.text for c in want]
    order = [i for i, _ in pieces]
    everyone = range(len(want))
    assert max(map(order.index, everyone)) < min(len(order) - 1 - order[::-1].index(i) for i in everyone)


def test_scores_alone_and_together(engine: Engine) -> None:
    responses = ["10 - 4 = 6", "10 - 4 = 6 (left: 5 6 6)", "10", "LEAVE: 2 9 cannot make 24  \n"]
    prompts = [PROMPTS[0]] * 4
    together = engine.score(prompts, responses)
    alone = [engine.score([p], [r])[0] for p, r in zip(prompts, responses, strict=True)]
    assert together == pytest.approx(alone, abs=1e-5)
    assert engine.score(PROMPTS, ["7"] * 4)[::-1] == pytest.approx(engine.score(PROMPTS[::-1], ["7"] * 4), abs=1e-5)
    # by the plain forward, at the last token that is not white space
    backbone = engine.backbone
    ids = torch.tensor([encode_scored(backbone.chat, PROMPTS[0], responses[3])])
    with backbone.role("reward"), torch.no_grad():
        hidden = backbone.hidden(ids, torch.ones_like(ids)).last_hidden_state[:, -1]
        assert together[3] == pytest.approx(backbone.scalar("reward", hidden).item(), abs=1e-5)


def test_prompts_that_are_made_when_they_are_read(engine: Engine) -> None:
    """As a column of a data set has them: no two reads give one object."""

    class Column(Sequence[Any]):
        def __len__(self) -> int:
            return 8

        def __getitem__(self, i: int) -> Any:
            if i >= 8:
                raise IndexError(i)
            return [{"role": "user", "content": f"What is {i} + 7?"}]

    assert engine.score(Column(), ["7"] * 8) == engine.score(list(Column()), ["7"] * 8)


def test_what_was_computed_in_tokens_and_operations(engine: Engine) -> None:
    backbone = engine.backbone
    config = backbone.model.config
    hidden, inner, layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    attended = config.num_key_value_heads * hidden // config.num_attention_heads
    each = layers * (2 * hidden * hidden + 2 * hidden * attended + 3 * hidden * inner) + hidden * config.vocab_size
    scored, before = engine.usage.scored, engine.flops
    responses = ["10 - 4 = 6", "10", "7 + 7"]
    engine.score([PROMPTS[0]] * 3, responses)
    rows = [encode_scored(backbone.chat, PROMPTS[0], response) for response in responses]
    assert engine.usage.scored - scored == len({tuple(row[: i + 1]) for row in rows for i in range(len(row))})
    before_writing = engine.flops
    assert before_writing - before == 2 * each * (engine.usage.scored - scored)
    [done] = engine.generate([Request(PROMPTS[1], role="sft", max_tokens=5, temperature=1.0)])
    assert engine.flops - before_writing == 2 * each * (done.read + done.tokens - 1)  # the last one is not read


def test_closing_cancels_what_is_being_written(tiny_model: Path) -> None:
    config = BackboneConfig(model=str(tiny_model), quantization="none", compute_dtype="float32")
    engine = Engine(Backbone(config))
    stream = engine.stream(Request(PROMPTS[0], role="base", max_tokens=100_000, temperature=1.0))
    next(stream)
    engine.close()  # comes back although the row is far from its end
    list(stream)
    with pytest.raises(RuntimeError, match="closed"):
        engine.generate([Request(PROMPTS[0], role="base")])


def test_common_prefix() -> None:
    base = list(range(20))
    assert common_prefix([[*base, 1], [*base, 2, 3]]) == 20
    assert common_prefix([base, base]) == 19  # every row keeps a token to read
    assert common_prefix([base]) == 0 and common_prefix([[1, 2], [3, 4]]) == 0


def test_unknown_roles_are_one_sentence(engine: Engine) -> None:
    with pytest.raises(SetupError, match="no role 'policy'; it has base, sft, reward"):
        engine.generate([Request(PROMPTS[0])])
    with pytest.raises(SetupError, match="no value head"):
        engine.score([PROMPTS[0]], ["x"], role="value")


def test_an_error_reaches_the_caller_and_spares_the_worker(engine: Engine) -> None:
    with pytest.raises(ValueError, match="grammar"):
        engine.generate([Request(PROMPTS[0], role="sft", grammar="(")])
    assert engine.generate(requests()[:1])

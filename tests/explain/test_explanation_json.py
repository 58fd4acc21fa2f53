from __future__ import annotations

import json
from pathlib import Path

import pytest

from explain import explain_pair, explain_text
from explain.result import from_json, to_json

CHOSEN, REJECTED = "good right fine", "bad long good"


def test_json_round_trip_and_byte_equal_with_and_without_cache(prompt, tmp_path: Path, words) -> None:
    runs = []
    for cache_dir in (None, tmp_path, tmp_path):
        pair = explain_pair(words, prompt, CHOSEN, REJECTED, beam=False, cache_dir=cache_dir)
        text = explain_text(words, prompt, CHOSEN, beam=False, cache_dir=cache_dir)
        written = [json.dumps(to_json(explanation), allow_nan=False) for explanation in (pair, text)]
        assert [from_json(json.loads(line)) for line in written] == [pair, text]
        runs.append(written)
    assert runs[0] == runs[1] == runs[2]
    assert [json.loads(line)["kind"] for line in written] == ["pair", "text"]
    assert all(json.loads(line)["schema_version"] == 2 for line in written)


def test_foreign_and_damaged_json_is_refused_in_one_sentence(prompt, words) -> None:
    data = to_json(explain_text(words, prompt, CHOSEN, beam=False))
    with pytest.raises(ValueError, match="no explanation of schema version 1 or 2"):
        from_json(data | {"schema_version": 3})
    with pytest.raises(ValueError, match="no explanation of schema version 1 or 2"):
        from_json([])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"damaged at lime\.intercept"):
        from_json(data | {"lime": data["lime"] | {"intercept": "much"}})


def test_explanations_of_schema_1_are_still_read() -> None:
    text, pair = map(from_json, json.loads((Path(__file__).parent / "golden" / "schema1.json").read_text()))
    assert text.lime.weights[0] > 2 and text.shapley is None and text.agreement == ()
    assert pair.preferred == "chosen" and pair.perturbation == "remove"
    assert to_json(pair)["schema_version"] == 2 and from_json(to_json(pair)) == pair

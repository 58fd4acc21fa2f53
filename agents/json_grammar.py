"""Grammars of replies that are JSON of a schema, or a call of a tool.

JSON has no longest string, and a small model may never close the one that it is writing. So whatever a schema leaves
without bounds gets these; a schema that states its own (``maxLength``, ``maxItems``, ``minimum``) keeps them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from agents.tool_calls import CLOSE, OPEN
from alignment.engine import Lark

MAX_STRING = 1000  # characters: in English about 250 tokens, of digits as many as characters
MAX_ITEMS = 16  # of an array
MAX_NUMBER = 2**53 - 1  # in size: what every reader of JSON can hold exactly (RFC 8259, section 6)

# the spaces of json.dumps, so that a call of the model looks like those in its history; keywords that llguidance does
# not know are left to whoever validates the result
OPTIONS = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": ", "lenient": True}

Schema = dict[str, Any]


def json_grammar(schema: Schema) -> Lark:
    """JSON of ``schema`` and nothing else."""
    return Lark(f"start: {_json(schema)}\n")


def call_grammar(tools: Sequence[Schema]) -> Lark:
    """One call of one of ``tools``, which are in OpenAI's format."""
    # a rule for each tool's arguments, because the references in a schema are read from its root
    names = " | ".join(f"call_{i}" for i in range(len(tools)))
    lines = [f'start: "{OPEN}" ({names}) "{CLOSE}"']
    for i, tool in enumerate(tools):
        function = tool["function"]
        head = '{"name": ' + json.dumps(function["name"], ensure_ascii=False) + ', "arguments": '
        arguments = function.get("parameters") or {"type": "object", "properties": {}}
        lines += [f'call_{i}: {json.dumps(head)} args_{i} "}}"', f"args_{i}: {_json(arguments)}"]
    return Lark("\n".join(lines) + "\n")


def bounded(schema: Any) -> Any:
    """``schema`` with bounds for every string, array and number that has none. An object that names its properties
    has no others unless it says so. What has no type at all stays without bounds."""
    if not isinstance(schema, dict):  # true and false are schemas too
        return schema
    new = {key: _bounded_part(key, value) for key, value in schema.items()}
    kind = new.get("type")
    kinds = {kind} if isinstance(kind, str) else set(kind or ())
    if "properties" in new:
        new.setdefault("additionalProperties", False)
    if {"enum", "const"} & new.keys():
        return new
    if "string" in kinds and not {"pattern", "format"} & new.keys():
        new.setdefault("maxLength", max(MAX_STRING, new.get("minLength", 0)))
    if "array" in kinds:
        new.setdefault("maxItems", max(MAX_ITEMS, new.get("minItems", 0)))
    if kinds & {"integer", "number"}:
        if "exclusiveMinimum" not in new:
            new.setdefault("minimum", min(-MAX_NUMBER, new.get("maximum", 0), new.get("exclusiveMaximum", 0)))
        if "exclusiveMaximum" not in new:
            new.setdefault("maximum", max(MAX_NUMBER, new.get("minimum", 0), new.get("exclusiveMinimum", 0)))
    return new


def _bounded_part(key: str, value: Any) -> Any:
    if key in ("properties", "$defs", "definitions") and isinstance(value, dict):
        return {name: bounded(part) for name, part in value.items()}
    # the parts of an allOf hold together: none of them may rule out what another one names
    lists = ("anyOf", "oneOf", "prefixItems") + (("allOf",) if isinstance(value, list) and len(value) == 1 else ())
    if key in lists and isinstance(value, list):
        return [bounded(part) for part in value]
    return bounded(value) if key in ("items", "additionalProperties") else value


def _json(schema: Schema) -> str:
    return "%json " + json.dumps(bounded(schema) | {"x-guidance": OPTIONS}, ensure_ascii=False)

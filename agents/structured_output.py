"""Replies as objects: the JSON of a schema, parsed and validated."""

from __future__ import annotations

import json
from operator import itemgetter
from typing import Any

from langchain_core.exceptions import OutputParserException
from langchain_core.language_models import BaseChatModel
from langchain_core.output_parsers import JsonOutputParser, PydanticOutputParser
from langchain_core.outputs import Generation
from langchain_core.runnables import Runnable, RunnableMap, RunnablePassthrough
from langchain_core.utils.function_calling import convert_to_json_schema
from langchain_core.utils.pydantic import is_basemodel_subclass
from pydantic import BaseModel


class WholeJson(JsonOutputParser):
    """LangChain's parser would complete what ``max_tokens`` cut off; this one raises OutputParserException for it."""

    def parse_result(self, result: list[Generation], *, partial: bool = False) -> Any:
        if not partial:
            check_whole(result[0].text)
        return super().parse_result(result, partial=partial)


class WholeObject(PydanticOutputParser):
    """The same with a pydantic class that validates."""

    def parse_result(self, result: list[Generation], *, partial: bool = False) -> Any:
        if not partial:
            check_whole(result[0].text)
        return super().parse_result(result, partial=partial)


def check_whole(text: str) -> None:
    """Raises OutputParserException where ``text`` is not complete JSON."""
    try:
        json.loads(text)
    except (ValueError, RecursionError) as error:
        raise OutputParserException(
            "the reply is no complete JSON; if it was cut short, raise max_tokens", llm_output=text
        ) from error


def json_replies(
    model: BaseChatModel, schema: dict[str, Any] | type, method: str, include_raw: bool
) -> Runnable[Any, Any]:
    """``model`` bound to ``schema``, and the parser behind it; with ``include_raw`` a dict of ``raw``, ``parsed`` and
    ``parsing_error``."""
    bound = model.bind(
        response_schema=as_json_schema(schema),
        ls_structured_output_format={"kwargs": {"method": method}, "schema": schema},
    )
    is_class = isinstance(schema, type) and is_basemodel_subclass(schema)
    parser = WholeObject(pydantic_object=schema) if is_class else WholeJson()
    if not include_raw:
        return bound | parser
    parsed = RunnablePassthrough.assign(parsed=itemgetter("raw") | parser, parsing_error=lambda _: None)
    failed = RunnablePassthrough.assign(parsed=lambda _: None)
    return RunnableMap(raw=bound) | parsed.with_fallbacks([failed], exception_key="parsing_error")


def as_json_schema(schema: dict[str, Any] | type) -> dict[str, Any]:
    """A pydantic class, a TypedDict or a tool in another provider's format as a JSON schema; such a schema itself."""
    if isinstance(schema, type) and issubclass(schema, BaseModel):
        return schema.model_json_schema()  # LangChain's own conversion loses classes that refer to themselves
    tool_formats = {"function", "parameters", "input_schema", "toolSpec"}
    return schema if isinstance(schema, dict) and not tool_formats & schema.keys() else convert_to_json_schema(schema)

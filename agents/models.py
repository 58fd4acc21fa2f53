"""A model for LangChain or smolagents, wherever it is.

``model`` is a run directory, a Hugging Face id, a model's folder or ``embedded``, which the engine opens in this
process, or the address of an OpenAI-compatible server, ``http://host:port/v1#model-name``, whose key is in
``OPENAI_API_KEY``.
"""

from __future__ import annotations

from typing import Any

from langchain_core.language_models import BaseChatModel
from smolagents import Model

from agents.chat_model import ChatModel
from agents.server import NO_KEY, api_key, is_address, server_at
from agents.smol_model import EngineModel
from alignment.engine import Engine


def chat_model(model: str, **settings: Any) -> BaseChatModel:
    """``ChatModel`` over an engine of its own, or LangChain's ``ChatOpenAI``; ``settings`` are theirs, such as
    ``temperature``, ``max_tokens``, ``seed`` and ``stop``. What is not set is at a server as the server has it.

    Raises UsageError for an address that is none. Close the engine by ``model.engine.close()``.
    """
    if not is_address(model):
        return ChatModel(engine=Engine.open(model), **settings)
    from langchain_openai import ChatOpenAI

    server = server_at(model)
    # servers other than OpenAI's know chat completions, and count tokens of a stream only when they are asked to
    known = {"use_responses_api": False, "stream_usage": True}
    return ChatOpenAI(model=server.model, base_url=server.url, api_key=api_key() or NO_KEY, **(known | settings))


def smol_model(model: str, **settings: Any) -> Model:
    """``EngineModel`` over an engine of its own, or smolagents' ``OpenAIModel``; ``settings`` are theirs.

    Raises UsageError for an address that is none. Close the engine by ``model.engine.close()``.
    """
    if not is_address(model):
        return EngineModel(Engine.open(model), **settings)
    from smolagents import OpenAIModel

    server = server_at(model)
    # many servers take a content of plain text only
    known = {"flatten_messages_as_text": True}
    return OpenAIModel(server.model, api_base=server.url, api_key=api_key() or NO_KEY, **(known | settings))

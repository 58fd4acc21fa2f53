"""``junto serve --api``: models and graphs for other clients, in OpenAI's words and in those of LangGraph's server."""

"""How work flows: the LangGraph state graphs, recipes, tasks, reports and the command line."""

import os

# Graph state holds plain data only; anything else is refused when it is written, not when it is read back.
os.environ.setdefault("LANGGRAPH_STRICT_MSGPACK", "true")

"""Who reasons: experts, their thoughts, the chat model over the engine."""

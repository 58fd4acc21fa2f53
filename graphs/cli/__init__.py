"""The command line. Heavy imports stand inside the verbs, so that help and listings are instant."""

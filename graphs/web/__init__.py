"""The page: a chat that shows a council think, and the runs with their curves, in a browser on this machine."""

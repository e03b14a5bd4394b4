"""What the agent has accepted and not yet delivered, on disk; its age limit and its dead letters."""

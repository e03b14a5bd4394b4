"""The agent's status, health and metrics."""

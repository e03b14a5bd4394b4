"""What the agent says about itself: status, health, metrics."""

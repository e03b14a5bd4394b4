"""What the interceptor and the agent share: the span, the span ring's layout, context headers."""

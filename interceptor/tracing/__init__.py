"""Spans, their ids and contexts, sampling and propagation."""

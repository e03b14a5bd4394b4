"""Processors: they change or drop spans between a receiver and the spool, as `agent.processors` says.

What a processor removes is never on disk. Without processors spans are not decoded.
"""

"""The span store: spans on disk, found by trace id and by Zipkin's search.

It knows neither HTTP nor the agent. Its words are those of Zipkin's package zipkin2.storage.
"""

"""The formats that the interceptor and the agent share: the span, the span ring, context headers."""

VERSION = "0.1.0"
"""kaspan's version, as in setup.cfg. To read it from the installed package takes 7 ms."""

MAX_SETTINGS_BYTES = 1024 * 1024
"""The size limit of the YAML file. The interceptor reads the file before it loads kaspan.config."""

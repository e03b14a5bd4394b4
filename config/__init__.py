"""Read kaspan settings from one YAML file and the environment.

`load()` is the way in. Applications import this package at their first client, so it brings in msgspec
and nothing else; YAML is read by PyYAML, which is imported when there is YAML to read.
"""

from kaspan.config.errors import ConfigError
from kaspan.config.layers import Loaded, load
from kaspan.config.schema import Settings

__all__ = ["ConfigError", "Loaded", "Settings", "load"]

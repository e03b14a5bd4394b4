"""The settings of kaspan, from one YAML file, the environment and the command line.

`load()` reads them. Applications import this package at their first client, so it imports only msgspec;
PyYAML is imported when there is YAML to read.
"""

from kaspan.config.errors import ConfigError
from kaspan.config.merge import Loaded, load
from kaspan.config.schema import Settings

__all__ = ["ConfigError", "Loaded", "Settings", "load"]

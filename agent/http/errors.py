"""The error of listeners, in a module of its own: catching it does not load the HTTP server."""


class ListenError(Exception):
    """The agent cannot listen; the message names the setting, what is wrong, and what to do."""

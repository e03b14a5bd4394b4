"""What receivers raise, apart from them: to catch it, nobody needs to load an HTTP server."""


class ListenError(Exception):
    """The agent cannot listen there; the message says which setting, what is wrong, and what to do."""

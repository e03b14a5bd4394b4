"""The demo: three plain kafka-python applications, and what starts them for `kaspan demo`.

`orders`, `shipping` and `mailer` never import kaspan; the other modules belong to the command.
"""


class DemoError(Exception):
    """The demo cannot go on; the message is for whoever started it and says why."""

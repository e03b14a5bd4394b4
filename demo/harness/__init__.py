"""What every scenario of the demo needs: a Kafka, processes that end with it, and questions to Zipkin."""


class DemoError(Exception):
    """The demo cannot continue; the message tells the user why."""

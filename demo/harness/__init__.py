"""What a scenario of the demo needs: a Kafka, processes that end with the demo, and Zipkin's query API."""


class DemoError(Exception):
    """The demo cannot continue; the message tells the user why."""

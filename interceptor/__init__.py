"""What happens inside the application: kafka-python patched when it is imported, spans written to a ring.

Nothing is imported here: this package is loaded at the start of interpreters that may never use Kafka.
"""

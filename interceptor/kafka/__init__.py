"""kafka-python's producer and consumer, patched, and the spans of their records."""

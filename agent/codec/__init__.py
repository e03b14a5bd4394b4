"""Bodies of spans, read and written: JSON and proto3."""

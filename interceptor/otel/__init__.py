"""OpenTelemetry beside kaspan: its tracers, its SDK, its instrumentation of kafka-python."""

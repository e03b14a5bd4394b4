"""OpenTelemetry in the same process: its tracers, its SDK, its instrumentation of kafka-python."""

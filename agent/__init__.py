"""The agent: it accepts spans from applications, keeps them on disk, and delivers them.

It never imports the interceptor or OpenTelemetry. It imports kafka only for the Kafka sender, with tracing
switched off, so that it cannot trace itself.
"""

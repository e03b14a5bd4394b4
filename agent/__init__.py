"""The agent beside the applications: takes spans, keeps them on disk, delivers them.

It never imports the interceptor or OpenTelemetry, and kafka for the Kafka sender only, switched off for tracing:
nothing it does can be traced by itself.
"""

"""The agent beside the applications: takes spans, keeps them on disk, delivers them.

It never imports the interceptor or OpenTelemetry, and kafka only for the Kafka sender, with tracing switched
off: nothing it does can be traced by itself.
"""

"""The agent beside the applications: takes spans, keeps them on disk, delivers them.

It never imports the interceptor, OpenTelemetry or kafka: nothing it does can be traced by itself.
"""

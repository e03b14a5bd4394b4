"""Senders: each delivers spans from the spool to one target, at its own pace and with its own cursor."""

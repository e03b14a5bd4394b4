"""Receivers: each stores spans in the spool, and acknowledges them only after that."""

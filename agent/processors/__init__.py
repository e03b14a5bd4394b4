"""What may be done to spans between a receiver and the spool, as `agent.processors` says.

Whatever is removed here was never on disk. With no processor configured spans are not looked at.
"""

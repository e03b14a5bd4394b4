"""What a complete trace means: pure functions of its spans, without input or output.

The same functions run inside the store, for one machine, and inside Spark, for many.
"""

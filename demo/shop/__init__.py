"""The shop: `orders` sends to a topic, `shipping` reads it and sends to another, `mailer` reads that one.

Each is one file of plain kafka-python, as anybody would write it, and imports nothing of kaspan.
"""

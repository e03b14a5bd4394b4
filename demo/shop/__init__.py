"""The shop: `orders` sends to a topic, `shipping` reads it and sends to another, `mailer` reads that one.

Each is one file of plain kafka-python that imports nothing of kaspan and nothing of the others.
"""

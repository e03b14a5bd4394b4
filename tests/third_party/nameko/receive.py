import os

from kafka import KafkaConsumer

consumer = KafkaConsumer(
    os.environ["RUN"] + "-shipments", bootstrap_servers=os.environ["KAFKA"], auto_offset_reset="earliest"
)
print(sorted(next(consumer).value for _ in range(3)))
consumer.close()

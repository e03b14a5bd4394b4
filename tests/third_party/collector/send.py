import os

from kafka import KafkaProducer

producer = KafkaProducer(bootstrap_servers=os.environ["KAFKA"])
for number in range(3):
    producer.send(os.environ["RUN"] + "-events", b"event %d" % number, b"key")
producer.close()

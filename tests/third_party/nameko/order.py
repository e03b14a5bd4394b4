import os

from kafka import KafkaProducer

producer = KafkaProducer(bootstrap_servers=os.environ["KAFKA"])
for order in (b"book", b"pen", b"lamp"):
    producer.send(os.environ["RUN"] + "-orders", order)
producer.close()

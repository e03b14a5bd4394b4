"""The jobs of a user of kq: each tells another topic what it made."""

import os

from kafka import KafkaProducer


def resize(image: str) -> str:
    producer = KafkaProducer(bootstrap_servers=os.environ["KAFKA"])
    producer.send(os.environ["RUN"] + "-results", image.encode())
    producer.close()
    if image == "broken":
        raise ValueError("not an image")
    return image.upper()

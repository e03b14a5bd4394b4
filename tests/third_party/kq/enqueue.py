import os

from jobs import resize
from kafka import KafkaProducer
from kq import Queue

producer = KafkaProducer(bootstrap_servers=os.environ["KAFKA"])
queue = Queue(topic=os.environ["RUN"] + "-jobs", producer=producer)
for image in ("cat", "dog", "broken"):
    print("enqueued", queue.enqueue(resize, image).args)
producer.flush()

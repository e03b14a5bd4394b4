import os

from kafka import KafkaConsumer
from kq import Worker


def report(status, message, job, result, error, stacktrace):
    print(status, job.args, result, repr(error))


consumer = KafkaConsumer(
    bootstrap_servers=os.environ["KAFKA"], group_id="workers", auto_offset_reset="earliest"
)
done = Worker(topic=os.environ["RUN"] + "-jobs", consumer=consumer, callback=report).start(max_messages=3)
print("worked on", done)
consumer.close()

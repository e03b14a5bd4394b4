import os

from kafka import KafkaProducer

producer = KafkaProducer(bootstrap_servers=os.environ["KAFKA"], client_id="shop")
for number in range(3):
    print(producer.send(os.environ["RUN"] + "-orders", b"order %d" % number).get(30).offset)
producer.close()
print("patched by superstream:", hasattr(producer, "_superstream_patch"))

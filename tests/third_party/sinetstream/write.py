from sinetstream import MessageWriter

with MessageWriter("sensors") as writer:
    for reading in ("21.5", "21.7", "21.6"):
        writer.publish(reading)

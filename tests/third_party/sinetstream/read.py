from sinetstream import MessageReader

with MessageReader("sensors", group_id="readers", auto_offset_reset="earliest") as reader:
    for _, message in zip(range(3), reader, strict=False):
        print(message.value)

kafka-collector --bootstrap-server "$KAFKA" --topics "$RUN-events" --output out.jsonl 2> collector.err &
until grep -q 'assigned partitions' collector.err; do sleep 0.1; done
python send.py
until [ "$(wc -l < out.jsonl)" -eq 3 ] || ! kill -0 $! 2> kill.err; do sleep 0.1; done
# It looks at its signals when the next record comes.
kill $! && python send.py
wait $! || echo "collector failed"
python -c 'import json
for line in open("out.jsonl"):
    record = json.loads(line)
    print(record["key"], record["value"], record["header"])'

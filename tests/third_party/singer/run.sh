printf '{"bootstrap_servers": "%s", "topic_prefix": "%s-", "compression_type": "gzip", "include_sdc_properties": false}' \
    "$KAFKA" "$RUN" > config.json
target-kafka --config config.json < users.jsonl 2> target.err

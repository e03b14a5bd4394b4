cat > .sinetstream_config.yml <<END
sensors:
  type: kafka
  brokers: $KAFKA
  topic: $RUN-sensors
  value_type: text
END
python write.py
python read.py

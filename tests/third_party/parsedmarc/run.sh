cat > parsedmarc.ini <<END
[general]
save_aggregate = True
save_failure = False
silent = False
offline = True
[kafka]
hosts = $KAFKA
aggregate_topic = $RUN-aggregate
failure_topic = $RUN-failure
smtp_tls_topic = $RUN-smtp-tls
ssl = False
END
parsedmarc --config-file parsedmarc.ini --offline report.xml

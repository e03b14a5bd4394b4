module kaspan.tests/report

go 1.20

require github.com/openzipkin/zipkin-go v0.4.3

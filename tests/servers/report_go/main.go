// A service traced by zipkin-go, Zipkin's own library for Go: reports two spans to the URL in the first argument
// under the name in the second, and prints their trace's id.
package main

import (
	"fmt"
	"os"
	"time"

	zipkin "github.com/openzipkin/zipkin-go"
	"github.com/openzipkin/zipkin-go/idgenerator"
	"github.com/openzipkin/zipkin-go/model"
	"github.com/openzipkin/zipkin-go/reporter/http"
)

func main() {
	reporter := http.NewReporter(os.Args[1])
	here, err := zipkin.NewEndpoint(os.Args[2], "127.0.0.1:8080")
	check(err)
	tracer, err := zipkin.NewTracer(reporter, zipkin.WithLocalEndpoint(here),
		zipkin.WithIDGenerator(idgenerator.NewRandom128()))
	check(err)
	mysql, err := zipkin.NewEndpoint("mysql", "10.0.0.5:3306")
	check(err)

	root := tracer.StartSpan("GET /orders", zipkin.Kind(model.Server))
	root.Tag("http.path", "/orders")
	query := tracer.StartSpan("query", zipkin.Kind(model.Client), zipkin.Parent(root.Context()),
		zipkin.RemoteEndpoint(mysql))
	query.Annotate(time.Now(), "retry")
	query.Finish()
	zipkin.TagError.Set(root, "timeout of 5 s")
	root.Finish()
	check(reporter.Close())
	fmt.Println(root.Context().TraceID)
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}

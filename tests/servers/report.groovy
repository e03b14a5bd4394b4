// A service traced by Brave, Zipkin's own library for Java: reports two spans to the URL in the first argument
// under the name in the second, and prints their trace's id.
import brave.Span
import brave.Tracing
import java.util.concurrent.TimeUnit
import zipkin2.reporter.brave.AsyncZipkinSpanHandler
import zipkin2.reporter.urlconnection.URLConnectionSender

def sender = URLConnectionSender.create(args[0])
def handler = AsyncZipkinSpanHandler.newBuilder(sender).closeTimeout(30, TimeUnit.SECONDS).build()
def tracing = Tracing.newBuilder().localServiceName(args[1]).traceId128Bit(true).addSpanHandler(handler).build()
def tracer = tracing.tracer()

// Joined, as a server does that goes on with its client's span: "shared" in Zipkin.
def root = tracer.joinSpan(tracer.newTrace().context()).name("GET /orders").kind(Span.Kind.SERVER).start()
root.tag("http.path", "/orders").tag("empty", "").tag("gr\u00fc\u00dfe", "\u30a2 \"\\\n")
def query = tracer.newChild(root.context()).name("query").kind(Span.Kind.CLIENT).start()
query.remoteServiceName("mysql").remoteIpAndPort("10.0.0.5", 3306)
query.annotate("retry").finish()
root.error(new IOException("timeout of 5 s")).finish()

// Without it, what is reported before the reporter's thread has begun is dropped by close().
handler.flush()
handler.close()
println(root.context().traceIdString())

// What Zipkin's own classes make of traces. Each line of the input is a JSON list of the spans of one trace. The
// answer is one line: the spans cleaned up; the tree, breadth first, each span with the index of its parent (-1:
// none); and the links.
import java.nio.charset.StandardCharsets
import java.util.logging.Logger
import zipkin2.codec.DependencyLinkBytesEncoder
import zipkin2.codec.SpanBytesDecoder
import zipkin2.codec.SpanBytesEncoder
import zipkin2.internal.DependencyLinker
import zipkin2.internal.SpanNode
import zipkin2.internal.Trace

def json = { bytes -> new String(bytes, StandardCharsets.UTF_8) }
def input = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8))
def output = new PrintStream(System.out, true, StandardCharsets.UTF_8)
for (def line = input.readLine(); line != null; line = input.readLine()) {
    def spans = SpanBytesDecoder.JSON_V2.decodeList(line.getBytes(StandardCharsets.UTF_8))
    def cleaned = json(SpanBytesEncoder.JSON_V2.encodeList(Trace.merge(spans)))
    def indexes = new IdentityHashMap()
    def tree = []
    SpanNode.newBuilder(Logger.anonymousLogger).build(spans).traverse().each { node ->
        indexes.put(node, tree.size())
        def parent = node.parent() == null ? -1 : indexes.getOrDefault(node.parent(), -1)
        tree.add("[" + parent + "," + json(SpanBytesEncoder.JSON_V2.encode(node.span())) + "]")
    }
    def links = json(DependencyLinkBytesEncoder.JSON_V1.encodeList(new DependencyLinker().putTrace(spans).link()))
    output.println("[" + cleaned + ",[" + tree.join(",") + "]," + links + "]")
}

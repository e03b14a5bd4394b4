package kaspan;

import java.io.IOException;
import java.io.UncheckedIOException;
import java.net.URI;
import java.net.URLEncoder;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Set;
import zipkin2.Call;
import zipkin2.Callback;
import zipkin2.DependencyLink;
import zipkin2.Span;
import zipkin2.codec.DependencyLinkBytesDecoder;
import zipkin2.codec.SpanBytesDecoder;
import zipkin2.codec.SpanBytesEncoder;
import zipkin2.internal.JsonCodec;
import zipkin2.internal.JsonCodec.JsonReader;
import zipkin2.internal.JsonCodec.JsonReaderAdapter;
import zipkin2.internal.ReadBuffer;
import zipkin2.internal.V2SpanReader;
import zipkin2.storage.AutocompleteTags;
import zipkin2.storage.QueryRequest;
import zipkin2.storage.ServiceAndSpanNames;
import zipkin2.storage.SpanConsumer;
import zipkin2.storage.SpanStore;
import zipkin2.storage.StorageComponent;
import zipkin2.storage.Traces;

/**
 * A storage of Zipkin's that keeps nothing itself: a server with Zipkin's HTTP API does.
 *
 * <p>Each is a new server, without spans. The system property `servers` is the URL of who starts it: POST starts
 * one with the settings of the query and answers with its URL, PUT on a server's URL answers once all spans that
 * it has taken can be found, DELETE ends it.
 */
final class HttpStorage extends StorageComponent
  implements SpanStore, SpanConsumer, AutocompleteTags, ServiceAndSpanNames, Traces {

  static final class Builder extends StorageComponent.Builder {
    boolean strictTraceId = true;
    boolean searchEnabled = true;
    List<String> autocompleteKeys = List.of();

    @Override public Builder strictTraceId(boolean strictTraceId) {
      this.strictTraceId = strictTraceId;
      return this;
    }

    @Override public Builder searchEnabled(boolean searchEnabled) {
      this.searchEnabled = searchEnabled;
      return this;
    }

    @Override public Builder autocompleteKeys(List<String> keys) {
      this.autocompleteKeys = keys;
      return this;
    }

    @Override public HttpStorage build() {
      try {
        return new HttpStorage(new Query().add("strictTraceId", strictTraceId).add("searchEnabled", searchEnabled)
          .add("autocompleteKeys", String.join(",", autocompleteKeys)));
      } catch (IOException e) {
        throw new UncheckedIOException(e);
      }
    }
  }

  /** The query of a URL; parameters without a value are left out. */
  static final class Query {
    final StringBuilder text = new StringBuilder();

    Query add(String name, Object value) {
      if (value == null) return this;
      text.append(text.length() == 0 ? '?' : '&').append(name).append('=').append(encoded(value.toString()));
      return this;
    }

    @Override public String toString() {
      return text.toString();
    }
  }

  interface Request<V> {
    V send() throws IOException;
  }

  static final class RequestCall<V> extends Call.Base<V> {
    final Request<V> request;

    RequestCall(Request<V> request) {
      this.request = request;
    }

    @Override protected V doExecute() throws IOException {
      return request.send();
    }

    @Override protected void doEnqueue(Callback<V> callback) {
      try {
        callback.onSuccess(request.send());
      } catch (Throwable t) {
        propagateIfFatal(t);
        callback.onError(t);
      }
    }

    @Override public Call<V> clone() {
      return new RequestCall<>(request);
    }
  }

  static final String SERVERS = System.getProperty("servers");

  final HttpClient client = HttpClient.newHttpClient();
  final String server, api;

  HttpStorage(Query settings) throws IOException {
    server = new String(send("POST", SERVERS + settings, new byte[0]), StandardCharsets.UTF_8);
    api = server + "/api/v2";
  }

  @Override public Call<Void> accept(List<Span> spans) {
    byte[] body = SpanBytesEncoder.JSON_V2.encodeList(spans);
    return new RequestCall<>(() -> {
      send("POST", api + "/spans", body);
      send("PUT", SERVERS + new Query().add("server", server), new byte[0]);
      return null;
    });
  }

  @Override public Call<List<Span>> getTrace(String traceId) {
    return new RequestCall<>(() -> {
      byte[] trace = get("/trace/" + traceId, new Query());
      return trace == null ? List.of() : SpanBytesDecoder.JSON_V2.decodeList(trace);
    });
  }

  @Override public Call<List<List<Span>>> getTraces(Iterable<String> traceIds) {
    Set<String> distinct = new LinkedHashSet<>();
    for (String traceId : traceIds) distinct.add(Span.normalizeTraceId(traceId));
    if (distinct.isEmpty()) return Call.emptyList();
    if (distinct.size() == 1) { // the API wants such a trace asked for by its id
      return getTrace(distinct.iterator().next()).map(trace -> trace.isEmpty() ? List.of() : List.of(trace));
    }
    return traces("/traceMany", new Query().add("traceIds", String.join(",", distinct)));
  }

  @Override public Call<List<List<Span>>> getTraces(QueryRequest request) {
    return traces("/traces", new Query()
      .add("serviceName", request.serviceName())
      .add("remoteServiceName", request.remoteServiceName())
      .add("spanName", request.spanName())
      .add("annotationQuery", request.annotationQueryString())
      .add("minDuration", request.minDuration())
      .add("maxDuration", request.maxDuration())
      .add("endTs", request.endTs())
      .add("lookback", request.lookback())
      .add("limit", request.limit()));
  }

  @Override public Call<List<DependencyLink>> getDependencies(long endTs, long lookback) {
    Query query = new Query().add("endTs", endTs).add("lookback", lookback);
    if (endTs <= 0 || lookback <= 0) refused("/dependencies", query);
    return new RequestCall<>(() -> DependencyLinkBytesDecoder.JSON_V1.decodeList(get("/dependencies", query)));
  }

  @Override public Call<List<String>> getServiceNames() {
    return strings("/services", new Query());
  }

  @Override public Call<List<String>> getRemoteServiceNames(String serviceName) {
    return strings("/remoteServices", new Query().add("serviceName", serviceName));
  }

  @Override public Call<List<String>> getSpanNames(String serviceName) {
    return strings("/spans", new Query().add("serviceName", serviceName));
  }

  @Override public Call<List<String>> getKeys() {
    return strings("/autocompleteKeys", new Query());
  }

  @Override public Call<List<String>> getValues(String key) {
    return strings("/autocompleteValues", new Query().add("key", key));
  }

  @Override public Traces traces() {
    return this;
  }

  @Override public SpanStore spanStore() {
    return this;
  }

  @Override public AutocompleteTags autocompleteTags() {
    return this;
  }

  @Override public ServiceAndSpanNames serviceAndSpanNames() {
    return this;
  }

  @Override public SpanConsumer spanConsumer() {
    return this;
  }

  @Override public void close() throws IOException {
    send("DELETE", SERVERS + new Query().add("server", server), new byte[0]);
  }

  Call<List<List<Span>>> traces(String path, Query query) {
    return new RequestCall<>(() -> list(get(path, query), HttpStorage::trace));
  }

  Call<List<String>> strings(String path, Query query) {
    return new RequestCall<>(() -> list(get(path, query), JsonReader::nextString));
  }

  /** Storage refuses wrong arguments when a call is made: with what the server answers to them. */
  void refused(String path, Query query) {
    try {
      get(path, query);
    } catch (IOException e) {
      throw new IllegalArgumentException(e.getMessage(), e);
    }
  }

  byte[] get(String path, Query query) throws IOException {
    return send("GET", api + path + query, null);
  }

  /** Returns the body of the answer, null when it is 404. */
  byte[] send(String method, String url, byte[] body) throws IOException {
    HttpRequest request = HttpRequest.newBuilder(URI.create(url))
      .method(method, body == null ? BodyPublishers.noBody() : BodyPublishers.ofByteArray(body))
      .header("Content-Type", "application/json").build();
    HttpResponse<byte[]> response;
    try {
      response = client.send(request, BodyHandlers.ofByteArray());
    } catch (InterruptedException e) {
      throw new IOException(e);
    }
    if (response.statusCode() == 404) return null;
    if (response.statusCode() >= 300) {
      throw new IOException(new String(response.body(), StandardCharsets.UTF_8));
    }
    return response.body();
  }

  static String encoded(String text) {
    return URLEncoder.encode(text, StandardCharsets.UTF_8);
  }

  static List<Span> trace(JsonReader reader) throws IOException {
    List<Span> spans = new ArrayList<>();
    reader.beginArray();
    while (reader.hasNext()) spans.add(new V2SpanReader().fromJson(reader));
    reader.endArray();
    return spans;
  }

  static <T> List<T> list(byte[] json, JsonReaderAdapter<T> adapter) {
    List<T> values = new ArrayList<>();
    JsonCodec.readList(adapter, ReadBuffer.wrap(json), values);
    return values;
  }
}

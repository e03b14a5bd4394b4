# The spans of records, and what else may be current.

cdef class ScopedSpan:
    """Does what span_ids.ScopedSpan does."""

    cdef public object outer_context, token, expiry
    cdef public bint is_left


cdef class ForwardedContext(ScopedSpan):
    """Does what span_ids.ForwardedContext does."""

    cdef public object _extract, _headers

    def __init__(self, extract, headers):
        self._extract, self._headers = extract, headers


cdef class SpanIds(ScopedSpan):
    """Does what span_ids.SpanIds does."""

    cdef public bytes trace_id, span_id
    cdef public object parent_id, consumer, extras, record, headers, topic, _state
    cdef public bint sampled, ended
    cdef public long long timestamp_ns

    def __init__(self, bytes trace_id not None, bytes span_id not None, parent_id, bint sampled):
        self.trace_id, self.span_id, self.parent_id, self.sampled = trace_id, span_id, parent_id, sampled

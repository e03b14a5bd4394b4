# cython: language_level=3, boundscheck=False, wraparound=False, auto_pickle=False
"""The way of the ordinary record, compiled: the same as in Python at a fraction of the cost.

What is here stands in for the class of the same name in `record_scope`, `ring`, `send_span` and `span`, which say what
each does, and to which the tests hold it. Ordinary is what nearly every record is; whatever is not goes to the
Python code, which also is all there is where nothing could be compiled.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.object cimport PyObject
from libc.stdint cimport UINT64_MAX, uint32_t, uint64_t
from libc.string cimport memchr, memcpy
from cpython.contextvars cimport PyContextVar_Reset, PyContextVar_Set, get_value

from collections import deque
from contextvars import copy_context
from functools import partial
from time import perf_counter_ns, time_ns
from types import FunctionType
from zlib import crc32

from opentelemetry.trace.propagation import _SPAN_KEY as SPAN_KEY

from kaspan.interceptor.failures import is_from_outside, raising, record_failure
from kaspan.interceptor.failures import pass_on
from kaspan.interceptor.tracing.ids import new_span_id, spare_ids
from kaspan.wire import ring as layout

cdef extern from *:
    """
    #include <time.h>

    /* Python's time_ns and perf_counter_ns read these clocks on Linux, but make objects of what they read. */
    #ifdef __linux__
    #define KASPAN_HAS_CLOCKS 1
    static long long kaspan_clock_ns(int clock) {
        struct timespec now;
        clock_gettime(clock ? CLOCK_MONOTONIC : CLOCK_REALTIME, &now);
        return (long long) now.tv_sec * 1000000000 + now.tv_nsec;
    }
    #else
    #define KASPAN_HAS_CLOCKS 0
    static long long kaspan_clock_ns(int clock) { return clock; }
    #endif

    /* What goes into a template's place: a text, after `opening` and before a quotation mark if there is one;
       a number where `bytes` is NULL. */
    typedef struct {
        const char *opening;
        Py_ssize_t opening_length;
        const char *bytes;
        Py_ssize_t length;
        long long number;
    } kaspan_value;

    /* The reader, another process, sees everything before a position once it sees the position. */
    #define kaspan_load(at) __atomic_load_n((at), __ATOMIC_ACQUIRE)
    #define kaspan_publish(at, value) __atomic_store_n((at), (value), __ATOMIC_RELEASE)

    /* Printable ASCII but the quotation mark and the backslash stands in JSON as it is. Here and below there is
       no way out of the loop, so that compilers do many characters at once. */
    static int kaspan_is_plain(const char *text, Py_ssize_t length) {
        unsigned char is_plain = 1;
        for (Py_ssize_t at = 0; at < length; at++) {
            unsigned char c = (unsigned char) text[at];
            is_plain &= ((unsigned char) (c - 0x20) < 0x5F) & (c != '"') & (c != 0x5C);
        }
        return is_plain;
    }

    /* Whether it is lower-case hexadecimal, and not all zeros. */
    static int kaspan_is_id(const char *text, Py_ssize_t length) {
        unsigned char is_hex = 1, is_any = 0;
        for (Py_ssize_t at = 0; at < length; at++) {
            unsigned char c = (unsigned char) text[at];
            is_hex &= ((unsigned char) (c - '0') < 10) | ((unsigned char) (c - 'a') < 6);
            is_any |= c != '0';
        }
        return is_hex & is_any;
    }

    /* The number that 16 lower-case hexadecimal digits are. */
    static uint64_t kaspan_low_bits(const char *digits) {
        uint64_t bits = 0;
        for (int at = 0; at < 16; at++)
            bits = bits << 4 | (uint64_t) (digits[at] <= '9' ? digits[at] - '0' : digits[at] - 'a' + 10);
        return bits;
    }
    """
    ctypedef struct Value "kaspan_value":
        const char *opening
        Py_ssize_t opening_length
        const char *bytes
        Py_ssize_t length
        long long number

    uint64_t load "kaspan_load"(uint64_t *at) noexcept nogil
    void publish "kaspan_publish"(uint64_t *at, uint64_t value) noexcept nogil
    bint is_plain "kaspan_is_plain"(const char *text, Py_ssize_t length) noexcept nogil
    uint64_t low_bits "kaspan_low_bits"(const char *digits) noexcept nogil
    bint is_id "kaspan_is_id"(const char *text, Py_ssize_t length) noexcept nogil
    bint HAS_CLOCKS "KASPAN_HAS_CLOCKS"
    long long clock_ns "kaspan_clock_ns"(int clock) noexcept nogil

cdef extern from "Python.h":
    int PyUnicode_IS_COMPACT_ASCII(object text) noexcept
    const char *PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *size) except NULL
    object PyObject_VectorcallDict(object callable, PyObject **args, size_t count, PyObject *kwargs)
    bint PyExceptionInstance_Check(object candidate) noexcept
    bint PyBytes_Check(object candidate) noexcept
    bint PyUnicode_Check(object candidate) noexcept
    object PyUnicode_FromObject(object text)
    unsigned long PyThread_get_thread_ident() noexcept
    int PyThreadState_SetAsyncExc(unsigned long thread_id, PyObject *exception_class)
    ctypedef void (*destructor)(PyObject *)
    ctypedef struct PyTypeObject:
        object (*tp_new)(PyTypeObject *, tuple, void *)
        destructor tp_finalize
        void *tp_traverse
    void PyErr_Fetch(PyObject **kind, PyObject **value, PyObject **traceback) noexcept
    void PyErr_NormalizeException(PyObject **kind, PyObject **value, PyObject **traceback) noexcept
    void PyErr_Restore(PyObject *kind, PyObject *value, PyObject *traceback) noexcept
    bint PyErr_GivenExceptionMatches(PyObject *given, PyObject *kind) noexcept
    PyObject *PyExc_Exception
    PyObject *PyExc_StopIteration
    PyObject *PyExc_StopAsyncIteration
    PyTypeObject *Py_TYPE(PyObject *of) noexcept
    int PySet_Contains(object types, object type) noexcept
    int PyDict_Next(object values, Py_ssize_t *at, PyObject **key, PyObject **value) noexcept

cdef enum:
    KEPT_COLLECTIONS = 100  # as in collection
    SMALL_BYTES = 4096
    DIGITS = 20
    MAX_VALUES = 16  # as in handover
    MAX_KEY_BYTES = 256  # as in templates

cdef object key_part = None


# The clocks.

cdef bint are_clocks_given = not HAS_CLOCKS
cdef object given_time_ns = time_ns
cdef object given_perf_counter_ns = perf_counter_ns


def set_clocks(wall_ns, performance_ns):
    """Read these clocks from now on, in the place of Python's time_ns and perf_counter_ns."""
    global are_clocks_given, given_time_ns, given_perf_counter_ns
    given_time_ns, given_perf_counter_ns = wall_ns, performance_ns
    are_clocks_given = not HAS_CLOCKS or wall_ns is not time_ns or performance_ns is not perf_counter_ns


cdef inline long long wall_clock_ns() except -1:
    return given_time_ns() if are_clocks_given else clock_ns(0)


cdef inline long long performance_clock_ns() except -1:
    return given_perf_counter_ns() if are_clocks_given else clock_ns(1)


# JSON by templates.

cdef inline int text(Value *value, bytes given) except -1:
    if given is None:
        raise TypeError("None where an id belongs")
    value.opening, value.opening_length = b"", 0
    value.bytes = PyBytes_AS_STRING(given)
    value.length = PyBytes_GET_SIZE(given)
    return 0


cdef inline void number(Value *value, long long given) noexcept:
    value.opening, value.opening_length = b"", 0
    value.bytes = NULL
    value.number = given


cdef inline int parent_tag(Value *value, given) except -1:
    """What is in the place for a parent, which may be None."""
    text(value, b"" if given is None else <bytes?>given)
    if given is not None:
        value.opening, value.opening_length = b',"parentId":"', 13
    return 0


cdef object key_tag(Value *value, object given):
    """What templates.key_part is, for keys that stand in JSON as they are; returns what `value` points into."""
    global key_part
    cdef bytes part
    if given is None:
        text(value, b"")
        return None
    if type(given) is bytes:
        value.bytes, value.length = PyBytes_AS_STRING(given), PyBytes_GET_SIZE(given)
    elif type(given) is str and PyUnicode_IS_COMPACT_ASCII(given):
        value.bytes = PyUnicode_AsUTF8AndSize(given, &value.length)
    else:
        value.length = 0
    if 0 < value.length <= MAX_KEY_BYTES and is_plain(value.bytes, value.length):
        value.opening, value.opening_length = b',"kafka.key":"', 14
        return given
    if key_part is None:
        from kaspan.interceptor.tracing.zipkin_json import key_part as in_python

        key_part = in_python
    part = key_part(given)
    text(value, part)
    return part


cdef inline char *put_number(char *at, long long given) noexcept nogil:
    cdef char digits[DIGITS]
    cdef int count = 0
    cdef unsigned long long left = <unsigned long long>given
    if given < 0:
        at[0] = c'-'
        at += 1
        left = 0 - left
    while True:
        digits[count] = <char>(c'0' + left % 10)
        count += 1
        left //= 10
        if left == 0:
            break
    while count:
        count -= 1
        at[0] = digits[count]
        at += 1
    return at


cdef bytes fill(bytes template, Value *values, int count):
    """What template % values is, for places %b and %d."""
    cdef const char *left = PyBytes_AS_STRING(template)
    cdef const char *end = left + PyBytes_GET_SIZE(template)
    cdef const char *place
    cdef Py_ssize_t room = PyBytes_GET_SIZE(template)
    cdef int index
    for index in range(count):
        room += DIGITS if values[index].bytes == NULL else values[index].opening_length + values[index].length + 1
    cdef char small[SMALL_BYTES]
    cdef char *made = &small[0]
    if room > SMALL_BYTES:
        made = <char *>PyMem_Malloc(room)
        if made == NULL:
            raise MemoryError
    cdef char *at = made
    index = 0
    while True:
        place = <const char *>memchr(left, c'%', end - left)
        if place == NULL or place + 1 == end:
            break
        memcpy(at, left, place - left)
        at += place - left
        if place[1] == c'%':
            at[0] = c'%'
            at += 1
        elif index < count:
            if values[index].bytes == NULL:
                at = put_number(at, values[index].number)
            else:
                memcpy(at, values[index].opening, values[index].opening_length)
                at += values[index].opening_length
                memcpy(at, values[index].bytes, values[index].length)
                at += values[index].length
                if values[index].opening_length:
                    at[0] = c'"'
                    at += 1
            index += 1
        left = place + 2
    memcpy(at, left, end - left)
    at += end - left
    cdef bytes filled = PyBytes_FromStringAndSize(made, at - made)
    if made != &small[0]:
        PyMem_Free(made)
    return filled


cdef class ScopedSpan:
    """Stands in for span.ScopedSpan."""

    cdef public object outer_context, token, expiry
    cdef public bint is_left


cdef class ForwardedContext(ScopedSpan):
    """Stands in for span.ForwardedContext."""

    cdef public object _extract, _headers

    def __init__(self, extract, headers):
        self._extract, self._headers = extract, headers


cdef class SpanIds(ScopedSpan):
    """Stands in for span.SpanIds."""

    cdef public bytes trace_id, span_id
    cdef public object parent_id, consumer, extras, record, headers, topic, _state
    cdef public bint sampled, ended
    cdef public long long timestamp_ns

    def __init__(self, bytes trace_id not None, bytes span_id not None, parent_id, bint sampled):
        self.trace_id, self.span_id, self.parent_id, self.sampled = trace_id, span_id, parent_id, sampled


# The current span.

cdef class Current:
    """Reads and sets the current context as Scope.get and Scope.set do."""

    cdef object variable, getter, setter

    def __init__(self, scope):
        self.variable, self.getter, self.setter = scope.variable, scope.get, scope.set

    cdef inline object get(self):
        return self.getter() if self.variable is None else get_value(self.variable)

    cdef inline int set(self, context) except -1:
        if self.variable is None:
            self.setter(context)
        else:
            PyContextVar_Set(self.variable, context)
        return 0

    cdef inline object enter(self, context):
        """Set it, and return the token for `leave`."""
        return self.setter(context) if self.variable is None else PyContextVar_Set(self.variable, context)

    cdef inline bint leave(self, context, token) except -1:
        """Set what was before again; whether the caller was where the token is from."""
        if self.variable is None:
            self.setter(context)
            return True
        try:
            PyContextVar_Reset(self.variable, token)
        except (ValueError, RuntimeError):
            return False
        return True


# Garbage collections.

cdef bint collecting = False
cdef long long collections = 0
cdef object kept_contexts = deque()


cpdef bint is_collecting() noexcept:
    """Stands in for collection.is_collecting."""
    return collecting


def note_collection(phase, info):
    """Stands in for collection.note_collection."""
    global collecting, collections
    collecting = phase == "start"
    if collecting:
        collections += 1
        while kept_contexts and kept_contexts[0][0] < collections - KEPT_COLLECTIONS:
            kept_contexts.popleft()


def keep_context_if_collecting():
    """Stands in for collection.keep_context_if_collecting."""
    if collecting:
        kept_contexts.append((collections, copy_context()))
    return collecting


# The sending side.

cdef void *newest = NULL  # of the open ones, each of which knows its neighbours


cdef object plain_key(object key):
    """The key, if it may be in its span's tags, without what a class of the application's has added to it."""
    if type(key) is bytes or type(key) is str:
        return key
    if PyBytes_Check(key):
        return PyBytes_FromStringAndSize(PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key))
    return PyUnicode_FromObject(key) if PyUnicode_Check(key) else None


cdef void list_open(SendSpan span) noexcept:
    global newest
    if span._is_listed:
        return
    span._older = newest
    if newest != NULL:
        (<SendSpan>newest)._newer = <void *>span
    newest = <void *>span
    span._is_listed = True


cdef void unlist(SendSpan span) noexcept:
    global newest
    if not span._is_listed:
        return
    span._is_listed = False
    if span._newer != NULL:
        (<SendSpan>span._newer)._older = span._older
    else:
        newest = span._older
    if span._older != NULL:
        (<SendSpan>span._older)._newer = span._newer


def open_sends():
    """Does what open_sends.find_open_sends does."""
    found = []
    cdef void *at = newest
    while at != NULL:
        found.append(<SendSpan>at)
        at = (<SendSpan>at)._older
    return found


cdef bytes fill_send(
    bytes template, bytes trace_id, bytes span_id, object parent_id, long long timestamp_us, long long duration_us,
    long long enqueued_us, object key, long long partition, long long offset,
):
    cdef Value values[9]
    text(&values[0], trace_id)
    text(&values[1], span_id)
    parent_tag(&values[2], parent_id)
    number(&values[3], timestamp_us)
    number(&values[4], duration_us)
    number(&values[5], enqueued_us)
    kept = key_tag(&values[6], key)
    number(&values[7], partition)
    number(&values[8], offset)
    return fill(template, values, 9)


cdef list spare = spare_ids


cdef bytes new_id():
    return spare.pop() if len(spare) else new_span_id()


cdef bytes new_trace_id():
    cdef bytes high = new_id(), low = new_id()
    cdef bytes made = PyBytes_FromStringAndSize(NULL, 32)
    memcpy(PyBytes_AS_STRING(made), PyBytes_AS_STRING(high), 16)
    memcpy(PyBytes_AS_STRING(made) + 16, PyBytes_AS_STRING(low), 16)
    return made


cdef inline uint64_t low_64_bits(bytes trace_id):
    return low_bits(PyBytes_AS_STRING(trace_id) + 16)


cdef bytes b3_header(bytes trace_id, bytes span_id, bint sampled):
    """The header's value: both ids and 0 or 1, joined by hyphens."""
    cdef Py_ssize_t trace_bytes = PyBytes_GET_SIZE(trace_id)
    cdef bytes header = PyBytes_FromStringAndSize(NULL, trace_bytes + 19)
    cdef char *at = PyBytes_AS_STRING(header)
    memcpy(at, PyBytes_AS_STRING(trace_id), trace_bytes)
    at[trace_bytes] = c'-'
    memcpy(at + trace_bytes + 1, PyBytes_AS_STRING(span_id), 16)
    at[trace_bytes + 17] = c'-'
    at[trace_bytes + 18] = c'1' if sampled else c'0'
    return header


cdef object call(object method, object producer, tuple args, dict kwargs):
    """method(producer, *args, **kwargs)"""
    if len(args) > 3:
        return method(producer, *args, **kwargs)
    cdef PyObject *given[4]
    cdef Py_ssize_t count = 1
    given[0] = <PyObject *>producer
    for one in args:
        given[count] = <PyObject *>one
        count += 1
    return PyObject_VectorcallDict(method, given, count, <PyObject *>kwargs)


# The receiving side.

cdef int pass_on_from_finalizer(doing, error) except -1:
    """Do what failures.pass_on does, if it is the last that is done: then only the application's code follows."""
    if not is_from_outside(error):
        record_failure(doing, error)
        return 0
    exception_class = raising(error)
    PyThreadState_SetAsyncExc(PyThread_get_thread_ident(), <PyObject *>exception_class)
    return 0


def end_list(records):
    """Do what RecordList.__del__ does."""
    try:
        records.settle()
    except BaseException as error:
        pass_on_from_finalizer("recording what poll() returned", error)


cdef inline object new(object span_class):
    """span_class(), but for its __init__."""
    return (<PyTypeObject *>span_class).tp_new(<PyTypeObject *>span_class, (), NULL)


cdef inline bint is_ordinary_b3(object value) noexcept:
    """Whether a header's value is 32 digits, 16 digits and 0 or 1, joined by hyphens."""
    cdef const char *given
    if type(value) is not bytes or PyBytes_GET_SIZE(value) != 51:
        return False
    given = PyBytes_AS_STRING(value)
    return (
        given[32] == c'-' and given[49] == c'-' and (given[50] == c'1' or given[50] == c'0')
        and is_id(given, 32) and is_id(given + 33, 16)
    )


cdef inline bytes part(bytes value, Py_ssize_t start, Py_ssize_t stop):
    return PyBytes_FromStringAndSize(PyBytes_AS_STRING(value) + start, stop - start)


cdef inline bytes fill_process(
    bytes template, bytes trace_id, bytes span_id, bytes parent_id, long long timestamp_us, long long duration_us,
    long long offset, object key, long long queued_ms, long long lag,
):
    cdef Value values[9]
    text(&values[0], trace_id)
    text(&values[1], span_id)
    text(&values[2], parent_id)
    number(&values[3], timestamp_us)
    number(&values[4], duration_us)
    number(&values[5], offset)
    kept = key_tag(&values[6], key)
    number(&values[7], queued_ms)
    number(&values[8], lag)
    return fill(template, values, 9)


@cython.boundscheck(True)
cdef inline object item(list records, Py_ssize_t index):
    """list.__getitem__(records, index), whatever the list's class makes of that."""
    return records[index]


include "kafka/send_span.py"
include "kafka/record_scope.py"


# Handing over.

ctypedef int (*Visit)(PyObject *, void *) noexcept
ctypedef int (*Traverse)(PyObject *, Visit, void *) noexcept


cdef inline bint is_kind(set types, PyObject *kind) noexcept:
    # Of a type whose metaclass is the application's, the hash may be as well, and fail.
    return <PyObject *>Py_TYPE(kind) == <PyObject *>type and PySet_Contains(types, <object>kind) == 1


cdef int visit(PyObject *found, void *types) noexcept:
    return is_kind(<object>types, <PyObject *>Py_TYPE(found))


def is_one(set types not None, value):
    """Stands in for handover.is_one."""
    return is_kind(types, <PyObject *>Py_TYPE(<PyObject *>value))


def refers_to(set types not None, referring):
    """Stands in for handover.refers_to."""
    cdef Traverse traverse = <Traverse>Py_TYPE(<PyObject *>referring).tp_traverse
    return traverse != NULL and traverse(<PyObject *>referring, visit, <void *>types) != 0


cdef bint may_hold(set types, object value) except -1:
    cdef PyObject *entry = NULL
    cdef Py_ssize_t at = 0
    cdef int count = 0
    if not is_kind(types, <PyObject *>Py_TYPE(<PyObject *>value)):
        return False
    if type(value) is dict:
        while count < MAX_VALUES and PyDict_Next(value, &at, NULL, &entry):
            count += 1
            if is_kind(types, <PyObject *>Py_TYPE(entry)):
                return True
        return False
    if type(value) is list or type(value) is tuple:
        for one in value:
            if is_kind(types, <PyObject *>Py_TYPE(<PyObject *>one)):
                return True
            count += 1
            if count == MAX_VALUES:
                break
        return False
    return True


def may_be_given(set types not None, function, args, kwargs):
    """Stands in for handover.may_be_given."""
    if type(args) is tuple or type(args) is list:
        for value in args:
            if may_hold(types, value):
                return True
    if type(kwargs) is dict and len(<dict>kwargs):
        for value in (<dict>kwargs).values():
            if may_hold(types, value):
                return True
        return type(function) is partial
    if args:
        return type(function) is partial
    return type(function) is not FunctionType or function.__closure__ is not None or function.__defaults__ is not None


cdef destructor finalize_consumer_loop = (<PyTypeObject *>ConsumerLoop).tp_finalize
cdef destructor finalize_list_loop = (<PyTypeObject *>ListLoop).tp_finalize


cdef void mark(PyObject *loop) noexcept:
    """Mark the open span of a loop that is dropped while an exception leaves the loop's body.

    Only here it can be seen: `__del__` and `__dealloc__` are called with the exception set aside.
    """
    cdef PyObject *kind = NULL
    cdef PyObject *value = NULL
    cdef PyObject *traceback = NULL
    PyErr_Fetch(&kind, &value, &traceback)
    if (
        kind != NULL
        and PyErr_GivenExceptionMatches(kind, PyExc_Exception)
        and not PyErr_GivenExceptionMatches(kind, PyExc_StopIteration)
        and not PyErr_GivenExceptionMatches(kind, PyExc_StopAsyncIteration)
    ):
        PyErr_NormalizeException(&kind, &value, &traceback)
        try:
            (<RecordScope>loop)._fail(<object>value)
        except BaseException as error:
            pass_on_from_finalizer("recording an error in a loop's body", error)
    PyErr_Restore(kind, value, traceback)


cdef void end_consumer_loop(PyObject *loop) noexcept:
    mark(loop)
    finalize_consumer_loop(loop)


cdef void end_list_loop(PyObject *loop) noexcept:
    mark(loop)
    finalize_list_loop(loop)


(<PyTypeObject *>ConsumerLoop).tp_finalize = <destructor>end_consumer_loop
(<PyTypeObject *>ListLoop).tp_finalize = <destructor>end_list_loop


# The ring.

cdef class Writer:
    """Stands in for ring.Writer."""

    cdef Py_buffer _view
    cdef bint _is_open
    cdef char *_data
    cdef uint64_t *_positions
    cdef uint64_t _data_bytes, _position, _limit, _written, _max_span_bytes, _look_at
    cdef object _on_look

    def __cinit__(self, mapped, uint64_t data_bytes, on_look=None):
        self._on_look = on_look
        self.move(mapped, data_bytes)
        self._look_at = UINT64_MAX if on_look is None else 1

    def move(self, mapped, uint64_t data_bytes):
        """Write into another ring from now on."""
        cdef Py_buffer view
        PyObject_GetBuffer(mapped, &view, PyBUF_WRITABLE)
        cdef uint64_t size = view.len
        PyBuffer_Release(&view)
        if data_bytes % 8 or not HEADER_BYTES < HEADER_BYTES + data_bytes <= size:
            raise ValueError(f"no ring of {data_bytes} bytes for spans fits into {size} bytes")
        self.release()
        PyObject_GetBuffer(mapped, &self._view, PyBUF_WRITABLE)
        self._is_open = True
        self._positions = <uint64_t *>self._view.buf
        self._data = <char *>self._view.buf + HEADER_BYTES
        self._position = self._written = 0
        self._data_bytes = self._limit = data_bytes
        # No frame is larger than the ring, whatever `read_pos` says: others may write that.
        self._max_span_bytes = min(MAX_SPAN_BYTES, data_bytes - FRAME_HEADER_BYTES)

    def look(self):
        """Call `on_look` at once."""
        if self._on_look is None:
            return
        self._look_at = self._position + self._data_bytes  # what is put meanwhile does not look
        cdef uint64_t bytes_to_next = 1
        try:
            bytes_to_next = self._on_look()
        except BaseException as error:
            pass_on("looking after the span ring", error)  # the span is written: it must not come again
        self._look_at = self._position + bytes_to_next

    def put(self, bytes payload not None):
        # zlib lets other threads run while it works on a large payload; after it, none runs until the end.
        cdef uint32_t crc = crc32(payload)
        cdef uint64_t length = PyBytes_GET_SIZE(payload)
        cdef uint64_t size = (length + 15) & ~<uint64_t>7
        cdef uint64_t start, index
        cdef char *at
        if not self._is_open:
            raise ValueError("the ring is abandoned")
        start = self._position
        index = start % self._data_bytes
        if index + size > self._data_bytes:
            start += self._data_bytes - index
        if start + size > self._limit or length > self._max_span_bytes:
            self._limit = min(load(self._positions + READ), self._position) + self._data_bytes
            if start + size > self._limit or length > self._max_span_bytes:
                self._positions[DROPPED] += 1
                self.look()
                return
        if start != self._position:
            put_u32(self._data + index, 0xFFFFFFFF)
            put_u32(self._data + index + 4, 0)
            index = 0
        at = self._data + index
        put_u32(at, <uint32_t>length)
        put_u32(at + 4, crc)
        memcpy(at + 8, PyBytes_AS_STRING(payload), length)
        self._position = start + size
        self._written += 1
        publish(self._positions + WRITE, self._position)
        self._positions[WRITTEN] = self._written
        if self._position >= self._look_at:
            self.look()

    def release(self):
        """Let go of the mapping: nothing can be put any more."""
        if self._is_open:
            self._is_open = False
            PyBuffer_Release(&self._view)

    def __dealloc__(self):
        if self._is_open:
            PyBuffer_Release(&self._view)


cdef inline void put_u32(char *at, uint32_t given) noexcept:
    memcpy(at, &given, 4)


cdef uint64_t HEADER_BYTES = layout.HEADER_BYTES
cdef uint64_t FRAME_HEADER_BYTES = layout.FRAME_HEADER_BYTES
cdef uint64_t MAX_SPAN_BYTES = layout.MAX_SPAN_BYTES
cdef Py_ssize_t WRITE = layout.WRITE_POS // 8
cdef Py_ssize_t READ = layout.READ_POS // 8
cdef Py_ssize_t DROPPED = layout.DROPPED_SPANS // 8
cdef Py_ssize_t WRITTEN = layout.WRITTEN_SPANS // 8

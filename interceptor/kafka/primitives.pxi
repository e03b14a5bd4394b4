# What the steps of a send and of a record received are made of.

cdef extern from *:
    """
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
    uint64_t low_bits "kaspan_low_bits"(const char *digits) noexcept nogil
    bint is_id "kaspan_is_id"(const char *text, Py_ssize_t length) noexcept nogil


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

# JSON by templates.

cdef extern from *:
    """
    /* What goes into a template's place: a text, after `opening` and before a quotation mark if there is one;
       a number where `bytes` is NULL. */
    typedef struct {
        const char *opening;
        Py_ssize_t opening_length;
        const char *bytes;
        Py_ssize_t length;
        long long number;
    } kaspan_value;

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
    """
    ctypedef struct Value "kaspan_value":
        const char *opening
        Py_ssize_t opening_length
        const char *bytes
        Py_ssize_t length
        long long number

    bint is_plain "kaspan_is_plain"(const char *text, Py_ssize_t length) noexcept nogil

cdef enum:
    SMALL_BYTES = 4096
    DIGITS = 20
    MAX_KEY_BYTES = 256  # as in zipkin_json

cdef object key_part = None


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
    """What zipkin_json.key_part is, for keys that stand in JSON as they are; returns what `value` points into."""
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

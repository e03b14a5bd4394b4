# The ring.

cdef extern from *:
    """
    /* The reader, another process, sees everything before a position once it sees the position. */
    #define kaspan_load(at) __atomic_load_n((at), __ATOMIC_ACQUIRE)
    #define kaspan_publish(at, value) __atomic_store_n((at), (value), __ATOMIC_RELEASE)
    """
    uint64_t load "kaspan_load"(uint64_t *at) noexcept nogil
    void publish "kaspan_publish"(uint64_t *at, uint64_t value) noexcept nogil


cdef class Writer:
    """Does what ring_writer.Writer does."""

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

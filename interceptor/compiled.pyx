# cython: language_level=3, boundscheck=False, wraparound=False, auto_pickle=False
"""The way of the ordinary record, compiled: the same as in Python at a fraction of the cost.

Ordinary is what nearly every record is. All others are left to the Python code, which also does everything
where nothing could be compiled. Each included `.pxi` is the C for the Python file beside it of the same name,
and the tests hold it to that. The included `.py` are the steps of a send and of a record received: Python runs
them as well.
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
    """
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


include "tracing/zipkin_json.pxi"
include "tracing/span_ids.pxi"
include "tracing/collection.pxi"
include "kafka/primitives.pxi"
include "kafka/send_span.py"
include "kafka/record_scope.py"
include "kafka/unwinding.pxi"
include "handover/arguments.pxi"
include "reporters/ring_writer.pxi"

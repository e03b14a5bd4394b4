# Loops that an exception leaves.

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

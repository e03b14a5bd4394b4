# Records among the arguments of a call.

cdef enum:
    MAX_VALUES = 16  # as in arguments

ctypedef int (*Visit)(PyObject *, void *) noexcept
ctypedef int (*Traverse)(PyObject *, Visit, void *) noexcept


cdef inline bint is_kind(set types, PyObject *kind) noexcept:
    # Of a type whose metaclass is the application's, the hash may be as well, and fail.
    return <PyObject *>Py_TYPE(kind) == <PyObject *>type and PySet_Contains(types, <object>kind) == 1


cdef int visit(PyObject *found, void *types) noexcept:
    return is_kind(<object>types, <PyObject *>Py_TYPE(found))


def is_one(set types not None, value):
    """Does what arguments.is_one does."""
    return is_kind(types, <PyObject *>Py_TYPE(<PyObject *>value))


def refers_to(set types not None, referring):
    """Does what arguments.refers_to does."""
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
    """Does what arguments.may_be_given does."""
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

"""Handle errors in kaspan: the application never sees them.

The first failure of each kind is logged as a warning, the next ones as debug lines. All are counted, and the
agent reads the count from the ring's header.

An exception that is not kaspan's must reach the application: a signal handler of the application may raise
while the main thread runs kaspan's code.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable

TYPE_CHECKING = False  # typing's own costs the import of typing
if TYPE_CHECKING:
    from types import FrameType
    from typing import Any

log = logging.getLogger("kaspan")

_OURS = "kaspan."
_CALLED_BY_US = ("kaspan", "kafka", "opentelemetry", "msgspec", "yaml")
_PASSED_ON = "_kaspan_passed_on"
# Of a code object's flags.
_HAS_VARARGS, _HAS_VARKEYWORDS = 0x04, 0x08
_ANY_GENERATOR = 0x20 | 0x80 | 0x200  # generator, coroutine, asynchronous generator


class _Failures:
    def __init__(self) -> None:
        self.warned: set[str] = set()
        self.suppressed = 0
        self.tell: Callable[[int], None] | None = None


_failures = _Failures()


def record_failure(doing: str, error: BaseException) -> None:
    """Log and count an error that was raised while kaspan was `doing` something.

    Raises `error` if it is the application's (`is_from_outside`), and nothing else.
    """
    if is_from_outside(error):
        raise error
    _failures.suppressed += 1
    if _failures.tell is not None:
        _failures.tell(_failures.suppressed)
    level = logging.DEBUG if doing in _failures.warned else logging.WARNING
    _failures.warned.add(doing)
    traceback = level == logging.DEBUG
    log.log(level, "kaspan: %s failed: %s: %s", doing, type(error).__name__, error, exc_info=traceback)


def finish(doing: str, error: BaseException, work: Callable[..., Any], *args: Any) -> None:
    """Do what `record_failure` does for an `error` of `work(*args)` that must be done in any case.

    If the error is the application's, it calls `work(*args)` again before it raises the error.
    """
    if is_from_outside(error):
        work(*args)
    record_failure(doing, error)


def is_from_outside(error: BaseException) -> bool:
    """Whether the application raised an exception that came out of kaspan's code.

    True for an exception of a signal handler, one that another thread has set (PyThreadState_SetAsyncExc),
    and one that is not an Exception, such as KeyboardInterrupt and SystemExit. False for what the
    application's objects raise when kaspan calls them: without kaspan they would not have been called.
    """
    if not isinstance(error, Exception) or _PASSED_ON in error.__dict__:
        return True
    frame, traceback = None, error.__traceback__
    while traceback is not None:
        frame, traceback = traceback.tb_frame, traceback.tb_next
        if _is_signal_handler(frame):
            return True
    if frame is None or not _is_ours(frame):
        return False
    # Raised in a frame of kaspan's: set by another thread, if the class is the application's.
    package = str(type(error).__module__).partition(".")[0]
    return package not in _CALLED_BY_US and package not in sys.stdlib_module_names


def _is_signal_handler(frame: FrameType) -> bool:
    """Whether one of the frame's arguments is the frame that called it, as in a signal handler."""
    interrupted, code = frame.f_back, frame.f_code
    if interrupted is None:
        return False
    flags = code.co_flags
    count = code.co_argcount + code.co_kwonlyargcount
    count += bool(flags & _HAS_VARARGS) + bool(flags & _HAS_VARKEYWORDS)
    variables = frame.f_locals
    for name in code.co_varnames[:count]:
        value = variables.get(name)
        if value is interrupted or (type(value) is tuple and any(one is interrupted for one in value)):
            return True
    return False


def _is_ours(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__")).startswith(_OURS)


def pass_on(doing: str, error: BaseException) -> None:
    """Do what `record_failure` does, but never raise: raising would lose the error, as in a finalizer, or a
    record.

    An exception of the application is raised in this thread when it is back in the application's code.
    """
    if not is_from_outside(error):
        record_failure(doing, error)
        return
    frame = sys._getframe()
    while frame.f_back is not None and _is_ours(frame.f_back):
        frame = frame.f_back
    try:
        import _thread

        # By another thread: set by this one, it would be raised at once, in kaspan's code.
        _thread.start_new_thread(_raise_after, (_thread.get_ident(), frame, raising(error)))
    except Exception as failure:  # noqa: BLE001
        log.warning("kaspan: %r was raised in a finalizer and is lost: %s", error, failure)


def watch_finalizers() -> None:
    """Pass on exceptions that are raised before the code of a finalizer of kaspan's (in Python) begins."""
    original = sys.unraisablehook

    def unraisablehook(unraisable: Any, /) -> None:
        error, finalizer = unraisable.exc_value, unraisable.object
        is_ours = str(getattr(finalizer, "__module__", None)).startswith(_OURS)
        if is_ours and error is not None and is_from_outside(error):
            pass_on("finalizing", error)
        else:
            original(unraisable)

    sys.unraisablehook = unraisablehook


class _Unregistered(BaseException):
    """Keeps __init_subclass__ of the application's exception class from being called."""

    def __init_subclass__(cls) -> None:
        pass


def raising(error: BaseException) -> type[BaseException]:
    """Make a class whose only instance is `error`: PyThreadState_SetAsyncExc takes a class."""
    error.__dict__[_PASSED_ON] = True
    error.__traceback__ = None  # its frames refer to what the application has freed, such as a loop
    like = type(error)
    members = {"__new__": lambda *_: error, "__module__": like.__module__, "__qualname__": like.__qualname__}
    return type(like.__name__, (_Unregistered, like), members)


def _raise_after(thread_id: int, frame: FrameType, raising: type[BaseException]) -> None:
    """Raise an exception in a thread once it has left a frame."""
    import ctypes

    while _is_running(thread_id, frame):
        time.sleep(0.0001)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread_id), ctypes.py_object(raising))


def _is_running(thread_id: int, frame: FrameType) -> bool:
    # The frames of a thread that runs must not be followed: on the way they end, and CPython 3.11 then gives
    # any object as `f_back`. A frame that runs refuses to be cleared, and one that has ended has no use for
    # its variables. A generator would be closed by it.
    if frame.f_code.co_flags & _ANY_GENERATOR:
        return _is_in(thread_id, frame)
    try:
        frame.clear()
    except RuntimeError:
        return True
    return False


def _is_in(thread_id: int, frame: FrameType) -> bool:
    at: Any = sys._current_frames().get(thread_id)
    while at is not None and at is not frame:
        at = getattr(at, "f_back", None)
    return at is frame


def tell_suppressed(tell: Callable[[int], None] | None) -> None:
    """Call `tell` with the number of suppressed failures, now and when it grows; stop with None."""
    _failures.tell = tell
    if tell is not None:
        tell(_failures.suppressed)

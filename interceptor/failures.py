"""What happens when something of kaspan's own fails: the application never sees it.

The first failure of each kind is one warning in the log, the next ones are debug lines; all are counted,
and the count stands in the ring's header for the agent to report.

What is not kaspan's own must reach the application: a signal handler of the application's runs, and raises,
in whatever Python code the main thread is in at that moment, and that may be kaspan's.
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
_HAS_VARARGS, _HAS_VARKEYWORDS = 0x04, 0x08  # of a code object's flags


class _Failures:
    def __init__(self) -> None:
        self.warned: set[str] = set()
        self.suppressed = 0
        self.tell: Callable[[int], None] | None = None


_failures = _Failures()


def record_failure(doing: str, error: BaseException) -> None:
    """Note that `error` came while kaspan was `doing` something, and go on.

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
    """As `suppress`, for what must be done whatever comes in between: `error` came from `work(*args)`.

    Where it is the application's, the work is done again, from its beginning, before it is raised.
    """
    if is_from_outside(error):
        work(*args)
    record_failure(doing, error)


def is_from_outside(error: BaseException) -> bool:
    """Whether an exception that came out of kaspan's code was raised there by the application.

    That is one of a signal handler's, one that another thread has set (PyThreadState_SetAsyncExc), and
    whatever is no Exception, such as KeyboardInterrupt and SystemExit. What the application's objects raise
    when kaspan asks them something is not: without kaspan nobody would have asked.
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
    # Raised in kaspan's own code, with none of the application's running: a class that only that one knows.
    package = str(type(error).__module__).partition(".")[0]
    return package not in _CALLED_BY_US and package not in sys.stdlib_module_names


def _is_signal_handler(frame: FrameType) -> bool:
    """Whether a frame is that of a function which was called with the frame that called it."""
    interrupted, code = frame.f_back, frame.f_code
    if interrupted is None:
        return False
    flags = code.co_flags
    count = code.co_argcount + code.co_kwonlyargcount
    count += bool(flags & _HAS_VARARGS) + bool(flags & _HAS_VARKEYWORDS)
    given = frame.f_locals
    for name in code.co_varnames[:count]:
        value = given.get(name)
        if value is interrupted or (type(value) is tuple and any(one is interrupted for one in value)):
            return True
    return False


def _is_ours(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__")).startswith(_OURS)


def pass_on(doing: str, error: BaseException) -> None:
    """As `suppress`, for where raising would lose the exception, as in finalizers, or a record. Never raises.

    The application's exception is raised in this thread once it is back in the application's code.
    """
    if not is_from_outside(error):
        record_failure(doing, error)
        return
    frame = sys._getframe()
    while frame.f_back is not None and _is_ours(frame.f_back):
        frame = frame.f_back
    try:
        import _thread

        # By another thread, since in this one it would be raised at once: in kaspan's code.
        _thread.start_new_thread(_raise_behind, (_thread.get_ident(), frame, raising(error)))
    except Exception as failure:  # noqa: BLE001
        log.warning("kaspan: %r came in a finalizer and is lost: %s", error, failure)


def watch_finalizers() -> None:
    """Pass on what comes as a finalizer of kaspan's begins, before it can: where they are in Python."""
    plain = sys.unraisablehook

    def unraisablehook(unraisable: Any, /) -> None:
        error, finalizer = unraisable.exc_value, unraisable.object
        is_ours = str(getattr(finalizer, "__module__", None)).startswith(_OURS)
        if is_ours and error is not None and is_from_outside(error):
            pass_on("finalizing", error)
        else:
            plain(unraisable)

    sys.unraisablehook = unraisablehook


class _Unregistered(BaseException):
    """Keeps an exception class of the application's from noticing that it has a subclass."""

    def __init_subclass__(cls) -> None:
        pass


def raising(error: BaseException) -> type[BaseException]:
    """Make the class of which an instance is always `error` itself, for PyThreadState_SetAsyncExc."""
    error.__dict__[_PASSED_ON] = True
    error.__traceback__ = None  # its frames hold what the application has let go of, such as a loop
    like = type(error)
    members = {"__new__": lambda *_: error, "__module__": like.__module__, "__qualname__": like.__qualname__}
    return type(like.__name__, (_Unregistered, like), members)


def _raise_behind(thread_id: int, frame: FrameType, raising: type[BaseException]) -> None:
    """Raise in a thread once it has left a frame."""
    import ctypes

    while _is_in(thread_id, frame):
        time.sleep(0.0001)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread_id), ctypes.py_object(raising))


def _is_in(thread_id: int, frame: FrameType) -> bool:
    at = sys._current_frames().get(thread_id)
    while at is not None and at is not frame:
        at = at.f_back
    return at is frame


def tell_suppressed(tell: Callable[[int], None] | None) -> None:
    """Call `tell` with the number of suppressed failures, now and whenever it grows; None to stop."""
    _failures.tell = tell
    if tell is not None:
        tell(_failures.suppressed)

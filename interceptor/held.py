"""How long what `next(consumer)` returned is worked on, where nobody calls it again."""

from __future__ import annotations

import sys
import weakref
from _thread import get_ident
from collections.abc import Callable
from functools import lru_cache
from types import CodeType, FrameType
from typing import TYPE_CHECKING, Any

from kaspan.interceptor.failures import pass_on

if TYPE_CHECKING:
    from kaspan.interceptor.consumer import ConsumerState

_MAX_CALLERS = 8


class Held:
    """Calls `let_go(*given)` when nothing refers to this any more."""

    __slots__ = ("_given", "_let_go")

    def __init__(self, let_go: Callable[..., None], *given: Any) -> None:
        self._let_go, self._given = let_go, given

    def __call__(self, *event: Any) -> None:
        """Do nothing: a debugger that begins while a frame keeps this takes it for a trace function."""

    def __del__(self) -> None:
        try:
            self._let_go(*self._given)
        except BaseException as error:  # noqa: BLE001 (Python would ignore it)
            pass_on("ending a record's span", error)


if not TYPE_CHECKING:
    import contextlib

    with contextlib.suppress(ImportError):
        from kaspan.interceptor.compiled import Held


def held(state: ConsumerState, record: Any, frame: FrameType) -> Any:
    """The record as the application is given it, whose span ends when `frame`, which asked, has returned and
    the application holds the record no more.

    It is a copy: the one that kafka-python made it holds itself, until it is asked for the next.
    """
    if type(record) is not state.processing.record_class:
        return record
    if frame.f_trace is not None and type(frame.f_trace) is not Held:  # a debugger's
        return record
    copy = tuple.__new__(type(record), record)
    # A frame cannot be referred to weakly, but lets go of this, which only debuggers use, when it returns.
    end = frame.f_trace = Held(_let_go, weakref.ref(state), state.asked, get_ident())
    copy.__dict__.update(record.__dict__, kaspan_held=end)
    return copy


def _let_go(reference: Callable[[], Any], asked: int, thread_id: int) -> None:
    state = reference()
    if state is None or state.asked != asked or get_ident() != thread_id:
        return
    if not _may_ask_again(sys._getframe(1)):
        state.cursor.close()


def _may_ask_again(frame: FrameType | None) -> bool:
    """Whether one of the nearest functions of the application's is in a loop."""
    while frame is not None and _module(frame).startswith("kaspan."):
        frame = frame.f_back
    for _ in range(_MAX_CALLERS):
        if frame is None:
            break
        at = frame.f_lasti
        is_own = _module(frame).partition(".")[0] not in sys.stdlib_module_names
        if is_own and any(first <= at <= last for first, last in _loops(frame.f_code)):
            return True
        frame = frame.f_back
    return False


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__"))


@lru_cache(maxsize=256)
def _loops(code: CodeType) -> tuple[tuple[int, int], ...]:
    """The first and last instruction of each loop in a function: where it jumps back."""
    import dis

    jumps = {*dis.hasjrel, *dis.hasjabs}
    return tuple(
        (one.argval, one.offset)
        for one in dis.get_instructions(code)
        if one.opcode in jumps and one.argval <= one.offset and "NO_INTERRUPT" not in one.opname  # an await
    )

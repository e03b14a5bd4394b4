"""Tell from byte code whether an exception leaves a for loop, where kaspan is not compiled.

CPython frees a loop's iterator when the loop is left, and hides the exception, if there is one, from the
iterator's `__del__`. But the frame tells its current instruction. Either that one ends a loop, or it has
raised. Which exception it has raised is not known.
"""

from __future__ import annotations

import sys
from opcode import opmap
from types import CodeType, FrameType

_FOR_ITER = opmap["FOR_ITER"]
_ENDS = {opmap[name] for name in ("FOR_ITER", "END_FOR", "POP_ITER", "POP_TOP") if name in opmap}
"""Instructions that free an iterator at the end of a loop, or by `break` or `return`."""

_GENERATOR, _COROUTINE = 0x20, 0x80 | 0x200  # of a code object's flags
_RESUMED = {
    opmap[name]
    for name in ("YIELD_VALUE", "YIELD_FROM", "RESUME", "SEND", "RERAISE", "CLEANUP_THROW", "END_SEND")
    if name in opmap
}
"""Instructions at which a generator may be closed, which is not an error."""

Place = tuple[CodeType, int]


def place() -> Place:
    """Return the place of the caller's caller, for `is_unwinding`."""
    frame = sys._getframe(2)
    return frame.f_code, frame.f_lasti


def is_unwinding(frame: FrameType, asked: Place | None) -> bool:
    """Whether an exception leaves a loop whose iterator `frame` frees. The loop was `asked` from there.

    Only for statements: `next(iter(records))` too frees an iterator at an instruction that may raise, but
    has not.
    """
    if asked is None or frame.f_code is not asked[0] or frame.f_code.co_flags & _COROUTINE:
        return False  # a coroutine's task may have been cancelled
    code = frame.f_code.co_code
    at = code[frame.f_lasti]
    if code[asked[1]] != _FOR_ITER or at in _ENDS:
        return False
    return not (frame.f_code.co_flags & _GENERATOR and at in _RESUMED)

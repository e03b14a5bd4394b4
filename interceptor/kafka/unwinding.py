"""Whether an exception leaves a for loop, told by the byte code, for where nothing is compiled.

CPython drops a loop's iterator when the loop is left, and hides the exception, if there is one, from the
iterator's `__del__`. But the frame still says which instruction it is at: one that ends the loop, or any
other, which then has raised. Which exception it is cannot be seen.
"""

from __future__ import annotations

import sys
from opcode import opmap
from types import CodeType, FrameType

_FOR_ITER = opmap["FOR_ITER"]
_ENDS = {opmap[name] for name in ("FOR_ITER", "END_FOR", "POP_ITER", "POP_TOP") if name in opmap}
"""Instructions that drop an iterator when a loop is at its end, or left by `break` or `return`."""

_GENERATOR, _COROUTINE = 0x20, 0x80 | 0x200  # of a code object's flags
_RESUMED = {
    opmap[name]
    for name in ("YIELD_VALUE", "YIELD_FROM", "RESUME", "SEND", "RERAISE", "CLEANUP_THROW", "END_SEND")
    if name in opmap
}
"""Instructions at which a generator may have been closed, which is no failure."""

Place = tuple[CodeType, int]


def place() -> Place:
    """Where the function that calls the caller is, for `is_unwinding`."""
    frame = sys._getframe(2)
    return frame.f_code, frame.f_lasti


def is_unwinding(frame: FrameType, asked: Place | None) -> bool:
    """Whether an exception is leaving a loop whose iterator `frame` drops, and that was `asked` from there.

    Only what a for statement drops is told: an iterator that is dropped by a function, as in
    `next(iter(records))`, is dropped at an instruction that may raise, but has not.
    """
    if asked is None or frame.f_code is not asked[0] or frame.f_code.co_flags & _COROUTINE:
        return False  # in a coroutine it may be that its task was cancelled
    code = frame.f_code.co_code
    at = code[frame.f_lasti]
    if code[asked[1]] != _FOR_ITER or at in _ENDS:
        return False
    return not (frame.f_code.co_flags & _GENERATOR and at in _RESUMED)

"""Follow records into green threads of eventlet and gevent.

eventlet's are patched where they begin to run. gevent's are compiled, so the functions that start them are
patched.
"""

from __future__ import annotations

from typing import Any

from kaspan.interceptor.handover.points import handed_over, process, replace


def patch_eventlet_greenthread(module: Any) -> None:
    """Follow the arguments of spawn(), spawn_after(), GreenPool.spawn() and spawn_n()."""

    def make_init(original_init: Any) -> Any:
        def __init__(self: Any, parent: Any) -> None:  # noqa: N807 (it becomes a method)
            original_init(self, parent)
            hand_overs = process.hand_overs
            if hand_overs is not None and (span := hand_overs.span_in_scope()) is not None:
                self._kaspan_span = span

        return __init__

    def make(original_main: Any) -> Any:
        def main(self: Any, function: Any, args: Any, kwargs: Any) -> Any:
            handed = handed_over(function, args, kwargs)
            span = self.__dict__.pop("_kaspan_span", None)
            if handed is None and span is not None:
                handed = handed_over(function, args, kwargs, span)
            return original_main(self, *(handed or (function, args, kwargs)))

        return main

    def make_spawn_n(original: Any) -> Any:
        def spawn_n(func: Any, *args: Any, **kwargs: Any) -> Any:
            is_eventlets = str(getattr(func, "__module__", "")).startswith("eventlet.")
            handed = None if is_eventlets else handed_over(func, args, kwargs)
            return (
                original(func, *args, **kwargs)
                if handed is None
                else original(handed[0], *handed[1], **handed[2])
            )

        return spawn_n

    replace(module.GreenThread, "__init__", make_init)
    replace(module.GreenThread, "main", make)
    replace(module, "spawn_n", make_spawn_n)


def patch_eventlet(module: Any) -> None:
    """Replace spawn_n() in the package `eventlet` too."""
    module.spawn_n = module.greenthread.spawn_n


def patch_eventlet_greenpool(module: Any) -> None:
    """Follow the arguments of GreenPool.spawn_n()."""

    def make(original: Any) -> Any:
        def _spawn_n_impl(self: Any, func: Any, args: Any, kwargs: Any, coro: Any) -> Any:
            return original(self, *(handed_over(func, args, kwargs) or (func, args, kwargs)), coro)

        return _spawn_n_impl

    replace(module.GreenPool, "_spawn_n_impl", make)


def patch_gevent(module: Any) -> None:
    """Follow the arguments of the functions that start a greenlet."""
    for name in ("spawn", "spawn_raw"):
        replace(module, name, _make_spawn)
    replace(module, "spawn_later", _make_spawn_later)


def patch_gevent_pool(module: Any) -> None:
    """Follow the arguments of spawn() of Pool and Group."""

    def make(original: Any) -> Any:
        def spawn(self: Any, *args: Any, **kwargs: Any) -> Any:
            handed = handed_over(args[0], args[1:], kwargs) if args else None
            return (
                original(self, *args, **kwargs)
                if handed is None
                else original(self, handed[0], *handed[1], **handed[2])
            )

        return spawn

    replace(module.Group, "spawn", make)


def _make_spawn(original: Any) -> Any:
    def spawn(*args: Any, **kwargs: Any) -> Any:
        args, kwargs = _handed_over(args, kwargs)
        return original(*args, **kwargs)

    return spawn


def _make_spawn_later(original: Any) -> Any:
    def spawn_later(seconds: Any, *args: Any, **kwargs: Any) -> Any:
        args, kwargs = _handed_over(args, kwargs)
        return original(seconds, *args, **kwargs)

    return spawn_later


def _handed_over(args: tuple[Any, ...], kwargs: Any) -> tuple[tuple[Any, ...], Any]:
    """Return the arguments to call with. The first of `args` is the function."""
    handed = handed_over(args[0], args[1:], kwargs) if args else None
    return (args, kwargs) if handed is None else ((handed[0], *handed[1]), handed[2])

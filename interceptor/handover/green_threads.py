"""Green threads of eventlet and gevent that are started with a record.

eventlet's are patched where they begin to run. gevent's are compiled, so it is the functions that start them.
"""

from __future__ import annotations

from typing import Any

from kaspan.interceptor.handover.points import handed_over, process, replace


def patch_eventlet_greenthread(module: Any) -> None:
    """Follow what GreenThreads are given, by spawn(), spawn_after() and GreenPool.spawn(), and spawn_n()."""

    def make_init(plain_init: Any) -> Any:
        def __init__(self: Any, parent: Any) -> None:  # noqa: N807 (it is one)
            plain_init(self, parent)
            hand_overs = process.hand_overs
            if hand_overs is not None and (span := hand_overs.span_in_scope()) is not None:
                self._kaspan_span = span

        return __init__

    def make(plain_main: Any) -> Any:
        def main(self: Any, function: Any, args: Any, kwargs: Any) -> Any:
            handed = handed_over(function, args, kwargs)
            span = self.__dict__.pop("_kaspan_span", None)
            if handed is None and span is not None:
                handed = handed_over(function, args, kwargs, span)
            return plain_main(self, *(handed or (function, args, kwargs)))

        return main

    def make_spawn_n(plain: Any) -> Any:
        def spawn_n(func: Any, *args: Any, **kwargs: Any) -> Any:
            is_eventlets = str(getattr(func, "__module__", "")).startswith("eventlet.")
            handed = None if is_eventlets else handed_over(func, args, kwargs)
            return (
                plain(func, *args, **kwargs) if handed is None else plain(handed[0], *handed[1], **handed[2])
            )

        return spawn_n

    replace(module.GreenThread, "__init__", make_init)
    replace(module.GreenThread, "main", make)
    replace(module, "spawn_n", make_spawn_n)


def patch_eventlet(module: Any) -> None:
    """Put eventlet's own name for spawn_n() right."""
    module.spawn_n = module.greenthread.spawn_n


def patch_eventlet_greenpool(module: Any) -> None:
    """Follow what GreenPool.spawn_n() is given."""

    def make(plain: Any) -> Any:
        def _spawn_n_impl(self: Any, func: Any, args: Any, kwargs: Any, coro: Any) -> Any:
            return plain(self, *(handed_over(func, args, kwargs) or (func, args, kwargs)), coro)

        return _spawn_n_impl

    replace(module.GreenPool, "_spawn_n_impl", make)


def patch_gevent(module: Any) -> None:
    """Follow what the functions that start a greenlet are given."""
    for name in ("spawn", "spawn_raw"):
        replace(module, name, _make_spawn)
    replace(module, "spawn_later", _make_spawn_later)


def patch_gevent_pool(module: Any) -> None:
    """Follow what Pool and Group give to their greenlets."""

    def make(plain: Any) -> Any:
        def spawn(self: Any, *args: Any, **kwargs: Any) -> Any:
            handed = handed_over(args[0], args[1:], kwargs) if args else None
            return (
                plain(self, *args, **kwargs)
                if handed is None
                else plain(self, handed[0], *handed[1], **handed[2])
            )

        return spawn

    replace(module.Group, "spawn", make)


def _make_spawn(plain: Any) -> Any:
    def spawn(*args: Any, **kwargs: Any) -> Any:
        args, kwargs = _handed_over(args, kwargs)
        return plain(*args, **kwargs)

    return spawn


def _make_spawn_later(plain: Any) -> Any:
    def spawn_later(seconds: Any, *args: Any, **kwargs: Any) -> Any:
        args, kwargs = _handed_over(args, kwargs)
        return plain(seconds, *args, **kwargs)

    return spawn_later


def _handed_over(args: tuple[Any, ...], kwargs: Any) -> tuple[tuple[Any, ...], Any]:
    """The same with `args`, whose first is the function."""
    handed = handed_over(args[0], args[1:], kwargs) if args else None
    return (args, kwargs) if handed is None else ((handed[0], *handed[1]), handed[2])

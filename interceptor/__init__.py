"""The part of kaspan that runs in the application: patches kafka-python and writes spans to a ring.

This module imports nothing: interpreters that never use Kafka load it too. `traced`, `process` and
`next_span`, for applications that trace in their code, are loaded when they are first used.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from kaspan.interceptor.functions.decorators import next_span, process, traced

__all__ = ["next_span", "process", "traced"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from kaspan.interceptor.functions import decorators

    found: object = getattr(decorators, name)
    globals()[name] = found
    return found

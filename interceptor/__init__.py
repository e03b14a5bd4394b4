"""What happens inside the application: kafka-python patched at its first client, spans written to a ring.

Nothing is imported here: this package is loaded at the start of interpreters that may never use Kafka.
`traced`, `process` and `next_span`, for those who want code, come when they are asked for.
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

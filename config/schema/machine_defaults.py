"""Defaults that depend on the user, the machine or the environment."""

from __future__ import annotations

import os


def default_ring_dir() -> str:
    """The ring directory in which an application and an agent of the same user meet."""
    root = "/dev/shm"  # noqa: S108
    if not os.path.isdir(root):
        # Imported here because it loads half the standard library, and applications load this module.
        from tempfile import gettempdir

        root = gettempdir()
    return f"{root}/kaspan-{os.geteuid()}"


def default_fallback_dir() -> str:
    """The ring directory on disk, for rings that do not fit into shared memory."""
    return f"/var/tmp/kaspan-{os.geteuid()}"  # noqa: S108


def default_ring_dirs() -> tuple[str, ...]:
    """The directories in which an agent looks for the rings of its user."""
    fallback = default_fallback_dir()
    is_possible = os.access(os.path.dirname(fallback), os.W_OK)
    return tuple(dict.fromkeys([default_ring_dir(), *([fallback] if is_possible else [])]))


def default_spool_path() -> str:
    """The agent's spool."""
    return f"{_state_dir()}/spool.db"


def default_store_path() -> str:
    """The span store, a directory beside the spool."""
    return f"{_state_dir()}/store"


def _state_dir() -> str:
    """Where kaspan keeps files: in the user's home directory; in /var/lib/kaspan for root.

    A user without a home directory gets /var/lib/kaspan too: an administrator may have made it for that user.
    """
    state = os.environ.get("XDG_STATE_HOME", "")
    if not os.path.isabs(state):  # the specification of XDG_STATE_HOME says to ignore it then
        state = os.path.expanduser("~/.local/state")
    if os.geteuid() == 0 or not os.path.isabs(state):
        return "/var/lib/kaspan"
    return f"{state}/kaspan"


def default_socket() -> str:
    """The agent's unix socket, in the user's runtime directory; empty if the user cannot write there."""
    runtime = "/run" if os.geteuid() == 0 else os.environ.get("XDG_RUNTIME_DIR", "")
    return f"{runtime}/kaspan/agent.sock" if os.path.isabs(runtime) and os.access(runtime, os.W_OK) else ""

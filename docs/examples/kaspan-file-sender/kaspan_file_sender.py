"""A sender for kaspan's agent that writes each span as a line of JSON into a file."""

from __future__ import annotations

import os
from typing import Annotated

import msgspec

from kaspan.agent.senders.base import Delivered, Failed, Outcome, Refused, Sender, SettingError


class FileSettings(msgspec.Struct, frozen=True):
    """What stands beside `type: file` in agent.senders."""

    path: Annotated[str, msgspec.Meta(pattern="^/.", description="an absolute path")]
    sync: bool = True


class FileSender(Sender):
    """Appends to one file. `sync` flushes each message to the disk before the agent gives it up."""

    Settings = FileSettings

    def __init__(self, settings: FileSettings) -> None:
        # What can be known at the start is said at the start; a target that is away now may come later.
        if os.path.isdir(settings.path):
            raise SettingError("path", f"is {settings.path}, a directory; the rule is a file's path")
        self.name = f"file {settings.path}"
        self._path = settings.path
        self._sync = settings.sync

    def send(self, spans: bytes, last_id: int) -> Outcome:
        try:
            lines = [bytes(span) for span in msgspec.json.decode(b"[" + spans + b"]", type=list[msgspec.Raw])]
        except msgspec.MsgspecError as error:
            # It will be the same next time: the agent finds the span that is to blame, and keeps it aside.
            return Refused(f"not JSON: {error}")
        try:
            # Opened for each message, so that a file that was rotated away is made anew.
            with open(self._path, "ab") as file:
                file.write(b"".join(line.replace(b"\n", b" ") + b"\n" for line in lines))
                file.flush()
                if self._sync:
                    os.fsync(file.fileno())
        except OSError as error:
            # A full disk, a directory that is not mounted yet: the same message comes again.
            return Failed(f"{type(error).__name__}: {error}")
        return Delivered()

"""SIGINT and SIGTERM ask the loop to stop at the end of its step; no handler writes anything."""

__all__ = ["Interrupted", "StopSignals"]

import signal
import threading
from types import FrameType
from typing import Any, final


class Interrupted(Exception):  # noqa: N818
    """Training stopped on a signal, after its checkpoint was saved.

    Attributes:
        signum: the signal.
        exit_code: what the process should exit with: 130 for SIGINT, 143 for SIGTERM.

    Example:
        >>> Interrupted(signal.SIGTERM).exit_code
        143
    """

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.signum = int(signum)
        self.exit_code = 128 + int(signum)


@final
class StopSignals:
    """While entered, SIGINT and SIGTERM only set :attr:`received`; a second SIGINT raises at once.

    Outside the main thread nothing is installed, since only the main thread may.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            for signum in (signal.SIGINT, signal.SIGTERM):
                self._previous[signum] = signal.signal(signum, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        for signum, handler in self._previous.items():
            # A handler that was not installed from Python reads as None and cannot be put back.
            signal.signal(signum, signal.SIG_DFL if handler is None else handler)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if self.received is not None and signum == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = signum

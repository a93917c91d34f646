"""An observer that cannot do harm: whatever it does, the call that told it goes on.

The events of section 10.3 are told in the middle of calls, under the lock of the space, when areas are half made or
half gone.  So an observer's error is nobody's to raise there: it is printed with its traceback, as ``logging`` does
with those of handlers, and counted.  And an observer that calls the space back would wait for ever for the lock that
its own thread holds; ``telling`` lets the space see that and refuse.
"""

from __future__ import annotations

import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any

__all__ = ["Observed"]


class Observed:
    """An observer, contained.

    Args:
        observer: told ``observer(event, **fields)``.

    Attributes:
        errors: how often it raised. last_error: the newest of these, or None.
    """

    def __init__(self, observer: Callable[..., Any]) -> None:
        self.observer = observer
        self.errors = 0
        self.last_error: Exception | None = None
        self._thread: int | None = None

    @property
    def telling(self) -> bool:
        """Whether this thread is inside the observer."""
        return self._thread == threading.get_ident()

    def __call__(self, event: str, /, **fields: int | str) -> None:
        self._thread = threading.get_ident()
        try:
            self.observer(event, **fields)
        except Exception as error:
            self.errors += 1
            self.last_error = error
            print(f"vmalloc: the observer of {event} raised:", file=sys.stderr)
            traceback.print_exc(file=sys.stderr)
        finally:
            self._thread = None

"""The one place that turns an error into a sentence on standard error and a status."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable

TRACEBACK = "VAE_LIGHTNING_TRACEBACK"
"""Environment variable that asks for the traceback of an error."""
USERS_ERRORS = (ValueError, TypeError, OSError, FloatingPointError)
"""What is the user's to mend; anything else is an error of this program, and keeps its traceback."""
INTERRUPTED, TERMINATED = 128 + signal.SIGINT, 128 + signal.SIGTERM


class Stopped(SystemExit):
    """A command was told to stop: it is not finished.

    Args:
        sentence: what is kept, and how to go on.
        code: 128 and the signal's number.
    """

    def __init__(self, sentence: str = "terminated: no file was left unfinished.", code: int = TERMINATED) -> None:
        super().__init__(code)
        self.sentence, self.status = sentence, code


class AlreadyDone(SystemExit):
    """A command finds that what it is asked for is done, so that it may be run again: a success.

    Args:
        sentence: what is done, and how to have more of it.
    """

    def __init__(self, sentence: str) -> None:
        super().__init__(0)
        self.sentence = sentence


def status(command: Callable[[], None]) -> int:
    """Runs a command, imports of the libraries included; returns its status. SIGTERM ends it by an exception, so that
    files that are not whole are removed."""
    listens = threading.current_thread() is threading.main_thread()  # signals come there alone
    before = signal.signal(signal.SIGTERM, _terminate) if listens else None
    here = os.getcwd()
    if here not in sys.path:  # a configuration may name a user's own module, as with python -m
        sys.path.insert(0, here)
    try:
        command()
    except USERS_ERRORS as error:
        return _said(error, str(error), 1)
    except (MemoryError, RuntimeError) as error:
        said = " ".join(str(error).split())
        if isinstance(error, RuntimeError) and "memory" not in said:
            raise
        return _said(error, f"expected memory enough, got too little ({said[:200]}): give fewer images.", 1)
    except KeyboardInterrupt as error:
        return _said(error, "interrupted: no file was left unfinished.", INTERRUPTED)
    except AlreadyDone as done:
        print(done.sentence)
    except Stopped as stopped:
        return _said(stopped, stopped.sentence, stopped.status)
    finally:
        if listens:
            signal.signal(signal.SIGTERM, before)
    return 0


def _said(error: BaseException, sentence: str, code: int) -> int:
    if os.environ.get(TRACEBACK):
        raise error
    print(f"error: {sentence}", file=sys.stderr)
    return code


def _terminate(*_: object) -> None:
    if signal.getsignal(signal.SIGTERM) is _terminate:  # else Lightning's loop ends itself, between two steps
        raise Stopped  # which, unlike the signal, lets files that are not whole be removed

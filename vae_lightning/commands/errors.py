"""The one place that turns an error into a sentence on standard error and a status."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable

TRACEBACK = "VAE_LIGHTNING_TRACEBACK"
"""Environment variable that asks for the traceback of an error."""
USERS_ERRORS = (ValueError, TypeError, OSError, FloatingPointError)
"""What is the user's to mend; anything else is an error of this program, and keeps its traceback."""
INTERRUPTED, TERMINATED = 128 + signal.SIGINT, 128 + signal.SIGTERM


def status(command: Callable[[], None], catch_sigterm: bool) -> int:
    """Runs a command; returns its status.

    Args:
        command: what to run, imports of the libraries included.
        catch_sigterm: end by an exception at SIGTERM, so that files that are not whole are removed; a training, which
            Lightning stops at its next step, sees to it itself.
    """
    before = signal.signal(signal.SIGTERM, _terminate) if catch_sigterm else None
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
    except SystemExit as stopped:
        if stopped.code != TERMINATED:
            raise
        return _said(stopped, "terminated: no file was left unfinished.", TERMINATED)
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)
    return 0


def _said(error: BaseException, sentence: str, code: int) -> int:
    if os.environ.get(TRACEBACK):
        raise error
    print(f"error: {sentence}", file=sys.stderr)
    return code


def _terminate(*_: object) -> None:
    raise SystemExit(TERMINATED)  # which, unlike the signal, lets files that are not whole be removed

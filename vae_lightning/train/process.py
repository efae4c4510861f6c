"""Settings of the whole process that make arithmetic on a CPU faster; no result changes but what is denormal."""

from __future__ import annotations

import ctypes
import os
import shutil
import sys

import torch
import torch.distributed

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3  # glibc's malloc.h


def tune_process() -> None:
    """Flushes denormals and keeps freed memory.

    An activation near zero that is a denormal costs a CPU a hundred times an ordinary one. And glibc gives large blocks
    back to the system as soon as they are freed: each step of a small model then spends up to a third of its time on
    page faults, taking the same memory anew. Where there is no glibc, nothing but the denormals changes.
    """
    torch.set_flush_denormal(True)
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(M_MMAP_THRESHOLD, 32 * 2**20)  # the largest that glibc takes
    mallopt(M_TRIM_THRESHOLD, 2**30)
    mallopt(M_TOP_PAD, 64 * 2**20)


def part_company() -> None:
    """Ends what several processes do together, in all of them: what the first one does from here on waits for no other,
    and the others may end."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def with_float64(accelerator: str) -> str:
    """Where to run: `auto` does not mean Apple's GPU, whose lack of float64 the sums over images could not do with.

    Raises:
        ValueError: it was asked for.
    """
    if accelerator == "mps" or (accelerator == "gpu" and torch.backends.mps.is_available()):
        raise ValueError(
            f"--trainer.accelerator {accelerator}: expected cpu, cuda or auto, since sums over images are kept in "
            "float64, which Apple's GPUs do not have: set --trainer.accelerator cpu."
        )
    return "cpu" if accelerator == "auto" and torch.backends.mps.is_available() else accelerator


def require_compiler() -> None:
    """Raises ValueError where torch.compile would find no C++ compiler."""
    name = os.environ.get("CXX") or {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")
    if not shutil.which(name):
        raise ValueError(
            f"--model.compile true: expected the C++ compiler {name}, got none: install it, say another with the "
            "environment variable CXX, or leave it out."
        )

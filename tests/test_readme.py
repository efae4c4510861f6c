"""Every command in the README runs as it stands, shortened to a few steps on generated data of the right shape."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY, generated_flags

TEXT = (REPOSITORY / "README.md").read_text() + (REPOSITORY / "docs" / "results.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", TEXT, flags=re.DOTALL)
LINES = [line for kind, block in BLOCKS if kind == "sh" for line in block.splitlines()]
TABLED = re.findall(r"`(vae-lightning [^`]*)`", TEXT)
COMMANDS = [line for line in [*LINES, *TABLED] if line.startswith("vae-lightning ")]
STATIC = ((1, 28, 28), 2)
SHAPES = {
    "mnist_static": STATIC,
    "images": ((3, 64, 64), 256),
    "cifar10": ((3, 32, 32), 256),
    "digits": ((1, 8, 8), 17),
    "digits_conditional": ((1, 8, 8), 17),
}


def shortened(words: list[str]) -> list[str]:
    """The command with flags behind it that make it small."""
    command = words[1]
    if command == "test":
        return [*words[1:], "--model.evaluation.samples=2", "--model.evaluation.studies=false"]
    if command == "sweep-rd":
        return [*words[1:], "--trainer.max_epochs=1", "--betas", "1", "3"]
    if command not in ("fit", "doctor"):
        return words[1:]
    again = "last" in words
    short = [f"--trainer.max_epochs={2 if again else 1}", "--trainer.limit_train_batches=2"]
    if again:
        return [*words[1:], *short]
    experiments = [Path(word).stem for word in words if "experiment/" in word]
    if experiments and experiments[0].endswith("_clip"):
        return [*words[1:], *short]
    shape, levels = SHAPES.get(experiments[0] if experiments else "", ((1, 28, 28), 256))
    return [*words[1:], *generated_flags(shape, levels), *(short if command == "fit" else ["--trainer.max_epochs=500"])]


def test_every_command_runs(cli: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    Path("configs").symlink_to(REPOSITORY / "configs")
    assert len(COMMANDS) > 10
    done: set[str] = set()
    for command in COMMANDS:
        if command in done or "text2image" in command:  # the chain's: see test_generate.py
            continue
        done.add(command)
        if "--model.compile" in command and not (shutil.which("g++") or shutil.which("clang++")):
            continue
        result = cli(*shortened(shlex.split(command, comments=True)))
        assert result.status == 0, f"{command}: {result.err}"
    (snippet,) = [block for kind, block in BLOCKS if kind == "python"]
    exec(compile(snippet, "README.md", "exec"), {})


def test_what_the_readme_points_to_is_there() -> None:
    readme = (REPOSITORY / "README.md").read_text()
    for target in re.findall(r"\]\(([^)#]+)\)", readme):
        assert target.startswith("http") or (REPOSITORY / target).exists(), target
    makefile = (REPOSITORY / "Makefile").read_text()
    for target in re.findall(r"`?make (\w[\w-]*)", readme):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


def test_help_explains_every_target() -> None:
    makefile = (REPOSITORY / "Makefile").read_text()
    targets = set(re.search(r"^\.PHONY: (.*)$", makefile, flags=re.MULTILINE).group(1).split())
    assert targets == set(re.findall(r"^([a-z0-9-]+):.*## \S", makefile, flags=re.MULTILINE))


def test_constraints_hold_no_address() -> None:
    text = (REPOSITORY / "constraints.txt").read_text()
    assert "://" not in text
    assert "@" not in text
    assert re.search(r"^torch==", text, flags=re.MULTILINE)

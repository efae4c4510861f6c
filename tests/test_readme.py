"""Every command in the README runs as it stands, shortened to a few steps on generated data of the right shape."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY, generated_flags

README = (REPOSITORY / "README.md").read_text()
TEXT = README + (REPOSITORY / "docs" / "results.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", TEXT, flags=re.DOTALL)
TABLED = "\n".join(re.findall(r"`(vae-lightning [^`]*)`", TEXT))
GROUPS = [block for kind, block in BLOCKS if kind == "sh"] + [TABLED]
FIRST = [f"vae-lightning {words}" for words in ("fit -c configs/experiment/mnist.yaml", "test --ckpt_path runs/mnist")]
"""What the README's first block of commands leaves for the others."""
STATIC = ((1, 28, 28), 2)
SHAPES = {
    "mnist_static": STATIC,
    "mnist_static_autoregressive": STATIC,
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
    short += ["--trainer.callbacks=null", "--trainer.enable_progress_bar=false"]  # pictures: see test_configs.py
    experiments = [Path(word).stem for word in words if "experiment/" in word]
    if experiments and experiments[0].endswith("_clip"):
        return [*words[1:], *short]
    shape, levels = SHAPES.get(experiments[0] if experiments else "", ((1, 28, 28), 256))
    return [*words[1:], *generated_flags(shape, levels), *(short if command == "fit" else ["--trainer.max_epochs=500"])]


def commands(block: str) -> list[str]:
    """Those of a block, but for the text-to-image chain's (test_generate.py) and compilation (test_experiment.py)."""
    lines = [line for line in block.splitlines() if line.startswith("vae-lightning ")]
    return [line for line in lines if "text2image" not in line and "--model.compile" not in line]


def called(block: str) -> str:
    """The different commands of a block, to name a test by."""
    return "-".join(dict.fromkeys(command.split()[1] for command in commands(block)))


@pytest.mark.parametrize("block", [block for block in GROUPS if commands(block)], ids=called)
def test_every_command_runs(block: str, cli: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    Path("configs").symlink_to(REPOSITORY / "configs")
    said = commands(block)
    later = FIRST[0] not in said and any("runs/mnist" in command for command in said)
    for command in [*(FIRST if later else []), *said]:
        result = cli(*shortened(shlex.split(command, comments=True)))
        assert result.status == 0, f"{command}: {result.err}"


def test_the_commands_are_found() -> None:
    found = [command for block in GROUPS for command in commands(block)]
    assert len(found) >= 40
    assert {"fit", "test", "doctor", "report", "compare", "sample", "search"} < {
        command.split()[1] for command in found
    }


def test_the_python_runs(cli: Callable) -> None:
    (snippet,) = [block for kind, block in BLOCKS if kind == "python"]
    Path("configs").symlink_to(REPOSITORY / "configs")
    assert cli(*shortened(shlex.split(FIRST[0]))).status == 0
    exec(compile(snippet, "README.md", "exec"), {})


def test_what_the_readme_points_to_is_there() -> None:
    for target in re.findall(r"\]\(([^)#]+)", README):
        assert target.startswith("http") or (REPOSITORY / target).exists(), target
    makefile = (REPOSITORY / "Makefile").read_text()
    for target in re.findall(r"`?make (\w[\w-]*)", README):
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

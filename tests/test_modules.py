"""Modules of a user's own: they serve every command, and what they lack is missed by name, with its place."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import vae_lightning.data
from tests.conftest import REPOSITORY
from tests.test_own_checkpoints import SMALL
from vae_lightning import load_model
from vae_lightning.modules import require_modules

DIGITS = REPOSITORY / "configs" / "experiment" / "digits.yaml"
NET = """
from vae_lightning.nets import MLP

class Untyped(MLP):
    def __init__(self, in_shape, out_shape, width, depth=1):
        super().__init__(in_shape, out_shape, [width] * depth)
"""


def test_a_users_class_without_annotations_serves_every_command_and_is_missed_by_name(
    cli: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "untyped_net.py").write_text(NET)
    monkeypatch.syspath_prepend(project)
    net = [f"--model.latent_model.{part}.net=untyped_net.Untyped" for part in ("encoder", "likelihood")]
    net += [f"--model.latent_model.{part}.net.width=20" for part in ("encoder", "likelihood")]
    assert cli("fit", "-c", DIGITS, *SMALL, *net, "--data.source=Digits", "--trainer.max_epochs=1").status == 0
    assert load_model("runs/digits/1").sample(2).mean.shape == (2, 1, 8, 8)
    few = ["--model.evaluation.samples=2", "--model.evaluation.studies=false"]
    for command in (["test", *few], ["sample"], ["encode"], ["predict"], ["validate"]):
        assert cli(*command, "--ckpt_path=runs/digits/1").status == 0, command
    assert cli("compress", "test", "--ckpt_path=runs/digits/1", "--output=x.vlz").status == 0
    assert cli("surprise", "test", "--ckpt_path=runs/digits/1").status == 0

    monkeypatch.undo()
    sys.modules.pop("untyped_net")
    missing = rf"untyped_net.Untyped: expected the module 'untyped_net'.* set PYTHONPATH={project}"
    with pytest.raises(ValueError, match=missing):
        load_model(str(tmp_path / "runs/digits/1"))
    for command in ("test", "sample", "compress test -o y.vlz", "fit"):
        result = cli(*command.split(), "--ckpt_path", tmp_path / "runs/digits/1")
        assert result.status == 1
        assert f"set PYTHONPATH={project}" in result.error, command
    (project / "untyped_net.py").unlink()
    assert "which is not there any more" in cli("sample", "--ckpt_path", tmp_path / "runs/digits/1").error


@pytest.mark.parametrize(
    ("now", "words"),
    [
        (
            NET.replace("Untyped", "Renamed"),
            [
                "untyped_net.Untyped: expected the class Untyped in untyped_net, got the module of ",
                "{here}/untyped_net.py, which lacks it: ",
                "put the class back there under that name",
            ],
        ),
        (NET.replace("Untyped", "Untypd"), ["which lacks it (it has Untypd): "]),
        (
            "import nowhere",
            ["got {here}/untyped_net.py, which ends with ModuleNotFoundError: No module named 'nowhere'"],
        ),
        ("class Untyped(", ["got {here}/untyped_net.py, which ends with SyntaxError"]),
    ],
    ids=["renamed", "misspelt", "imports", "syntax"],
)
def test_a_module_without_the_class_is_named_with_its_place(
    cli: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, now: str, words: list[str]
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "untyped_net.py").write_text(NET)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # a file of the same second and size would be taken for it
    net = ["--model.latent_model.encoder.net=untyped_net.Untyped", "--model.latent_model.encoder.net.width=20"]
    assert cli("fit", "-c", DIGITS, *SMALL, *net, "--trainer.max_epochs=1").status == 0
    (tmp_path / "untyped_net.py").write_text(now)
    words = [word.format(here=tmp_path) for word in words]
    for command in ("sample", "compress test -o y.vlz", "fit", ""):
        sys.modules.pop("untyped_net", None)
        importlib.invalidate_caches()
        if command:
            error = cli(*command.split(), "--ckpt_path=runs/digits/1").error
        else:
            with pytest.raises(ValueError, match="untyped_net") as raised:
                load_model("runs/digits/1")
            error = str(raised.value)
        assert all(word in error for word in words), error
        assert len(error.strip().splitlines()) == 1
    sys.modules.pop("untyped_net", None)


def test_a_class_is_missed_in_another_module_of_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where two projects call a module alike, the one that the run was trained with is named; so are parts of
    packages, of this one and of installed ones."""
    for folder in ("here", "there"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "alike.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path / "here")
    record = {"modules": {"alike": str(tmp_path / "there")}}
    try:
        for class_path, words in (
            ("alike.Net", f"set PYTHONPATH={tmp_path / 'there'}"),
            ("vae_lightning.nets.Gone", "use the version of vae_lightning that the run was made with"),
            ("vae_lightning.gone.Net", "the module gone in vae_lightning"),
            ("torch.nn.Gone", "install the version of torch that the run was made with"),
        ):
            with pytest.raises(ValueError, match=rf"{re.escape(class_path)}: expected .*{re.escape(words)}"):
                require_modules([{"class_path": class_path}], record)
        require_modules([{"class_path": "torch.optim.Adam"}, {"class_path": "vae_lightning.nets.MLP"}], record)
    finally:
        sys.modules.pop("alike", None)


def test_paths_of_sources_that_checkpoints_hold_stay_valid() -> None:
    """Whichever of a class's two import paths a configuration named is kept in its checkpoint."""
    homes = {
        "arrays": ["Arrays"],
        "binarized_mnist": ["BinarizedMNIST"],
        "captioned": ["Captioned", "CaptionedFolder", "DigitGrammar", "PhotoGrammar"],
        "captioned.captioned": ["Captioned"],
        "captioned.folder": ["CaptionedFolder"],
        "captioned.grammar": ["DigitGrammar", "PhotoGrammar"],
        "digits": ["Digits"],
        "folder": ["ImageFolder"],
        "hugging_face": ["HuggingFace"],
        "items": ["MapDataset"],
        "source": ["ImageSource", "Images", "Splits"],
        "torchvision_sources": ["CIFAR10", "KMNIST", "MNIST", "FashionMNIST"],
    }
    for home, names in homes.items():
        for name in names:
            module = importlib.import_module(f"vae_lightning.data.{home}")
            assert getattr(module, name) is getattr(vae_lightning.data, name), f"{home}.{name}"

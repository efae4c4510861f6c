"""How long a command takes to begin, beside importing what it stands on.

python -m benchmarks.startup
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.harness import arguments, compare, process, seconds

HERE = Path(__file__).parent
BEGIN = """
import gc, sys
gc.disable()  # as main does before it imports anything heavy
from vae_lightning.commands import trainer as commands
def stop(*args, **kwargs):
    sys.exit(0)
commands.CommandTrainer.{command} = stop
from vae_lightning.commands.main import main
main({arguments!r})
"""


def python(code: str) -> float:
    return seconds(lambda: process(sys.executable, "-c", code))


def command(*words: str) -> float:
    return seconds(lambda: subprocess.run([sys.executable, "-m", "vae_lightning", *words], capture_output=True))


def run(rounds: int) -> None:
    config = str(HERE.parent / "configs" / "experiment" / "digits.yaml")
    with tempfile.TemporaryDirectory() as folder:
        once = ["fit", "-c", config, "--trainer.max_epochs=1", f"--run.root={folder}"]
        process(sys.executable, "-m", "vae_lightning", *once)
        fit = BEGIN.format(command="fit", arguments=["fit", "-c", config, f"--run.root={folder}/new"])
        test = BEGIN.format(command="test", arguments=["test", f"--ckpt_path={folder}/digits/1"])
        compare(
            "startup",
            {
                "python -c 'import lightning'": lambda: python("import lightning"),
                "python -c 'import lightning.pytorch.cli'": lambda: python("import lightning.pytorch.cli"),
                "vae-lightning --help": lambda: command("--help"),
                "vae-lightning tset": lambda: command("tset"),
                "vae-lightning fit, to its beginning": lambda: python(fit),
                "vae-lightning test, to its beginning": lambda: python(test),
            },
            "python -c 'import lightning'",
            rounds,
        )


if __name__ == "__main__":
    run(arguments(__doc__, 3).parse_args().rounds)

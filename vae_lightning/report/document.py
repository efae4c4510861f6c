"""A whole HTML page around its content, that needs nothing beside it."""

from __future__ import annotations

import base64
import hashlib
from datetime import UTC, datetime
from html import escape
from pathlib import Path

import vae_lightning


def document(title: str, kind: str, body: str, script: str = "") -> str:
    """A whole page around `body`, which is HTML; it asks the network for nothing, and the browser holds it to that, and
    to running no other script than the one given."""
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    if script:
        policy += f"; script-src 'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
        script = f"<script>{script}</script>\n"
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>{escape(title)} - {escape(kind)}</title>
<style>
{Path(__file__).with_name("page.css").read_text()}</style>
</head>
<body>
<main>
<header><p class="kicker">vae-lightning {escape(kind)}</p><h1>{escape(title)}</h1></header>
{body}
<footer>Written {time_of(datetime.now(UTC))} by vae-lightning {escape(vae_lightning.__version__)}.</footer>
</main>
{script}</body>
</html>
"""


def time_of(when: datetime) -> str:
    return f'<time datetime="{when.isoformat(timespec="seconds")}">{when:%Y-%m-%d %H:%M} UTC</time>'

"""A training step of the text-to-image prior and decoder, of the sizes of configs/text2image/mnist, on images that are
embedded at each step and on embeddings that were worked out before.

python -m benchmarks.embeddings
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import torch

from benchmarks.harness import arguments, compare
from vae_lightning.conditionals import Diffusion, GaussianLikelihood, GaussianPosterior
from vae_lightning.core import Spec
from vae_lightning.distributions import LogitNormalTimes, StraightPath
from vae_lightning.models import VAE, DualEncoder, Frozen, FrozenImageText, TextTransformer, UnCLIP
from vae_lightning.nets import MLP, ConvEncoder, ResidualDenoiser
from vae_lightning.objectives import SiteNLL
from vae_lightning.tokens import Tokens, train_tokens

CAPTION, BATCH = "a seven that is medium and right slanted", 256


def run(rounds: int) -> None:
    torch.set_num_threads(1)
    text = train_tokens([CAPTION])
    spec = Spec((1, 28, 28), 256, text=text)
    towers = partial(ConvEncoder, channels=[32, 64, 128]), partial(TextTransformer, width=64, heads=4)
    clip = FrozenImageText.of(DualEncoder(spec, *towers), spec)
    encoder = partial(GaussianPosterior, net=partial(MLP, hidden=[800, 400]))
    vae = Frozen.of(VAE(spec, encoder, GaussianLikelihood, latent_size=30), spec)
    flow = partial(Diffusion, net=ResidualDenoiser, path=StraightPath(), times=LogitNormalTimes())
    given = {
        "image": torch.randint(256, (BATCH, 1, 28, 28)).float(),
        "text": Tokens(text).encode([CAPTION]).expand(BATCH, -1),
    }
    kept = {**given, "embedding": clip.embed_image(given["image"])}

    def step(decoder: bool, batch: dict[str, torch.Tensor]) -> Callable[[], float]:
        model = UnCLIP(spec, clip, vae, flow, flow if decoder else None).train()
        objective = SiteNLL("z" if decoder else "embedding")
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], fused=True)

        def taken() -> float:
            start = time.process_time()
            objective(model, batch, 0.0).value.backward()
            optimizer.step()
            optimizer.zero_grad()
            return time.process_time() - start

        taken()
        return taken

    for name, decoder in (("prior", False), ("decoder", True)):
        cases = {"kept": step(decoder, kept), "embedded at each step": step(decoder, given)}
        compare(f"embeddings_{name}", cases, "kept", rounds, ("images", BATCH))


if __name__ == "__main__":
    run(arguments(__doc__, 15).parse_args().rounds)

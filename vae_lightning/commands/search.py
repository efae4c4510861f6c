"""The command `search`: images by what they show. What is heavy is imported where it is used."""

from __future__ import annotations

import argparse


def search(command: str, arguments: list[str]) -> None:
    """vae-lightning search TEXT --ckpt_path CLIP [--split S] [-n N] [-o FILE.png] [--device D]"""
    import torch

    from vae_lightning.checkpoint import find_checkpoint, folder_of
    from vae_lightning.commands.scoring import output_file, require_some
    from vae_lightning.core import ImageTextModel
    from vae_lightning.images.embeddings import embedded
    from vae_lightning.images.input import SPLITS, read_data
    from vae_lightning.images.pictures import grid, save_picture
    from vae_lightning.models.build import spec_of, trained
    from vae_lightning.tokens import Tokens

    parser = argparse.ArgumentParser(
        f"vae-lightning {command}", description="The images of a split that are nearest to a text.", allow_abbrev=False
    )
    parser.add_argument("text", metavar="TEXT", help='what they are to show, such as "a thick seven"')
    parser.add_argument("--ckpt_path", required=True, metavar="CLIP", help="checkpoint file or run folder of a CLIP")
    parser.add_argument("--split", choices=SPLITS, default="test", help="where to look")
    parser.add_argument("-n", "--num_images", type=int, default=16, help="how many to show")
    parser.add_argument("-o", "--output", metavar="FILE.png", help="the picture; search.png in the run's folder")
    parser.add_argument("--overwrite", action="store_true", help="an older file of that name may be lost")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    options = parser.parse_args(arguments)
    require_some("num_images", options.num_images)
    checkpoint = find_checkpoint(options.ckpt_path)
    picture = output_file(options.output, checkpoint, "search.png", (".png",), options.overwrite)
    model, record, _ = trained(str(checkpoint))
    if not isinstance(model, ImageTextModel):
        raise ValueError(
            f"{checkpoint}: expected a model that embeds images and captions, got {type(model).__name__}: train one "
            "(configs/experiment/mnist_clip.yaml)."
        )
    spec = spec_of(record)
    text = Tokens(spec.require_text("search")).encode([options.text])
    model = model.eval().to(options.device)
    data = read_data(checkpoint)
    data.check_matches(spec, model.needs)
    images = data.fixed(options.split)
    image = embedded(model, images, folder_of(checkpoint), data.eval_batch_size)
    with torch.no_grad():
        cosine = image @ model.embed_text(text.to(options.device)).cpu()[0]
    near = cosine.topk(min(options.num_images, len(cosine)))
    shown = images[near.indices]
    said = [""] * len(shown) if shown.captions is None else shown.captions.texts()
    save_picture(grid(shown.image, max(1, round(len(shown) ** 0.5)), spec.levels), picture)
    names = [str(it) for it in (near.indices.tolist() if shown.names is None else shown.names)]
    width = max(len(name) for name in ("image   ", *names))
    print(f"{'image':>{width}}  cosine  caption")
    for name, value, caption in zip(names, near.values.tolist(), said, strict=True):
        print(f"{name:>{width}}  {value:6.4f}  {caption}".rstrip())
    print(f"the {len(shown)} nearest of {len(images)} images of the {options.split} split: {picture}")

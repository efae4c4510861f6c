"""The file of compressed images: what was written is read, and whatever else stands in a file is refused."""

from __future__ import annotations

import hashlib
import io
import json
import random
import resource
import struct
import time
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.codec_models import train
from vae_lightning import load_model
from vae_lightning.compression import Settings, container
from vae_lightning.compression import archive as coding
from vae_lightning.compression.exactness import model_hash, probe
from vae_lightning.compression.form import Form, InputImages
from vae_lightning.compression.header import Header, Writer, runs
from vae_lightning.trained import TrainedModel

COUNT = 24
SECONDS, BYTES = 20.0, 500 * 2**20  # what one fuzzed file may take


def header(**changes: Any) -> Header:
    names = tuple(f"c{i % 2}/{i}.png" for i in range(COUNT))
    form = Form("files", names=names, labels=tuple(i % 2 for i in range(COUNT)), classes=("c0", "c1"))
    values: dict[str, Any] = {
        "model": "0a" * 32,
        "image_shape": (1, 4, 4),
        "levels": 256,
        "count": COUNT,
        "settings": Settings(),
        "layout": ((1, 2), (2, 1), (20, 1)),
        "initial_bits": 128,
        "form": form,
        "writer": Writer("0.1.0", "2.6.0", "0.5.0", "cpu", 1, "AVX2"),
        "probe": "1b" * 32,
    }
    return Header(**{**values, **changes})


def written(path: Path, head: Header, words: np.ndarray) -> Path:
    with path.open("wb") as stream:
        container.write(stream, head, words)
    return path


def sealed(text: bytes, payload: bytes, deflate: Callable[[bytes], bytes] = zlib.compress) -> bytes:
    """A file of any header and payload, with the digest that belongs to it: what a forger writes."""
    deflated = deflate(text)
    body = struct.pack("<8sHI", container.MAGIC, container.VERSION, len(deflated)) + deflated
    body += struct.pack("<Q", len(payload)) + payload
    return body + hashlib.sha256(body).digest()


def parts(data: bytes) -> tuple[dict[str, Any], bytes]:
    """A file's header as plain data, and its payload."""
    (length,) = struct.unpack_from("<I", data, 10)
    return json.loads(zlib.decompress(data[14 : 14 + length])), data[14 + length + 8 : -32]


def spelt(head: dict[str, Any]) -> bytes:
    return json.dumps(head, sort_keys=True, separators=(",", ":")).encode()


def test_what_is_written_is_read() -> None:
    words = np.arange(1, 50, dtype=np.uint32)
    for form in (header().form, Form(), Form("array", "NHW", "<i8", 255), Form("split", labels=(-5,) * COUNT)):
        head = header(form=form)
        found = container.read(written(Path("a.vlz"), head, words))
        assert found.header == head
        np.testing.assert_array_equal(found.words, words)
        assert found.size == Path("a.vlz").stat().st_size
        assert found.coded.layout == (1, 1, 2, 20)
        assert found.coded.net_bits == 32 * 49 - 128
    assert runs((1, 1, 2, 20)) == header().layout
    again = io.BytesIO()
    container.write(again, head, words)
    assert again.getvalue() == Path("a.vlz").read_bytes()  # the same file for the same images


@pytest.mark.parametrize(
    "name",
    [
        "/a",
        "../a",
        "a/../b",
        "a//b",
        "",
        ".",
        "a/",
        "./a",
        "C:/a",
        "c:a",
        "a\\b",
        "a\0",
        "a\nb",
        "x" * 300,
        "\udcff",
        3,
    ],
)
def test_names_that_lead_elsewhere_are_refused(name: Any) -> None:
    with pytest.raises(ValueError, match="a name: expected a relative path of ordinary words"):
        Form("files", names=("fine.png", name))


@pytest.mark.parametrize("names", [("a", "a"), ("a.jpg", "a.jpg.png"), ("é", "e\u0301"), ("a.png", "a.png/b")])
def test_names_of_one_file_are_refused(names: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=r"name"):
        Form("files", names=names)


LIES: dict[str, list[Any]] = {
    "model": ["", "g" * 64, None, 3],
    "probe": ["0a" * 31],
    "content": [["0a" * 32]],
    "image_shape": [[1, 4], [1, 4, -4], [1, 4, 4.0], [True, 4, 4], [2**20, 2**20, 2**20], "144"],
    "levels": [0, 1, 257, 17.0, "256", True],
    "count": [0, -1, 23, 2**39, 1e3, None],
    "layout": [[], [[24]], [[24, 1, 1]], [[0, 3], [24, 1]], [[12, 1]], [[-24, -1]], [[1, 2**60]], 3, [3], [["a", 1]]],
    "initial_bits": [0, -32, 33, 2**61, "128", 32 * 50],
    "settings": [{}, {"exponent": 8}, {"exponent": 8.0, "reach": 32, "batch_size": 500, "seed": 0}, [], None]
    + [{"exponent": 8, "reach": 32, "batch_size": 2, "seed": 0}]
    + [{"exponent": 20, "reach": 2**20, "batch_size": 500, "seed": 0}],
    "form": [None, {}, []],
    "writer": [None, {}, {"torch": "2"}],
}
FORMS: dict[str, list[Any]] = {
    "kind": ["picture", None, "array"],
    "axes": ["CHWN", 3, []],
    "dtype": ["<f4", "|O", "O", None],
    "white": [0, 128, True, 1.0],
    "names": [None, [], ["a"], [["a"]] * COUNT, [f"../{i}" for i in range(COUNT)], 3, "a" * COUNT],
    "labels": [[], [1.5] * COUNT, ["0"] * COUNT, [2**64] * COUNT, [2] * COUNT, None, 3],
    "classes": [[], [1, 2], ["a"], 3],
}
WRITERS: dict[str, list[Any]] = {
    "device": ["tpu", None, 3],
    "threads": [0, -1, 10**9, 1.0, "1"],
    "torch": ["a\nb", "x" * 300, None],
}


@pytest.mark.parametrize(("place", "lies"), [(None, LIES), ("form", FORMS), ("writer", WRITERS)])
def test_every_field_is_checked(place: str | None, lies: dict[str, list[Any]]) -> None:
    """With the digest recomputed: what is refused is the value itself."""
    honest, payload = parts(written(Path("a.vlz"), header(), np.ones(49, np.uint32)).read_bytes())
    for key, values in lies.items():
        for value in values:
            forged = json.loads(json.dumps(honest))
            (forged if place is None else forged[place])[key] = value
            Path("a.vlz").write_bytes(sealed(spelt(forged), payload))
            with pytest.raises(ValueError, match=r"a\.vlz: .*expected .*got.*compress the images anew") as refused:
                container.read(Path("a.vlz"))
            assert "\n" not in str(refused.value)
            assert len(str(refused.value)) < 600


def test_other_spellings_and_bombs_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    honest, payload = parts(written(Path("a.vlz"), header(), np.ones(49, np.uint32)).read_bytes())
    text = spelt(honest)
    deep = b"[" * 100_000 + b"]" * 100_000
    for other in (
        text[:-1] + b"," + text[1:],  # every key twice
        text.replace(b":", b": ", 1),
        text.replace(b'"levels":256', b'"levels":NaN'),
        text.replace(b'"levels":256', b'"levels":' + b"9" * 5000),
        text[:-1],
        b"\xff" + text,
        b"",
        b"3",
        deep,
    ):
        Path("a.vlz").write_bytes(sealed(other, payload))
        with pytest.raises(ValueError, match=r"a\.vlz: .*expected"):
            container.read(Path("a.vlz"))
    monkeypatch.setattr(container, "LONGEST_HEADER", 2**20)
    for deflate in (
        lambda _: zlib.compress(b" " * 2**24, 9),  # a thousand times as long as it stands in the file
        lambda text: text,
        lambda text: zlib.compress(text) + b"more",
        lambda text: zlib.compress(text)[:-3],
    ):
        Path("a.vlz").write_bytes(sealed(text, payload, deflate))
        with pytest.raises(ValueError, match=r"a\.vlz: header: expected"):
            container.read(Path("a.vlz"))


def test_what_is_no_file_of_ours() -> None:
    whole = written(Path("a.vlz"), header(), np.ones(49, np.uint32)).read_bytes()
    for data, words in (
        (b"", "another kind"),
        (b"\x89PNG\r\n\x1a\n" + whole[8:], "another kind"),
        (whole.replace(b"\r\n", b"\n"), "as text"),
        (whole[:9], "cut off after 9 bytes"),
        (whole[:8] + b"\2" + whole[9:], "version 1 of the format, got 2"),
        (whole[:10] + b"\xff\xff\xff\xff" + whole[14:], "cut off"),
        (whole[:-1], "cut off, extended"),
        (whole + b"\0", "cut off, extended"),
        (whole[:-1] + bytes([whole[-1] ^ 1]), "SHA-256"),
    ):
        Path("b.vlz").write_bytes(data)
        with pytest.raises(ValueError, match=words):
            container.read(Path("b.vlz"))
    Path("folder").mkdir()
    for path, got in (("nowhere.vlz", "nothing there"), ("folder", "a folder")):
        with pytest.raises(FileNotFoundError, match=f"{path}: expected a file .*got {got}"):
            container.read(Path(path))
    with Path("b.vlz").open("wb") as sparse:  # as much as no memory holds, and on no disk
        sparse.write(whole)
        sparse.truncate(2**43)
    with pytest.raises(ValueError, match="expected what fits into memory"):
        container.read(Path("b.vlz"))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainedModel, TrainedModel]:
    """Two of one architecture."""
    folder = tmp_path_factory.mktemp("models")
    first, second = (load_model(str(train("grey", folder, seed))) for seed in (0, 1))
    return first, second


@pytest.fixture(scope="module")
def original(models: tuple[TrainedModel, TrainedModel], tmp_path_factory: pytest.TempPathFactory) -> tuple:
    """Images, and the bytes of their file."""
    image = torch.randint(256, (COUNT, 1, 4, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    path = tmp_path_factory.mktemp("file") / "a.vlz"
    given = InputImages(image, header().form)
    coding.compress(models[0], given, path, coding.coder_settings(None, models[0]))
    return image, path.read_bytes()


def test_the_hash_knows_the_model_and_the_probe_its_numbers(models: tuple[TrainedModel, TrainedModel]) -> None:
    first, second = models
    shape, cpu = first.spec.image_shape, torch.device("cpu")
    assert model_hash(first.latent_model, shape, 256) == model_hash(first.latent_model, shape, 256)
    assert model_hash(first.latent_model, shape, 256) != model_hash(first.latent_model, shape, 17)
    assert model_hash(first.latent_model, shape, 256) != model_hash(second.latent_model, shape, 256)
    whose, honest = model_hash(first.latent_model, shape, 256), probe(first.latent_model, shape, 256, [3, 1], cpu)
    assert honest == probe(first.latent_model, shape, 256, [3, 1], cpu)
    assert honest != probe(first.latent_model, shape, 256, [1, 3], cpu)
    for name, weight in first.latent_model.named_parameters():
        where = (0,) * weight.dim()
        before = weight.data[where].clone()
        weight.data[where] = torch.nextafter(before, torch.tensor(9.0))  # the last bit of one weight
        assert model_hash(first.latent_model, shape, 256) != whose, name
        weight.data[where] = before
    likelihood = first.latent_model.likelihood.head.last.bias
    before = likelihood.data.clone()
    likelihood.data *= 1 + 2**-22
    assert probe(first.latent_model, shape, 256, [3, 1], cpu) != honest
    likelihood.data = before
    assert model_hash(first.latent_model, shape, 256) == whose


def test_another_machine_is_refused(models: tuple[TrainedModel, TrainedModel], original: tuple) -> None:
    Path("a.vlz").write_bytes(original[1])
    contents = container.read(Path("a.vlz"))
    assert torch.equal(coding.decompress(models[0], contents), original[0])
    writer = replace(contents.header.writer, torch="1.0", cpu="AVX1024")
    other = replace(contents, header=replace(contents.header, writer=writer, probe="0" * 64))
    with pytest.raises(ValueError, match=r"computes other numbers .* \(torch 1\.0 there, .* here; cpu AVX1024"):
        coding.decompress(models[0], other)
    other = replace(contents, header=replace(contents.header, probe="0" * 64))
    with pytest.raises(ValueError, match=r"both with torch .*: the processors or their libraries must differ"):
        coding.decompress(models[0], other)


def test_words_that_become_more_and_more_are_refused(
    models: tuple[TrainedModel, TrainedModel], original: tuple, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forged words under a poor posterior can grow as they are decoded, for as many images as the header says."""
    Path("a.vlz").write_bytes(original[1])

    def growing(*args: Any) -> None:
        for done in range(1, 100):
            args[4](done, -1e5 * done)
        pytest.fail("decoded on")

    monkeypatch.setattr(coding, "decode", growing)
    with pytest.raises(ValueError, match="do not decode: they become more and more"):
        coding.decompress(models[0], container.read(Path("a.vlz")))


def test_the_writers_number_of_threads_is_taken_and_given_back(
    models: tuple[TrainedModel, TrainedModel], original: tuple
) -> None:
    before = torch.get_num_threads()
    for number in (2, 1):
        torch.set_num_threads(number)
        given = InputImages(original[0], header().form)
        written = coding.compress(models[0], given, Path(f"{number}.vlz"), Settings())
        assert written.header.writer.threads == torch.get_num_threads() == number
    for number in (1, 2):
        torch.set_num_threads(3 - number)
        assert torch.equal(coding.decompress(models[0], container.read(Path(f"{number}.vlz"))), original[0])
        assert torch.get_num_threads() == 3 - number
    torch.set_num_threads(before)


def fuzzed(data: bytes, seed: int, other: dict[str, str]) -> tuple[str, bytes]:
    """A kind of damage or forgery, and the file that came of it: `another` is for another model, and says every second
    time that it was made with that one, whose hash and probe `other` holds."""
    chance = random.Random(seed)
    kind = ("flip", "cut", "extend", "garbage", "header", "words", "another")[seed % 7]
    if kind == "flip":
        changed = bytearray(data)
        for _ in range(chance.choice((1, 1, 2, 8, 100))):
            changed[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        return kind, bytes(changed)
    if kind == "cut":
        return kind, data[: chance.randrange(len(data))]
    if kind == "extend":
        return kind, data + chance.randbytes(chance.choice((1, 4, 32, 5000)))
    if kind == "garbage":
        start = chance.randrange(len(data))
        return kind, data[:start] + chance.randbytes(len(data) - start)
    head, payload = parts(data)
    words = np.frombuffer(payload, "<u4").copy()
    if kind == "header":  # a value of it is another one, of the right type wherever that can be
        place = chance.choice((head, head, head["form"], head["writer"], head["settings"]))
        key = chance.choice(sorted(set(place) - {"form", "writer", "settings"}))
        place[key] = other_value(place[key], chance)
    elif kind == "another":
        head |= other if seed % 2 else {}
        head["settings"]["seed"] += seed // 7 % 3  # nor does it help to say other initial bits
    elif kind == "words":
        how = chance.randrange(4)
        i, j = chance.sample(range(len(words)), 2)
        if how == 0:
            words[[i, j]] = words[[j, i]]
        elif how == 1:
            words[i] ^= 1 << chance.randrange(32)
        elif how == 2:
            words = np.delete(words, i)
        else:
            words = np.append(words, np.uint32(chance.randrange(1, 2**32)))
    return kind, sealed(spelt(head), words.tobytes())


def other_value(value: Any, chance: random.Random) -> Any:
    if isinstance(value, str):
        return value[1:] + chance.choice("0123456789abcdef") + chance.choice(("", "x"))
    if isinstance(value, int):
        return chance.choice((value + 1, value - 1, 2 * value, value // 2, -value, 2**31, 2**62, value ^ 4))
    if isinstance(value, list) and len(value) > 1:
        i = chance.randrange(len(value))
        how = chance.randrange(4)
        if how == 0:
            return value[:i] + value[i + 1 :]
        if how == 1:
            return [*value, value[i]]
        if how == 2:
            return [*value[:i], other_value(value[i], chance), *value[i + 1 :]]
        return value[::-1]
    return chance.choice((None, 0, "a", [], {}))


def test_fuzzed_files_are_all_refused(models: tuple[TrainedModel, TrainedModel], original: tuple) -> None:
    """Each in one sentence, soon, with little memory, and none gives an image: 500 files, the same in every run."""
    image, data = original
    path = Path("fuzzed.vlz")
    path.write_bytes(data)
    told = container.read(path).header
    second, shape = models[1].latent_model, told.image_shape
    other = {"model": model_hash(second, shape, 256), "probe": probe(second, shape, 256, told.probed, models[1].device)}
    refused: dict[str, int] = {}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for seed in range(560):
        kind, forged = fuzzed(data, seed, other)
        if forged == data and kind != "another":
            continue
        if kind == "header" and parts(forged)[0] == parts(data)[0]:
            continue
        path.write_bytes(forged)
        start = time.monotonic()
        with pytest.raises(ValueError, match=r"expected|do not decode|computes other") as error:  # noqa: PT012
            contents = container.read(path)
            coding.decompress(models[1 if kind == "another" else 0], contents)
            pytest.fail(f"{kind} {seed} was decoded")
        assert "\n" not in str(error.value), seed
        assert time.monotonic() - start < SECONDS, seed
        refused[kind] = refused.get(kind, 0) + 1
    assert sum(refused.values()) >= 500
    assert min(refused.values()) > 50, refused
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < BYTES
    path.write_bytes(data)
    assert torch.equal(coding.decompress(models[0], container.read(path)), image)

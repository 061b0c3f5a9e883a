"""An image folder: the same data however it is read: anew, from the cache, or only what is chosen of it."""

import errno
import os
import resource
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gradlens.data import decoded_cache, image_folder
from gradlens.data.datasets import load, read
from gradlens.data.decoded_cache import cache_file, cache_folder
from gradlens.data.folder_listing import ImageFile, list_images
from gradlens.runtime.errors import InputError
from gradlens.runtime.progress import shows_reading

CHOICES = [
    {},
    {"limit": 7, "seed": 3},
    {"limit": 2, "limit_test": 1, "seed": 1},
    {"limit": 9, "validation": 0.25, "seed": 2},
    {"labels": 0.5, "seed": 1},
    {"label_noise": 0.5, "seed": 4},
    {"limit": 8, "labels": 0.5, "label_noise": 0.3, "limit_test": 3},
]


def pictures(root, colour=True, train=6, test=3, size=(8, 10), classes=("ant", "bee")):
    """Random pictures, as PNG files."""
    rng = np.random.default_rng(0)
    for half, n in (("train", train), ("test", test)):
        for c in classes:
            (root / half / c).mkdir(parents=True)
            for i in range(n):
                shape = (*size, 3) if colour else size
                Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(root / half / c / f"{i}.png")
    return root


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """The folder of cached images of one test, which is not there yet."""
    monkeypatch.setenv("GRADLENS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "images"


@pytest.fixture
def decoded_files(monkeypatch):
    """Names of the files that were decoded."""
    seen = []
    real = image_folder.decode
    monkeypatch.setattr(image_folder, "decode", lambda file: (seen.append(file), real(file))[1])
    return seen


def plainly(root):
    """The whole data set by slow code that shares nothing: [N, C, H, W] and labels of each half."""
    halves = []
    for half in ("train", "test"):
        files = sorted((root / half).glob("*/*"))
        images = [np.asarray(Image.open(file).convert("RGB")).transpose(2, 0, 1) for file in files]
        names = sorted({file.parent.name for file in files})
        halves.append((torch.tensor(np.stack(images)), torch.tensor([names.index(file.parent.name) for file in files])))
    return halves


def equal(a, b):
    """Whether two data sets hold the same bits."""
    halves = [*zip((a.train, a.test), (b.train, b.test), strict=True)]
    same = all(torch.equal(x.images, y.images) and torch.equal(x.labels, y.labels) for x, y in halves)
    unlabelled = a.unlabelled is None if b.unlabelled is None else torch.equal(a.unlabelled, b.unlabelled)
    return same and unlabelled and (a.classes, a.test_name, a.fingerprint()) == (b.classes, b.test_name, b.fingerprint())


# ------------------------------------------------------------------------------------------- one data set, however read


@pytest.mark.parametrize("choice", CHOICES)
def test_anew_from_the_cache_and_in_part_are_the_same_bits(choice, tmp_path):
    from gradlens.data.split import Split
    from gradlens.data.subsets import choose

    root = pictures(tmp_path / "p")
    train, test = (Split(*half) for half in plainly(root))
    want = choose((train, test, ("ant", "bee")), **choice)
    assert equal(load(str(root), **choice, cache=False), want)
    assert equal(load(str(root), **choice), want)  # nothing kept yet
    read(str(root))
    kept = load(str(root), **choice)
    assert equal(kept, want)
    for tensor in (kept.train.images, kept.test.images):
        assert tensor.is_contiguous()
        assert tensor.dtype == torch.uint8


def test_a_fingerprint_is_what_runs_of_earlier_versions_have_stored(tmp_path):
    root = tmp_path / "p"
    for half in ("train", "test"):
        for i, c in enumerate("ab"):
            (root / half / c).mkdir(parents=True)
            Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3) + np.uint8(i)).save(root / half / c / "0.png")
    for _ in range(2):
        assert load(str(root)).fingerprint() == "b0670fd1d315da00"


def test_the_second_reading_decodes_nothing_and_is_memory_mapped(tmp_path, decoded_files):
    root = pictures(tmp_path / "p")
    first = load(str(root))
    assert len(decoded_files) == 18
    decoded_files.clear()
    second = load(str(root))
    assert decoded_files == []
    assert equal(first, second)
    if os.path.exists("/proc/self/maps"):
        assert str(cache_file(list_images(root))) in Path("/proc/self/maps").read_text()
    assert second.known_fingerprint == second.__class__(second.train, second.test, second.classes).fingerprint()


def test_without_a_cache_nothing_is_kept(tmp_path, cache, decoded_files):
    root = pictures(tmp_path / "p")
    for _ in range(2):
        load(str(root), cache=False)
    assert len(decoded_files) == 36
    assert not cache.exists()


def test_only_chosen_images_are_decoded(tmp_path, cache, decoded_files):
    root = pictures(tmp_path / "p", train=20, test=10)
    got = load(str(root), limit=3, limit_test=2)
    assert len(decoded_files) == 5
    assert not cache.exists()
    whole = load(str(root))
    rows = {image.numpy().tobytes() for image in whole.train.images}
    assert all(image.numpy().tobytes() in rows for image in got.train.images)
    decoded_files.clear()
    held_out = load(str(root), limit=8, validation=0.5, cache=False)  # the test images are not asked for
    assert len(decoded_files) == 8
    assert (len(held_out.train), len(held_out.test)) == (4, 4)


def test_a_broken_picture_that_is_not_chosen_is_no_reason_to_refuse(tmp_path):
    root = pictures(tmp_path / "p", train=20)
    (root / "train" / "ant" / "zz.png").write_bytes(b"broken")
    taken = [seed for seed in range(12) if 20 in torch.randperm(41, generator=_limit(seed))[:2].tolist()]
    assert load(str(root), limit=2, limit_test=1, seed=next(s for s in range(12) if s not in taken)).train.images.shape == (2, 3, 8, 10)
    with pytest.raises(InputError, match=r"zz\.png"):
        load(str(root))


def _limit(seed):
    from gradlens.runtime.rng import generator

    return generator(seed, "limit")


@pytest.mark.parametrize("odd", ["test/bee/2.png", "train/ant/5.png"])
def test_a_grey_choice_of_a_folder_with_colour_has_three_channels(odd, tmp_path):
    root = pictures(tmp_path / "p", colour=False)
    Image.new("RGB", (10, 8), (1, 2, 3)).save(root / odd)
    for seed in range(3):
        got = load(str(root), limit=2, limit_test=1, seed=seed, cache=False)
        read(str(root))
        assert equal(got, load(str(root), limit=2, limit_test=1, seed=seed))
        assert got.shape == (3, 8, 10)
    Image.new("L", (10, 8)).save(root / odd)
    assert load(str(root), limit=2, limit_test=1).shape == (1, 8, 10)


# ------------------------------------------------------------------------------- a choice of a folder that may be all grey


@pytest.fixture
def looked_at(monkeypatch):
    """Names of the files whose kind was looked up."""
    seen = []
    real = image_folder.is_grey
    monkeypatch.setattr(image_folder, "is_grey", lambda file: (seen.append(file), real(file))[1])
    return seen


def test_whether_what_was_left_out_is_grey_is_looked_up_once(tmp_path, cache, looked_at, decoded_files):
    root = pictures(tmp_path / "p", colour=False)
    first = load(str(root), limit=3, limit_test=1)
    assert (len(decoded_files), len(looked_at)) == (4, 14)
    assert not set(decoded_files) & set(looked_at)
    assert [p.name for p in cache.iterdir()] == [cache_file(list_images(root)).with_suffix(".json").name]
    for seed in range(3):
        assert load(str(root), limit=3, limit_test=1, seed=seed).shape == (1, 8, 10)
    assert len(looked_at) == 14
    assert equal(first, load(str(root), limit=3, limit_test=1, cache=False))
    assert len(looked_at) == 28  # --no-cache neither reads nor keeps it
    replaced(root)
    for _ in range(2):
        assert load(str(root), limit=2, limit_test=1, seed=_without(0, root)).shape == (3, 8, 10)
    assert sum(file.endswith("train/ant/0.png") for file in looked_at[28:]) == 1
    assert [p.name for p in cache.iterdir()] == [cache_file(list_images(root)).with_suffix(".json").name]
    read(str(root))
    assert cache_file(list_images(root)) in cache.iterdir()


def _without(row, root):
    """A seed whose choice of two training images leaves one out."""
    n = len(list_images(root).files[0])
    return next(seed for seed in range(20) if row not in torch.randperm(n, generator=_limit(seed))[:2].tolist())


def test_the_whole_folder_and_a_colour_choice_look_nothing_up(tmp_path, cache, looked_at):
    load(str(pictures(tmp_path / "grey", colour=False)))
    load(str(pictures(tmp_path / "colour")), limit=2, limit_test=1)
    assert looked_at == []
    assert [p.suffix for p in cache.iterdir()] == [".pt"]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"grey": 1}', b"\xff" * 40, b"null"])
def test_a_damaged_answer_is_looked_up_anew(content, tmp_path, looked_at, capfd):
    root = pictures(tmp_path / "p", colour=False)
    want = load(str(root), limit=3)
    file = cache_file(list_images(root)).with_suffix(".json")
    right = file.read_bytes()
    file.write_bytes(content)
    looked_at.clear()
    assert equal(load(str(root), limit=3), want)
    assert len(looked_at) > 0
    assert file.read_bytes() == right
    assert capfd.readouterr() == ("", "")


def test_an_answer_that_cannot_be_kept_is_one_line(tmp_path, cache, capfd):
    root = pictures(tmp_path / "p", colour=False)
    cache.parent.mkdir()
    cache.write_text("")
    for _ in range(2):
        assert load(str(root), limit=3, limit_test=1).shape == (1, 8, 10)
    said = f"gradlens: whether {root} is all grey is not kept in {cache}: file exists (--no-cache does not try)"
    assert capfd.readouterr().err.splitlines() == [said]


def test_the_look_up_ends_at_the_first_colour_and_tells_how_far_it_is(tmp_path, looked_at):
    root, seen = pictures(tmp_path / "p", colour=False, train=1500, test=2, size=(2, 2)), []
    with shows_reading(lambda *event: seen.append(event)):
        load(str(root), limit=2, limit_test=1, cache=False)
    assert seen[:2] == [(3, 3, str(root)), (64, 3001, str(root))]
    assert seen[-1] == (3001, 3001, str(root))
    looked_at.clear()
    Image.new("RGB", (2, 2)).save(root / "train/ant/0.png")
    assert load(str(root), limit=2, limit_test=1, seed=_without(0, root), cache=False).shape == (3, 2, 2)
    assert len(looked_at) < 2500


def test_a_broken_picture_after_the_first_colour_is_no_reason_to_refuse(tmp_path):
    root = pictures(tmp_path / "p", colour=False)
    Image.new("RGB", (10, 8)).save(root / "train/ant/0.png")
    (root / "train/bee/zz.png").write_bytes(b"broken")
    n = len(list_images(root).files[0])
    seed = next(s for s in range(50) if not {0, n - 1} & set(torch.randperm(n, generator=_limit(s))[:2].tolist()))
    assert load(str(root), limit=2, limit_test=1, seed=seed).shape == (3, 8, 10)
    Image.new("L", (10, 8)).save(root / "train/ant/0.png")
    with pytest.raises(InputError, match=r"zz\.png"):
        load(str(root), limit=2, limit_test=1, seed=seed)


# ------------------------------------------------------------------------------------------------- the folder changes


def replaced(root):
    Image.new("RGB", (10, 8), (9, 9, 9)).save(root / "train/ant/0.png")


def turned(root):
    """The same number of bytes, the same time of modification: as `exiftool -P` writes."""
    file = root / "train/ant/0.png"
    before = file.stat()
    picture = Image.open(file).transpose(Image.Transpose.ROTATE_180)
    picture.save(file)
    content = file.read_bytes()[: before.st_size].ljust(before.st_size, b"\0")
    file.write_bytes(content)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def removed(root):
    (root / "train/ant/0.png").unlink()


def added(root):
    Image.new("RGB", (10, 8)).save(root / "test/bee/99.png")


def renamed(root):
    (root / "train/ant/0.png").rename(root / "train/ant/z.png")


def relabelled(root):
    (root / "train/ant/0.png").rename(root / "train/bee/zz.png")


@pytest.mark.parametrize("change", [replaced, removed, added, renamed, relabelled, turned])
def test_a_changed_folder_is_decoded_anew_and_the_old_file_is_gone(change, tmp_path, cache):
    root = pictures(tmp_path / "p")
    old = load(str(root))
    change(root)
    new = load(str(root))
    assert equal(new, load(str(root), cache=False))
    assert not torch.equal(new.train.images, old.train.images) or len(new.test) != len(old.test)
    assert [p.name for p in cache.iterdir()] == [cache_file(list_images(root)).name]


def test_two_folders_are_kept_beside_each_other(tmp_path, cache):
    roots = [pictures(tmp_path / name) for name in "pq"]
    for root in roots:
        for file in sorted(root.rglob("*.png")):
            os.utime(file, ns=(0, 0))
        read(str(root))
    assert len(list(cache.iterdir())) == 2


def test_a_folder_is_the_same_by_another_way_to_it(tmp_path, monkeypatch, decoded_files):
    root = pictures(tmp_path / "p")
    (tmp_path / "link").symlink_to(root)
    read(str(root))
    decoded_files.clear()
    monkeypatch.chdir(tmp_path)
    for way in ("p", "./p", "link", str(tmp_path / "link"), f"../{tmp_path.name}/p"):
        read(way)
    monkeypatch.chdir(root)
    read(".")
    assert decoded_files == []


# ----------------------------------------------------------------------------------------------- the file in the cache


def cut(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def emptied(file):
    file.write_bytes(b"")


def nonsense(file):
    file.write_bytes(b"nonsense" * 500)


def flipped(file):
    """One bit of one pixel."""
    content = bytearray(file.read_bytes())
    content[content.index(read_decoded_bytes(file))] ^= 1
    file.write_bytes(content)


def read_decoded_bytes(file):
    return torch.load(file, weights_only=True)["images"].numpy().tobytes()[:200]


def other_content(file):
    torch.save({"images": torch.zeros(3, 1, 2, 2, dtype=torch.uint8)}, file)


def too_few(file):
    found = torch.load(file, weights_only=True)
    torch.save({**found, "images": found["images"][:-1].clone(), "checksums": found["checksums"][:-1].clone()}, file)


@pytest.mark.parametrize("damage", [cut, emptied, nonsense, flipped, other_content, too_few])
def test_a_damaged_file_is_made_anew_without_a_word(damage, tmp_path, capfd, decoded_files):
    root = pictures(tmp_path / "p")
    read(str(root))
    want = load(str(root), cache=False)
    file = cache_file(list_images(root))
    damage(file)
    decoded_files.clear()
    assert equal(load(str(root)), want)
    assert len(decoded_files) == 18
    assert equal(load(str(root)), want)
    assert len(decoded_files) == 18
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("choice", [{"limit": 5, "limit_test": 2}])
def test_a_damaged_image_is_seen_where_it_is_chosen(choice, tmp_path):
    root = pictures(tmp_path / "p")
    want = load(str(root), **choice)
    read(str(root))
    flipped(cache_file(list_images(root)))
    for seed in range(4):
        assert equal(load(str(root), **choice, seed=seed), load(str(root), **choice, seed=seed, cache=False))
    assert equal(load(str(root), **choice), want)


def said_once(capfd, root, why):
    out, err = capfd.readouterr()
    assert out == ""
    assert err.splitlines() == [f"gradlens: the decoded images of {root} are not kept in {cache_folder()}: {why} (--no-cache does not try)"]


def test_a_full_disk_is_one_line_and_the_data_are_read(tmp_path, cache, capfd):
    root = pictures(tmp_path / "p", size=(64, 64))
    want = load(str(root), cache=False)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        got = [load(str(root)) for _ in range(2)]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert all(equal(g, want) for g in got)
    assert list(cache.iterdir()) == []
    said_once(capfd, root, "file too large")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT])
def test_a_cache_folder_that_takes_nothing_is_one_line(code, tmp_path, capfd, monkeypatch):
    root = pictures(tmp_path / "p")

    def no(*_, **__):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(decoded_cache.tempfile, "mkstemp", no)
    for _ in range(2):
        assert equal(load(str(root)), load(str(root), cache=False))
    said_once(capfd, root, os.strerror(code).lower())


def test_a_cache_folder_that_is_a_file(tmp_path, cache, capfd):
    root = pictures(tmp_path / "p")
    cache.parent.mkdir()
    cache.write_text("")
    assert equal(load(str(root)), load(str(root), cache=False))
    said_once(capfd, root, "file exists")


def test_a_file_system_without_links(tmp_path, cache, monkeypatch, decoded_files):
    root = pictures(tmp_path / "p")

    def no(*_):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", no)
    read(str(root))
    decoded_files.clear()
    assert equal(load(str(root)), load(str(root), cache=False))
    assert len(decoded_files) == 18
    assert [p.name for p in cache.iterdir()] == [cache_file(list_images(root)).name]


def test_where_the_cache_is(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "cache" / "images"
    monkeypatch.delenv("GRADLENS_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "gradlens" / "images"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == tmp_path / ".cache" / "gradlens" / "images"


@pytest.fixture(params=["calls that refuse", "mode 000"])
def locked(request, cache, monkeypatch):
    """A cache folder that may not be searched: every call on what is in it is refused."""
    cache.mkdir(parents=True)
    if request.param == "mode 000":
        if os.geteuid() == 0:
            pytest.skip("may search every folder")
        cache.parent.chmod(0)
        yield
        cache.parent.chmod(0o700)
        return

    def refusing(real):
        def call(path, *args, **named):
            if not isinstance(path, int) and os.fsdecode(path).startswith(str(cache)):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
            return real(path, *args, **named)

        return call

    with monkeypatch.context() as patch:
        for name in ("stat", "mkdir"):
            patch.setattr(os, name, refusing(getattr(os, name)))
        yield


@pytest.mark.usefixtures("locked")
def test_a_cache_folder_that_may_not_be_searched_is_one_line(tmp_path, capfd):
    root = pictures(tmp_path / "p")
    for _ in range(2):
        assert equal(load(str(root)), load(str(root), cache=False))
    said_once(capfd, root, "permission denied")


def name_of(i, ending):
    """A name as those of files in the cache."""
    return f"{i:016x}-{i:032x}{ending}"


def test_what_nobody_reads_is_removed_when_another_is_written(tmp_path, cache):
    cache.mkdir(parents=True)
    gone = {name_of(1, ".pt"): 61, name_of(2, ".json"): 61, name_of(3, "abc_1234.tmp"): 2}
    stay = {name_of(4, ".pt"): 59, name_of(5, ".json"): 59, name_of(6, "abc_1234.tmp"): 0.5}
    for name, age in (gone | stay).items():
        (cache / name).write_bytes(b"x")
        os.utime(cache / name, (time.time() - age * 86_400,) * 2)
    read(str(pictures(tmp_path / "p")))
    kept = cache_file(list_images(tmp_path / "p"))
    assert {p.name for p in cache.iterdir()} == {*stay, kept.name}
    os.utime(kept, (0, 0))
    read(str(tmp_path / "p"))
    assert time.time() - kept.stat().st_mtime < 600  # reading it is use


FOREIGN = ["old.pt", "model.json", "begun.tmp", "notes.txt", name_of(1, ".pt.tmp"), name_of(1, ".pth"), f"x{name_of(1, '.pt')}",
           f"{1:016x}-{2:016x}.pt", name_of(0xABCDEF, ".pt").upper(), f"{1:016x}-epoch1.pt"]  # fmt: skip


@pytest.mark.parametrize("name", FOREIGN)
def test_what_others_keep_there_is_never_removed(name, tmp_path, cache):
    cache.mkdir(parents=True)
    for file in (cache / name, cache.parent / name, cache.parent / name_of(7, ".pt")):
        file.write_bytes(b"x")
        os.utime(file, (0, 0))
    before = {p for p in cache.parent.rglob("*") if p.is_file()}
    root = pictures(tmp_path / "p")
    read(str(root))
    replaced(root)
    read(str(root))
    assert {p for p in cache.parent.rglob("*") if p.is_file()} == before | {cache_file(list_images(root))}


def _read_many(root, cache, times):
    os.environ["GRADLENS_CACHE"] = str(cache.parent)  # the server that forks has an environment of its own
    prints = {load(str(root)).fingerprint() for _ in range(times)}
    (print_,) = prints
    return print_


def test_several_processes_read_and_write_at_once(tmp_path, cache, processes):
    root = pictures(tmp_path / "p", train=40, test=20)
    want = load(str(root), cache=False).fingerprint()
    with processes.Pool(4) as pool:
        assert set(pool.starmap(_read_many, [(root, cache, 5)] * 4)) == {want}
    assert [p.name for p in cache.iterdir()] == [cache_file(list_images(root)).name]


def test_a_file_that_is_replaced_stays_readable_for_those_who_have_it(tmp_path):
    root = pictures(tmp_path / "p")
    first = read(str(root))
    first = read(str(root))
    before = first[0].images.clone()
    replaced(root)
    read(str(root))
    assert torch.equal(first[0].images, before)


def test_what_a_caller_writes_into_the_images_stays_his(tmp_path):
    root = pictures(tmp_path / "p")
    read(str(root))
    mine = load(str(root))
    mine.train.images.add_(1)
    assert not torch.equal(mine.train.images, load(str(root)).train.images)
    assert equal(load(str(root)), load(str(root), cache=False))


# ------------------------------------------------------------------------------------ dark pictures, frames, progress


@pytest.mark.parametrize("make", [lambda v: (v % 4096).astype(np.uint16), lambda v: (v % 1000 / 65_536).astype(np.float32),
                                  lambda v: (v % 256).astype(np.int32)], ids=["12 bits", "floats", "8 bits in 32"])  # fmt: skip
def test_pictures_that_would_be_black_are_refused(make, tmp_path):
    values = np.arange(64 * 64).reshape(64, 64)
    for half in ("train", "test"):
        for c in "ab":
            (tmp_path / half / c).mkdir(parents=True)
            Image.fromarray(make(values)).save(tmp_path / half / c / "0.tif")
    with pytest.raises(InputError, match=f"of 16 bits or floats in {tmp_path} are black, at most .* of 255 as 8 bits"):
        read(str(tmp_path))
    bright = np.where(values == 5, 65_535, values % 4096).astype(np.uint16)
    for half in ("train", "test"):
        for c in "ab":
            Image.fromarray(bright).save(tmp_path / half / c / "0.tif")
    assert read(str(tmp_path))[0].images.max() == 255  # dark, but white is white


def test_later_frames_are_counted_also_from_the_cache(tmp_path, capfd):
    root = pictures(tmp_path / "p", colour=False)
    frames = [Image.new("L", (10, 8), v) for v in (10, 20, 30)]
    frames[0].save(root / "train/ant/9.tif", save_all=True, append_images=frames[1:])
    (root / "train/ant/.hidden").touch()
    for _ in range(2):
        got = load(str(root))
        assert got.passed_over == {"hidden": 1, "files' later frames": 1}
        assert got.train.images[6].eq(10).all()
    assert capfd.readouterr().err.splitlines() == [f"gradlens: {root}: passed over 1 files' later frames, 1 hidden"]


def test_odd_tags_raise_no_storm_of_warnings(tmp_path, recwarn):
    root = pictures(tmp_path / "p")
    picture = Image.open(root / "train/ant/0.png").convert("P", palette=Image.Palette.ADAPTIVE)
    picture.save(root / "train/ant/1.png", transparency=bytes(range(200)))
    read(str(root))
    assert [w for w in recwarn if "Palette" in str(w.message)] == []


def test_reading_tells_how_far_it_is(tmp_path):
    root, seen = pictures(tmp_path / "p", train=80, test=20), []
    with shows_reading(lambda *event: seen.append(event)):
        load(str(root), limit=40, limit_test=10)
        assert [event[:2] for event in seen] == [(50, 50)]
        seen.clear()
        load(str(root))
        assert [event[:2] for event in seen] == [(64, 200), (128, 200), (192, 200), (200, 200)]
        assert {event[2] for event in seen} == {str(root)}
        seen.clear()
        load(str(root))
        assert seen == []
    load(str(root), cache=False)
    assert seen == []


def test_an_unreadable_picture_ends_the_reading_at_once(tmp_path, decoded_files):
    root = pictures(tmp_path / "p", train=1500, test=2, size=(2, 2))
    (root / "train/ant/0.png").write_bytes(b"broken")
    with pytest.raises(InputError, match=r"train/ant/0\.png"):
        load(str(root))
    assert len(decoded_files) < 2500


@pytest.mark.parametrize(("age", "kept"), [(0, False), (1, False), (3, True), (0.5, True)])
def test_where_times_are_whole_seconds_an_image_that_just_changed_is_not_kept(age, kept, tmp_path, cache, monkeypatch):
    """A change within the same second would not be seen: neither in its size nor in its times."""
    root, now = pictures(tmp_path / "p", colour=False), 1_700_000_000 * 10**9
    changed = now - int(age * 10**9)
    monkeypatch.setattr("gradlens.data.decoded_cache.time.time_ns", lambda: now)
    monkeypatch.setattr(
        "gradlens.data.folder_listing.ImageFile.__new__",
        lambda cls, path, size, modified, _, make=ImageFile.__new__: make(cls, path, size, modified, changed),
    )
    load(str(root))
    load(str(root), limit=3, limit_test=1)
    assert (cache.is_dir() and len(list(cache.rglob("*.pt"))) > 0) == kept

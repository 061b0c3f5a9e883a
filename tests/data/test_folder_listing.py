"""What an image folder holds: what a person would call its pictures; the rest is counted, loops end."""

import os
import unicodedata
from pathlib import Path

import pytest

from gradlens.data.folder_listing import HALVES, TYPES, list_images, sentence
from gradlens.runtime.errors import InputError


def put(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


@pytest.fixture
def root(tmp_path):
    """Two classes, two pictures each in train, one each in test."""
    return put(
        tmp_path / "root", *(f"train/{c}/{i}.png" for c in ("cat", "dog") for i in (0, 1)), *(f"test/{c}/0.png" for c in ("cat", "dog"))
    )


def names(listing, half=0):
    return [os.path.relpath(file.path, listing.root / HALVES[half]) for file in listing.files[half]]


def test_classes_files_and_labels_in_torchvisions_order(tmp_path):
    from torchvision.datasets import ImageFolder

    files = [f"{half}/{c}/{sub}{i}{e}" for half in HALVES for c in ("b", "A", "10", "9", "é") for sub in ("", "x/", "x-1/", "x/y/", "Z/")
             for i, e in enumerate((".png", ".JPG", ".tiff"))]  # fmt: skip
    listing = list_images(put(tmp_path, *files))
    for half, name in enumerate(HALVES):
        other = ImageFolder(str(tmp_path / name), is_valid_file=None)
        assert list(listing.classes) == other.classes
        assert [(file.path, label) for file, label in zip(listing.files[half], listing.labels[half], strict=True)] == other.samples
    assert listing.passed_over == {}
    assert sentence(tmp_path, listing.passed_over) == ""


def test_the_types_are_torchvisions():
    from torchvision.datasets.folder import IMG_EXTENSIONS

    assert set(TYPES) == set(IMG_EXTENSIONS)


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("cat/._0.png", "hidden"),
        ("cat/.DS_Store", "hidden"),
        ("cat/.trash/0.png", "hidden"),
        (".ipynb_checkpoints/0.png", "hidden"),
        (".git/objects/0.png", "hidden"),
        (".hidden.png", "hidden"),
        ("__MACOSX/cat/0.png", "of the system"),
        ("cat/__MACOSX/0.png", "of the system"),
        ("cat/@eaDir/0.png/SYNOPHOTO_THUMB_M.jpg", "of the system"),
        ("lost+found/0.png", "of the system"),
        ("$RECYCLE.BIN/0.png", "of the system"),
        ("System Volume Information/0.png", "of the system"),
        ("cat/Thumbs.db", "of the system"),
        ("cat/THUMBS.DB", "of the system"),
        ("desktop.ini", "of the system"),
        ("cat/0.heic", ".heic"),
        ("cat/0.jfif", ".jfif"),
        ("cat/0.GIF", ".gif"),
        ("cat/labels.json", ".json"),
        ("dog/notes.txt", ".txt"),
        ("dog/0.png.part", ".part"),
        ("dog/LICENSE", "without a type"),
        ("0.png", "beside the class folders"),
        ("README.md", "beside the class folders"),
    ],
)
@pytest.mark.parametrize("half", HALVES)
def test_what_is_no_picture_is_passed_over_and_counted(root, half, name, what):
    before = list_images(root)
    after = list_images(put(root, f"{half}/{name}"))
    assert after.files == before.files
    assert after.classes == ("cat", "dog")
    assert after.passed_over == {what: 1}
    assert sentence(root, after.passed_over) == f"{root}: passed over 1 {what}"


def test_what_is_passed_over_is_one_line_however_much_it_is(root):
    for i in range(9):
        put(root, *(f"train/cat/{j}.x{i}" for j in range(i + 1)))
    put(root, "train/cat/.a", "train/cat/.b", "test/dog/.c")
    said = sentence(root, list_images(root).passed_over)
    assert said == f"{root}: passed over 9 .x8, 8 .x7, 7 .x6, 6 .x5, 5 .x4, 3 hidden, 10 of other types"


# -------------------------------------------------------------------------------------------------------------- links


def test_links_to_files_and_folders_elsewhere_are_followed(root, tmp_path):
    put(tmp_path / "store", "7.png", "owls/8.png")
    (root / "train/cat/linked.png").symlink_to(tmp_path / "store/7.png")
    (root / "train/dog/more").symlink_to(tmp_path / "store")
    for half in HALVES:
        (root / half / "owl").symlink_to(tmp_path / "store/owls")
    listing = list_images(root)
    assert listing.classes == ("cat", "dog", "owl")
    assert names(listing) == ["cat/0.png", "cat/1.png", "cat/linked.png", "dog/0.png", "dog/1.png", "dog/more/7.png",
                              "dog/more/owls/8.png", "owl/8.png"]  # fmt: skip
    assert listing.passed_over == {}


@pytest.mark.parametrize("target", [".", "..", "../..", "../../..", "/", "../../train/cat"])
def test_a_link_to_a_folder_around_it_is_not_followed(root, target):
    before = list_images(root).files
    (root / "train/cat/loop").symlink_to(target)
    listing = list_images(root)
    assert listing.files == before
    assert listing.passed_over == {"in a loop of links": 1}


def test_a_class_that_is_its_own_half_is_no_class(root):
    (root / "train/all").symlink_to(".")
    assert list_images(root).classes == ("cat", "dog")


def test_links_that_lead_back_by_another_folder_end(root, tmp_path):
    put(tmp_path / "other", "5.png")
    (root / "train/cat/other").symlink_to(tmp_path / "other")
    (tmp_path / "other/back").symlink_to(root / "train/cat")
    listing = list_images(root)
    assert names(listing)[:3] == ["cat/0.png", "cat/1.png", "cat/other/5.png"]
    assert listing.passed_over == {"in a loop of links": 1}


def test_a_link_to_nothing_is_an_image_that_is_missing(root):
    (root / "train/cat/gone.png").symlink_to("annexed/key.png")
    (root / "train/cat/gone.txt").symlink_to("annexed/key.txt")
    listing = list_images(root)
    assert "cat/gone.png" in names(listing)  # decoding it refuses it by name
    assert listing.passed_over == {".txt": 1}


@pytest.mark.parametrize("name", ["train/cat/self.png", "train/cat/self", "train/self", "test/dog/self.txt"])
def test_a_link_to_itself_is_counted(root, name):
    before = list_images(root)
    (root / name).symlink_to(Path(name).name)
    listing = list_images(root)
    assert (listing.classes, listing.files) == (before.classes, before.files)
    assert listing.passed_over == {"in a loop of links": 1}


def test_two_links_to_each_other_are_counted(root):
    (root / "train/cat/a.png").symlink_to("b.png")
    (root / "train/cat/b.png").symlink_to("a.png")
    assert list_images(root).passed_over == {"in a loop of links": 2}


@pytest.mark.parametrize("half", HALVES)
def test_a_half_that_is_a_link_to_itself_is_missing(root, half):
    (root / half).rename(root / "elsewhere")
    (root / half).symlink_to(half)
    assert f"it has no {half}/" in refused(root)


def test_a_link_to_something_below_a_file_is_an_image_that_is_missing(root):
    (root / "train/cat/gone.png").symlink_to("0.png/key.png")
    assert "cat/gone.png" in names(list_images(root))  # decoding it refuses it by name


def test_a_pipe_is_not_opened(root):
    os.mkfifo(root / "train/cat/pipe.png")
    listing = list_images(root)
    assert len(listing.files[0]) == 4
    assert listing.passed_over == {"special (pipe, device)": 1}


# -------------------------------------------------------------------------------------------------------------- names


def test_composed_and_decomposed_names_are_one_class(tmp_path):
    both = [unicodedata.normalize(form, name) for name in ("énorme", "zèbre") for form in ("NFC", "NFD")]
    put(tmp_path, f"train/{both[0]}/0.png", f"train/{both[3]}/1.png", "train/f/2.png")
    put(tmp_path, f"test/{both[1]}/3.png", f"test/{both[2]}/4.png", "test/f/5.png")
    listing = list_images(tmp_path)
    assert len(listing.classes) == 3
    told = [dict(zip((Path(f.path).stem for f in listing.files[half]), listing.labels[half], strict=True)) for half in (0, 1)]
    assert told[0]["0"] == told[1]["3"]
    assert told[0]["1"] == told[1]["4"]
    assert told[0]["2"] == told[1]["5"]
    assert listing.labels[1] == sorted(listing.labels[1])


@pytest.mark.parametrize("half", HALVES)
def test_a_name_in_both_forms_in_one_half_is_refused(root, half):
    put(root, *(f"{half}/{unicodedata.normalize(form, 'é')}/0.png" for form in ("NFC", "NFD")))
    with pytest.raises(InputError, match=f"{half} has two folders with the name é"):
        list_images(root)


def test_names_that_are_no_utf8(root):
    for half in HALVES:
        folder = os.fsencode(root / half) + b"/\xff\xfe"
        os.mkdir(folder)
        with open(folder + b"/\xe9.png", "wb") as file:
            file.write(b"x")
    listing = list_images(root)
    assert [os.fsencode(c) for c in listing.classes] == [b"cat", b"dog", b"\xff\xfe"]
    assert os.path.exists(listing.files[0][-1].path)


# --------------------------------------------------------------------------------------------------- what is refused


def refused(root):
    with pytest.raises(InputError) as caught:
        list_images(root)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_one_level_too_low_is_reported(root):
    put(root / "deep", *(f"{half}/{i}.png" for half in HALVES for i in range(3)))
    assert "has no class folders, but 3 images: put them into folders" in refused(root / "deep")


def test_an_empty_class_says_what_is_in_it_instead(root):
    put(root, "train/owl/0.heic", "train/owl/1.heic", "train/owl/.DS_Store", "test/owl/0.png")
    (root / "train/pig").mkdir()
    text = refused(root)
    assert "no images in owl (but 2 .heic, 1 hidden), pig; types that are read: .jpg" in text


def test_a_folder_that_may_not_be_read_is_refused_not_left_out(root, monkeypatch):
    real, secret = os.scandir, str(put(root, "train/cat/secret/0.png") / "train/cat/secret")

    def scandir(path):
        if path == secret:
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert refused(root) == f"{secret} cannot be read: permission denied"


def test_a_folder_that_may_not_be_looked_at_is_refused_not_called_missing(root, monkeypatch):
    real = Path.is_dir

    def is_dir(path):
        if path == root / "test":
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(Path, "is_dir", is_dir)
    assert refused(root) == f"{root / 'test'} cannot be read: permission denied"


class Locked:
    """An entry of a folder: a link to something that may not be looked at."""

    def __init__(self, entry):
        self.name, self.path = entry.name, entry.path

    def __fspath__(self):
        return self.path

    def is_symlink(self):
        return True

    def is_dir(self):
        raise PermissionError(13, "Permission denied", self.path)

    is_file = stat = is_dir


@pytest.mark.parametrize("name", ["train/dog/more", "train/cat/7.png", "test/owl", "train/notes.txt"])
def test_a_link_into_a_folder_that_may_not_be_searched_is_refused_by_path(root, monkeypatch, name):
    (root / name).symlink_to("/somewhere/locked")
    real = os.scandir

    class Scan:
        def __init__(self, path):
            self.entries = real(path)

        def __enter__(self):
            return (Locked(e) if e.path == str(root / name) else e for e in self.entries)

        def __exit__(self, *_):
            self.entries.close()

    monkeypatch.setattr(os, "scandir", Scan)
    assert refused(root) == f"{root / name} cannot be read: permission denied"


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="may search every folder")
def test_a_link_into_a_folder_without_permission(root, tmp_path):
    put(tmp_path / "locked", "inside/0.png")
    (root / "train/cat/more").symlink_to(tmp_path / "locked/inside")
    (tmp_path / "locked").chmod(0)
    try:
        assert refused(root) == f"{root / 'train/cat/more'} cannot be read: permission denied"
    finally:
        (tmp_path / "locked").chmod(0o700)

"""Recordings of spoken digits: read from a folder or a tar file, turned into spectrograms, split by speaker and take, probed."""

import io
import sys
import tarfile
import wave

import numpy as np
import pytest
import torch

from analyses import spoken_digits
from analyses.training import recordings
from analyses.training.recordings import BANDS, FRAMES, HOP, RATE, WINDOW, mel_filters, read_recordings, spectrogram
from analyses.verdicts.decision import decide
from gradlens.data.datasets import load
from gradlens.runtime.errors import InputError
from gradlens.runtime.text_files import read_json

SPEAKERS, TAKES = ("ann", "bob", "eve_lee"), 4


def tone(hertz, seconds=0.4, loud=0.5):
    return loud * np.sin(2 * np.pi * hertz * np.arange(int(RATE * seconds)) / RATE)


def wav(samples, rate=RATE, channels=1):
    content = io.BytesIO()
    with wave.open(content, "wb") as file:
        file.setnchannels(channels), file.setsampwidth(2), file.setframerate(rate)
        file.writeframes((32767 * samples).astype("<i2").tobytes())
    return content.getvalue()


def spoken():
    """Name -> bytes: each digit a pitch, each speaker a loudness of a second tone."""
    rng = np.random.default_rng(0)
    return {
        f"{digit}_{name}_{take}.wav": wav(
            tone(300 + 300 * digit) + 0.4 * tone(150 + 100 * i) + 0.01 * rng.standard_normal(int(0.4 * RATE))
        )
        for digit in range(10)
        for i, name in enumerate(SPEAKERS)
        for take in range(TAKES)
    }  # fmt: skip


def archive(path, files, folder="recordings/"):
    with tarfile.open(path, "w:xz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(folder + name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    return archive(tmp_path_factory.mktemp("sound") / "recordings.tar.xz", spoken())


def test_a_tar_file_and_a_folder_give_the_same_recordings(packed, tmp_path):
    for name, content in spoken().items():
        (tmp_path / name).write_bytes(content)
    one, other = read_recordings(packed), read_recordings(tmp_path)
    assert one.images.shape == (10 * len(SPEAKERS) * TAKES, 1, FRAMES, BANDS)
    assert one.images.dtype == torch.uint8
    assert one.speakers == other.speakers == SPEAKERS
    assert all(torch.equal(a, b) for a, b in zip(one[:4], other[:4], strict=True))
    assert torch.bincount(one.digit).tolist() == [len(SPEAKERS) * TAKES] * 10


def test_a_spectrogram_is_the_energy_of_windowed_cosines_and_sines():
    """Beside sums over plain cosines and sines, frame by frame and band by band."""
    samples = torch.from_numpy(tone(500) + 0.3 * tone(1800))
    filters, decibels = mel_filters().double(), torch.zeros(FRAMES, BANDS, dtype=torch.float64)
    t = torch.arange(WINDOW, dtype=torch.float64)
    hann = 0.5 - 0.5 * (2 * torch.pi * t / WINDOW).cos()
    padded = torch.cat([samples, torch.zeros(WINDOW + HOP * FRAMES, dtype=torch.float64)])
    for i in range(FRAMES):
        frame = padded[i * HOP : i * HOP + WINDOW] * hann
        power = [
            ((frame * (2 * torch.pi * k * t / WINDOW).cos()).sum() ** 2 + (frame * (2 * torch.pi * k * t / WINDOW).sin()).sum() ** 2)
            for k in range(WINDOW // 2 + 1)
        ]
        decibels[i] = 10 * (filters @ torch.stack(power)).clamp(min=1e-12).log10()
    expected = (255 * (1 + (decibels - decibels.max()) / 80)).clamp(0, 255)
    sounding = -(-len(samples) // HOP)
    got = spectrogram(samples).double()
    assert (got[:sounding] - expected[:sounding]).abs().max() <= 0.51  # rounding to whole numbers
    assert not got[sounding:].any()  # silence after the end
    loudest = got[:30].mean(0).argmax().item()
    corners = 700 * (10 ** (np.linspace(recordings.mel(60), recordings.mel(4000), BANDS + 2) / 2595) - 1)
    assert corners[loudest] < 500 < corners[loudest + 2]


def test_loudness_does_not_matter_and_silence_is_nothing():
    quiet, loud = (spectrogram(torch.from_numpy(tone(700, loud=level))) for level in (0.05, 0.5))
    assert (quiet.int() - loud.int()).abs().max() <= 1
    assert not spectrogram(torch.zeros(2_000)).any()
    assert spectrogram(torch.from_numpy(tone(700, seconds=5))).any(1).all()  # a long one is cut, so that every frame sounds


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, "holds no .wav files"),
        ({"hello.wav": wav(tone(300))}, "DIGIT_SPEAKER_TAKE"),
        ({"1_ann_x.wav": wav(tone(300))}, "DIGIT_SPEAKER_TAKE"),
        ({"1_ann_0.wav": wav(tone(300), rate=16_000)}, "16000 Hz"),
        ({"1_ann_0.wav": wav(tone(300), channels=2)}, "2 channels"),
        ({"1_ann_0.wav": b"RIFF"}, "is no wav file"),
    ],
)
def test_other_sounds_are_refused_in_one_sentence(files, words, tmp_path):
    with pytest.raises(InputError, match=words):
        read_recordings(archive(tmp_path / "x.tar.xz", files))


def test_what_is_no_tar_file_is_refused(tmp_path):
    (tmp_path / "x.tar").write_bytes(b"nothing of the kind")
    with pytest.raises(InputError, match="neither a folder"):
        read_recordings(tmp_path / "x.tar")


def test_no_test_recording_is_trained_on(packed):
    read = read_recordings(packed)
    for seed in range(7):
        f = spoken_digits.fold(read, seed)
        train, takes, speaker = (set(part.tolist()) for part in f)
        assert len(train | takes | speaker) == len(train) + len(takes) + len(speaker)
        assert set(read.speaker[f.speaker].tolist()) == {seed % 3}
        assert seed % 3 not in read.speaker[f.train].tolist() + read.speaker[f.takes].tolist()
        pairs = {
            (s, d, t)
            for s, d, t in zip(read.speaker[f.takes].tolist(), read.digit[f.takes].tolist(), read.take[f.takes].tolist(), strict=True)
        }
        assert len(pairs) == 2 * 10 * 2  # two takes of each digit of two speakers
        assert set(read.take[f.train].tolist()).isdisjoint(set(read.take[f.takes].tolist()))
    assert not torch.equal(spoken_digits.fold(read, 0).train, spoken_digits.fold(read, 6).train)


def test_a_fold_is_a_data_set_that_every_rule_reads(packed, tmp_path):
    read = read_recordings(packed)
    data = load(str(spoken_digits.write_fold(read, 1, tmp_path)))
    f = spoken_digits.fold(read, 1)
    assert torch.equal(data.train.images, read.images[f.train])
    assert torch.equal(data.test.labels, read.digit[f.takes])
    assert data.shape == (1, FRAMES, BANDS)


def test_probes_read_what_a_plain_classifier_reads(packed):
    """Well separated clusters are read without error, labels that say nothing at chance."""
    read = read_recordings(packed)
    f = spoken_digits.fold(read, 0)
    noise = torch.randn(len(read.digit), 3, generator=torch.Generator().manual_seed(0))
    x = torch.cat([torch.nn.functional.one_hot(read.digit).float(), noise], 1)
    found = spoken_digits.read(x, read, f)
    assert found["digit"] == found["digit of a new speaker"] == 100
    assert 20 < found["speaker"] < 80  # of two speakers


def test_the_script_trains_probes_and_decides(packed, tmp_path, monkeypatch, capsys):
    words = [
        "--data",
        str(packed),
        "--out",
        str(tmp_path / "runs"),
        "--figures",
        str(tmp_path / "figures"),
        "--seeds",
        "2",
        "--epochs",
        "2",
    ]
    monkeypatch.setattr(sys, "argv", ["spoken_digits", *words])
    for name, value in (("width", 16), ("batch_size", 20)):
        monkeypatch.setitem(spoken_digits.SHARED, name, value)
    spoken_digits.main()
    results = read_json(tmp_path / "figures" / "spoken_digits" / "results.json")
    assert set(results["values"]) == {*spoken_digits.READ, spoken_digits.BOUND}
    assert all(len(values) == 2 for groups in results["values"].values() for values in groups.values())
    assert results["values"]["digit"]["spectrogram"] == [100, 100]  # tones: nothing to learn
    assert {found.test.name for found in decide(spoken_digits.TESTS, results)} == {test.name for test in spoken_digits.TESTS}
    assert "bound on mutual information" in capsys.readouterr().out

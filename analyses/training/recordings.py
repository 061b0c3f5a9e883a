"""Recordings of spoken digits as images of one channel that every rule here takes: log-mel spectrograms, rows in time, columns in pitch.

What is read is the layout of the Free Spoken Digit Dataset (Jakobovski; CC BY-SA 4.0): ``{digit}_{speaker}_{take}.wav``, 8 kHz, 16 bits,
one channel, in a folder or in a tar file of any compression. A recording becomes 64 frames of 10 ms (windows of 32 ms) by 16 mel bands
from 60 Hz to 4 kHz, in decibels below its own loudest cell, 80 dB to the grey scale of 8 bits. Shorter recordings are followed by silence
(0); of longer ones (5 in 100) the first 0.64 s are kept.
"""

from __future__ import annotations

import io
import tarfile
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gradlens.runtime.errors import InputError

RATE = 8_000  # samples a second
WINDOW, HOP = 256, 80  # samples
FRAMES, BANDS = 64, 16
LOWEST, HIGHEST = 60.0, 4_000.0  # Hz
RANGE = 80.0  # dB of the grey scale


class Recordings(NamedTuple):
    """Spoken digits, ordered by file name."""

    images: Tensor  # [N, 1, FRAMES, BANDS] uint8
    digit: Tensor  # [N] 0 to 9
    speaker: Tensor  # [N] index into speakers
    take: Tensor  # [N] which repetition, from 0
    speakers: tuple[str, ...]


def mel(hertz: float) -> float:
    """Convert Hz to mel: 2595 log10(1 + f/700)."""
    return float(2595 * np.log10(1 + hertz / 700))


def mel_filters() -> Tensor:
    """Make triangles [BANDS, WINDOW // 2 + 1] over the frequencies of a spectrum, their corners equally spaced in mel; each sums to 1."""
    corners = 700 * (10 ** (np.linspace(mel(LOWEST), mel(HIGHEST), BANDS + 2) / 2595) - 1)
    at = np.linspace(0, RATE / 2, WINDOW // 2 + 1)
    rising = (at - corners[:-2, None]) / np.diff(corners)[:-1, None]
    falling = (corners[2:, None] - at) / np.diff(corners)[1:, None]
    filters = np.clip(np.minimum(rising, falling), 0, None)
    return torch.from_numpy(filters / filters.sum(1, keepdims=True)).float()


def spectrogram(samples: Tensor) -> Tensor:
    """Compute the image [FRAMES, BANDS] uint8 of a recording [T] of any length from 1."""
    needed = WINDOW + HOP * (FRAMES - 1)
    cut = torch.zeros(needed)
    cut[: len(samples)] = samples[:needed].float()
    frames = cut.unfold(0, WINDOW, HOP) * torch.hann_window(WINDOW)
    energy = torch.fft.rfft(frames).abs().square() @ mel_filters().T
    decibels = 10 * torch.log10(energy.clamp(min=1e-12))
    grey = 255 * (1 + (decibels - decibels.max()) / RANGE)
    grey[~(frames != 0).any(1)] = 0  # also where a recording is nothing but silence
    return grey.clamp(0, 255).round().to(torch.uint8)


def _wavs(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield (name without .wav, bytes) of the recordings in a folder or a tar file."""
    if path.is_dir():
        yield from ((file.stem, file.read_bytes()) for file in sorted(path.rglob("*.wav")))
        return
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                if member.isfile() and member.name.endswith(".wav") and (file := archive.extractfile(member)):
                    yield Path(member.name).stem, file.read()
    except (OSError, tarfile.TarError, EOFError) as error:
        raise InputError(f"{path} is neither a folder of .wav files nor a tar file that can be read: {error}") from error


def _samples(name: str, content: bytes) -> Tensor:
    """Decode one recording to [T] in -1 ... 1."""
    try:
        with wave.open(io.BytesIO(content), "rb") as file:
            form = file.getframerate(), file.getsampwidth(), file.getnchannels()
            data = file.readframes(file.getnframes())
    except (wave.Error, EOFError) as error:
        raise InputError(f"{name}.wav is no wav file: {error}") from error
    if form != (RATE, 2, 1) or not data:
        raise InputError(f"{name}.wav has {form[0]} Hz, {8 * form[1]} bits, {form[2]} channels: wanted {RATE} Hz, 16 bits, 1 channel")
    return torch.from_numpy(np.frombuffer(data, "<i2").astype(np.float32) / 2**15)


def read_recordings(path: Path) -> Recordings:
    """Read all recordings under a path.

    Args:
        path: a folder with ``{digit}_{speaker}_{take}.wav`` files at any depth, or a tar file of one.

    Raises:
        InputError: nothing there, other names, or another form of sound.

    """
    found: list[tuple[str, int, str, int, Tensor]] = []
    for name, content in _wavs(path):
        digit, _, rest = name.partition("_")
        speaker, _, take = rest.rpartition("_")
        if not (digit.isdigit() and speaker and take.isdigit() and int(digit) < 10):
            raise InputError(f"{name}.wav: a recording's name is DIGIT_SPEAKER_TAKE.wav")
        found.append((name, int(digit), speaker, int(take), spectrogram(_samples(name, content))))
    if not found:
        raise InputError(f"{path} holds no .wav files")
    found.sort(key=lambda one: one[0])
    speakers = tuple(sorted({one[2] for one in found}))
    return Recordings(
        torch.stack([one[4] for one in found])[:, None],
        torch.tensor([one[1] for one in found]),
        torch.tensor([speakers.index(one[2]) for one in found]),
        torch.tensor([one[3] for one in found]),
        speakers,
    )

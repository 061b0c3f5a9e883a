"""Files of captures: what is cut off, foreign, damaged or hostile is refused in a sentence, and nothing in it is executed."""

import json

import pytest
import torch
from safetensors.torch import save_file

from gradlens.gradients.capture_file import CaptureFile, write_capture
from gradlens.runtime.errors import InputError

HEADER = {
    "tensors": {"gradient/fc": {"dtype": "float32", "shape": [2, 3], "norm": 1.0, "nonfinite": 0}},
    "calls": ["fc"], "modules": {"fc": "Linear"}, "parameters": {}, "weights": {}, "inputs": {}, "unseen": [], "versions": {},
    "step": 0, "forwards": 1, "backwards": 1,
}  # fmt: skip
TENSORS = {"gradient/fc": torch.ones(2, 3)}


def with_header(path, text, tensors=TENSORS):
    save_file(tensors, path, metadata={"gradlens": text} if text is not None else {})


def changed(**fields):
    return json.dumps({"format": "gradlens capture", "version": 1, **HEADER, **fields})


def test_a_file_is_read_as_it_was_written(tmp_path):
    view = torch.randn(3, 4).T[:2, :3]
    write_capture(tmp_path / "a", {"gradient/fc": view}, HEADER)
    file = CaptureFile(tmp_path / "a")
    assert torch.equal(file.tensor("gradient/fc"), view)
    assert file.header["calls"] == ["fc"]
    assert [each.name for each in tmp_path.iterdir()] == ["a"]


def test_a_cut_file_is_refused_wherever_it_ends(tmp_path):
    write_capture(tmp_path / "a", TENSORS, HEADER)
    whole = (tmp_path / "a").read_bytes()
    for length in range(0, len(whole), 7):
        (tmp_path / "b").write_bytes(whole[:length])
        with pytest.raises(InputError, match="no whole safetensors file, or it was cut off"):
            CaptureFile(tmp_path / "b")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "not one that gradlens.capture wrote"),
        ("[1]", "not one that gradlens.capture wrote"),
        ("{", "its header is no json"),
        ("[" * 100000, "its header is no json"),
        (changed(version=2), "has version 2 of the format"),
        (changed(calls=7), "'calls' is 7, expected a list"),
        (changed(calls=[7]), "lists of parameters and calls"),
        (changed(parameters={"w": 1}), "lists of parameters and calls"),
        (changed(tensors={}), "its header lists 0 tensors, the file holds 1"),
        (changed(tensors={"pickle/fc": HEADER["tensors"]["gradient/fc"]}), "in an unknown way"),
        (changed(tensors={"gradient/fc": {**HEADER["tensors"]["gradient/fc"], "dtype": "load"}}), "in an unknown way"),
        (changed(tensors={"gradient/fc": {**HEADER["tensors"]["gradient/fc"], "norm": "x"}}), "in an unknown way"),
        (changed(weights={"fc.weight": "x"}), "'weights' are no fingerprints"),
    ],
)
def test_another_header_is_refused(text, message, tmp_path):
    with_header(tmp_path / "a", text)
    with pytest.raises(InputError, match=message):
        CaptureFile(tmp_path / "a")


def test_what_is_no_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="there is no capture"):
        CaptureFile(tmp_path / "none")
    with pytest.raises(InputError, match="is a folder"):
        CaptureFile(tmp_path)
    torch.save({"gradient/fc": torch.ones(3)}, tmp_path / "pickled")
    with pytest.raises(InputError, match="no whole safetensors file"):
        CaptureFile(tmp_path / "pickled")

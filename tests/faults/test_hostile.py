"""Files from someone else: they run no code, and make lungtune read and write nothing outside their folder."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import simulated
import tracking_study
from lungtune import catalog, summary
from lungtune.core import params as parameters
from lungtune.core import paths
from lungtune.core.study import Study
from lungtune.core.trial import History
from lungtune.data.readers import images, volumes
from lungtune.data.readers.base import UnreadableImageError
from lungtune.data.sources import _tables
from lungtune.data.synthetic_bank import SyntheticBank
from lungtune.engine import checkpoint
from lungtune.errors import CheckpointError, DataError, SpaceError, StudyError, WeightsError
from lungtune.models import clip_model, hub
from lungtune.search import cloning
from lungtune.tracking import charts, sync, tracker
from tests.unit.data.test_synthetic_bank import filled

SPACE = "family: clip_lora\nobjective: macro_f1\nsampler: tpe\ntrials: 3\nfidelity: {max: 1}\nbase: {}\n"
SPACE += "params: {lr: 1e-4}\n"
LEADS_OUT = ["../../secret", "/etc/passwd", "checkpoints/../../../secret", "C:\\secret", ""]


class Evil:
    """Its unpickling makes a file."""

    def __init__(self, trace: Path) -> None:
        self._trace = trace

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, str]]:
        return open, (str(self._trace), "w")


@pytest.fixture
def trace(tmp_path, fault):
    """A file that hostile code would make; it is absent at the end."""
    yield tmp_path / "owned"
    assert not (tmp_path / "owned").exists(), "hostile code ran"


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A study of someone else, copied into this user's home."""
    monkeypatch.setenv("LUNGTUNE_HOME", str(tmp_path))
    made = simulated.begin(tmp_path / "studies" / "s", simulated.space(2))
    made.append("trial", trial=0, params={"quality": 0.5, "kind": "a", "fault": "none"}, sampled={"quality": 0.5},
                distributions={}, seed=0, origin="start")  # fmt: skip
    made.append("start", trial=0, attempt=1, fidelity=0.0)
    made.release()
    return made


@pytest.mark.parametrize(
    "line",
    ["!!python/object/apply:os.system ['touch {}']", "!!python/name:os.system", "!!python/object/new:os.system [x]"],
)
def test_yaml_tags_of_python_are_refused(tmp_path, fault, trace, line):
    file = tmp_path / "space.yaml"
    with fault("a space or recipe with YAML tags of Python", "refused with its line; no code runs"):
        file.write_text(f"{SPACE}note: {line.format(trace)}\n")
        with pytest.raises(SpaceError, match=r"space\.yaml:8: .*tag:yaml.org,2002:python"):
            catalog.space(str(file))


@pytest.mark.parametrize(
    "family", ["{}/evil.py", "{}/evil", "../evil", "..evil", "os", "lungtune_user.trainables.evil"]
)
def test_family_by_path_is_refused(tmp_path, fault, trace, family):
    (tmp_path / "evil.py").write_text(f"open({str(trace)!r}, 'w')")
    file = tmp_path / "space.yaml"
    file.write_text(SPACE)
    assert catalog.space(str(file)).family == "clip_lora"
    file.write_text(SPACE.replace("clip_lora", f'"{family.format(tmp_path)}"'))
    with (
        fault("a recipe whose family is the path of a module", "refused: there is no such family; no code runs"),
        pytest.raises(SpaceError, match="there is no model family"),
    ):
        catalog.space(str(file))


@pytest.mark.skipif(os.getuid() != 0, reason="needs root, to give a folder to another user")
def test_families_in_another_users_working_folder_are_not_imported(tmp_path, fault, monkeypatch, trace):
    (tmp_path / "trainables").mkdir()
    (tmp_path / "trainables" / "evil.py").write_text(f"open({str(trace)!r}, 'w')")
    (tmp_path / "space.yaml").write_text(SPACE.replace("clip_lora", "evil"))
    os.chown(tmp_path, 65534, 65534)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LUNGTUNE_HOME", raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 4711)
    with fault("the working folder is another user's and holds families", "not imported unless LUNGTUNE_PATH names it"):
        with pytest.raises(SpaceError, match="there is no model family 'evil'"):
            catalog.space("space.yaml")
        monkeypatch.setenv("LUNGTUNE_PATH", str(tmp_path))
        assert tmp_path in paths.own_folders()


@pytest.mark.parametrize("named", LEADS_OUT)
def test_checkpoints_outside_the_study_are_refused(study, fault, named):
    study.acquire()
    study.append("report", trial=0, fidelity=1.0, samples=100, metrics={"macro_f1": 0.5}, checkpoint=named)
    study.release()
    with (
        fault("a journal names a checkpoint outside the study", "the study is refused, with the line"),
        pytest.raises(StudyError, match=r"journal\.jsonl:5: a checkpoint must be a path inside the folder"),
    ):
        Study.open("s")


def test_links_out_of_a_study_are_refused(study, fault, tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    for name in ("driver.lock", "ledger.jsonl", "summary.json", "checkpoints/0000/000000000100.safetensors"):
        link = study.folder / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(victim)
        with (
            fault("a link out of a study's folder", "the study is refused; nothing is read or written there"),
            pytest.raises(StudyError, match=f"{link.name} leads out of the study's folder"),
        ):
            Study.open("s")
        link.unlink()
    assert victim.read_text() == "precious"
    (study.folder / "own").symlink_to("journal.jsonl")
    assert Study.open("s").history().trials, "links inside are fine"


def test_requested_clone_with_a_checkpoint_elsewhere_is_refused(study, fault, tmp_path):
    (tmp_path / "secret").mkdir()
    folder = study.folder / "requests" / "r1"
    folder.mkdir(parents=True)
    donor = {"trial": 0, "fidelity": 1.0, "checkpoint": "../../secret"}
    (folder / "request.json").write_text(json.dumps({"clone_of": 0, "params": {}, "donor": donor}))
    with fault("a request for a clone names a checkpoint outside the study", "the request is refused"):
        assert cloning.pending(study) == []
        assert "must be a path inside" in (study.folder / "requests" / "r1.refused").read_text()


@pytest.mark.parametrize("named", LEADS_OUT)
def test_images_outside_a_bank_are_refused(tmp_path, fault, named):
    bank = filled(tmp_path / "bank")
    [file] = bank.folder.glob("*.jsonl")
    first, *rest = file.read_text().splitlines()
    file.write_text("\n".join([json.dumps({**json.loads(first), "file": named}), *rest, ""]))
    with (
        fault("a bank lists an image outside its folder", "the bank is refused, with the line"),
        pytest.raises(DataError, match=r"jsonl:1: .*must be a path inside the folder"),
    ):
        SyntheticBank.open(bank.folder).counts()


def test_links_out_of_a_bank_are_refused(tmp_path, fault):
    bank = filled(tmp_path / "bank")
    image = bank.folder / "images" / "0" / "0.png"
    image.rename(tmp_path / "elsewhere.png")
    image.symlink_to(tmp_path / "elsewhere.png")
    with (
        fault("a link out of a bank's folder", "the bank is refused"),
        pytest.raises(DataError, match=r"0\.png leads out of the bank"),
    ):
        SyntheticBank.open(bank.folder)


def test_pickled_weights_and_arrays_are_not_unpickled(tmp_path, fault, trace, study):
    array = io.BytesIO()
    np.save(array, np.array([Evil(trace)], dtype=object), allow_pickle=True)
    with fault("pickled objects in .npy, .pt, .bin and beside a checkpoint", "refused; no code runs"):
        with pytest.raises(UnreadableImageError, match="holds pickled Python objects, which are not read"):
            volumes.describe(array.getvalue())
        for name, content in {"w.pt": {"a": Evil(trace)}, "w.bin": Evil(trace)}.items():
            torch.save(content, tmp_path / name)
            with pytest.raises(WeightsError, match="must hold a state dict and nothing else"):
                hub.read(tmp_path / name)
        (tmp_path / "w.pth").write_bytes(pickle.dumps(Evil(trace)))
        with pytest.raises(WeightsError, match="must hold a state dict and nothing else"):
            hub.read(tmp_path / "w.pth")
        study.acquire()
        named = "checkpoints/0000/000000000100.safetensors"
        study.append("report", trial=0, fidelity=1.0, samples=100, metrics={"macro_f1": 0.5}, checkpoint=named)
        study.release()
        table = (study.folder / named).with_suffix(".npy")
        table.parent.mkdir(parents=True)
        table.write_bytes(array.getvalue())
        trial = study.history().trials[0]
        assert summary.reported(study, trial, catalog.family("clip_lora").tasks[0]) == []


def test_tokenizer_with_code_of_its_own_is_refused_without_a_question(tmp_path, fault, trace, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "evil.py").write_text(f"open({str(trace)!r}, 'w')\nclass T: pass\nclass C: pass\n")
    kinds = {"AutoConfig": "evil.C", "AutoTokenizer": ["evil.T", None]}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "evil", "auto_map": kinds}))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "T", "auto_map": kinds}))
    text = {"context_length": 8, "vocab_size": 9, "width": 64, "heads": 1, "layers": 1}
    text |= {"hf_tokenizer_name": str(tmp_path)}
    vision = {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16}
    model = {"model_cfg": {"embed_dim": 8, "vision_cfg": vision, "text_cfg": text}, "preprocess_cfg": {}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(model))
    (tmp_path / "open_clip_model.safetensors").write_bytes(b"")
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked at the terminal"))
    base = parameters.build(catalog.family("clip_lora").Base, {"weights": str(tmp_path)})
    with (
        fault("a CLIP folder whose tokenizer needs code of its own", "refused; no code runs, nothing is asked"),
        pytest.raises(WeightsError, match="must load without code of its own"),
    ):
        clip_model.tokenizer(base)


@pytest.mark.parametrize("length", [8, 1 << 33, (1 << 63) - 1])
def test_safetensors_with_a_false_header_are_refused(tmp_path, fault, length):
    file = tmp_path / "w.safetensors"
    header = json.dumps({"a": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}).encode()
    file.write_bytes(struct.pack("<Q", len(header) if length == 8 else length) + header)
    with fault("safetensors whose header announces terabytes", "refused as damaged, at once"):
        with pytest.raises(CheckpointError, match="must be a whole checkpoint"):
            checkpoint.load(file)
        with pytest.raises(WeightsError, match="must hold a state dict"):
            hub.read(file)


def png(width: int, height: int) -> bytes:
    """Return a small PNG that announces so many pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = zlib.compress(bytes(1 << 20))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def test_images_that_announce_a_billion_pixels_are_unreadable(fault):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (1 << 14,) * 3})
    with fault("images and volumes that announce more pixels than memory holds", "unreadable, from the header alone"):
        with pytest.raises(UnreadableImageError, match="has more than 89,478,485 pixels"):
            images.describe(png(50_000, 20_000))
        with pytest.raises(UnreadableImageError, match=r"voxels"):
            volumes.describe(header.getvalue())


def test_tables_that_unpack_to_gigabytes_are_refused(tmp_path, fault, monkeypatch):
    monkeypatch.setattr(_tables, "MAX_BYTES", 1 << 20)
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(bytes(1 << 24)))
    with zipfile.ZipFile(tmp_path / "t.xlsx", "w", zipfile.ZIP_DEFLATED) as book:
        book.writestr("xl/workbook.xml", bytes(1 << 24))
    with fault("tables that unpack to more than memory holds", "refused before they are unpacked"):
        with pytest.raises(DataError, match="must hold at most 1,048,576 bytes when it is unpacked"):
            _tables.read(tmp_path / "t.csv.gz")
        with pytest.raises(DataError, match="holds 16,777,216 bytes, more than 1,048,576"):
            _tables.read(tmp_path / "t.xlsx")


def test_markup_in_names_is_text_on_the_page_of_charts(fault):
    attack = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
    events = [{"event": kind, "time": 0.0, **fields} for kind, fields in tracking_study.script(9)]
    text = json.dumps(events).replace("clip_lora-1", attack).replace("radiology", attack)
    with fault("HTML in names of studies and choices", "shown as text"):
        page = charts.page(History(json.loads(text)))
        assert "<script>alert" not in page
        assert "<img src=x" not in page


def test_cursor_of_another_study_changes_no_foreign_run(tmp_path, fault, furnish):
    uri = furnish(tmp_path / "mlflow.db")
    mine, foreign = tmp_path / "studies" / "mine", tmp_path / "studies" / "foreign"
    tracking_study.write(mine, tracking_study.script(3, study_id="1" * 32, name="mine"))
    tracking_study.write(foreign, tracking_study.script(2, study_id="2" * 32, name="foreign"))
    assert sync(mine, uri)

    from mlflow import MlflowClient

    def runs() -> dict[str, object]:
        client = MlflowClient(uri)
        every = client.search_runs([each.experiment_id for each in client.search_experiments()])
        return {run.info.run_id: run.to_dictionary() for run in every if run.data.tags["lungtune.study_id"] == "1" * 32}

    before = runs()
    assert tracker.Tracker(mine, uri).start().stop()
    forged = json.loads((mine / "tracking.json").read_text()) | {"study_id": "2" * 32}
    (foreign / "tracking.json").write_text(json.dumps(forged))
    with fault("a cursor for MLflow names runs of another study", "they are unchanged; the study gets its own"):
        assert tracker.Tracker(foreign, uri).start().stop()
        assert runs() == before

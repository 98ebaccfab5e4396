"""TorchScript archives are read as data: their code is not run, hostile ones end in an error."""

import zipfile
from pathlib import Path

import pytest
import torch

from piclip.clip.checkpoints import load_clip
from piclip.clip.weight_files import read_state_dict
from piclip.errors import ModelError
from sentences import one_sentence


class Evil(torch.nn.Module):
    """An archive whose own code takes its state when it is read."""

    def __init__(self, target):
        super().__init__()
        self.register_buffer("w", torch.zeros(2))
        self.target = target

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


class Writes(Evil):
    @torch.jit.export
    def __getstate__(self) -> tuple[torch.Tensor, str, bool]:
        return self.w, self.target, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[torch.Tensor, str, bool]) -> None:
        self.w, self.target, self.training = state
        torch.save(self.w, self.target)


class Loops(Evil):
    @torch.jit.export
    def __getstate__(self) -> tuple[torch.Tensor, str, bool]:
        return self.w, self.target, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[torch.Tensor, str, bool]) -> None:
        self.w, self.target, self.training = state
        while True:
            pass


class WritesFromDict(Evil):
    """Its state looks like the attributes of a module without code."""

    @torch.jit.export
    def __getstate__(self) -> dict[str, torch.Tensor]:
        return {"w": self.w}

    @torch.jit.export
    def __setstate__(self, state: dict[str, torch.Tensor]) -> None:
        self.w, self.target, self.training = state["w"], "owned", False
        torch.save(self.w, "owned")


@pytest.mark.parametrize("evil", [Writes, Loops])
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_an_archive_with_code_for_its_state_is_refused_and_not_run(tmp_path, evil):
    torch.jit.save(torch.jit.script(evil(str(tmp_path / "owned"))), tmp_path / "x.pt")
    with pytest.raises(ModelError, match=r"could run code.*torch.jit.load") as error:
        load_clip(tmp_path / "x.pt")
    assert one_sentence(error) and not (tmp_path / "owned").exists()


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_the_tensors_of_an_archive_are_read_without_running_its_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.jit.save(torch.jit.script(WritesFromDict("")), "x.pt")
    assert torch.equal(read_state_dict(Path("x.pt"))["w"], torch.zeros(2))
    assert not Path("owned").exists()


STORAGE = b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpu%stQ"
MODULE = b"c__torch__\nM\n)\x81"


def tensor_pickle(count=b"K\x02", size=b"K\x02\x85", stride=b"K\x01\x85", offset=b"K\0"):
    storage = STORAGE % count
    hooks = b"\x89ccollections\nOrderedDict\n)R"
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + offset + size + stride + hooks
    return MODULE + b"}(X\x01\0\0\0w" + tensor + b"tRub."


HUGE = b"\x8a\x06" + (1 << 40).to_bytes(6, "little")


def write_archive(path, pickled, compression=zipfile.ZIP_STORED, data=b"\0" * 8):
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("x/data.pkl", b"\x80\x02" + pickled)
        archive.writestr("x/data/0", data)
        archive.writestr("x/constants.pkl", b"\x80\x02).")


def test_an_archive_written_by_hand_is_read(tmp_path):
    write_archive(tmp_path / "x.pt", tensor_pickle())
    assert torch.equal(read_state_dict(tmp_path / "x.pt")["w"], torch.zeros(2))


@pytest.mark.parametrize(
    "pickled",
    [
        b"cposix\nsystem\nX\x04\0\0\0true\x85R.",
        b"ctorch\nload\nX\x01\0\0\0x\x85R.",
        MODULE.replace(b"__torch__", b"torch.nn") + b"}b.",
        b"(X\x04\0\0\0trueiposix\nsystem\n.",
        MODULE + b"q\0}(X\x01\0\0\0ah\0ub.",  # a module within itself
        MODULE + b"}" + b"(X\x01\0\0\0a" + MODULE + b"q\0}bX\x01\0\0\0bh\0ub.",  # one twice
        MODULE + b"}q\0(X\x01\0\0\0a" + MODULE + b"h\0bub.",  # with the attributes of another
        MODULE + b"}(X\x2c\x01\0\0" + b"n" * 300 + MODULE + b"}bub.",
        MODULE + b"}()" + b"\x85" * 300_000 + b"Nub.",  # a key nested deeply
        STORAGE.replace(b"X\x01\0\0\x000", b")" + b"\x85" * 300_000) % b"K\x02" + b".",
        b")" + b"\x85" * (5 << 20) + b".",
        b"Nr\xff\xff\xff\x7f.",  # a memo of 2 ** 31 places
        tensor_pickle(count=HUGE),
        tensor_pickle(size=HUGE + b"\x85"),
        tensor_pickle(size=HUGE + b"\x85", stride=b"K\0\x85"),
        tensor_pickle(size=b"(" + b"K\1" * 9 + b"t", stride=b"(" + b"K\1" * 9 + b"t"),
        tensor_pickle(offset=HUGE),
        tensor_pickle(offset=b"J\xff\xff\xff\xff"),
        tensor_pickle(stride=HUGE + b"\x85"),
        b"\x96" + b"\xff" * 7 + b"\x0f.",  # BYTEARRAY8 of 2 ** 60
        b".",
        b"h\0.",
        b"t.",
    ],
)
def test_a_hostile_archive_is_refused_quickly(tmp_path, pickled):
    write_archive(tmp_path / "x.pt", pickled)
    with pytest.raises(ModelError, match=r"damaged|cannot be read|no state dict") as error:
        load_clip(tmp_path / "x.pt")
    assert one_sentence(error)


def test_a_compressed_archive_is_refused_before_it_is_unpacked(tmp_path):
    write_archive(tmp_path / "x.pt", tensor_pickle(), zipfile.ZIP_DEFLATED)
    write_archive(
        tmp_path / "bomb.pt", tensor_pickle(HUGE), zipfile.ZIP_DEFLATED, data=bytes(50_000_000)
    )
    for name in ("x.pt", "bomb.pt"):
        with pytest.raises(ModelError, match="damaged, or holds") as error:
            load_clip(tmp_path / name)
        assert one_sentence(error)

"""A training that is stopped anywhere and continued ends with the weights of one left alone."""

import multiprocessing
import os
import resource
import signal

import pytest
import torch
from tiny_training import tiny_recipe

from piclip.decoders.networks import load_decoder
from piclip.errors import ModelError, OutputError
from piclip.training.run_folder import RunFolder
from piclip.training.train import train


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    torch.set_num_threads(1)
    return final(train(tiny_recipe(), tmp_path_factory.mktemp("whole")))


def final(decoder_folder):
    """The result's weights and the last checkpoint, optimizer included."""
    checkpoint = RunFolder(decoder_folder.parent).load()
    return load_decoder(decoder_folder).state_dict(), checkpoint


def assert_same(one, other):
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for pair in zip(one, other, strict=True):
            assert_same(*pair)
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    else:
        assert one == other


class StoppedError(Exception):
    pass


def stopping_after(phase, step):
    def report(progress):
        if (progress.phase, progress.step) == (phase, step):
            raise StoppedError

    return report


@pytest.mark.parametrize(
    ("phase", "step", "every"),
    [
        pytest.param("base", 3, 2, marks=pytest.mark.slow),
        ("episodic", 3, 2),
        pytest.param("base", 2, 1, marks=pytest.mark.slow),
        pytest.param("episodic", 1, 1, marks=pytest.mark.slow),
        pytest.param("episodic", 4, 500, marks=pytest.mark.slow),
    ],
)
def test_stopped_between_steps(tmp_path, undisturbed, phase, step, every):
    with pytest.raises(StoppedError):
        train(tiny_recipe(checkpoint_every=every), tmp_path, stopping_after(phase, step))
    assert_same(final(train(tiny_recipe(checkpoint_every=every), tmp_path)), undisturbed)


@pytest.mark.parametrize("call", [2, pytest.param(5, marks=pytest.mark.slow)])
def test_stopped_in_the_middle_of_a_step(tmp_path, undisturbed, monkeypatch, call):
    # After the backward pass and before the optimizer; in the base learner, then in the decoder.
    calls = []
    plain = torch.optim.Optimizer.zero_grad

    def zero_grad(self, *arguments, **options):
        calls.append(1)
        if len(calls) == call:
            raise StoppedError
        return plain(self, *arguments, **options)

    with monkeypatch.context() as patch, pytest.raises(StoppedError):
        patch.setattr(torch.optim.Optimizer, "zero_grad", zero_grad)
        train(tiny_recipe(), tmp_path)
    assert_same(final(train(tiny_recipe(), tmp_path)), undisturbed)


def _kill_itself(folder):
    def report(progress):
        if (progress.phase, progress.step) == ("episodic", 2):
            os.kill(os.getpid(), signal.SIGKILL)

    torch.set_num_threads(1)
    train(tiny_recipe(), folder, report)


def test_killed_for_real(tmp_path, undisturbed):
    process = multiprocessing.get_context("fork").Process(target=_kill_itself, args=(tmp_path,))
    process.start()
    process.join(300)
    assert process.exitcode == -signal.SIGKILL
    assert_same(final(train(tiny_recipe(), tmp_path)), undisturbed)


@pytest.mark.slow
def test_killed_while_a_checkpoint_is_renamed(tmp_path, undisturbed):
    with pytest.raises(StoppedError):
        train(tiny_recipe(), tmp_path, stopping_after("episodic", 3))
    run = RunFolder(tmp_path)
    run.checkpoint.replace(run.previous)
    assert_same(final(train(tiny_recipe(), tmp_path)), undisturbed)


@pytest.mark.parametrize("damage", ["cut", pytest.param("garbage", marks=pytest.mark.slow)])
def test_a_damaged_checkpoint_is_named_and_the_one_before_continues(tmp_path, undisturbed, damage):
    with pytest.raises(StoppedError):
        train(tiny_recipe(), tmp_path, stopping_after("episodic", 3))
    run = RunFolder(tmp_path)
    data = run.checkpoint.read_bytes()
    run.checkpoint.write_bytes({"cut": data[:-500], "garbage": b"x" * 999}[damage])
    with pytest.raises(ModelError, match=r"delete it .* continue from checkpoint.previous.pt"):
        train(tiny_recipe(), tmp_path)
    run.checkpoint.unlink()
    assert run.load()["step"] == 2
    assert_same(final(train(tiny_recipe(), tmp_path)), undisturbed)


def test_a_full_disk_keeps_the_last_checkpoint(tmp_path, undisturbed):
    with pytest.raises(StoppedError):
        train(tiny_recipe(), tmp_path, stopping_after("episodic", 2))
    run = RunFolder(tmp_path)
    before = run.checkpoint.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limits[1]))
        with pytest.raises(OutputError, match=r"checkpoint.pt cannot be written"):
            train(tiny_recipe(), tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert run.checkpoint.read_bytes() == before
    assert not list(tmp_path.glob(".piclip-*"))
    assert_same(final(train(tiny_recipe(), tmp_path)), undisturbed)


@pytest.mark.slow
def test_a_selection_survives_a_stop(tmp_path):
    def asked():
        return tiny_recipe(select="base-val", checkpoint_every=2)

    whole = final(train(asked(), tmp_path / "whole"))
    with pytest.raises(StoppedError):
        train(asked(), tmp_path / "cut", stopping_after("episodic", 3))
    assert_same(final(train(asked(), tmp_path / "cut")), whole)

"""A hub without a network, and its cache."""

from tiny_clip import names_in


class Hub:
    """A hub with one answer instead of the network; counts the questions."""

    def __init__(self, monkeypatch, tmp_path, answer):
        import huggingface_hub
        from huggingface_hub import constants

        self.questions, self.downloads = 0, []
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(huggingface_hub.HfApi, "model_info", self.model_info)
        monkeypatch.setattr(huggingface_hub, "snapshot_download", self.snapshot_download)
        self.answer = answer

    def model_info(self, name, revision, timeout):
        self.questions += 1
        self.revision = revision
        if isinstance(self.answer, Exception):
            raise self.answer
        files = [type("File", (), {"rfilename": file}) for file in names_in(self.answer)]
        return type("Info", (), {"siblings": files})

    def snapshot_download(self, name, revision, cache_dir, allow_patterns):
        assert revision == self.revision
        self.downloads.append(allow_patterns)
        self.cache_dir = cache_dir
        return str(self.answer)


def cached(folder, model, name="some/clip", ref="main"):
    """The folder of a model that is moved into a cache of the hub."""
    entry = folder / f"models--{name.replace('/', '--')}"
    snapshot = entry / "snapshots" / ("0" * 40)
    snapshot.parent.mkdir(parents=True)
    model.rename(snapshot)
    (entry / "refs").mkdir()
    (entry / "refs" / ref).write_text("0" * 40)
    return snapshot

import torch

from piclip.clip.memory_cache import MemoryCache


def test_the_memory_cache_forgets_the_oldest():
    cache = MemoryCache(limit=3 * 40)
    for number in range(4):
        cache.put(str(number), {"x": torch.full((10,), float(number))})
        cache.get("0")
    assert cache.get("1") is None
    assert torch.equal(cache.get("0")["x"], torch.zeros(10))
    assert cache.get("3") is not None

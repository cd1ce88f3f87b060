from hela_store.store.read_cache import ReadCache


def test_the_longest_unused_copies_go(tmp_path):
    cache = ReadCache(tmp_path / "cache", 1000)
    for number in range(20):
        cache.put(str(number), bytes([number]) * 200)
        assert cache.get("0") is not None, number
        assert sum(file.stat().st_size for file in (tmp_path / "cache").iterdir()) <= 1000
    assert cache.get("19") == bytes([19]) * 200 and cache.get("1") is None
    cache.put("large", bytes(2000))
    assert cache.get("large") is None


def test_a_damaged_copy_is_none(tmp_path):
    cache = ReadCache(tmp_path / "cache", 1000)
    assert cache.get("a") is None
    cache.put("a", b"values")
    (file,) = (tmp_path / "cache").iterdir()
    file.write_bytes(file.read_bytes()[:-1])
    assert cache.get("a") is None
    cache.put("a", b"values")
    assert ReadCache(tmp_path / "cache", 1000).get("a") == b"values"
    cache.forget("a")
    assert cache.get("a") is None

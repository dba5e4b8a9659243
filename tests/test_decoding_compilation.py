"""Where compiled programs are kept."""

from __future__ import annotations

import pathlib

import jax
import jax.numpy as jnp
import pytest
from jax.experimental.compilation_cache import compilation_cache

from mt3 import decoding
from mt3.errors import ConfigError

OPTIONS = (
    "jax_compilation_cache_dir",
    "jax_persistent_cache_min_compile_time_secs",
    "jax_persistent_cache_min_entry_size_bytes",
)


@pytest.fixture(autouse=True)
def _clean(monkeypatch):
    for name in ("MT3_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    before = {name: getattr(jax.config, name) for name in OPTIONS}
    jax.config.update("jax_compilation_cache_dir", None)
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


def test_a_device_is_chosen(monkeypatch):
    before = jax.config.jax_default_device
    decoding.choose_device("cpu")
    assert jax.config.jax_default_device is before
    # As where a GPU was set up before.
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    try:
        decoding.choose_device("cpu")
        assert jax.config.jax_default_device.platform == "cpu"
    finally:
        jax.config.update("jax_default_device", before)
    with pytest.raises(ConfigError, match=r"no platforms that.*jax\[cuda13\]"):
        decoding.choose_device("gpu")
    with pytest.raises(ConfigError, match="'cpu' or 'gpu'"):
        decoding.choose_device("abacus")


def test_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert decoding.cache_folder() == tmp_path / ".cache" / "mt3" / "xla"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert decoding.cache_folder() == tmp_path / ".cache" / "mt3" / "xla"
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert decoding.cache_folder() == pathlib.Path("/caches/mt3/xla")
    monkeypatch.setenv("MT3_CACHE_DIR", "~/here")
    assert decoding.cache_folder() == tmp_path / "here"
    for off in ("off", "OFF"):
        monkeypatch.setenv("MT3_CACHE_DIR", off)
        assert decoding.cache_folder() is None
        assert decoding.enable_compilation_cache() is None


def test_programs_are_kept(monkeypatch, tmp_path):
    folder = tmp_path / "deep" / "cache"
    monkeypatch.setenv("MT3_CACHE_DIR", str(folder))
    assert decoding.enable_compilation_cache() == folder
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.jit(lambda x: jnp.sin(x) * 3.25)(1.0).block_until_ready()
    assert any(folder.iterdir())


def test_a_chosen_folder_stays(monkeypatch, tmp_path):
    monkeypatch.setenv("MT3_CACHE_DIR", str(tmp_path / "ours"))
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "theirs"))
    assert decoding.enable_compilation_cache() == tmp_path / "theirs"
    assert not (tmp_path / "ours").exists()


def test_a_folder_that_cannot_be_made_is_no_error(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MT3_CACHE_DIR", str(tmp_path / "file" / "cache"))
    assert decoding.enable_compilation_cache() is None
    assert jax.config.jax_compilation_cache_dir is None

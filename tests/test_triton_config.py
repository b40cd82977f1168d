"""Configurations: the description of a device, and tuned tables over the defaults."""

from __future__ import annotations

import functools
import json
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from alexkern.kernels import config
from alexkern.kernels.config import TARGETS, choose, describe, overlay, read_table, table_path


@dataclass(frozen=True)
class Tile:
    BLOCK: int = 128
    num_warps: int = 4


ENTRY = {"backend": "triton", "operator": "dropout", "shape": [4, 96], "dtype": "float16", "config": {"BLOCK": 256}}


def write(path: Path, *entries: object) -> Path:
    path.write_text(json.dumps({"device": "NVIDIA A100", "entries": entries}))
    return path


def forget() -> None:
    config.table_for.cache_clear()
    config.users_table_for.cache_clear()
    config._warned.clear()


@pytest.fixture
def tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, Path]]:
    """A place for the A100's table in the package, and one for the user's; nothing has read them yet."""
    monkeypatch.setattr(config, "table_for", functools.cache(lambda name: read_table(table_path(name, tmp_path))))
    monkeypatch.setenv("ALEXKERN_TUNED", str(tmp_path / "own"))
    (tmp_path / "own").mkdir()
    forget()
    yield tmp_path / "nvidia-a100.json", tmp_path / "own" / "nvidia-a100.json"
    forget()


@pytest.fixture(params=["package", "user"])
def table(request: pytest.FixtureRequest, tables: tuple[Path, Path]) -> Path:
    """Either; the other is not there."""
    return tables[request.param == "user"]


def test_a_cpu_is_taken_for_the_smallest_target() -> None:
    assert describe(torch.device("cpu")) == TARGETS[80]


@pytest.mark.gpu
def test_a_gpu_describes_itself() -> None:
    device = describe(torch.device("cuda", 0))
    assert device.capability == torch.cuda.get_device_capability(0)
    assert device.num_sms > 0 and device.shared_memory >= 99 * 1024


def test_places_of_over_31_bits_begin_a_tile_earlier() -> None:
    assert str(config.index_type(0, 2**31 - 1 - 2**16)) == "int32"
    assert str(config.index_type(0, 2**31 - 2**16)) == "int64"


def test_a_table_is_named_after_its_gpu(tmp_path: Path) -> None:
    assert table_path("NVIDIA H200", tmp_path) == tmp_path / "nvidia-h200.json"
    assert table_path("NVIDIA A100-SXM4-80GB", tmp_path).name == "nvidia-a100-sxm4-80gb.json"


@pytest.mark.parametrize("path", sorted(config.TABLES.glob("*.json")), ids=lambda path: path.name)
def test_every_table_in_the_tree_can_be_read(path: Path) -> None:
    assert read_table(path)
    assert table_path(json.loads(path.read_text())["device"]).name == path.name


def test_no_table_means_defaults(table: Path) -> None:
    assert read_table(table) == {}
    assert choose("dropout", (4, 96), torch.float16, TARGETS[80], Tile()) == Tile()


def test_an_entry_replaces_the_fields_it_names(table: Path) -> None:
    write(table, ENTRY, {**ENTRY, "backend": "cuda", "config": {"BLOCK": 1}})
    assert choose("dropout", (4, 96), torch.float16, TARGETS[80], Tile()) == Tile(BLOCK=256, num_warps=4)


@pytest.mark.parametrize(
    "operator, shape, dtype, target",
    [
        ("max_pool2d", (4, 96), torch.float16, 80),
        ("dropout", (4, 97), torch.float16, 80),
        ("dropout", (4, 96), torch.float32, 80),
        ("dropout", (4, 96), torch.float16, 90),
    ],
)
def test_an_entry_is_for_one_problem_on_one_gpu(
    table: Path, operator: str, shape: tuple[int, ...], dtype: torch.dtype, target: int
) -> None:
    write(table, ENTRY)
    assert choose(operator, shape, dtype, TARGETS[target], Tile()) == Tile()


def test_a_table_is_read_once(table: Path) -> None:
    write(table, ENTRY)
    first = choose("dropout", (4, 96), torch.float16, TARGETS[80], Tile())
    write(table)
    assert choose("dropout", (4, 96), torch.float16, TARGETS[80], Tile()) == first
    forget()
    assert choose("dropout", (4, 96), torch.float16, TARGETS[80], Tile()) == Tile()


def test_an_unknown_field_is_an_error_that_names_it() -> None:
    with pytest.raises(ValueError, match=r"alexkern\.dropout: .*BLOK.*Tile has BLOCK, num_warps"):
        overlay("dropout", {"BLOK": 1}, Tile())


def test_a_field_of_another_type_is_an_error_that_names_it() -> None:
    for wrong in ("256", 256.0, True, None):
        with pytest.raises(ValueError, match=r"alexkern\.dropout: .*BLOCK=.*, wanted int"):
            overlay("dropout", {"BLOCK": wrong}, Tile())


def test_the_users_entries_go_before_the_packages(tables: tuple[Path, Path]) -> None:
    package, user = tables
    other = {**ENTRY, "shape": [4, 97]}
    write(package, {**ENTRY, "config": {"BLOCK": 64, "num_warps": 8}}, {**other, "config": {"BLOCK": 32}})
    write(user, ENTRY)
    assert choose("dropout", (4, 96), torch.float16, TARGETS[80], Tile()) == Tile(BLOCK=256, num_warps=4)
    assert choose("dropout", (4, 97), torch.float16, TARGETS[80], Tile()) == Tile(BLOCK=32)


DAMAGED = {
    "text": b"Dear all,\n",
    "binary": b"\xff\xfe\x00",
    "no entries": b'{"entries": null}',
    "deep": b"[" * 100_000,
    "infinite": json.dumps({"entries": [{**ENTRY, "shape": [float("inf")]}]}).encode(),
    "another version's": json.dumps({"entries": [{**ENTRY, "config": {"BLOCK": 256, "WAVES": 2}}]}).encode(),
    "of text": json.dumps({"entries": [{**ENTRY, "config": {"BLOCK": "256"}}]}).encode(),
}


@pytest.mark.parametrize("kind", list(DAMAGED))
def test_a_damaged_table_of_the_user_is_one_warning(kind: str, tables: tuple[Path, Path]) -> None:
    package, user = tables
    write(package, {**ENTRY, "config": {"BLOCK": 64}})
    user.write_bytes(DAMAGED[kind])
    with pytest.warns(UserWarning) as caught:
        assert choose("dropout", (4, 96), torch.float16, TARGETS[80], Tile()) == Tile(BLOCK=64)
        assert choose("dropout", (4, 96), torch.float16, TARGETS[80], Tile()) == Tile(BLOCK=64)
        assert choose("dropout", (4, 97), torch.float16, TARGETS[80], Tile()) == Tile()
    (message,) = (str(warning.message) for warning in caught)
    assert message.startswith(f"alexkern does without a tuned configuration: {user}: ") and "\n" not in message


def test_a_user_without_a_home_has_no_table(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("ALEXKERN_TUNED", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert config.users_tables() == tmp_path / "alexkern/tuned"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", lambda uid: {}[uid])
    forget()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert config.users_table_for("NVIDIA A100") == {}
    forget()


@pytest.mark.parametrize("text", ["{", "[]", "{}"])
def test_a_file_that_is_no_table_is_an_error_that_names_it(tmp_path: Path, text: str) -> None:
    path = tmp_path / "broken.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"broken\.json"):
        read_table(path)


@pytest.mark.parametrize("missing", ["backend", "operator", "shape", "dtype", "config"])
def test_an_incomplete_entry_is_an_error_with_its_number(tmp_path: Path, missing: str) -> None:
    incomplete = {key: value for key, value in ENTRY.items() if key != missing}
    with pytest.raises(ValueError, match=r"entry 1 .*" + missing):
        read_table(write(tmp_path / "table.json", ENTRY, incomplete))

"""Settings: how they are typed, what is refused and how it is said, how files are kept."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from pipefs.config import (
    SPECS,
    Settings,
    cache_limit_for,
    check_options,
    load_config,
    parse_assignments,
    resolve_settings,
    travelling,
)
from pipefs.errors import UsageError
from pipefs.tomlfile import read_toml, write_toml
from pipefs.units import (
    parse_duration,
    parse_size,
    show_seconds,
    show_size,
    typed_seconds,
    typed_size,
)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("200G", 200 << 30),
        ("1.5GiB", 3 << 29),
        ("500MB", 500_000_000),
        ("64k", 64 << 10),
        ("0", 0),
        ("17", 17),
        (" 2 T ", 2 << 40),
    ],
)
def test_sizes_are_read_as_people_type_them(text: str, count: int) -> None:
    assert parse_size(text) == count


@pytest.mark.parametrize("text", ["", "G", "-1", "1X", "1iB", "1 G B", "1e9", True, None, -5])
def test_what_is_no_size_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="200G"):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("500ms", 0.5), ("30s", 30), ("5m", 300), ("1h", 3600), ("2d", 172_800), ("0.5", 0.5), (3, 3)],
)
def test_durations_are_read_as_people_type_them(text: object, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "s", "-1s", "1w", "1h30m", False])
def test_what_is_no_duration_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="30s"):
        parse_duration(text)


def test_figures_are_shown_short() -> None:
    shown = [show_size(n) for n in (0, 999, 2000, 12_345_678, 4_100_000_000, 50_000_000_000)]
    assert shown == ["0 B", "999 B", "2 KB", "12 MB", "4.1 GB", "50 GB"]
    assert [show_seconds(s) for s in (0.31, 8.2, 75, 600)] == ["0.3 s", "8.2 s", "75 s", "10 min"]


def test_the_keys_of_the_command_line_contract_are_all_there() -> None:
    contract = """mountpoint automount read_only snapdir owner umask allow_other root cache_limit
        staging_limit memory_limit quiet_period min_version_interval refresh_interval local_only
        include exclude dir parent schema endpoint_url region aws_profile storage_class sse kms_key
        requester_pays addressing checksum engine"""
    more = {"passthrough", "acl", "suid", "dev", "exec"}
    assert set(contract.split()) | more == set(SPECS)
    assert {s.field for s in SPECS.values()} == set(Settings.__dataclass_fields__)


def test_each_default_is_a_value_its_key_accepts() -> None:
    for spec in SPECS.values():
        default = getattr(Settings(), spec.field)
        text = "auto" if default is None else f"{default:o}" if spec.field == "umask" else default
        if spec.field == "cache_limit_bytes":
            text = "none"
        assert spec.parse(text) == default, spec.field


@pytest.mark.parametrize("text", ["0", "999", "1K", "1025", "1536M", "50G", "2T", "5000T"])
def test_a_size_is_shown_as_it_can_be_typed(text: str) -> None:
    assert typed_size(parse_size(text)) == text


@pytest.mark.parametrize("text", ["0s", "500ms", "0.5ms", "1s", "1500ms", "30s", "5m", "120m"])
def test_a_duration_is_shown_as_it_can_be_typed(text: str) -> None:
    assert typed_seconds(parse_duration(text)) == text


def test_settings_are_typed_with_units() -> None:
    typed = parse_assignments(
        ["cache_limit=200G", "quiet_period=250ms", "automount", "umask=077", "local_only=*.tmp, a"]
    )
    settings = resolve_settings(typed)
    assert settings.cache_limit_bytes == 200 << 30
    assert settings.quiet_period_s == 0.25
    assert settings.automount is True
    assert settings.umask == 0o077
    assert settings.local_only == ("*.tmp", "a")


def test_later_layers_win() -> None:
    settings = resolve_settings({"region": "a", "engine": "boto3"}, {"region": "b"})
    assert (settings.region, settings.engine) == ("b", "boto3")


@pytest.mark.parametrize(
    ("pair", "value", "allowed"),
    [
        ("snapdir=shown", "snapdir=shown", "hidden or visible"),
        ("cache_limit=lots", "cache_limit=lots", "200G"),
        ("cache_limit=1M", "cache_limit=1M", "64M"),
        ("quiet_period=soon", "quiet_period=soon", "500ms"),
        ("automount=maybe", "automount=maybe", "yes or no"),
        ("owner=nobody", "owner=nobody", "USER:GROUP"),
        ("umask=999", "umask=999", "022"),
        ("mountpoint=here", "mountpoint=here", "absolute"),
        ("endpoint_url=example.org", "endpoint_url=example.org", "https://"),
        ("endpoint_url=https://me:pw@host", "me:pw", "without user or password"),
        ("schema=[1]", "schema=[1]", "JSON object"),
        ("checksum=md5", "checksum=md5", "crc64nvme"),
    ],
)
def test_a_bad_value_is_named_with_what_is_allowed(pair: str, value: str, allowed: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_assignments([pair])
    assert value in caught.value.message
    assert allowed in caught.value.hint


def test_an_unknown_key_gets_near_names() -> None:
    with pytest.raises(UsageError, match="cache_limt") as caught:
        parse_assignments(["cache_limt=1G"])
    assert "cache_limit" in caught.value.hint


def test_a_key_without_value_is_only_yes_where_that_makes_sense() -> None:
    assert parse_assignments(["read-only"]) == {"read_only": True}
    with pytest.raises(UsageError, match="quiet_period has no value"):
        parse_assignments(["quiet_period"])


def test_kms_key_without_kms_is_refused() -> None:
    with pytest.raises(UsageError, match="kms"):
        resolve_settings({"kms_key": "alias/x"})


def test_places_and_credentials_do_not_travel() -> None:
    options = check_options(
        {
            "schema": '{"pandas": {"sep": ";"}}',
            "include": ["*.csv"],
            "endpoint_url": "http://127.0.0.1:1",
            "aws_profile": "me",
            "mountpoint": "/mnt/x",
            "region": "x",
        }
    )
    assert travelling(options) == {"schema": {"pandas": {"sep": ";"}}, "include": ["*.csv"]}


def test_cache_limit_is_a_tenth_of_a_small_disk_at_most(tmp_path: Path) -> None:
    disk = os.statvfs(tmp_path)
    limit = cache_limit_for(Settings(), tmp_path / "not" / "made" / "yet")
    assert limit == max(64 << 20, min(20 << 30, disk.f_blocks * disk.f_frsize // 10))
    assert cache_limit_for(Settings(cache_limit_bytes=7 << 30), tmp_path) == 7 << 30


def test_files_are_private_and_replaced_whole(tmp_path: Path) -> None:
    file = tmp_path / "new" / "x.toml"
    write_toml(file, {"a": {"b": ["c"]}})
    write_toml(file, {"a": {"b": ["d"]}})
    assert read_toml(file) == {"a": {"b": ["d"]}}
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert os.listdir(file.parent) == ["x.toml"]


def test_an_exclusive_write_never_replaces(tmp_path: Path) -> None:
    write_toml(tmp_path / "x", {"a": 1}, exclusive=True)
    with pytest.raises(FileExistsError):
        write_toml(tmp_path / "x", {"a": 2}, exclusive=True)
    assert read_toml(tmp_path / "x") == {"a": 1}
    assert os.listdir(tmp_path) == ["x"]


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text("[defaults\n")
    with pytest.raises(UsageError, match=r"config\.toml is not valid TOML"):
        load_config(file)


def test_a_typo_in_the_main_file_is_refused_with_its_place(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text('[defaults]\nregoin = "x"\n')
    with pytest.raises(UsageError, match=r"config\.toml \[defaults\].*regoin") as caught:
        load_config(file)
    assert "region" in caught.value.hint


def test_a_config_file_that_was_asked_for_must_exist(tmp_path: Path) -> None:
    assert load_config(tmp_path / "none").defaults == {}
    with pytest.raises(UsageError, match="no configuration file"):
        load_config(tmp_path / "none", must_exist=True)

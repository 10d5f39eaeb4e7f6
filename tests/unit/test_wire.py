"""Record layouts and negotiation of the /dev/fuse transport, without a kernel."""

from __future__ import annotations

import math
import stat
from struct import Struct

import msgspec
import pytest

from pipefs.errors import Unsupported
from pipefsd.transports.base import Attr, DirEntry, Entry, Opened, Statfs
from pipefsd.transports.kernel import wire
from pipefsd.transports.kernel.negotiate import Negotiated, features, init_reply, negotiate

ATTR = Attr(7, stat.S_IFREG | 0o644, 1, 1000, 1001, 4097, 5_000_000_001, 6_000_000_002, -1)
ALL_FLAGS = (1 << 64) - 1


@pytest.mark.parametrize(
    ("record", "size"),
    [
        (wire.IN_HEADER, 40),
        (wire.OUT_HEADER, 16),
        (wire.INIT_IN, 64),
        (wire.INIT_OUT, 64),
        (wire.ATTR, 88),
        (wire.ENTRY_OUT, 128),
        (wire.ATTR_OUT, 104),
        (wire.OPEN_IN, 8),
        (wire.OPEN_OUT, 16),
        (wire.CREATE_IN, 16),
        (wire.WRITE_IN, 40),
        (wire.WRITE_OUT, 8),
        (wire.GETATTR_IN, 16),
        (wire.SETATTR_IN, 88),
        (wire.FSYNC_IN, 16),
        (wire.SETXATTR_IN_EXT, 16),
        (wire.SETXATTR_IN, 8),
        (wire.GETXATTR_IN, 8),
        (wire.GETXATTR_OUT, 8),
        (wire.MKNOD_IN, 16),
        (wire.MKDIR_IN, 8),
        (wire.RENAME_IN, 8),
        (wire.RENAME2_IN, 16),
        (wire.STATFS_OUT, 80),
        (wire.BATCH_FORGET_IN, 8),
        (wire.FORGET_ONE, 16),
        (wire.DIRENT, 24),
        (wire.FALLOCATE_IN, 32),
        (wire.LSEEK_IN, 24),
        (wire.COPY_FILE_RANGE_IN, 56),
        (wire.ACCESS_IN, 8),
        (wire.NOTIFY_INVAL_INODE_OUT, 24),
        (wire.NOTIFY_INVAL_ENTRY_OUT, 16),
        (wire.NOTIFY_DELETE_OUT, 24),
        (wire.BACKING_MAP, 16),
    ],
)
def test_records_have_the_sizes_of_the_kernel_header(record: Struct, size: int) -> None:
    assert record.size == size


def test_an_entry_carries_node_timeouts_and_attributes() -> None:
    packed = wire.pack_entry(Entry(99, ATTR, 1.5, 3600.0, generation=3))
    fields = wire.ENTRY_OUT.unpack(packed)
    assert fields[:6] == (99, 3, 1, 3600, 500_000_000, 0)
    assert packed[40:] == wire.pack_attr(ATTR, 0)[16:]


def test_a_negative_entry_has_node_zero_and_a_timeout() -> None:
    fields = wire.ENTRY_OUT.unpack(wire.pack_entry(Entry(0, None, 60.0, 60.0)))
    assert fields[0] == 0
    assert fields[2] == 60
    assert not any(fields[6:])


def test_times_before_1970_keep_positive_nanoseconds() -> None:
    fields = wire.ATTR.unpack(wire.pack_attr(ATTR, 0)[16:])
    assert fields[3:9] == (-1, 5, 6, 999_999_999, 1, 2)


@pytest.mark.parametrize(
    ("ttl_s", "parts"),
    [(0.0, (0, 0)), (-1.0, (0, 0)), (0.25, (0, 250_000_000)), (math.inf, (1 << 40, 0))],
)
def test_timeouts_are_split_and_bounded(ttl_s: float, parts: tuple[int, int]) -> None:
    assert wire.split_ttl(ttl_s) == parts


@pytest.mark.parametrize("length", range(1, 18))
def test_directory_records_are_padded_to_eight_bytes(length: int) -> None:
    name = b"n" * length
    item = DirEntry(name, 5, stat.S_IFDIR, 12, Entry(5, ATTR, 1, 1))
    plain, plus = wire.pack_dirent(item), wire.pack_direntplus(item)
    assert len(plain) % 8 == 0
    assert len(plain) - 24 - length < 8
    assert wire.DIRENT.unpack_from(plain) == (5, 12, length, stat.S_IFDIR >> 12)
    assert plus[128:] == plain


def test_a_name_that_was_not_looked_up_has_a_zero_entry() -> None:
    packed = wire.pack_direntplus(DirEntry(b".", 1, stat.S_IFDIR, 1))
    assert packed[:128] == bytes(128)


def test_passthrough_excludes_the_other_open_flags() -> None:
    opened = Opened(4, keep_cache=True, direct_io=True)
    assert wire.OPEN_OUT.unpack(wire.pack_open(opened)) == (4, 3, 0)
    assert wire.OPEN_OUT.unpack(wire.pack_open(opened, 9)) == (4, wire.FOPEN_PASSTHROUGH, 9)


def test_statfs_is_packed_in_the_kernels_order() -> None:
    packed = wire.pack_statfs(Statfs(10, 9, 8, 7, 6, 5, 4, 3))
    assert wire.STATFS_OUT.unpack(packed) == (10, 9, 8, 7, 6, 5, 4, 3)


def test_names_are_cut_out_without_their_nul() -> None:
    assert wire.name(memoryview(b"headname\0"), 4) == b"name"
    assert wire.two_names(memoryview(b"headone\0two\0"), 4) == (b"one", b"two")


def test_a_name_has_at_most_255_bytes() -> None:
    longest, longer = b"x" * 255, b"x" * 256
    assert wire.name(memoryview(longest + b"\0"), 0) == longest
    assert wire.two_names(memoryview(longest + b"\0" + longest + b"\0"), 0)[1] == longest
    with pytest.raises(OSError, match="too long"):
        wire.name(memoryview(longer + b"\0"), 0)
    with pytest.raises(OSError, match="too long"):
        wire.two_names(memoryview(b"short\0" + longer + b"\0"), 0)


def _init(minor: int, flags: int, *, major: int = 7) -> memoryview:
    header = wire.IN_HEADER.pack(104, wire.INIT, 2, 0, 0, 0, 0, 0, 0)
    body = wire.INIT_IN.pack(major, minor, 131072, flags & 0xFFFFFFFF, flags >> 32)
    return memoryview(header + body)


def test_all_that_a_new_kernel_offers_and_we_want_is_taken() -> None:
    agreed = negotiate(_init(45, ALL_FLAGS), passthrough=True)
    assert agreed.minor == 45
    assert agreed.max_write == 1 << 20
    assert agreed.passthrough
    assert agreed.resend
    assert not agreed.flags & (wire.WRITEBACK_CACHE | wire.AUTO_INVAL_DATA)
    assert not agreed.flags & wire.POSIX_ACL, "access lists are asked for by a setting"
    listed = negotiate(_init(45, ALL_FLAGS), passthrough=True, acls=True)
    assert listed.flags == agreed.flags | wire.POSIX_ACL
    assert agreed.flags & wire.DONT_MASK, "the umask is ours to apply"
    assert not agreed.flags & (1 << 1 | 1 << 10), "locks stay in the kernel"


def test_nothing_that_was_not_offered_is_taken() -> None:
    agreed = negotiate(_init(36, wire.INIT_EXT | wire.MAX_PAGES), passthrough=True)
    assert agreed.flags == wire.INIT_EXT | wire.MAX_PAGES
    assert not agreed.passthrough
    assert not agreed.resend
    assert not agreed.epochs


def test_a_future_minor_is_answered_with_ours() -> None:
    assert negotiate(_init(99, ALL_FLAGS), passthrough=False).minor == 45


def test_without_max_pages_writes_are_bounded_by_what_the_kernel_sends() -> None:
    assert negotiate(_init(31, 0), passthrough=False).max_write == 128 << 10


@pytest.mark.parametrize(("major", "minor"), [(7, 30), (6, 45), (8, 0)])
def test_other_protocols_are_refused_with_a_way_out(major: int, minor: int) -> None:
    with pytest.raises(Unsupported) as caught:
        negotiate(_init(minor, 0, major=major), passthrough=False)
    assert "fusepy" in caught.value.hint


def test_a_short_init_of_an_old_kernel_is_understood() -> None:
    header = wire.IN_HEADER.pack(56, wire.INIT, 2, 0, 0, 0, 0, 0, 0)
    request = memoryview(header + wire.INIT_IN_SHORT.pack(7, 31, 131072, wire.ASYNC_READ))
    assert negotiate(request, passthrough=True).flags == wire.ASYNC_READ


def test_the_reply_repeats_what_was_agreed() -> None:
    agreed = negotiate(_init(45, ALL_FLAGS), passthrough=True)
    fields = wire.INIT_OUT.unpack(init_reply(agreed))
    assert fields[:2] == (7, 45)
    assert fields[3] | fields[10] << 32 == agreed.flags
    assert fields[6:9] == (1 << 20, 1, 256)
    assert fields[11] == 1, "stack depth goes with passthrough"


def test_the_agreement_survives_json() -> None:
    agreed = negotiate(_init(45, ALL_FLAGS), passthrough=True)
    assert msgspec.json.decode(msgspec.json.encode(agreed), type=Negotiated) == agreed


def test_features_are_words_for_status() -> None:
    found = features(negotiate(_init(45, ALL_FLAGS), passthrough=True)).names
    assert {"1 MiB reads", "readdirplus", "passthrough", "resend", "epochs"} <= set(found)
    old = features(negotiate(_init(31, 0), passthrough=True)).names
    assert old == ["FUSE 7.31", "128 KiB reads", "128 KiB writes"]

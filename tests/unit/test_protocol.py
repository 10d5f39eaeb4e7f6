"""The control protocol: what is encoded comes back equal, and errors keep their class."""

from __future__ import annotations

import json

import pytest

from pipefs import errors, protocol
from pipefs.errors import Conflict, Corrupt, NewerFormat, NotFound, PipefsError, UsageError


def test_request_is_one_line_with_version_and_op() -> None:
    line = protocol.encode_request(protocol.Mount("sales", "/mnt/a\nb", options={"umask": "077"}))
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    wire = json.loads(line)
    assert (wire["v"], wire["op"], wire["name"]) == (1, "mount", "sales")
    back = protocol.decode_supervisor_request(line)
    assert back == protocol.Mount("sales", "/mnt/a\nb", options={"umask": "077"})


def test_request_with_defaults_left_out_is_understood() -> None:
    assert protocol.decode_worker_request(b'{"v":1,"op":"flush"}') == protocol.Flush()
    assert protocol.decode_supervisor_request(b'{"op":"umount","name":"x","new_key":1}') == (
        protocol.Umount(name="x")
    )


@pytest.mark.parametrize("line", [b"", b"nonsense", b"[]", b'{"v":1,"op":"explode"}', b'{"v":1}'])
def test_line_that_is_no_request_is_a_usage_error(line: bytes) -> None:
    with pytest.raises(UsageError):
        protocol.decode_worker_request(line)


def test_newer_protocol_is_refused_before_its_fields_are_read() -> None:
    with pytest.raises(NewerFormat, match="protocol 2"):
        protocol.decode_supervisor_request(b'{"v":2,"op":"something-new"}')


def test_result_comes_back_equal() -> None:
    status = protocol.MountStatus("a", "/m/a", 7, "kernel", ["passthrough"], dirty_files=3)
    reply = protocol.decode_reply(protocol.encode_result(status))
    assert reply.ok is True
    assert protocol.decode_body(reply.result, protocol.MountStatus) == status


def test_progress_is_neither_success_nor_failure() -> None:
    reply = protocol.decode_reply(protocol.encode_progress(protocol.FlushProgress(2, 10)))
    assert reply.ok is None
    assert protocol.decode_body(reply.progress, protocol.FlushProgress) == (
        protocol.FlushProgress(2, 10)
    )


@pytest.mark.parametrize("line", [b"{}", b'{"ok":false}', b"x", b'{"ok":"yes"}'])
def test_line_that_is_no_reply_is_corrupt(line: bytes) -> None:
    with pytest.raises(Corrupt):
        protocol.decode_reply(line)


def _all_errors() -> list[type[PipefsError]]:
    return [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, PipefsError)]


@pytest.mark.parametrize("kind", _all_errors())
def test_every_error_class_survives_the_wire(kind: type[PipefsError]) -> None:
    reply = protocol.decode_reply(protocol.encode_error(kind("what", hint="next")))
    assert reply.error is not None
    assert (reply.error.errno, reply.error.exit_code) == (kind.errno, kind.exit_code)
    back = protocol.error_from_wire(reply.error)
    assert type(back) is kind
    assert (back.message, back.hint) == ("what", "next")


def test_private_subclass_arrives_as_its_public_parent() -> None:
    class RoomsOwn(Conflict):
        pass

    assert protocol.error_to_wire(RoomsOwn("x")).kind == "Conflict"


def test_unknown_kind_keeps_its_exit_code() -> None:
    back = protocol.error_from_wire(protocol.WireError("FromTheFuture", "m", exit_code=3))
    assert isinstance(back, NotFound)


def test_a_bug_in_the_daemon_arrives_as_an_internal_error() -> None:
    wire = protocol.error_to_wire(ZeroDivisionError("division by zero"))
    assert wire.kind == "PipefsError"
    assert "ZeroDivisionError" in wire.message
    assert protocol.error_to_wire(OSError(28, "No space left")).errno == 28

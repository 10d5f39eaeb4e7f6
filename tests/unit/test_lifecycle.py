"""Which lifecycle rules destroy snapshots: rules as S3 has them, for a pipe in `team/sales/`."""

from __future__ import annotations

from typing import Any

import pytest

from pipefs.past.lifecycle import DESTROYS, LOSES, NOTE, Judgement, judge

PREFIX = "team/sales/"
OLD = {"NoncurrentVersionExpiration": {"NoncurrentDays": 30}}
EXPIRES = {"Expiration": {"Days": 90}}


def rule(**parts: Any) -> dict[str, Any]:
    return {"ID": "cleanup", "Status": "Enabled", "Filter": {}, **parts}


def only(found: list[Judgement]) -> Judgement:
    (one,) = found
    return one


def levels(*rules: dict[str, Any], prefix: str = PREFIX) -> list[str]:
    return [j.level for j in judge(rules, prefix)]


def test_a_rule_for_old_versions_destroys_snapshots() -> None:
    assert only(judge([rule(**OLD)], PREFIX)) == Judgement(
        DESTROYS,
        'lifecycle rule "cleanup" deletes old versions for good after 30 days: snapshots lose '
        "files",
    )


def test_keeping_some_newer_versions_destroys_all_the_same() -> None:
    expiry = {"NoncurrentDays": 1, "NewerNoncurrentVersions": 5}
    text = only(judge([rule(NoncurrentVersionExpiration=expiry)], PREFIX)).text
    assert "for good after 1 day except the newest 5 of each file: snapshots lose files" in text


@pytest.mark.parametrize(
    ("where", "reached"),
    [
        ("", True),
        ("team/", True),
        ("team/sales/", True),
        ("team/sales/raw/", True),
        ("team/sal", True),
        ("team/sales", True),
        ("team/salesmen/", False),
        ("other/", False),
        ("team/sales/.pipefs/", False),  # old versions of our own objects are of no use
    ],
)
def test_a_rule_counts_where_its_prefix_and_ours_overlap(where: str, reached: bool) -> None:
    for filtered in (
        {"Filter": {"Prefix": where}},
        {"Filter": {"And": {"Prefix": where, "ObjectSizeGreaterThan": 10}}},
        {"Filter": None, "Prefix": where},  # as rules were written until 2018
    ):
        assert levels(rule(**OLD, **filtered)) == ([DESTROYS] if reached else [])


def test_a_rule_for_part_of_the_pipe_says_for_which() -> None:
    parts = {"Prefix": "team/sales/raw/", "ObjectSizeGreaterThan": 1_000_000,
             "ObjectSizeLessThan": 5_000_000_000}  # fmt: skip
    text = only(judge([rule(**OLD, Filter={"And": parts})], PREFIX)).text
    assert "old versions larger than 1 MB, smaller than 5.0 GB, whose keys begin with raw/" in text


def test_a_rule_for_objects_of_no_size_reaches_nothing() -> None:
    assert levels(rule(**OLD, Filter={"ObjectSizeLessThan": 0})) == []
    assert levels(rule(**OLD, Filter={"ObjectSizeLessThan": 1})) == [DESTROYS]
    assert levels(rule(**OLD, Filter={"ObjectSizeGreaterThan": 0})) == [DESTROYS]


@pytest.mark.parametrize(
    "tagged",
    [
        {"Tag": {"Key": "pipefs-expire", "Value": "yes"}},
        {"And": {"Prefix": "team/", "Tags": [{"Key": "pipefs-expire", "Value": "yes"}]}},
    ],
)
def test_a_rule_for_tagged_objects_is_only_noted(tagged: dict[str, Any]) -> None:
    found = only(judge([rule(**OLD, Filter=tagged)], PREFIX))
    assert found.level == NOTE
    assert "tagged pipefs-expire=yes" in found.text
    assert levels(rule(**EXPIRES, Filter=tagged)) == [NOTE]


def test_rules_that_are_off_do_nothing() -> None:
    assert levels({**rule(**OLD, **EXPIRES), "Status": "Disabled"}) == []


@pytest.mark.parametrize(
    "harmless",
    [
        {"Expiration": {"ExpiredObjectDeleteMarker": True}},
        {"AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 7}},
        {"NoncurrentVersionTransitions": [{"NoncurrentDays": 30, "StorageClass": "GLACIER_IR"}]},
        {"Transitions": [{"Days": 30, "StorageClass": "STANDARD_IA"}]},
    ],
)
def test_rules_that_delete_nothing_are_harmless(harmless: dict[str, Any]) -> None:
    assert levels(rule(**harmless)) == []


def test_expiring_everything_takes_the_log_and_the_snapshots_along() -> None:
    found = only(judge([rule(**EXPIRES)], PREFIX))
    assert found.level == DESTROYS
    assert "deletes objects after 90 days, those below .pipefs/ too" in found.text
    assert levels(rule(**EXPIRES, Filter={"Prefix": "team/sales/.pipefs/snapshots/"})) == [DESTROYS]
    assert levels(rule(**EXPIRES, Filter={"Prefix": "team/sales/.pipefs/probe/"})) == []


def test_expiring_some_files_loses_files_and_no_snapshot() -> None:
    found = only(judge([rule(**EXPIRES, Filter={"Prefix": "team/sales/tmp/"})], PREFIX))
    assert found == Judgement(
        LOSES,
        'lifecycle rule "cleanup" deletes files whose keys begin with tmp/ after 90 days: they '
        "disappear",
    )


def test_old_versions_in_an_archive_cannot_be_read() -> None:
    moves = [{"NoncurrentDays": 30, "StorageClass": "DEEP_ARCHIVE"}]
    assert levels(rule(NoncurrentVersionTransitions=moves)) == [NOTE]


def test_each_rule_and_each_part_of_it_is_judged() -> None:
    rules = [rule(**OLD, **EXPIRES), rule(ID="other", **OLD), rule(Filter={"Prefix": "x"}, **OLD)]
    assert levels(*rules) == [DESTROYS, DESTROYS, DESTROYS]
    assert levels(*rules, prefix="") == [DESTROYS, DESTROYS, DESTROYS, DESTROYS]

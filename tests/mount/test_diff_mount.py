"""`pipefs diff` on a mount: the present, with what is not in the store yet."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from tests.mounted import Home
from tests.promises.promised import promise


@pytest.fixture
def storms() -> pd.DataFrame:
    status = ["UNKNOWN"] * 7 + ["HURRICANE", "STORM"] * 40
    return pd.DataFrame({"status": status, "wind": range(len(status))})


@promise(
    "diff-present",
    "The present in `diff` has what is on this machine and not in the store yet.",
)
def test_what_was_changed_since_a_snapshot_saved_or_not(home: Home, storms: pd.DataFrame) -> None:
    home.create("hurdat")
    root = home.mount("hurdat")
    storms.to_parquet(root / "storms.parquet")
    storms.to_csv(root / "storms.csv", index=False)
    (root / "old").mkdir()
    (root / "old" / "a.txt").write_text("a")
    (root / "old" / "b.txt").write_text("b")
    home.run("snapshot", "hurdat", "raw")
    assert home.run("diff", "hurdat", "raw").stdout == "hurdat  raw and live are the same\n"
    storms[7:].to_parquet(root / "storms.parquet")
    storms[7:].to_csv(root / "storms.csv", index=False)
    (root / "notes.md").write_bytes(b"x" * 2000)
    (root / "old").rename(root / "new")

    def lines() -> list[list[str]]:
        out = home.run("diff", "hurdat", "raw", "--stat").stdout
        return [line.split() for line in out.splitlines()]

    for saved in (False, True):
        if saved:
            home.flush("hurdat")
        found = lines()
        assert [line[:2] for line in found[:-1]] == [
            ["R", "old/"],
            ["A", "notes.md"],
            ["M", "storms.csv"],
            ["M", "storms.parquet"],
        ]
        assert [line[-4:] for line in found if line[0] == "M"] == 2 * [["rows", "87", "→", "80"]]
        out = home.run("diff", "hurdat", "raw", "--rows", "storms.parquet").stdout
        assert out == "- 7 rows removed (status = 'UNKNOWN')   ~ 0 changed   + 0 added\n"
    home.run("snapshot", "hurdat", "clean")
    words = ("--json", "diff", str(root / ".snapshots" / "raw"), "clean")
    summary = json.loads(home.run(*words).stdout)["summary"]
    assert (summary["added"], summary["modified"], summary["renamed"]) == (1, 2, 2)
    home.umount("hurdat")
    assert home.run("diff", "hurdat", "clean").stdout == "hurdat  clean and live are the same\n"

"""The notebooks of the documentation, run as a user would run them, cell by cell."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[2] / "docs" / "notebooks"
MAX_CODE_CELLS = 12

# Also where the source is used without being installed.
SETUP = (
    "import fsspec\n"
    "fsspec.register_implementation('pipefs', 'pipefs.fsspec_driver.PipeFileSystem', clobber=True)"
)


def printed(cell: nbformat.NotebookNode) -> str:
    """All that a cell shows, as text."""
    told = (o.get("text", "") or o.get("data", {}).get("text/plain", "") for o in cell.outputs)
    return "".join(told)


@pytest.mark.slow
def test_first_steps_from_nothing_to_the_past(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notebook = nbformat.read(FOLDER / "first-steps.ipynb", as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len(cells) <= MAX_CODE_CELLS
    assert not any(cell.outputs for cell in cells), "kept without outputs: they name times and ids"
    monkeypatch.setenv("PIPEFS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook.cells.insert(0, nbformat.v4.new_code_cell(SETUP))
    NotebookClient(
        notebook,
        timeout=120,
        kernel_name="python3",
        resources={"metadata": {"path": str(tmp_path)}},
    ).execute()
    shown = {cell.source: printed(cell) for cell in cells}
    for source, text in shown.items():
        assert "pipefs: " not in text and "Traceback" not in text, (source, text)

    def after(word: str) -> str:
        return next(text for source, text in shown.items() if word in source)

    assert "embedded store" in after("create storms")
    assert "raw/storms.csv" in after("ls -lR")
    assert "season" in after("pipefs meta")
    assert "raw " in after("snapshot storms raw") and "2 files" in after("snapshot storms raw")
    assert "M storms.parquet" in after("diff storms raw")
    assert "1 row removed" in after("--rows")
    assert after("then.equals") == "(4, 3)"
    assert "storms.parquet" in after("column:wind_kmh") and "@raw" in after("column:wind_kmh")
    assert after("restore storms").rstrip().endswith("True")

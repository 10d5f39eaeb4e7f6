"""Files in which people keep settings and keys: JSON, YAML or TOML, by their suffix."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from pipefs.errors import UsageError


def read_structured(path: Path) -> dict[str, Any]:
    """A table of names and values.

    Raises:
        UsageError: the file cannot be read, or holds something else.
    """
    import yaml  # takes its time, and few commands read such a file

    try:
        text = path.expanduser().read_text(encoding="utf-8")
        # JSON is YAML, but with tabs between.
        found = tomllib.loads(text) if path.suffix == ".toml" else yaml.safe_load(text)
    except FileNotFoundError:
        raise UsageError(f"there is no file {path}") from None
    except OSError as e:
        raise UsageError(f"{path} cannot be read: {e.strerror}") from e
    except (yaml.YAMLError, tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
        raise UsageError(f"{path} is neither JSON, YAML nor TOML: {e}") from e
    except RecursionError as e:
        raise UsageError(f"{path} is nested too deeply") from e
    if not isinstance(found, dict):
        raise UsageError(f"{path} holds no table of names and values")
    return found

"""One registered pipe, and the store of a URL with a pipe's settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pipefs.config import Settings
from pipefs.types import Credentials

if TYPE_CHECKING:
    from pipefs.stores.base import Store

PATIENCE_S = 10.0
"""For a command somebody waits for: longer than a hiccup, shorter than a coffee."""


def open_store_for(
    url: str,
    settings: Settings,
    credentials: Credentials | None = None,
    *,
    patience_s: float | None = None,
    make: bool = True,
) -> Store:
    """The store of a URL; see `Pipe.open_store` and `stores.opening.open_store`."""
    # Here: boto3 takes 0.4 s to import, and `pipefs list` needs no store.
    from pipefs.stores.opening import open_store
    from pipefs.stores.retrying import RetryPolicy

    return open_store(
        url,
        endpoint_url=settings.endpoint_url,
        region=settings.region,
        profile=settings.aws_profile,
        addressing=settings.addressing,
        engine=settings.engine,
        checksum=settings.checksum,
        storage_class=settings.storage_class,
        sse=settings.sse,
        kms_key=settings.kms_key,
        requester_pays=settings.requester_pays,
        credentials=credentials,
        policy=None if patience_s is None else RetryPolicy(deadline_s=patience_s),
        make=make,
    )


@dataclass(frozen=True, slots=True)
class Pipe:
    """One registered pipe."""

    name: str
    url: str
    pipe_id: str
    created: str = ""
    """UTC with Z: when it was registered here."""
    options: Mapping[str, object] = field(default_factory=dict)
    """What was set for this pipe, as TOML keeps it."""
    settings: Settings = field(default_factory=Settings)
    """All layers resolved."""
    kept: Callable[[], Credentials | None] | None = field(default=None, repr=False, compare=False)
    """Looks up the stored credentials: the pipe's own, or its parents'."""

    def credentials(self) -> Credentials | None:
        """Stored for this pipe; None: boto3 finds them, as for everything on AWS.

        Raises:
            AccessDenied: they are encrypted, and the key is gone.
        """
        return self.kept() if self.kept is not None else None

    def open_store(
        self, *, patience_s: float | None = None, credentials: Credentials | None = None
    ) -> Store:
        """The pipe's store, with its settings. The caller closes it.

        Args:
            patience_s: how long an operation is tried while the store does not answer; None is
                the store's own bound, right for a daemon.
            credentials: instead of those stored for the pipe.

        An embedded store whose folder is not there is never made anew here.
        """
        found = credentials or self.credentials()
        return open_store_for(self.url, self.settings, found, patience_s=patience_s, make=False)

"""`src/bin/enforce-quota.rs` in Python: keeps each owner's files within `QUOTA_BYTES` (default 100 MiB)."""

import os

from oncue import function, row
from oncue.events import FileAccepted, FileInspected, FileRejected

QUOTA = int(os.environ.get("QUOTA_BYTES", 100 << 20))


@row("owners")
class Owner:
    files: int = 0
    bytes: int = 0


@function("enforce-quota", key="owner")
def enforce_quota(file: FileInspected, owner: Owner) -> FileAccepted | FileRejected:
    free = max(0, QUOTA - owner.bytes)
    if file.size > free:
        reason = f"{file.size} bytes, and {free} of the owner's {QUOTA} are free"
        return FileRejected(file=file.file, owner=file.owner, reason=reason)
    owner.files += 1
    owner.bytes += file.size
    return FileAccepted(file=file.file, owner=file.owner, size=file.size, media_type=file.media_type)

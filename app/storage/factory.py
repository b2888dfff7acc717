"""Which storage the settings name."""

from pathlib import Path
from urllib.parse import unquote, urlsplit

from app.settings import Settings
from app.storage.local import LocalStorage
from app.storage.protocol import LocalFiles, ObjectStore


def open_storage(settings: Settings) -> ObjectStore:
    """Return the object store of STORAGE_URL; nothing is connected or created yet."""
    parts = urlsplit(settings.resolved_storage_url)
    if parts.scheme == "file":
        return LocalStorage(Path(unquote(parts.path)))
    from app.storage.s3 import S3Storage  # Loaded by those alone who use it.

    return S3Storage.from_settings(settings)


def open_scratch(settings: Settings, storage: ObjectStore) -> LocalFiles:
    """Return where downloads and media tools work: the local storage itself, so that a finished
    file needs only a rename, or a folder of DATA_DIR where objects go elsewhere.
    """
    if isinstance(storage, LocalStorage):
        return storage
    return LocalStorage(settings.data_path / "scratch")

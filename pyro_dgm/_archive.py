"""Files that are whole or not there: written beside their place and moved into it, read without executing anything."""

import io
import os
import shutil
import zipfile
from pathlib import Path
from typing import Any

import torch


def write(content: dict[str, Any], path: Path) -> None:
    """Writes a dictionary of tensors and plain values; a file that is there is replaced when the new one is whole.

    Raises:
        OSError: If it cannot be written (a full disk, say); the file that was there is untouched.
    """
    buffer = io.BytesIO()
    torch.save(content, buffer)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(buffer.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        free = shutil.disk_usage(path.parent).free if path.parent.is_dir() else 0
        kept = "; the previous file is whole" if path.exists() else ""
        raise OSError(
            error.errno,
            f"{path}: could not be written ({error.strerror}), {buffer.tell()} bytes, {free} bytes free{kept}",
        ) from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _sync_folder(folder: Path) -> None:
    """Makes the new name last through a power failure, where the system can."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read(path: Path, device: torch.device | str, writer: str) -> dict[str, Any]:
    """Reads what :func:`write` wrote, by torch's restricted unpickler.

    Args:
        path: The file.
        device: Where its tensors go.
        writer: What writes such files, for the error.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged or of another kind.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()  # torch does not verify the checksums of an archive
            # nor does it read what is marked as a folder, whose tensors would hold whatever memory held
            marked = [i.filename for i in archive.infolist() if i.external_attr or i.compress_size != i.file_size]
        if broken is not None or marked:
            raise ValueError(f"wrong checksum or attributes of {broken or marked[0]}")
        content = torch.load(path, map_location=device, weights_only=True)
    except PermissionError:
        raise
    except Exception as error:  # a damaged archive can fail anywhere in the reader
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"{path}: expected a file written by {writer}, got a damaged or foreign one ({first}); "
            "nothing in it was executed"
        ) from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a file written by {writer}, got a {type(content).__name__}")
    return content

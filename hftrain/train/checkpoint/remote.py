"""A second place for checkpoints: a folder of a file system that fsspec knows (s3://, gs://, hf://, file://, ...)."""

from __future__ import annotations

import re
import threading
import warnings
from pathlib import Path
from typing import Any

from hftrain import disk
from hftrain.distributed import moved
from hftrain.train.checkpoint.locking import lock
from hftrain.train.checkpoint.reading import checkpoints, step_of
from hftrain.train.checkpoint.runs import SAVING, clear_unfinished, on_main

NAP = 0.05  # seconds between two looks at the thread


class Remote:
    """The checkpoints below a URL. One is complete if it has a manifest, which is uploaded last and deleted first."""

    def __init__(self, url: str):
        """Raises ValueError: no such file system, or its package is missing."""
        from fsspec.core import url_to_fs

        self.url = url
        self.files: Any
        with self._naming_errors("cannot be used"):
            self.files, self.path = url_to_fs(url)

    def steps(self) -> list[int]:
        """The steps of the complete checkpoints, in order."""
        self.files.invalidate_cache()
        try:
            paths = self.files.ls(self.path, detail=False)
        except FileNotFoundError:
            return []
        names = [re.fullmatch(r"checkpoint-(\d+)", path.rstrip("/").rpartition("/")[2]) for path in paths]
        steps = sorted(int(name[1]) for name in names if name)
        return [step for step in steps if self.files.exists(f"{self.path}/checkpoint-{step}/manifest.json")]

    def upload(self, folder: Path) -> None:
        """Uploads a checkpoint, then deletes those that are no longer beside it."""
        target = f"{self.path}/{folder.name}"
        self._delete(target)
        names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        for name in sorted(names, key="manifest.json".__eq__):
            place = f"{target}/{name}"
            self.files.makedirs(place.rpartition("/")[0], exist_ok=True)
            self.files.put_file(str(folder / name), place)
        kept = {path.name for path in checkpoints(folder.parent)}
        for step in self.steps():
            if f"checkpoint-{step}" not in kept | {folder.name}:
                self._delete(f"{self.path}/checkpoint-{step}")

    def fetch_newest(self, output_dir: str | Path) -> list[str]:
        """Downloads the newest checkpoint if `output_dir` has none that is as new; returns lines to print. Only for the
        run with the lock."""
        with self._naming_errors("cannot be read"):
            newest = max(self.steps(), default=-1)
            if newest <= max(map(step_of, checkpoints(output_dir)), default=-1):
                return []
            name = f"checkpoint-{newest}"
            clear_unfinished(output_dir)
            staging = Path(output_dir) / f"{SAVING}{name}"
            staging.mkdir(parents=True)
            self.files.get(f"{self.path}/{name}/", f"{staging}/", recursive=True)
            disk.sync_folder(staging)
            disk.move(staging, Path(output_dir) / name)
        return [f"downloaded {name} from {self.url}"]

    def _delete(self, target: str) -> None:
        if self.files.exists(target):
            if self.files.exists(f"{target}/manifest.json"):
                self.files.rm_file(f"{target}/manifest.json")
            self.files.rm(target, recursive=True)

    def _naming_errors(self, what: str) -> _Naming:
        return _Naming(f"remote_dir {self.url} {what}")


def fetch(url: str, output_dir: str | Path) -> list[str]:
    """Downloads the newest checkpoint below `url` if it is newer than those of `output_dir`. Every process must call.
    Raises ValueError: it cannot be read."""

    def newest() -> list[str]:
        with lock(output_dir):
            return Remote(url).fetch_newest(output_dir)

    return on_main(newest)


class _Naming:
    """Turns every error of a file system, which are of many packages, into a ValueError that names the place."""

    def __init__(self, what: str):
        self.what = what

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Exception):
            raise ValueError(f"{self.what}: {without_secrets(error)}") from error


class Uploads:
    """Uploads checkpoints in another thread, one at a time; of those that wait, only the newest."""

    def __init__(self, remote: Remote):
        self.remote = remote
        self.current: Path | None = None  # must not be deleted meanwhile
        self._next: Path | None = None
        self._failures: list[str] = []
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def add(self, folder: Path) -> None:
        with self._lock:
            self._next = folder
            if self.current is None:
                self.current, self._next = folder, None
                self._thread = threading.Thread(target=self._work, daemon=True, name="hftrain upload")
                self._thread.start()

    def in_use(self) -> set[str]:
        """Names of the checkpoints that are, or will be, uploaded."""
        with self._lock:
            return {folder.name for folder in (self.current, self._next) if folder}

    def look(self) -> None:
        """Warns of uploads that failed; does not wait."""
        while self._failures:
            warnings.warn(self._failures.pop(0), stacklevel=2)

    def finish(self) -> None:
        """Waits for the last upload."""
        while self.current is not None and self._thread is not None:
            self._thread.join(NAP)
            moved()
        self.look()

    def _work(self) -> None:
        while self.current is not None:
            folder = self.current
            try:
                self.remote.upload(folder)
            except Exception as error:  # of many packages; the run needs no upload
                self._failures.append(
                    f"{folder.name} was not uploaded to {self.remote.url}: {without_secrets(error)}. It is in "
                    f"{folder.parent}; the next one is uploaded again"
                )
            with self._lock:
                self.current, self._next = self._next, None


def without_secrets(error: BaseException) -> str:
    """Kind and text of an error without the signatures and passwords of addresses in it."""
    text = re.sub(r"://[^/\s@]*@", "://", str(error))
    return f"{type(error).__name__}: " + re.sub(r"\?\S+", "?...", text)

"""The tests' surroundings: one thread, offline, nothing read from or written to the user's caches."""

import atexit
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from importlib import import_module
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from hftrain.signals import STOPPING
from tests import ROOT

# A shell starts background jobs with SIGINT ignored, and `hftrain run` respects that: but the tests press Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)


# Before anything imports torch or a Hugging Face library: they read these once. Child processes inherit them.
_cache = Path(tempfile.mkdtemp(prefix="hftrain-tests-"))
atexit.register(shutil.rmtree, _cache, ignore_errors=True)
os.environ.update(
    OMP_NUM_THREADS="1",  # torch heeds it; tests start several processes on few cores
    OMP_WAIT_POLICY="PASSIVE",
    TOKENIZERS_PARALLELISM="false",
    HF_HOME=str(_cache / "huggingface"),
    HF_HUB_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    MPLCONFIGDIR=str(_cache / "matplotlib"),
    TORCHINDUCTOR_CACHE_DIR=str(_cache / "inductor"),
    TORCH_EXTENSIONS_DIR=str(ROOT / ".cache" / "torch_extensions"),  # kept: DeepSpeed's op takes a minute to compile
    PYTHONPATH=os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
)
for name in ("HF_DATASETS_CACHE", "HF_HUB_CACHE", "HF_MODULES_CACHE", "HF_METRICS_CACHE", "HF_EVALUATE_CACHE"):
    os.environ.pop(name, None)
for lock in (ROOT / ".cache" / "torch_extensions").glob("**/lock"):
    lock.unlink()  # left by a killed compilation, it would hang the next


STARTS = {"os.fork", "os.forkpty", "os.posix_spawn", "os.system", "subprocess.Popen"}  # audit events
forbidden = False  # to start a process: while a test of the unit tier runs


def refuse(start: object, *_: object) -> None:
    if forbidden:
        raise RuntimeError(f"{start}: a test of the unit tier starts no process. Remove its mark `unit`")


sys.addaudithook(lambda event, _: refuse(event) if event in STARTS else None)


def all_of_them(config: pytest.Config) -> bool:
    """Whether the slow tests run too."""
    return bool(config.getoption("--slow") or os.environ.get("CI"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the slow tests too (with CI set, they always run)")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "unit: starts no process; `-m unit` runs these alone, in less than a minute")
    import_module("numpy.testing")  # NumPy 1.26 starts a process while it is imported
    config.addinivalue_line("markers", "slow: takes long; skipped unless --slow is given or CI is set")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With `-m unit`, a file without such a test is not even imported."""
    if config.getoption("markexpr") == "unit" and collection_path.match("test_*.py"):
        return "pytest.mark.unit" not in collection_path.read_text(encoding="utf-8") or None
    return None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not all_of_them(config):
        for item in items:
            if "slow" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="slow: run with --slow"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    global forbidden
    with pytest.MonkeyPatch.context() as patch:
        if forbidden := "unit" in item.keywords:
            patch.setattr(BaseProcess, "start", refuse)  # spawned and served processes raise no event
        try:
            return (yield)
        finally:
            forbidden = False


@pytest.fixture(autouse=True)
def own_signals() -> Iterator[None]:
    """A recipe that runs inside pytest takes the signals that stop a program: pytest gets them back after the test."""
    before = {number: signal.getsignal(number) for number in STOPPING}
    yield
    signal.set_wakeup_fd(-1)
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real data sets, too large to keep here: a folder `shared/data` beside the checkout, or HFTRAIN_TEST_DATA."""
    folder = Path(os.environ.get("HFTRAIN_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data: {folder} is not there (HFTRAIN_TEST_DATA names another folder)")
    return folder

"""The tests' surroundings: one thread, offline, nothing read from or written to the user's caches."""

import atexit
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
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


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the slow tests too (with CI set, they always run)")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: takes long; skipped unless --slow is given or CI is set")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--slow") and not os.environ.get("CI"):
        for item in items:
            if "slow" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="slow: run with --slow"))


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

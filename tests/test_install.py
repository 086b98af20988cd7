"""What an install brings: with a compiler the native library, without one the reference."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

from unrolled.recurrence import library

ROOT = Path(__file__).parent.parent
NO_COMPILER = {"CXX": "no-such-compiler", "UNROLLED_REQUIRE_NATIVE": "0"}


def run(command: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True)


def pip_wheel(source: Path, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    alone = ["--no-build-isolation", "--no-deps", "--no-index", "--no-cache-dir", "--disable-pip-version-check"]
    places = ["-C", f"build-dir={folder / 'build'}", "-w", str(folder)]
    return run([sys.executable, "-m", "pip", "wheel", "-v", *alone, *places, str(source)], **environment)


def only(folder: Path, pattern: str) -> Path:
    (path,) = folder.glob(pattern)
    return path


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the source distribution unpacks to."""
    pytest.importorskip("scikit_build_core")
    folder = tmp_path_factory.mktemp("sources")
    code = f"from scikit_build_core import build; build.build_sdist({str(folder)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
    with tarfile.open(only(folder, "*.tar.gz")) as archive:
        archive.extractall(folder, filter="data")
    return only(folder, "unrolled-*/")


@pytest.fixture(scope="module")
def plain(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A wheel built where there is no compiler, and what was said meanwhile."""
    folder = tmp_path_factory.mktemp("plain")
    built = pip_wheel(sources, folder, **NO_COMPILER)
    assert built.returncode == 0, built.stdout + built.stderr
    return only(folder, "*.whl"), built.stdout + built.stderr


def files_of_the_package() -> set[str]:
    package = ROOT / "src" / "unrolled"
    files = (path for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {f"unrolled/{path.relative_to(package).as_posix()}" for path in files}


def files_of_the_wheel(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


@pytest.mark.skipif(os.environ.get("UNROLLED_REQUIRE_NATIVE") == "0", reason="the install was allowed to go without")
def test_library_of_this_install_is_found_and_loads_without_torch() -> None:
    found = library.find()
    assert found is not None
    assert found.name == library.NAME
    code = f"import ctypes, sys; ctypes.CDLL({str(found)!r}); assert 'torch' not in sys.modules"
    loaded = run([sys.executable, "-S", "-c", code])
    assert loaded.returncode == 0, loaded.stderr


def test_looking_for_the_library_does_not_wait_for_torch() -> None:
    code = "import sys; from unrolled.recurrence.library import find; find(); assert 'torch' not in sys.modules"
    assert run([sys.executable, "-c", code]).returncode == 0


def test_environment_variable_names_another_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "other.so").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UNROLLED_LIBRARY", "other.so")
    assert library.find() == tmp_path / "other.so"


def test_environment_variable_that_names_no_file_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNROLLED_LIBRARY", str(tmp_path / "gone.so"))
    with pytest.raises(FileNotFoundError, match=r"UNROLLED_LIBRARY is '.*gone\.so'.*expected the path"):
        library.find()


@pytest.mark.slow
def test_wheel_holds_the_package_and_the_library_for_any_python(sources: Path, tmp_path: Path) -> None:
    built = pip_wheel(sources, tmp_path, UNROLLED_REQUIRE_NATIVE="1")
    assert built.returncode == 0, built.stdout + built.stderr
    wheel = only(tmp_path, "*.whl")
    assert files_of_the_wheel(wheel) == files_of_the_package() | {f"unrolled/{library.NAME}"}
    python, abi, platform = wheel.stem.split("-")[-3:]
    assert (python, abi) == ("py3", "none")
    assert platform != "any"


@pytest.mark.slow
def test_without_a_compiler_the_wheel_holds_the_package_for_any_machine(plain: tuple[Path, str]) -> None:
    wheel, said = plain
    assert wheel.name.endswith("-py3-none-any.whl")
    assert files_of_the_wheel(wheel) == files_of_the_package()
    assert "unrolled was built without its kernels" in said


@pytest.mark.slow
def test_without_a_compiler_the_package_computes(plain: tuple[Path, str], tmp_path: Path) -> None:
    wheel, _ = plain
    options = ["--no-deps", "--no-index", "--disable-pip-version-check", "--target", str(tmp_path)]
    assert run([sys.executable, "-m", "pip", "install", *options, str(wheel)]).returncode == 0
    code = """
import torch, unrolled
from unrolled.recurrence.library import find
assert find() is None
x = torch.randn(5, 2)
layer = unrolled.LSTM(2, 3)
same = torch.nn.LSTM(2, 3)
same.load_state_dict(layer.state_dict())
torch.testing.assert_close(layer(x)[0], same(x)[0])
print(unrolled.__file__)
"""
    # Without site (-S), so that an editable install of this very package does not step in.
    folders = os.pathsep.join([str(tmp_path), sysconfig.get_path("purelib")])
    ran = run([sys.executable, "-S", "-c", code], PYTHONPATH=folders)
    assert ran.returncode == 0, ran.stderr
    assert Path(ran.stdout.strip()).is_relative_to(tmp_path)


@pytest.mark.slow
def test_missing_compiler_is_an_error_where_the_library_is_required(sources: Path, tmp_path: Path) -> None:
    built = pip_wheel(sources, tmp_path, **NO_COMPILER | {"UNROLLED_REQUIRE_NATIVE": "1"})
    assert built.returncode != 0
    assert not list(tmp_path.glob("*.whl"))

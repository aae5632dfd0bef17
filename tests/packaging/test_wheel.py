"""The wheel: what is in it, what it links to, and that one build runs under old and new torch."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from building import ROOT, clean_environment, run, run_script
from elftools.elf.elffile import ELFFile

pytestmark = pytest.mark.packaging
SMOKE = Path(__file__).with_name("smoke.py")


def elf(path: Path) -> tuple[list[str], list[str]]:
    """(NEEDED libraries, undefined dynamic symbols) of a shared library."""
    with path.open("rb") as file:
        library = ELFFile(file)
        tags = library.get_section_by_name(".dynamic").iter_tags("DT_NEEDED")
        symbols = library.get_section_by_name(".dynsym").iter_symbols()
        undefined = [s.name for s in symbols if s["st_shndx"] == "SHN_UNDEF" and s.name]
        return [tag.needed for tag in tags], undefined


def test_isolated_build_downloads_no_torch(wheel):
    assert "Successfully built fastrpn" in wheel.log
    fetched = re.findall(r"(?:Collecting|Downloading|Processing) \S*torch\S*", wheel.log)
    assert fetched == []
    assert wheel.seconds < 180


def test_wheel_holds_the_package_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel.path).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"fastrpn"}
    for name in ("libfastrpn.so", "libfastrpn_torch.so", "include/fastrpn.h"):
        assert f"fastrpn/{name}" in names
    assert "fastrpn/share/cmake/fastrpn/fastrpn-config.cmake" in names
    assert any(re.fullmatch(r"fastrpn/_C\.\S+\.so", name) for name in names)
    (entry,) = [name for name in names if name.endswith(".dist-info/entry_points.txt")]
    commands = zipfile.ZipFile(wheel.path).read(entry).decode().split()
    assert commands == ["[console_scripts]", "fastrpn", "=", "fastrpn.cli:main"]
    sources = {str(path.relative_to(ROOT)) for path in ROOT.glob("fastrpn/**/*.py")}
    assert sources <= set(names)


def test_sdist_holds_what_a_build_needs(tmp_path):
    run(sys.executable, "-m", "build", "--sdist", "--outdir", tmp_path, ROOT)
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as files:
        names = {name.partition("/")[2] for name in files.getnames()}
    tracked = {"CMakeLists.txt", "setup.py", "build_backend.py", "pyproject.toml", "LICENSE"}
    tracked |= {str(path.relative_to(ROOT)) for path in ROOT.glob("csrc/**/*") if path.is_file()}
    assert tracked <= names
    assert not [name for name in names if name.endswith(".so")]


def test_operator_library_links_only_the_stable_abi(unpacked):
    needed, undefined = elf(unpacked / "fastrpn" / "libfastrpn_torch.so")
    torch_libraries = [n for n in needed if re.match(r"lib(torch|c10|cud|nv)", n)]
    assert torch_libraries == ["libtorch_cpu.so"]
    unstable = [s for s in undefined if re.match(r"_ZNK?(2at|3c10|5torch)", s)]
    assert unstable == []
    assert any(s.startswith("aoti_torch_") for s in undefined)


def test_extension_module_and_c_library_need_no_torch(unpacked):
    (module,) = (unpacked / "fastrpn").glob("_C.*.so")
    for library in (module, unpacked / "fastrpn" / "libfastrpn.so"):
        needed, undefined = elf(library)
        assert not [n for n in needed if "torch" in n or "cuda" in n]
        assert not [s for s in undefined if "torch" in s]


def test_simd_objects_share_no_code(wheel):
    """A weak symbol in an AVX object may replace the portable one at link time (see simd.h)."""
    build = ROOT / "build" / f"cmake-{sys.implementation.cache_tag}"
    objects = list(build.glob("CMakeFiles/cpu_kernels_*.dir/**/*.cpp.o"))
    assert objects
    for path in objects:
        level = re.search(r"cpu_kernels_(\w+)\.dir", str(path)).group(1)
        with path.open("rb") as file:
            table = ELFFile(file).get_section_by_name(".symtab")
            shared = [
                symbol.name
                for symbol in table.iter_symbols()
                if symbol["st_info"]["bind"] in ("STB_WEAK", "STB_GLOBAL")
                and symbol["st_shndx"] != "SHN_UNDEF"
                and f"{len(level)}{level}" not in symbol.name
                and not symbol.name.startswith("DW.ref.")  # a pointer of the unwinder, no code
            ]
        assert shared == [], path


def smoke(python: object, folder: Path) -> dict:
    """Runs smoke.py with the unpacked wheel on the path; returns what `fastrpn info` says there."""
    return run_script(SMOKE, python, folder)["info"]


def test_the_repaired_wheel_is_for_other_machines_and_holds_no_torch(wheel, tmp_path):
    pytest.importorskip("auditwheel")
    exclude = ["--exclude", "libtorch*", "--exclude", "libc10*"]
    command = [sys.executable, "-m", "auditwheel", "repair", *exclude, "-w", tmp_path, wheel.path]
    run(*command, env=clean_environment(PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}"))
    (repaired,) = tmp_path.glob("*.whl")
    assert re.search(r"-manylinux_2_(\d+)_", repaired.name)
    shutil.unpack_archive(repaired, tmp_path / "unpacked", "zip")
    libraries = {path.name for path in (tmp_path / "unpacked").rglob("*.so*")}
    assert {"libfastrpn.so", "libfastrpn_torch.so"} < libraries and len(libraries) == 3
    smoke(sys.executable, tmp_path / "unpacked")


def test_runs_under_the_newest_torch(unpacked):
    info = smoke(sys.executable, unpacked)
    assert info["torch"].split(".") >= ["2", "10"]


def test_same_build_runs_under_a_cpu_only_torch(unpacked, cpu_torch):
    assert smoke(cpu_torch, unpacked)["torch"].startswith("2.13.0")


def test_build_without_isolation(tmp_path):
    pip = [sys.executable, "-m", "pip", "install", "--no-build-isolation", "--no-deps"]
    run(*pip, "--target", tmp_path, ".", cwd=ROOT, env=clean_environment())
    smoke(sys.executable, tmp_path)


@pytest.mark.parametrize("source", sorted(ROOT.glob("csrc/torch/*.cpp")), ids=lambda p: p.name)
def test_compiles_against_other_headers(source):
    """Opt-in, because the headers of another torch are a big download (see CONTRIBUTING.md)."""
    headers = os.environ.get("FASTRPN_TORCH_HEADERS")
    if headers is None:
        pytest.skip("FASTRPN_TORCH_HEADERS names no folder of torch headers")
    cuda = ["-DFASTRPN_WITH_CUDA", "-isystem", "/usr/local/cuda/include"]
    if source.name.startswith("cuda") and not Path(cuda[-1]).exists():
        pytest.skip("no CUDA headers")
    run(
        *("c++", "-std=c++17", "-fsyntax-only", "-DTORCH_TARGET_VERSION=0x020a000000000000"),
        *(*cuda, "-DFASTRPN_X86", "-I", ROOT / "csrc", "-isystem", headers, source),
    )


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_other_systems_are_refused_before_a_compiler_runs(platform):
    start = "import sys, runpy, setuptools, sysconfig; sysconfig.get_config_vars(); "
    code = f"{start}sys.platform = {platform!r}; runpy.run_path('setup.py')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1
    assert done.stderr.startswith(f"fastrpn is built on Linux alone, this is {platform}.")
    assert len(done.stderr.splitlines()) == 1

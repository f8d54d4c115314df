"""The start-up check reads the metadata of installed packages; here, of ones made up on disk."""

import pytest

from chats.environment import check_environment
from chats.errors import UserError


def install(site, name, version, *, cuda, requires=""):
    """Lay out an installed package as pip does, with nothing in it but what the check reads."""
    info = site / f"{name}-{version}.dist-info"
    info.mkdir()
    text = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{requires}"
    (info / "METADATA").write_text(text)
    (site / name).mkdir()
    value = f"'{cuda}'" if cuda else "None"
    (site / name / "version.py").write_text(
        f"__version__ = '{version}'\ncuda: Optional[str] = {value}\nraise RuntimeError('run')\n"
    )


def test_a_cuda_torchvision_beside_a_cpu_torch_is_refused_with_the_command(tmp_path):
    install(tmp_path, "torch", "2.13.0+cpu", cuda=None)
    install(tmp_path, "torchvision", "0.28.0", cuda="13.0", requires="Requires-Dist: torch==2.13.0")
    with pytest.raises(
        UserError, match="uninstall torchvision: pip uninstall torchvision"
    ) as raised:
        check_environment(search_path=[str(tmp_path)])
    assert "CUDA 13.0" in str(raised.value)


def test_a_torchvision_for_another_torch_is_refused_and_both_versions_are_named(tmp_path):
    install(tmp_path, "torch", "2.13.0", cuda="13.0")
    install(
        tmp_path, "torchvision", "0.20.0", cuda="13.0", requires="Requires-Dist: torch (==2.5.0)"
    )
    with pytest.raises(UserError, match=r"built for torch 2\.5\.0 and torch 2\.13\.0 is installed"):
        check_environment(search_path=[str(tmp_path)])


def test_a_torchvision_that_belongs_to_the_torch_is_fine(tmp_path):
    install(tmp_path, "torch", "2.13.0", cuda="13.0")
    install(tmp_path, "torchvision", "0.28.0", cuda="13.0", requires="Requires-Dist: torch==2.13.0")
    check_environment(search_path=[str(tmp_path)])


def test_no_torchvision_is_fine(tmp_path):
    install(tmp_path, "torch", "2.13.0+cpu", cuda=None)
    check_environment(search_path=[str(tmp_path)])


def test_this_machine_is_fine():
    check_environment()

"""Adds to the wheel what pyproject.toml cannot: the entry scripts in the root folder. The rest is in pyproject.toml."""

from setuptools import setup
from setuptools.command.build_py import build_py

ENTRY_SCRIPTS = (
    "run_class_finetuning",
    "run_probing",
    "run_repetition_counting",
    "run_segmentation",
    "run_sigma_pretraining",
)
# What begins so of scripts/ is not installed: demo and tables write into their checkout, recipes lie there.
NOT_INSTALLED = ("demo", "figures", "table_cells", "table_formats", "tables", "recipes", "reproduce")


class BuildPy(build_py):
    """Puts the entry scripts into `sigma_video`, beside the packages that they import."""

    def find_package_modules(self, package, package_dir):
        """(package, module, file) of a package's modules."""
        modules = super().find_package_modules(package, package_dir)
        if package == "sigma_video":
            modules += [(package, name, f"{name}.py") for name in ENTRY_SCRIPTS]
        if package == "sigma_video.scripts":
            modules = [module for module in modules if not module[1].startswith(NOT_INSTALLED)]
        return modules


setup(cmdclass={"build_py": BuildPy})

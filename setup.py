"""Compiles the way of the ordinary record where there is a C compiler; all else is in setup.cfg.

PURE_PYTHON=1 (as for zope's packages) leaves it out: the same in plain Python, which is also what there is
where compiling fails. KASPAN_REQUIRE_COMPILED=1 makes such a failure an error, as for wheels.
"""

import os
import platform
import sysconfig
from glob import glob

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

COMPILED = Extension(
    "kaspan.interceptor.compiled",
    ["interceptor/compiled.pyx"],
    # What it includes.
    depends=[
        *("interceptor/kafka/record_scope.py", "interceptor/kafka/send_span.py"),
        *sorted(glob("interceptor/*/*.pxi")),
    ],
    extra_compile_args=["-g0", "-fno-strict-aliasing"],
    optional=not os.environ.get("KASPAN_REQUIRE_COMPILED"),
)


class BuildWhatCompiles(build_ext):
    """Forgets an extension that could not be compiled: an editable install would look for its file."""

    def run(self) -> None:
        """Build them all."""
        self.built: list[Extension] = []
        super().run()
        self.extensions = self.built

    def build_extension(self, extension: Extension) -> None:
        """Build one; an error in it is a warning, as it is optional."""
        super().build_extension(extension)
        self.built.append(extension)


# It relies on the GIL, and must not bring it back where an application runs without.
is_wanted = (
    platform.python_implementation() == "CPython"
    and not sysconfig.get_config_var("Py_GIL_DISABLED")
    and not os.environ.get("PURE_PYTHON")
)

setup(ext_modules=[COMPILED] if is_wanted else [], cmdclass={"build_ext": BuildWhatCompiles})

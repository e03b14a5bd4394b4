"""Compiles the way of the ordinary record where there is a C compiler; all else is in setup.cfg.

PURE_PYTHON=1 (as for zope's packages) leaves it out: the same in plain Python, which is also what there is
where compiling fails.
"""

import os
import platform
import sysconfig

from setuptools import Extension, setup

COMPILED = Extension(
    "kaspan.interceptor.compiled",
    ["interceptor/compiled.pyx"],
    extra_compile_args=["-g0", "-fno-strict-aliasing"],
    optional=True,
)

# It relies on the GIL, and must not bring it back where an application runs without.
is_wanted = (
    platform.python_implementation() == "CPython"
    and not sysconfig.get_config_var("Py_GIL_DISABLED")
    and not os.environ.get("PURE_PYTHON")
)

setup(ext_modules=[COMPILED] if is_wanted else [])

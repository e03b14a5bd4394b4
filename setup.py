"""Compiles the way of the ordinary record where there is a C compiler; all else is in setup.cfg.

PURE_PYTHON=1 (as for zope's packages) leaves it out: the same in plain Python, which is also what there is
where compiling fails.
"""

import os

from setuptools import Extension, setup

COMPILED = Extension(
    "kaspan.interceptor.compiled",
    ["interceptor/compiled.pyx"],
    extra_compile_args=["-g0", "-fno-strict-aliasing"],
    optional=True,
)

setup(ext_modules=[] if os.environ.get("PURE_PYTHON") else [COMPILED])

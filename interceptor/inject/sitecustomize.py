"""Python runs this at start-up: `kaspan run` puts its folder first on PYTHONPATH, and a `.pth` file of
`kaspan install` calls `install`.

It waits until the application imports kafka, and loads kaspan then. It runs the next sitecustomize on the
path, which Python would have run without this one. It must never fail, and imports nothing: most
interpreters under `kaspan run` never use Kafka and must not pay for it. Pythons that are too old for kaspan
run it too, even Python 2, so it has to be valid there.
"""

import sys

TARGET = "kafka"
OLDEST = (3, 10)
DEFAULTS = {}
"""Environment variables that `kaspan install` was given, for processes that do not set them."""


def activate():
    """Load the module that waits for the first client. If that fails, the application runs untraced."""
    if sys.version_info < OLDEST:
        why = "%s is Python %d.%d, and kaspan needs %d.%d or newer"
        say_untraced(why % ((sys.executable,) + sys.version_info[:2] + OLDEST))  # noqa: RUF005 (Python 2)
        return
    try:
        from kaspan.interceptor.bootstrap import first_client
    except Exception as error:  # noqa: BLE001
        why = "kaspan cannot be loaded by %s (%s: %s); install it there as well"
        say_untraced(why % (sys.executable, type(error).__name__, error))
    else:
        first_client.wait_for_first_client(DEFAULTS)


def say_untraced(why):
    """Print that this process is not traced, and why."""
    sys.stderr.write("kaspan: this process is not traced: " + why + "\n")


class KafkaLoader:
    """Runs the real loader of `kafka`, then switches tracing on."""

    def __init__(self, loader):
        self._loader = loader

    def __getattr__(self, name):
        # All except exec_module is the real loader's: resources, source, zip archives.
        return getattr(self._loader, name)

    def exec_module(self, module):
        """Execute `kafka` with its real loader in place, then patch what it defined."""
        module.__loader__ = module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        activate()


class KafkaFinder:
    """A meta path finder that finds `kafka` only."""

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        """Find `kafka` as the other finders do and wrap its loader; None for every other name."""
        if name != TARGET:
            return None
        for finder in list(sys.meta_path):
            find_spec = None if finder is cls else getattr(finder, "find_spec", None)
            spec = find_spec(name, path, target) if find_spec else None
            if spec is not None:
                if hasattr(spec.loader, "exec_module"):
                    spec.loader = KafkaLoader(spec.loader)
                return spec
        return None

    @classmethod
    def find_module(cls, name, _path=None):
        """Find nothing. Python 2 calls this one."""
        if name == TARGET:
            activate()


def install(defaults=()):
    """Load kaspan once kafka is imported; at once if it is. Safe to call twice."""
    DEFAULTS.update(defaults)
    if TARGET in sys.modules:
        activate()
    elif not any(getattr(finder, "__name__", "") == "KafkaFinder" for finder in sys.meta_path):
        sys.meta_path.insert(0, KafkaFinder)


def run_the_next_sitecustomize():
    """Load the sitecustomize that Python would have found without ours. Raises what it raises."""
    ours = __file__.rpartition("/")[0]
    others = [entry for entry in sys.path if entry != ours]
    if sys.version_info < (3, 4):  # noqa: UP036 (see above)
        import imp

        try:
            file, path, description = imp.find_module("sitecustomize", others)
        except ImportError:
            return
        imp.load_module("sitecustomize", file, path, description)
        return
    for finder in sys.meta_path:
        if getattr(finder, "__name__", "") == "PathFinder":
            spec = finder.find_spec("sitecustomize", others)
            if spec is not None and spec.loader is not None:
                # importlib.util has this too, but takes milliseconds to load. Debian has a sitecustomize.
                from _frozen_importlib import module_from_spec

                module = sys.modules["sitecustomize"] = module_from_spec(spec)
                spec.loader.exec_module(module)
            return


if __name__ != "kaspan_hook":  # the name under which the .pth file of `kaspan install` loads it
    install()
    run_the_next_sitecustomize()

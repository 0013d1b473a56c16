"A bench for spurious rewards in reinforcement learning with verifiable rewards."
__version__ = "0.1.0"

_ROOMS = frozenset("core tasks grading behavior rewards objective runs policy rollout evaluate plan train replay organisms compare clipbias diagnose plots widgets studies audit demo cli".split())


def __getattr__(name):
    "Rooms are imported when they are first asked for, so that `import spurious_rlvr` costs nothing."
    if name not in _ROOMS: raise AttributeError(f"module 'spurious_rlvr' has no attribute {name!r}")
    import importlib
    return importlib.import_module(f"spurious_rlvr.{name}")


def __dir__(): return sorted(_ROOMS | set(globals()))

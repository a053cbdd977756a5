"""Your own photo in colour: `from lib.photo import Colorizer`."""


def __getattr__(name):
    """The class `Colorizer`, imported when it is asked for: it brings torch, which takes seconds."""
    if name == "Colorizer":
        from lib.photo.colorizer import Colorizer

        return Colorizer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

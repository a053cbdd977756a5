"""Your own photo in colour: `from lib.photo import Colorizer`."""

BIND = False  # default: the prompt alone decides; True: a colour is kept to its object, found by the segmenter


def __getattr__(name):
    """The class `Colorizer`, imported when it is asked for: it brings torch, which takes seconds."""
    if name == "Colorizer":
        from lib.photo.colorizer import Colorizer

        return Colorizer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

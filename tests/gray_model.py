"""A model that needs no torch, for tests of what is around a model: its pictures are gray."""

import sys

import numpy as np

from lib import photo
from lib.photo.command import main
from lib.photo.formats import ColorPicture
from lib.photo.full_resolution import paint


class GrayModel:
    """Stands in for a `Colorizer`."""

    def prompt_notes(self, prompt):
        return []

    def __call__(self, opened, prompt, *options):
        pixels = paint(opened.plane, np.zeros((1, 1, 4), np.float32))
        return ColorPicture(pixels, opened, {"prompt": prompt}, [])


if __name__ == "__main__":  # the command in a process of its own
    photo.Colorizer = lambda *options, **fields: GrayModel()
    main(sys.argv[1:])

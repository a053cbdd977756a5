"""A model that needs no torch, for tests of what is around a model: its pictures are gray."""

import sys

from lib.photo import command
from lib.photo.formats import ColorPicture
from lib.photo.full_resolution import paint_gray


class GrayModel:
    """Stands in for a `Colorizer`."""

    def prompt_notes(self, prompt):
        return []

    def __call__(self, photo, prompt, *options):
        return ColorPicture(paint_gray(photo.pixels), photo, {"prompt": prompt}, [])


if __name__ == "__main__":  # the command in a process of its own
    command.load = lambda *options: GrayModel()
    command.main(sys.argv[1:])

"""Colours of single objects in a photo: boxes that are drawn on it in JupyterLab, and names."""

from io import BytesIO

import ipywidgets as widgets
from jupyter_bbox_widget import BBoxWidget
from PIL import Image

from lib.regions import MAX_REGIONS

SHOWN = 480  # px, the width of the photo to draw on, at most
SMALLEST = 4  # px of the picture; a box with a smaller side is a slip of the mouse, or still being drawn
HINT = "Draw a box on an object, and type the colour it should have. Drag its edges to change it; × removes it."


class Drawing(BBoxWidget):
    """The library's widget as wide as its place, without its list of classes.

    A box can be drawn inside another, and drawing goes on a little beyond the photo's edge.
    """

    _css = (
        BBoxWidget._css
        + """
        .classes { display: none }
        .image svg { padding: 20px; margin: -20px; overflow: visible }
        .image-measure, .image-measure img { width: 100% }
        .image text, .image rect.movable { pointer-events: none }
    """
    )


class ColoredObjects:
    """Fields for the colours of objects; `box` is what a panel shows, and `colors()` what a `Colorizer` takes."""

    def __init__(self):
        self.past = [[]]  # the boxes as they were after each change, now last
        around = widgets.Layout(width=f"{SHOWN}px", padding="20px")
        self.drawing = Drawing(hide_buttons=True, colors=["#ff7f0e"], layout=around)
        hint = "e.g. dark red"
        self.rows = [widgets.Text(description=f"box {n + 1}", placeholder=hint) for n in range(MAX_REGIONS)]
        self.undo = widgets.Button(description="Undo", tooltip="Take back the last box drawn, changed or removed")
        self.names = widgets.Text(description="by name", placeholder="e.g. sky: pale blue; tram: red")
        self.bind = widgets.Checkbox(description="keep each colour of a prompt to its object", indent=False)
        self.drawing.observe(lambda _: self.follow(), "bboxes")
        self.undo.on_click(lambda _: self.go_back())
        for row in self.rows:
            row.observe(lambda change: self.recolor(change["owner"]), "value")
        beside = [widgets.HTML(HINT, layout=widgets.Layout(width="22em")), *self.rows, self.undo, self.names, self.bind]
        self.box = widgets.HBox([self.drawing, widgets.VBox(beside)], layout=widgets.Layout(flex_flow="row wrap"))
        self.take([])

    def show(self, pixels):
        """Show a photo (H, W, 3) to draw on, without boxes; None shows none."""
        self.box.layout.display = "none" if pixels is None else ""
        if pixels is not None:
            file = BytesIO()
            Image.fromarray(pixels).save(file, "png")
            self.drawing.image_bytes, self.size = file.getvalue(), pixels.shape[1::-1]
        self.past = [[]]
        self.take([])

    def colors(self) -> list:
        """[((left, top, right, bottom), colour)] in fractions of the photo after [(name, colour)]: ValueError."""
        named = [part.rpartition(":") for part in self.names.value.split(";") if part.strip()]
        pairs = [(name.strip(), color.strip()) for name, _, color in named]
        for number, box in enumerate(self.past[-1], 1):
            if not box["color"].strip():
                raise ValueError(f"box {number} has no colour: type one, such as 'dark red', or remove the box")
            corners = zip(("x", "y", "x", "y"), (0, 0, box["width"], box["height"]), self.size * 2, strict=True)
            inside = tuple(round(min(max((box[side] + more) / size, 0), 1), 4) for side, more, size in corners)
            pairs.append((inside, box["color"]))
        return pairs

    def follow(self):
        """Take the boxes as they are in the browser, and go on to the colour of one that is new."""
        boxes, known = self.drawing.bboxes, len(self.past[-1])
        drawn = [box for box in boxes if min(box["width"], box["height"]) >= SMALLEST]
        slips = [box for box in boxes if box not in drawn]
        self.take(drawn, slips if boxes[-1:] == slips[-1:] else [])
        if known < len(drawn) <= MAX_REGIONS:
            self.rows[len(drawn) - 1].focus()

    def recolor(self, row):
        """Give a box the colour that was typed for it."""
        boxes, index = [{**box} for box in self.past[-1]], self.rows.index(row)
        if index < len(boxes):
            boxes[index]["color"] = row.value
            self.take(boxes)

    def go_back(self):
        """Take back the last box that was drawn, changed or removed."""
        self.past.pop()
        self.take(self.past[-1])

    def take(self, boxes, unfinished=()):
        """Make these the boxes, here and in the browser: each has a number, and a field for its colour.

        `unfinished`: what the browser has besides; to change anything there would end the drawing of a box.
        """
        boxes = [{"color": "", **box} for box in boxes]
        boxes = [{**box, "label": f"{number} {box['color']}"} for number, box in enumerate(boxes, 1)]
        new, old = (
            [[box[side] for side in ("x", "y", "width", "height")] for box in b] for b in (boxes, self.past[-1])
        )
        self.past[len(self.past) - (new == old) :] = [boxes]
        self.undo.disabled = len(self.past) == 1
        self.drawing.bboxes = [*boxes, *unfinished]
        for index, row in enumerate(self.rows):
            row.layout.display = "" if index < len(boxes) else "none"
            row.value = boxes[index]["color"] if index < len(boxes) else ""

"""Draw the picture at the top of the README: test images of a finished run, with what it says of them.

    python .github/predictions.py outputs/synthetic-flowers-seed42 .github/predictions.jpg

The images are drawn by lot, right and wrong ones as they come.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pipeline.evaluation.predictions import read_predictions
from pipeline.images.decode import open_image
from pipeline.synthetic.dataset import load_synthetic

COLUMNS, ROWS, SIDE, GAP, TEXT, MARGIN = 6, 2, 176, 20, 66, 24
INK, GREY, RIGHT, WRONG = "#1f2328", "#656d76", "#1a7f37", "#cf222e"


def main(folder: Path, picture: Path) -> None:
    """Draw COLUMNS x ROWS test images, each with its likeliest label and, where that is wrong, the right one."""
    predictions, names = read_predictions(folder / folder.PREDICTIONS)
    test = next(p for p in predictions if p.split == "test")
    images = load_synthetic()["test"]
    scores = np.exp(test.logits - test.logits.max(1, keepdims=True))
    scores /= scores.sum(1, keepdims=True)
    chosen = np.random.default_rng(3).choice(len(test.labels), COLUMNS * ROWS, replace=False)
    width = 2 * MARGIN + COLUMNS * SIDE + (COLUMNS - 1) * GAP
    height = 2 * MARGIN + ROWS * (SIDE + TEXT) + (ROWS - 1) * GAP
    sheet = Image.new("RGB", (2 * width, 2 * height), "white")  # twice the size it is shown at: sharp on any screen
    draw = ImageDraw.Draw(sheet)
    fonts = {size: ImageFont.load_default(2 * size) for size in (13, 12)}
    for place, row in enumerate(chosen):
        x = 2 * (MARGIN + place % COLUMNS * (SIDE + GAP))
        y = 2 * (MARGIN + place // COLUMNS * (SIDE + TEXT + GAP))
        image = open_image(images[int(row)]["image"], name=f"row {row}")
        sheet.paste(image.resize((2 * SIDE, 2 * SIDE), Image.Resampling.LANCZOS), (x, y))
        best, truth = int(scores[row].argmax()), int(test.labels[row])
        right = best == truth
        says = f"{names[best]}  {100 * scores[row, best]:.0f} %"
        draw.text((x, y + 2 * (SIDE + 8)), says, RIGHT if right else WRONG, fonts[13])
        below = "right" if right else f"is {names[truth]}"
        draw.text((x, y + 2 * (SIDE + 30)), below, GREY if right else INK, fonts[12])
    sheet.save(picture, quality=88, subsampling=0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

"""Draw the picture at the top of the README: test images of a finished run with their predicted labels.

    python .github/predictions.py outputs/synthetic-flowers-seed42 .github/predictions.jpg

The images are sampled at random, so correct and wrong predictions appear as often as they occur.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pipeline.evaluation.predictions import read_predictions
from pipeline.images.decode import open_image
from pipeline.runs.folder import PREDICTIONS
from pipeline.synthetic.dataset import load_synthetic

COLUMNS, ROWS, SIDE, GAP, TEXT, MARGIN = 6, 2, 176, 20, 66, 24
INK, GRAY, CORRECT, WRONG = "#1f2328", "#656d76", "#1a7f37", "#cf222e"


def main(folder: Path, picture: Path) -> None:
    """Draw COLUMNS x ROWS test images, each with its most likely label and, if that is wrong, the true one."""
    predictions, names = read_predictions(folder / PREDICTIONS)
    test = next(p for p in predictions if p.split == "test")
    images = load_synthetic()["test"]
    scores = np.exp(test.logits - test.logits.max(1, keepdims=True))
    scores /= scores.sum(1, keepdims=True)
    chosen = np.random.default_rng(3).choice(len(test.labels), COLUMNS * ROWS, replace=False)
    width = 2 * MARGIN + COLUMNS * SIDE + (COLUMNS - 1) * GAP
    height = 2 * MARGIN + ROWS * (SIDE + TEXT) + (ROWS - 1) * GAP
    sheet = Image.new(
        "RGB", (2 * width, 2 * height), "white"
    )  # twice the displayed size, so that it is sharp on every screen
    draw = ImageDraw.Draw(sheet)
    fonts = {size: ImageFont.load_default(2 * size) for size in (13, 12)}
    for place, row in enumerate(chosen):
        x = 2 * (MARGIN + place % COLUMNS * (SIDE + GAP))
        y = 2 * (MARGIN + place // COLUMNS * (SIDE + TEXT + GAP))
        image = open_image(images[int(row)]["image"], name=f"row {row}")
        sheet.paste(image.resize((2 * SIDE, 2 * SIDE), Image.Resampling.LANCZOS), (x, y))
        best, truth = int(scores[row].argmax()), int(test.labels[row])
        correct = best == truth
        label = f"{names[best]}  {100 * scores[row, best]:.0f}%"
        draw.text((x, y + 2 * (SIDE + 8)), label, CORRECT if correct else WRONG, fonts[13])
        below = "correct" if correct else f"is {names[truth]}"
        draw.text((x, y + 2 * (SIDE + 30)), below, GRAY if correct else INK, fonts[12])
    sheet.save(picture, quality=88, subsampling=0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

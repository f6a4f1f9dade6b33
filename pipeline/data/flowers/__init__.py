"""Draws invented flower species, from seeds to pixels; `pipeline.data.synthetic` is the data set of them.

Everything is drawn by lot, and the order in which lots are taken from a generator is part of the pixels: to
swap two lines that take them is to make another data set (`VERSION`). A file imports only from those above it:

- `seeds`: a random generator for everything that is drawn by lot.
- `raster`: arithmetic on colours and pixels.
- `genome`: the genes of a species.
- `sheets`: what a sheet is, a painted surface that drawing looks up for every pixel.
- `petals`, `hearts`: the sheets of a petal or leaf, and of the centre of a blossom.
- `plants`: a species ready for drawing, its genes and its sheets.
- `posture`: how the blossoms of a plant are held before the camera.
- `leaves`, `blossom`: one leaf and one blossom on a canvas.
- `background`: what is behind the plant.
- `camera`: light and flaws of a photograph.
- `scene`: the whole picture, `draw`.
"""

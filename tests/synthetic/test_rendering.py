"""Rendered images: their pixels depend on the seeds only, and they vary enough."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest

from pipeline.synthetic.dataset import VERSION
from pipeline.synthetic.scene import render


def image(species: int, index: int, *, size: int) -> np.ndarray:
    return render(species, index, size=size, version=VERSION)


def digest(species: int, index: int, *, version: int = VERSION) -> str:
    return hashlib.sha256(render(species, index, size=32, version=version).tobytes()).hexdigest()


# Images of VERSION 1 with 32 pixels: (species, index) -> the mean colors of their 4 x 4 tiles, row by row, in hex.
# If a change breaks these, it changes the dataset: increase VERSION, and only then replace the colors here.
TILES = {
    (0, 0): "281c2a31426b303950160d08 2c3b4486606f745d635c5285 3d4472544f81564b68304248 262842171c22202337191908",
    (4, 1): "608736607e315a812d4f762c ac9b6fbc767941632653772f 6f9849968766877354476824 749f477d7f558e985156782f",
    (12, 2): "ba7b6dab7361665948625646 88554f83624f544a3c382f25 8c5851a36a645560435c4f40 ae7a76875b535a5a444f4a39",
    (81, 3): "5b4934635f4a423c2a303c27 7f5f425d452f7a5b43655b44 836447674e39896746544a33 423f30504330353c2d44583d",
    (20, 4): "263920465b31425630525945 4256305c604a6a6e55535e42 2c402471765e736f5f8c7d73 293a22505d44817d6f6c6d58",
    (1000, 5): "4d5e36475a366c5a375a5d40 52613f41593c874236764a34 3c492d37462f57544559613f 38482c40533633412b495639",
}


@pytest.mark.parametrize(("species", "index"), TILES)
def test_the_images_of_this_version_do_not_change(species: int, index: int) -> None:
    rendered = image(species, index, size=32).reshape(4, 8, 4, 8, 3).mean(axis=(1, 3))
    expected = np.frombuffer(bytes.fromhex(TILES[species, index]), dtype=np.uint8).reshape(4, 4, 3)
    # CPUs differ in how they round float32.
    np.testing.assert_allclose(rendered, expected, atol=2)


def test_at_dusk_the_same_scene_is_dark_and_bluish() -> None:
    by_day, at_dusk = (render(0, 0, size=64, version=VERSION, dusk=dusk).astype(float) for dusk in (False, True))
    red, _, blue = at_dusk.mean(axis=(0, 1)) / by_day.mean(axis=(0, 1))
    assert 0.2 < red < blue < 0.65
    assert np.corrcoef(by_day.ravel(), at_dusk.ravel())[0, 1] > 0.9


def test_the_pixels_are_the_same_in_another_process_and_in_any_order() -> None:
    pairs = [(7, 3), (0, 0), (500, 12)]
    expected = [digest(*pair) for pair in pairs]
    code = (
        "import hashlib; from pipeline.synthetic.scene import render\n"
        f"for s, i in {pairs[::-1]}:\n"
        f"    print(hashlib.sha256(render(s, i, size=32, version={VERSION}).tobytes()).hexdigest())"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stdout.split()[::-1] == expected


def test_rendering_does_not_change_the_global_generator() -> None:
    np.random.seed(41)  # noqa: NPY002 (the global state is tested)
    expected = np.random.random(3)  # noqa: NPY002
    np.random.seed(41)  # noqa: NPY002
    image(1, 1, size=16)
    assert np.array_equal(np.random.random(3), expected)  # noqa: NPY002


def test_species_index_and_version_each_change_the_pixels() -> None:
    digests = {digest(0, 0), digest(0, 1), digest(1, 0), digest(1, 1), digest(3, 0)}
    assert len(digests) == 5
    assert digest(0, 0, version=VERSION + 1) not in digests


@pytest.mark.parametrize("size", [8, 33, 64])
def test_an_image_has_the_requested_size(size: int) -> None:
    rendered = image(2, 0, size=size)
    assert rendered.shape == (size, size, 3)
    assert rendered.dtype == np.uint8


def test_no_image_is_blank_or_overexposed() -> None:
    for species in range(0, 240, 2):
        rendered = image(species, species, size=32).astype(float)
        assert rendered.std() > 8, species
        assert 8 < rendered.mean() < 235, species


def test_images_of_a_species_differ() -> None:
    small = np.stack([image(4, index, size=16) for index in range(12)]).astype(float)
    distances = [np.abs(a - b).mean() for i, a in enumerate(small) for b in small[:i]]
    assert min(distances) > 8


def test_the_background_does_not_depend_on_the_species() -> None:
    # If the background depended on the species, the means of the species would differ more than the means of random
    # groups of images of the same size.
    num_species, per_species = 24, 12
    rendered = np.stack([[image(3 * s, i, size=16) for i in range(per_species)] for s in range(num_species)]).astype(
        float
    )
    corners = rendered[:, :, :2, [0, 1, -2, -1]].mean(axis=(2, 3, 4))  # The plant rarely covers the upper corners.
    rng = np.random.default_rng(0)
    shuffled = [rng.permutation(corners.ravel()).reshape(num_species, per_species).mean(1).var() for _ in range(200)]
    assert corners.mean(1).var() < np.quantile(shuffled, 0.995)
    # The background depends on more than the image number: it differs between species with the same number.
    assert np.min(corners.std(axis=0)) > 0.5 * corners.std()

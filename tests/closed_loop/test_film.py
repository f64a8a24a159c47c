from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ensemble.closed_loop.film import film, strip


def swinging(points: int = 12, speed: float = 0.05) -> np.ndarray:
    """A cart that runs to the right with its pole tilting over."""
    time = np.arange(points)
    zero = np.zeros(points)
    return np.stack([0.1 * time, speed * time, zero, zero], axis=1)


def frames(file: Path) -> list[np.ndarray]:
    with Image.open(file) as image:
        pictures = []
        for i in range(image.n_frames):
            image.seek(i)
            pictures.append(np.asarray(image.convert("RGB")).astype(int))
        return pictures


def blue(picture: np.ndarray) -> np.ndarray:
    return (picture[..., 2] - picture[..., 0]) > 100


def orange(picture: np.ndarray) -> np.ndarray:
    return (picture[..., 0] - picture[..., 2]) > 100


def test_a_film_has_a_picture_of_every_state_at_the_pendulums_own_speed(tmp_path: Path) -> None:
    film(swinging(), tmp_path / "a.gif", width=300)
    with Image.open(tmp_path / "a.gif") as image:
        assert (image.n_frames, image.width, image.info["duration"]) == (12, 300, 40)
    assert all(blue(picture).any() and not orange(picture).any() for picture in frames(tmp_path / "a.gif"))


def test_the_pole_moves_with_the_cart_and_leans_to_the_right_at_positive_angles(tmp_path: Path) -> None:
    film(swinging(), tmp_path / "a.gif", width=300)
    first, last = (np.argwhere(blue(picture)) for picture in np.array(frames(tmp_path / "a.gif"))[[0, -1]])
    assert last[:, 1].mean() > first[:, 1].mean() + 30
    top, bottom = last[last[:, 0].argmin()], last[last[:, 0].argmax()]
    assert top[1] > bottom[1] + 5
    assert first[first[:, 0].argmin()][1] == pytest.approx(first[first[:, 0].argmax()][1], abs=4)


def test_members_are_side_by_side_and_one_that_fell_stays_as_it_fell(tmp_path: Path) -> None:
    film(np.array([swinging(), swinging()]), tmp_path / "two.gif", lengths=[4, 11], labels=["a", "b"], width=300)
    pictures = frames(tmp_path / "two.gif")
    half = pictures[0].shape[0] // 2
    assert [bool(orange(picture[:half, :250]).any()) for picture in pictures] == [False] * 4 + [True] * 8
    assert not any(orange(picture[half:]).any() for picture in pictures)
    np.testing.assert_array_equal(pictures[5][:half, :250], pictures[11][:half, :250])
    assert (pictures[5][half:] != pictures[11][half:]).any()


def test_a_strip_shows_moments_from_first_to_last(tmp_path: Path) -> None:
    strip(swinging(), tmp_path / "strip.png", pictures=4, length=9, width=400)
    [picture] = frames(tmp_path / "strip.png")
    assert picture.shape[1] == 400
    parts = np.split(picture, 4, axis=1)
    assert all(blue(part).any() for part in parts[:3])
    assert orange(parts[3]).any()
    assert not orange(np.concatenate(parts[:3], axis=1)).any()

"""k-nearest neighbors on frozen features."""

from scipy.stats import mode
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import normalize

from pipeline.probing.features import Array
from pipeline.probing.linear import Labels

NEIGHBORS = (1, 5, 10, 20)


def knn_accuracy(train_x: Array, train_y: Labels, valid_x: Array, valid_y: Labels) -> tuple[int, float]:
    """Return the best number of neighbors and its validation accuracy, see `fit_neighbors`."""
    best, predicted = fit_neighbors(train_x, train_y, valid_x, valid_y)
    return best, float((predicted == valid_y).mean())


def fit_neighbors(train_x: Array, train_y: Labels, valid_x: Array, valid_y: Labels) -> tuple[int, Labels]:
    """Return the best number of neighbors on validation and its predictions, by majority vote and cosine similarity.

    Args:
        train_x: Features (images, width).
        train_y: Labels (images,).
        valid_x: Features (images, width).
        valid_y: Labels (images,).

    Returns:
        The k in `NEIGHBORS` with the highest accuracy (the smallest of several), and the predicted classes (images,).
    """
    numbers = [k for k in NEIGHBORS if k <= len(train_y)]
    # Among vectors of length 1, the nearest have the highest cosine similarity, and scikit-learn searches in blocks.
    search = NearestNeighbors(n_neighbors=max(numbers), algorithm="brute").fit(normalize(train_x))
    votes = train_y[search.kneighbors(normalize(valid_x), return_distance=False)]
    predicted: dict[int, Labels] = {k: mode(votes[:, :k], axis=1).mode for k in numbers}
    best = max(numbers, key=lambda k: ((predicted[k] == valid_y).mean(), -k))
    return best, predicted[best]

"""k-nearest neighbors on frozen features."""

from scipy.stats import mode
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import normalize

from pipeline.probing.features import Array
from pipeline.probing.linear import Labels

NEIGHBORS = (1, 5, 10, 20)


def knn_accuracy(train_x: Array, train_y: Labels, valid_x: Array, valid_y: Labels) -> tuple[int, float]:
    """The accuracy on validation of a vote of the k nearest train images by cosine, and the k that is best.

    Returns:
        The k, of those in `NEIGHBOURS` the smallest of the best ones, and its accuracy.
    """
    numbers = [k for k in NEIGHBORS if k <= len(train_y)]
    # Of vectors of length 1, the nearest are those of the smallest angle, and scikit-learn finds them block by block.
    search = NearestNeighbors(n_neighbors=max(numbers), algorithm="brute").fit(normalize(train_x))
    votes = train_y[search.kneighbors(normalize(valid_x), return_distance=False)]
    accuracies = {k: float((mode(votes[:, :k], axis=1).mode == valid_y).mean()) for k in numbers}
    best = max(numbers, key=lambda k: (accuracies[k], -k))
    return best, accuracies[best]

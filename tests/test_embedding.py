import numpy as np
import pytest

from supclust import embedding, profiles
from tests.conftest import make_features


@pytest.fixture
def kept(tmp_path, monkeypatch):
    monkeypatch.setenv("SUPCLUST_OUT", str(tmp_path))
    calls = []

    def make(features, n_points, seed):
        calls.append(n_points)
        indices = np.arange(0, len(features), 2)
        return embedding.Embedding(indices, {"t-SNE": features[indices, :2], "UMAP": features[indices, 2:4]})

    monkeypatch.setattr(embedding, "make", make)
    return calls, tmp_path / "reports" / "quick" / "embedding-0.npz"


def test_maps_are_made_once_and_kept_for_the_same_features(kept):
    calls, path = kept
    profile, features = profiles.get("quick"), make_features()
    first, again = embedding.of(profile, features), embedding.of(profile, features)
    assert len(calls) == 1
    np.testing.assert_array_equal(first.maps["UMAP"], again.maps["UMAP"])
    np.testing.assert_array_equal(first.indices, again.indices)
    embedding.of(profile, make_features(size=60))
    embedding.of(profile, features, recompute=True)
    path.write_bytes(path.read_bytes()[:1000])
    embedding.of(profile, features)
    assert len(calls) == 4


def test_a_point_is_placed_where_it_or_its_nearest_drawn_neighbour_is():
    features = np.array([[1, 0], [0.9, 0.1], [0, 1], [0.1, 0.9]], dtype=np.float32)
    places = embedding.Embedding(np.array([0, 2]), {"UMAP": np.array([[5.0, 5.0], [7.0, 7.0]])})
    np.testing.assert_array_equal(places.place(features, np.array([0, 1, 3, 2])), [[5, 5], [5, 5], [7, 7], [7, 7]])


@pytest.mark.slow
def test_both_methods_keep_clear_blobs_apart():
    features = make_features(n_classes=3, size=40)
    found = embedding.make(features.train, 90)
    assert len(found.indices) == 90
    labels = features.train_labels[found.indices]
    for places in found.maps.values():
        centers = np.stack([places[labels == k].mean(axis=0) for k in range(3)])
        nearest = ((places[:, None] - centers) ** 2).sum(axis=2).argmin(axis=1)
        assert (nearest == labels).mean() > 0.95

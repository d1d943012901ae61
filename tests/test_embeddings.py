"""Embeddings of every make: read as they are, or refused with a sentence that names the file."""

import io
import logging
import pickle
import struct
import sys
import warnings
import zipfile

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from supclust.label import columns, embeddings
from supclust.label.embeddings import Embeddings
from tests.mutations import mutated

POINTS = np.random.default_rng(0).standard_normal((6, 3)).astype(np.float32)
NAMES = ["a", "b", "ä/c.png", "1.0", " ", "=x"]


@pytest.fixture
def pyarrow():
    return pytest.importorskip("pyarrow")


def npy(folder, array, name="e.npy", **options):
    np.save(folder / name, array, **options)
    return folder / name


def npz(folder, **arrays):
    np.savez(folder / "e.npz", **arrays)
    return folder / "e.npz"


def parquet(folder, columns):
    from pyarrow import parquet, table

    parquet.write_table(table(columns), folder / "e.parquet")
    return folder / "e.parquet"


def refusal(path):
    """The sentence with which a file is refused: it names the file."""
    with pytest.raises(ValueError, match=r".") as caught:
        embeddings.read(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


# -- labels ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["label", "labels", "class", "target", "category", "y"])
@pytest.mark.parametrize(
    ("labels", "texts"),
    [
        (np.array(["cat", "dog"] * 3), ("cat", "dog") * 3),
        (np.array([b"cat", b"dog"] * 3), ("cat", "dog") * 3),
        (np.array([1, 0] * 3, dtype=np.uint8), ("1", "0") * 3),
        (np.array([[1.0], [0.0]] * 3), ("1", "0") * 3),
    ],
)
def test_labels_are_texts_whatever_they_are_called(tmp_path, name, labels, texts):
    path = npz(tmp_path, features=POINTS, **{name: labels})
    assert embeddings.read(path, labels=True).labels == texts
    assert embeddings.read(path).labels is None


@pytest.mark.parametrize("name", ["labels", "y"])
def test_labels_are_no_features_of_a_parquet_file(pyarrow, tmp_path, name):
    columns = {"x": [1.0, 2.0, 3.0], name: [0, 1, 0], "id": ["a", "b", "c"]}
    found = embeddings.read(parquet(tmp_path, columns), labels=True)
    np.testing.assert_array_equal(found.features, [[1], [2], [3]])
    assert (found.labels, found.ids) == (("0", "1", "0"), ("a", "b", "c"))
    lists = {"vector": [[1.0, 2.0], [3.0, 4.0]], name: ["cat", "dog"]}
    assert embeddings.read(parquet(tmp_path, lists), labels=True).labels == ("cat", "dog")


def test_labels_that_nobody_asked_for_are_not_looked_at(tmp_path):
    path = npz(tmp_path, features=POINTS, labels=np.array([None, 1], dtype=object))
    np.testing.assert_array_equal(embeddings.read(path).features, POINTS)
    with pytest.raises(ValueError, match="Object arrays cannot be loaded"):
        embeddings.read(path, labels=True)


# -- .npy ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f4", "uint8", "int64", "bool"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_a_npy_file_is_mapped_and_its_rows_are_numbered(tmp_path, dtype, order):
    points = np.asarray(POINTS, dtype=dtype, order=order)
    found = embeddings.read(npy(tmp_path, points))
    assert isinstance(found.features, np.memmap)
    np.testing.assert_array_equal(found.features, points)
    assert found.ids == ("0", "1", "2", "3", "4", "5")
    assert found.paths is None


def test_a_suffix_in_capitals_does(tmp_path):
    path = npy(tmp_path, POINTS).rename(tmp_path / "E.NPY")
    np.testing.assert_array_equal(embeddings.read(path).features, POINTS)


@pytest.mark.parametrize("shape", [(6,), (2, 3, 4), (), (0, 3), (3, 0)])
def test_features_must_be_a_table(tmp_path, shape):
    assert f"features must be 2-d (points, dimensions) and not empty, not of shape {shape}" in refusal(
        npy(tmp_path, np.zeros(shape))
    )


def test_features_must_be_real_numbers(tmp_path):
    assert "real numbers, not complex128" in refusal(npy(tmp_path, np.zeros((2, 2), dtype=complex)))
    assert "real numbers, not <U1" in refusal(npy(tmp_path, np.array([["a", "b"]])))
    sentence = refusal(npy(tmp_path, np.array([[1, None]], dtype=object)))
    assert "Python objects in dtype" in sentence
    assert "numpy.asarray(features, dtype='float32')" in sentence
    assert "features must be 2-d" in refusal(npy(tmp_path, np.zeros(3, dtype=[("x", "f4"), ("y", "f4")])))


def header(text, version=b"\x01\x00"):
    content = text.encode("latin-1")
    return b"\x93NUMPY" + version + struct.pack("<H" if version == b"\x01\x00" else "<I", len(content)) + content


@pytest.mark.parametrize(
    "text",
    [
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000000, 64), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (4611686018427387904, 16), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 3), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3}",
        "",
    ],
)
def test_a_header_that_claims_too_much_or_makes_no_sense_is_refused(tmp_path, text, recwarn):
    content = header(text) + POINTS.tobytes()
    (tmp_path / "e.npy").write_bytes(content)
    with zipfile.ZipFile(tmp_path / "e.npz", "w") as archive:
        archive.writestr("features.npy", content)
    for name in ("e.npy", "e.npz"):
        assert len(refusal(tmp_path / name)) < len(str(tmp_path)) + 600
    assert not recwarn.list


def test_what_is_not_what_its_name_says_is_refused(tmp_path):
    archive = npz(tmp_path, x=POINTS).read_bytes()
    for content in (archive, pickle.dumps(POINTS), b"PAR1....", b"1,2\n3,4\n"):
        (tmp_path / "e.npy").write_bytes(content)
        assert "cannot be read: the magic string is not correct" in refusal(tmp_path / "e.npy")
    (tmp_path / "e.npz").write_bytes(npy(tmp_path, POINTS).read_bytes())
    assert "cannot be read: File is not a zip file" in refusal(tmp_path / "e.npz")


@pytest.mark.parametrize("suffix", [".csv", ".pt", "", ".npy.gz"])
def test_another_suffix_is_refused_with_those_that_are_known(tmp_path, suffix):
    assert "must end in .npy, .npz or .parquet" in refusal(tmp_path / f"e{suffix}")


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".parquet"])
def test_what_is_empty_or_not_there_is_refused(pyarrow, tmp_path, suffix):
    path = tmp_path / f"e{suffix}"
    assert f"e{suffix} cannot be read: " in refusal(path)
    path.write_bytes(b"")
    refusal(path)


@pytest.mark.parametrize("kind", [npy, lambda folder, array: npz(folder, x=array)])
def test_a_file_that_was_not_written_to_the_end_is_refused(tmp_path, kind):
    path = kind(tmp_path, POINTS)
    content = path.read_bytes()
    for size in (5, 20, len(content) - 1):
        path.write_bytes(content[:size])
        refusal(path)


# -- .npz ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_the_only_table_of_an_archive_is_the_features_whatever_its_name(tmp_path, save):
    save(tmp_path / "e.npz", anything=POINTS, labels=np.arange(6), meta=np.array({"a": 1}), note="text")
    found = embeddings.read(tmp_path / "e.npz")
    np.testing.assert_array_equal(found.features, POINTS)
    assert found.ids[-1] == "5"


def test_of_several_tables_the_first_of_the_known_names_is_taken(tmp_path):
    for position, name in enumerate(embeddings.FEATURES):
        tables = {other: np.zeros((6, 2)) for other in (*embeddings.FEATURES[position + 1 :], "other", "one more")}
        np.testing.assert_array_equal(embeddings.read(npz(tmp_path, **tables, **{name: POINTS})).features, POINTS)


def test_tables_of_unknown_names_are_refused_by_name(tmp_path):
    sentence = refusal(npz(tmp_path, train=POINTS, test=POINTS, y=np.zeros(2)))
    assert "it holds 'train', 'test', 'y': it is not clear which are the features; name them 'features'" in sentence
    assert "it holds 'y': it is not clear" in refusal(npz(tmp_path, y=np.zeros(2)))
    assert "not of shape (2,)" in refusal(npz(tmp_path, features=np.zeros(2)))
    assert "it holds none: it is not clear" in refusal(npz(tmp_path))
    assert "real numbers, not complex64" in refusal(npz(tmp_path, z=POINTS.astype("complex64")))


def test_arrays_of_objects_are_refused_with_how_to_save_them(tmp_path):
    for arrays in ({"features": POINTS.astype(object)}, {"x": POINTS, "ids": np.array(NAMES, dtype=object)}):
        sentence = refusal(npz(tmp_path, **arrays))
        assert "Object arrays cannot be loaded" in sentence
        assert "numpy.asarray(ids, dtype=str)" in sentence


class Harmful:
    def __reduce__(self):
        return print, ("this code must not run",)


def test_no_file_makes_code_run(tmp_path, capsys):
    harmful = np.array([[Harmful()]], dtype=object)
    refusal(npz(tmp_path, features=harmful))
    refusal(npz(tmp_path, x=POINTS, ids=harmful))
    refusal(npy(tmp_path, harmful))
    (tmp_path / "e.npy").write_bytes(pickle.dumps(Harmful()))
    refusal(tmp_path / "e.npy")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", sorted(set(columns.IDS) - {"file"}))  # which numpy.savez takes for its own
def test_ids_stand_under_one_of_several_names(tmp_path, name):
    assert embeddings.read(npz(tmp_path, x=POINTS, **{name: np.array(NAMES)})).ids == tuple(NAMES)


@pytest.mark.parametrize(
    "name",
    ["filename", "file_name", "filepath", "File Name", "image_id", "image", "name", "image_path", "uuid", "key", "path", "ID"],
)
def test_every_name_that_tools_give_to_ids_is_known_in_parquet_files(pyarrow, tmp_path, name):
    numbers = parquet(tmp_path, {name: NAMES, "x": [1.0] * 6, "y": [2.0] * 6})
    assert embeddings.read(numbers).ids == tuple(NAMES)
    assert embeddings.read(numbers).features.shape == (6, 2)
    pd.DataFrame({"emb": list(POINTS)}, index=pd.Index(NAMES, name=name)).to_parquet(tmp_path / "e.parquet")
    assert embeddings.read(tmp_path / "e.parquet").ids == tuple(NAMES)


def test_an_index_of_another_name_or_of_none_is_the_ids(pyarrow, tmp_path):
    for name in ("photo", None):
        pd.DataFrame({"emb": list(POINTS)}, index=pd.Index(NAMES, name=name)).to_parquet(tmp_path / "e.parquet")
        assert embeddings.read(tmp_path / "e.parquet").ids == tuple(NAMES)
    pd.DataFrame({"emb": list(POINTS), "id": NAMES}, index=pd.Index(range(6), name="row")).to_parquet(tmp_path / "e.parquet")
    assert embeddings.read(tmp_path / "e.parquet").ids == tuple(NAMES)


def test_ids_of_a_column_of_ones_own(pyarrow, tmp_path, caplog):
    path = parquet(tmp_path, {"bild": NAMES, "id": list(range(6)), "x": [1.0] * 6})
    assert embeddings.read(path, id_column="bild").ids == tuple(NAMES)
    with pytest.raises(ValueError, match="it has no column 'bil' of ids"):
        embeddings.read(path, id_column="bil")
    caplog.set_level(logging.INFO, logger="supclust")
    assert embeddings.read(parquet(tmp_path, {"bild": NAMES, "x": [1.0] * 6})).ids[0] == "0"
    assert "has no column of ids: the images are called by the numbers of their rows" in caplog.text


def test_ids_are_the_first_column_that_tells_images_apart(pyarrow, tmp_path):
    path = parquet(tmp_path, {"name": ["cat"] * 6, "key": NAMES, "x": [1.0] * 6})
    assert embeddings.read(path).ids == tuple(NAMES)
    for first in (0, 1):  # numbers of rows tell the least
        path = parquet(tmp_path, {"id": list(range(first, first + 6)), "filename": NAMES, "x": [1.0] * 6})
        assert embeddings.read(path).ids == tuple(NAMES)
    images = [{"bytes": b"x", "path": name} for name in NAMES]  # as Hugging Face writes them
    assert embeddings.read(parquet(tmp_path, {"image": images, "x": [1.0] * 6})).ids == tuple(NAMES)


@pytest.mark.parametrize("name", columns.PATHS)
def test_paths_stand_under_one_of_several_names_and_may_be_missing(tmp_path, name):
    paths = np.array(["a", "", "c", "c", "", ""])
    found = embeddings.read(npz(tmp_path, x=POINTS, **{name: paths}))
    assert (found.paths, found.ids[-1]) == (("a", None, "c", "c", None, None), "5")


@pytest.mark.parametrize(
    ("ids", "texts"),
    [
        (np.arange(6) + 10, ("10", "11", "12", "13", "14", "15")),
        (np.arange(6)[:, None], ("0", "1", "2", "3", "4", "5")),
        (np.array([name.encode() for name in NAMES]), tuple(NAMES)),
    ],
)
def test_ids_become_text(tmp_path, ids, texts):
    assert embeddings.read(npz(tmp_path, x=POINTS, ids=ids)).ids == texts


@pytest.mark.parametrize(
    ("arrays", "problem"),
    [
        ({"ids": np.array(NAMES[:5])}, "6 rows of features need as many ids, and there are 5"),
        ({"paths": np.array([*NAMES, "x"])}, "6 rows of features need as many paths, and there are 7"),
        ({"ids": np.array(["a", "b", "a", "c", "b", "a"])}, "come up again: 'a', 'b'"),
        ({"ids": np.array(["a", "", "b", "c", "", "d"])}, "these rows' are not: 1, 4"),
        ({"ids": np.array([1, 2, 3, 4, 5, np.nan])}, "these rows' are not: 5"),
        ({"ids": np.zeros((6, 2), dtype=int)}, "6 rows of features need as many ids, and there are 12"),
        ({"ids": np.array(["a", "b\udcff", "c", "d", "e", "f"])}, "these rows' are not: 1"),
        ({"ids": np.array([b"\xff"] * 6)}, "utf-8"),
    ],
)
def test_ids_and_paths_that_do_not_fit_are_refused(tmp_path, arrays, problem):
    assert problem in refusal(npz(tmp_path, **{"x": POINTS, **arrays}))


# -- writing -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("paths", [None, ("a", None, "c", "", "é", "f")])
def test_what_is_written_is_read_again(tmp_path, paths):
    path = tmp_path / "new" / "e.npz"
    embeddings.write(path, Embeddings(POINTS.astype(float), tuple(NAMES), paths))
    found = embeddings.read(path)
    np.testing.assert_array_equal(found.features, POINTS)
    assert found.features.dtype == np.float32
    assert found.ids == tuple(NAMES)
    assert found.paths == (None if paths is None else ("a", None, "c", None, "é", "f"))
    assert [entry.name for entry in path.parent.iterdir()] == ["e.npz"]


def test_names_and_features_without_a_name_are_told_apart(tmp_path):
    np.savez(tmp_path / "e.npz", np.array(NAMES), POINTS)
    np.testing.assert_array_equal(embeddings.read(tmp_path / "e.npz").features, POINTS)


def test_whole_numbers_as_ids_are_whole_numbers(tmp_path):
    np.savez(tmp_path / "e.npz", features=POINTS, ids=np.arange(len(POINTS), dtype=float))
    assert embeddings.read(tmp_path / "e.npz").ids[:2] == ("0", "1")


def test_a_table_of_numbers_as_pandas_writes_it_is_read(tmp_path):
    pd.DataFrame(POINTS).to_parquet(tmp_path / "e.parquet")  # whose columns are called 0, 1, ...
    np.testing.assert_allclose(embeddings.read(tmp_path / "e.parquet").features, POINTS)
    whole = {"a": pd.array([1, 2, 3], dtype="Int64"), "b": [0.5, 1.5, 2.5], "c": pd.to_timedelta([1, 2, 3])}
    pd.DataFrame(whole).to_parquet(tmp_path / "e.parquet")
    np.testing.assert_array_equal(embeddings.read(tmp_path / "e.parquet").features, [[1, 0.5], [2, 1.5], [3, 2.5]])


def test_embeddings_are_written_as_npz_only(tmp_path):
    with pytest.raises(ValueError, match=r"as \.npz, not '\.npy'"):
        embeddings.write(tmp_path / "e.npy", Embeddings(POINTS, tuple(NAMES)))


def test_what_does_not_fit_together_is_refused():
    for points, ids in ((POINTS, ("a",)), (POINTS, ("a",) * 6), (POINTS[0], ("a",)), (POINTS, (*NAMES[:5], "a\0"))):
        with pytest.raises(ValueError, match=r"features|ids"):
            Embeddings(points, ids)


# -- Parquet -------------------------------------------------------------------------------------------------------------------


def test_without_pyarrow_parquet_is_refused_with_what_to_do(tmp_path, monkeypatch):
    (tmp_path / "e.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert "pyarrow is required" in refusal(tmp_path / "e.parquet")


@pytest.mark.parametrize(("name", "kind"), [*zip(embeddings.FEATURES, ["list_", "large_list", "fixed", "list_"] * 2, strict=True)])
def test_a_column_of_lists_is_the_features(pyarrow, tmp_path, name, kind):
    make = {"list_": pyarrow.list_, "large_list": pyarrow.large_list, "fixed": lambda item: pyarrow.list_(item, 3)}[kind]
    lists = pyarrow.array(POINTS.tolist(), type=make(pyarrow.float32()))
    columns = {"id": NAMES, "number": range(6), "other": [[1]] * 6, name: lists, "path": ["a", None, "c", "", "e", "f"]}
    found = embeddings.read(parquet(tmp_path, {key: pyarrow.array(column) for key, column in columns.items()}))
    np.testing.assert_array_equal(found.features, POINTS)
    assert found.ids == tuple(NAMES)
    assert found.paths == ("a", None, "c", None, "e", "f")


def test_columns_of_numbers_are_the_features_without_ids_indices_and_answers(pyarrow, tmp_path, caplog):
    import pandas as pd

    table = pd.DataFrame({"id": range(7, 13), "path": NAMES, "x": POINTS[:, 0], "label": 1, "y": POINTS[:, 1], "n": np.arange(6)})
    for index in (None, np.arange(6) * 2, pd.Index(np.arange(6) * 2, name="row")):
        if index is not None:
            table.index = index
        table.to_parquet(tmp_path / "e.parquet")
        with caplog.at_level(logging.INFO, logger="supclust"):
            found = embeddings.read(tmp_path / "e.parquet")
        np.testing.assert_array_equal(found.features, np.c_[POINTS[:, :2], np.arange(6)])
        assert found.ids == ("7", "8", "9", "10", "11", "12")
        assert found.paths == tuple(NAMES)
        assert "columns 'label' look like answers" in caplog.text
        assert "its 3 columns of numbers, 'x', 'y', 'n'" in caplog.text


def test_a_parquet_file_of_many_row_groups_is_read_whole(pyarrow, tmp_path):
    from pyarrow import parquet

    points = np.random.default_rng(0).standard_normal((1000, 4))
    table = pyarrow.table({"id": [f"{k}" for k in range(1000)], "vector": points.tolist()})
    parquet.write_table(table, tmp_path / "e.parquet", row_group_size=77)
    found = embeddings.read(tmp_path / "e.parquet")
    np.testing.assert_array_equal(found.features, points)
    assert found.ids[-1] == "999"


@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        ({"emb": [[1.0, 2.0], [1.0]]}, "must have the same shape"),
        ({"emb": [[1.0, 2.0], None]}, "must have the same shape"),
        ({"emb": [["a"], ["b"]]}, "no column holds lists or numbers: 'emb'"),
        ({"id": [1, 2]}, "no column holds lists or numbers"),
        ({"one": [[1.0]], "two": [[1.0]]}, "it holds 'one', 'two': it is not clear which"),
        ({"x": [1, 2], "id": ["a", None]}, "these rows' are not: 1"),
        ({"x": [1, 2], "id": ["a", "a"]}, "come up again: 'a'"),
        ({"emb": [[], []]}, "no column holds lists or numbers"),
    ],
)
def test_tables_that_hold_no_features_are_refused(pyarrow, tmp_path, columns, problem):
    assert problem in refusal(parquet(tmp_path, columns))


def test_a_parquet_file_without_rows_is_refused(pyarrow, tmp_path):
    assert "no column holds" in refusal(parquet(tmp_path, {"emb": pyarrow.array([], type=pyarrow.list_(pyarrow.float32()))}))
    assert "not empty" in refusal(parquet(tmp_path, {"x": pyarrow.array([], type=pyarrow.float32())}))


def test_a_damaged_parquet_file_is_refused(pyarrow, tmp_path):
    path = parquet(tmp_path, {"emb": POINTS.tolist()})
    content = path.read_bytes()
    for broken in (content[:-1], content[:50], b"PAR1", b"PAR1" * 5, content[:100] + content[-100:]):
        path.write_bytes(broken)
        refusal(path)


def test_missing_numbers_of_a_parquet_file_are_nan(pyarrow, tmp_path):
    for table in ({"x": [1.0, None], "y": [2, 3]}, {"emb": [[1.0, 2.0], [None, 3.0]]}):
        np.testing.assert_array_equal(embeddings.read(parquet(tmp_path, table)).features, [[1, 2], [np.nan, 3]])


# -- damaged files -------------------------------------------------------------------------------------------------------------


def valid(kind: str) -> bytes:
    file = io.BytesIO()
    if kind == ".npy":
        np.save(file, POINTS)
    else:
        (np.savez if kind == ".npz" else np.savez_compressed)(file, features=POINTS, ids=np.array(NAMES), paths=np.array(NAMES))
    return file.getvalue()


VALID = {kind: valid(kind) for kind in (".npy", ".npz", "compressed.npz")}


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rng=st.randoms(use_true_random=False))
def test_damaged_files_are_read_or_refused_with_their_name(tmp_path, rng):
    for kind, content in VALID.items():
        path = tmp_path / f"damaged{kind}"
        path.write_bytes(mutated(content, rng))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # numpy and zipfile warn about some oddities
                found = embeddings.read(path)
        except ValueError as error:
            assert str(path) in str(error)  # noqa: PT017  (most files are refused, some are not)
        else:
            assert len(found.ids) == len(found.features)

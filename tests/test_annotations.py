"""Labels that come back from people: CSV as spreadsheets write it, JSON as Label Studio does, and what goes out to them."""

import csv
import io
import json
import logging
import unicodedata
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from supclust.label import annotations, results
from supclust.label.annotations import Label
from supclust.label.request import Request
from tests.mutations import mutated

SAME_FOLDER = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
FORMULAS = (
    "=1+1",
    "+1",
    "-1",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    "\n=1",
    " =1",
    "＝1",
    "＋1",
    "－1",
    "＠x",
    "\ufeff=1",
    "\u200b=1",
    "\u2212 1",
)


class Said(NamedTuple):
    """What a file says about images: labels by id, and the ids that have none."""

    labels: dict[str, str]
    unlabeled: tuple[str, ...]


def said(given):
    labels = {one.id: one.label for one in given if one.label}
    return Said(labels, tuple(dict.fromkeys(one.id for one in given if one.id not in labels)))


def labels_of(labels, unlabeled=(), file="f"):
    return [Label(name, labels.get(name), file) for name in (*labels, *unlabeled)]


def match(labels, ids, aliases=()):
    given = labels_of(labels.labels, labels.unlabeled) if isinstance(labels, Said) else labels
    return annotations.match(given, ids, dict(aliases))


def written(folder, content, name="labels.csv"):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return path


def read(folder, content):
    return said(annotations.read(written(folder, content)))


def refusal(folder, content, name="labels.csv"):
    """The sentence with which a file is refused: it names the file."""
    path = written(folder, content, name)
    with pytest.raises(ValueError, match=r".") as caught:
        annotations.read(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


# -- CSV -----------------------------------------------------------------------------------------------------------------------


def test_a_plain_table_gives_labels_and_those_that_are_missing(tmp_path):
    labels = read(tmp_path, "id,label\na.png, cat \nb.png,\n\n c.png ,dog\n")
    assert labels == ({"a.png": "cat", " c.png ": "dog"}, ("b.png",))


@pytest.mark.parametrize(
    ("encoding", "delimiter", "end"),
    [
        *(("utf-8", ",", "\n"), ("utf-8", ";", "\r\n"), ("utf-8", "\t", "\r"), ("utf-8-sig", ",", "\r\n")),
        *(("utf-8-sig", ";", "\r"), ("utf-8-sig", "\t", "\r\r\n"), ("utf-16", ",", "\r"), ("utf-16", ";", "\r\r\n")),
        *(("utf-16", "\t", "\n"), ("utf-8", ",", "\r\r\n"), ("utf-8-sig", ";", "\n"), ("utf-16", "\t", "\r\n")),
    ],
)
def test_every_way_in_which_spreadsheets_write_a_table_is_read(tmp_path, encoding, delimiter, end):
    rows = ["note", "ID ", " Label"], ['"a, b; c"', '"ä\t.png"', '"Käse, blau"'], ["x", "2.png", "cat"], ["", "", ""]
    text = end.join(delimiter.join(row) for row in rows) + end
    assert read(tmp_path, text.encode(encoding)).labels == {"ä\t.png": "Käse, blau", "2.png": "cat"}


def test_utf_16_with_the_other_byte_order_is_read(tmp_path):
    assert read(tmp_path, b"\xfe\xff" + "id,label\n1,cat".encode("utf-16-be")).labels == {"1": "cat"}


def test_a_quoted_field_may_hold_line_ends_and_quotation_marks(tmp_path):
    assert read(tmp_path, 'id,label\n"a\n""b"".png","two\r\nlines"\n').labels == {'a\n"b".png': "two\r\nlines"}


def test_ids_and_labels_stand_in_any_of_the_columns_that_people_name_so(tmp_path):
    for column in annotations.ID_COLUMNS:
        assert read(tmp_path, f"label,{column.upper()}\ncat,1\n").labels == {"1": "cat"}
    for column in annotations.LABEL_COLUMNS:
        assert read(tmp_path, f"id,{column.title()}\n1,cat\n").labels == {"1": "cat"}


def test_the_first_of_the_known_columns_counts(tmp_path):
    text = "y,name,class,file,id,label,supclust_id\n0,n,1,f,i,cat,s\n"
    assert read(tmp_path, text).labels == {"s": "cat"}
    assert read(tmp_path, text.replace("supclust_id", "x").replace("label", "z")).labels == {"i": "1"}


def test_the_table_that_label_studio_exports_is_read(tmp_path):
    header = "annotation_id,annotator,created_at,id,image,label,lead_time,order,supclust_id,updated_at"
    row = '8,1,"2026","3","/data/local-files/?d=a.png","cat",1.5,1,"a.png","2026"'
    assert read(tmp_path, f"{header}\r\n{row}\r\n").labels == {"a.png": "cat"}
    without = header.replace("supclust_id", "other")
    assert read(tmp_path, f"{without}\r\n{row}\r\n").labels == {"/data/local-files/?d=a.png": "cat"}


@pytest.mark.parametrize("cell", ['{"choices": ["a","b"]}', '[{"choices": ["a", "b"]}]', '[{"x": 1, "rectanglelabels": ["a"]}]'])
def test_several_choices_in_one_cell_are_refused(tmp_path, cell):
    quoted = cell.replace('"', '""')
    assert "row 3: the label is" in refusal(tmp_path, f'id,label\n0,cat\n1,"{quoted}"\n')


def test_numbers_are_known_again_after_programs_that_read_tables_as_numbers(tmp_path):
    labels = read(tmp_path, "id,label\n7,3.0\n8.0,4\n")
    assert match(labels, ["007", "8", "9"]) == ({0: "3", 1: "4"}, [], [])
    assert match(labels, ["7", "007", "08"]) == ({0: "3", 2: "4"}, [], [])  # the one that is spelt so
    assert match(labels, ["07", "007", "8.png"])[2] == ["7", "8.0"]  # could be two, and is none


def test_blanks_around_an_id_and_a_line_about_the_separator_do_no_harm(tmp_path):
    labels = read(tmp_path, "sep=;\nid;label\n a.png ;x\n")
    assert match(labels, ["a.png"]) == ({0: "x"}, [], [])


def test_a_header_may_stand_below_blank_rows_and_hold_other_separators_in_quotes(tmp_path):
    assert read(tmp_path, ",,,\nid,label\n1,cat\n").labels == {"1": "cat"}
    assert read(tmp_path, '"a, b, c";label;id\nx;cat;1\n').labels == {"1": "cat"}


@pytest.mark.parametrize(
    "label", ["[a]", "{a}", "[]", "{}", "[1]", '["a", "b"]', "[" * 50_000, "007", "1.5", "v1.0", "NaN", "None"]
)
def test_a_label_may_look_like_anything(tmp_path, label):
    quoted = label.replace('"', '""')
    assert read(tmp_path, f'id,label\n1,"{quoted}"\n').labels == {"1": label}


def test_one_choice_in_a_cell_is_the_label(tmp_path):
    assert read(tmp_path, 'id,label\n1,"{""choices"": [""cat""]}"\n2,"{""choices"": []}"\n').labels == {"1": "cat"}


def test_the_sign_against_formulas_is_taken_off(tmp_path):
    labels = read(tmp_path, "id,label\n'=a,'-b\n'tis.png,'n'\n''=a,''@\n")
    assert labels.labels == {"=a": "-b", "'tis.png": "'n'", "'=a": "'@"}


def test_a_header_alone_is_fine_and_logged(tmp_path, caplog):
    with caplog.at_level(logging.INFO, logger="supclust"):
        assert read(tmp_path, "id,label\n") == ({}, ())
    assert "no labels yet" in caplog.text


def test_missing_columns_are_named_with_those_that_are_there_and_an_example(tmp_path):
    sentence = refusal(tmp_path, "picture,label\n1,cat\n")
    assert "no column of ids" in sentence
    assert "'picture', 'label'" in sentence
    assert sentence.endswith("id,label\ncats/1.png,cat")
    assert "no column of labels" in refusal(tmp_path, "id,animal\n1,cat\n")
    assert "no column of ids" in refusal(tmp_path, '""\n')
    assert "no column of ids" in refusal(tmp_path, ",,,\n,,,\n")
    assert "its columns are none" in refusal(tmp_path, "sep=;\n")


def test_two_columns_of_one_name_are_refused(tmp_path):
    assert "several columns 'label'" in refusal(tmp_path, "id,Label,label\n1,cat,dog\n")


def test_rows_of_another_length_are_refused_with_their_number(tmp_path):
    assert "row 4: 3 field(s), and the header has 2. Put text with ','" in refusal(tmp_path, 'id,label\n"1\n2",cat\n\n2,cat,dog\n')
    assert "row 2: 1 field(s), and the header has 2" in refusal(tmp_path, "id,label\n1\n")


def test_a_label_without_an_id_is_refused_with_its_row(tmp_path):
    assert "row 3: the id of the image is empty" in refusal(tmp_path, "id,label\n1,cat\n,dog\n")


def test_a_quotation_mark_that_is_never_closed_is_refused(tmp_path):
    assert "is not a CSV file: unexpected end of data. Is a quotation mark missing" in refusal(
        tmp_path, 'id,label\n1,cat\n2,"dog\n3,cat\n'
    )


def test_a_field_beyond_what_the_csv_module_takes_is_refused(tmp_path):
    assert "field larger than field limit" in refusal(tmp_path, f"id,label\n1,{'x' * 200_000}\n")


@pytest.mark.parametrize("content", [b"", b"\xef\xbb\xbf", b"  \n\t\n"])
def test_an_empty_file_is_refused(tmp_path, content):
    assert "is empty" in refusal(tmp_path, content)


def test_files_that_are_not_text_are_refused_with_what_to_do(tmp_path):
    assert "not UTF-8 (byte 10 of 15). Save the table as 'CSV UTF-8'" in refusal(
        tmp_path, "id,label\nä,dog".encode("latin-1") + b"s"
    )
    assert "NUL" in refusal(tmp_path, b"id,label\na\0,b\n")
    assert "NUL" in refusal(tmp_path, "id,label\na,b\n".encode("utf-16-le"))
    assert "not UTF-16" in refusal(tmp_path, b"\xff\xfei\0d\0,")
    assert "looks like a workbook" in refusal(tmp_path, b"PK\x03\x04\xff\xff")


def test_what_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(ValueError, match="cannot be read: Is a directory"):
        annotations.read(tmp_path)
    with pytest.raises(ValueError, match=r"nothing\.csv cannot be read: No such file"):
        annotations.read(tmp_path / "nothing.csv")


# -- conflicts -----------------------------------------------------------------------------------------------------------------


def conflict(labels, ids, aliases=()):
    with pytest.raises(ValueError, match=r"Keep one label of each image") as caught:
        match(labels, ids, aliases)
    return str(caught.value)


def test_one_label_given_twice_is_fine_and_a_label_beats_none(tmp_path):
    labels = annotations.read(written(tmp_path, "id,label\n1,\n1,cat\n1,cat\n2,\n2,\n"))
    assert match(labels, ["1", "2"]) == ({0: "cat"}, [1], [])


def test_different_labels_of_an_image_are_refused_with_where_they_stand(tmp_path):
    path = written(tmp_path, "id,label\n" + "".join(f"{k},cat\n{k},dog\n{k},cow\n" for k in range(7)))
    sentence = conflict(annotations.read(path), [str(k) for k in range(7)])
    assert sentence.startswith(
        f"7 image(s) have different labels: '0' is 'cat' in {path} and '0' is 'dog' in {path} and '0' is 'cow'"
    )
    assert "and 2 more. Keep" in sentence
    several = labels_of({"1": "cat"}, ["2"], "a.csv") + labels_of({"2": "dog", "1": "cow"}, file="c.csv")
    assert "1 image(s) have different labels: '1' is 'cat' in a.csv and '1' is 'cow' in c.csv. Keep" in conflict(
        several, ["1", "2"]
    )


# -- Label Studio --------------------------------------------------------------------------------------------------------------


def choice(*names, control="label"):
    return {"type": "choices", "from_name": control, "to_name": "image", "value": {"choices": list(names)}}


def task(data, *results, cancelled=False):
    notes = [{"id": k, "result": result, "was_cancelled": cancelled} for k, result in enumerate(results)]
    return {"id": 17, "data": data, "annotations": notes, "predictions": [{"result": [choice("wrong")]}]}


def read_json(folder, tasks):
    return said(annotations.read(written(folder, json.dumps(tasks), "export.json")))


def json_refusal(folder, tasks):
    return refusal(folder, json.dumps(tasks), "export.json")


def test_the_full_export_is_read_whatever_the_file_is_called(tmp_path):
    tasks = [task({"supclust_id": "1", "id": 5}, [choice("cat ")]), task({"supclust_id": "2"}), task({"id": 3}, [])]
    labels = read(tmp_path, "\ufeff \n" + json.dumps(tasks))
    assert (labels.labels, labels.unlabeled) == ({"1": "cat"}, ("2", "3"))


def test_one_task_alone_is_read(tmp_path):
    assert read_json(tmp_path, task({"supclust_id": "1"}, [choice("cat")])).labels == {"1": "cat"}


def test_skipped_tasks_and_predictions_give_no_labels(tmp_path):
    labels = read_json(tmp_path, [task({"supclust_id": "1"}, [choice("cat")], cancelled=True), task({"supclust_id": "2"})])
    assert (labels.labels, labels.unlabeled) == ({}, ("1", "2"))


def test_annotators_may_agree_and_not_contradict_each_other(tmp_path):
    assert read_json(tmp_path, [task({"id": "1"}, [choice("cat")], [choice("cat")], [])]).labels == {"1": "cat"}
    path = written(tmp_path, json.dumps([task({"id": "1"}, [choice("cat")], [choice("dog")])]))
    assert "'1' is 'cat' in" in conflict(annotations.read(path), ["1"])


def test_our_choices_count_where_there_are_others_and_remarks(tmp_path):
    remark = {"type": "textarea", "from_name": "remark", "value": {"text": ["blurred"]}}
    results = [choice("bad", control="quality"), choice("cat"), remark]
    assert read_json(tmp_path, [task({"id": "1"}, results)]).labels == {"1": "cat"}
    assert read_json(tmp_path, [task({"id": "1"}, [remark, choice("cat", control="animal")])]).labels == {"1": "cat"}


def test_what_is_not_one_choice_is_refused_with_the_number_of_the_task(tmp_path):
    fine, rectangle = task({"id": "0"}, [choice("cat")]), {"type": "rectanglelabels", "value": {"rectanglelabels": ["cat"]}}
    assert "task 2: the label is {'choices': ['a', 'b']}" in json_refusal(tmp_path, [fine, task({"id": "1"}, [choice("a", "b")])])
    assert "task 2: the annotation is of type 'rectanglelabels'" in json_refusal(tmp_path, [fine, task({"id": "1"}, [rectangle])])
    assert "2 results with choices" in json_refusal(tmp_path, [task({"id": "1"}, [choice("a"), choice("b")])])
    nested = choice(["animal", "cat"], ["animal", "dog"])
    assert "the label is {'choices': [['animal', 'cat']" in json_refusal(tmp_path, [task({"id": "1"}, [nested])])


def test_an_image_is_known_by_the_address_if_by_nothing_else(tmp_path):
    tasks = [task({"image": "/data/local-files/?d=a%20b.png", "order": 1}, [choice("cat")])]
    assert read_json(tmp_path, tasks).labels == {"/data/local-files/?d=a%20b.png": "cat"}
    for data in ({"order": 1.5}, {"id": True}, {"id": ""}, {"image": ["a"]}, {}):
        assert "task 1: nothing says which image this is" in json_refusal(tmp_path, [task(data)])


def test_the_short_export_is_read(tmp_path):
    about = {"annotator": 1, "annotation_id": 5, "id": 99}
    tasks = [
        {"image": "/a.png", "supclust_id": "1", "choice": "cat", **about},
        {"image": "/b.png", "label": "dog", **about},
        {"image": "/c.png", **about, "annotation_id": None},
        {"image": "/d.png", "label": {"choices": ["cow"]}, **about},
        {"id": 7, "label": 3},
    ]
    labels = read_json(tmp_path, tasks)
    assert (labels.labels, labels.unlabeled) == ({"1": "cat", "/b.png": "dog", "/d.png": "cow", "7": "3"}, ("/c.png",))


def test_the_short_export_of_another_name_of_the_choices_is_refused(tmp_path):
    assert "no task has a label: the keys of the first are 'image', 'animal'" in json_refusal(
        tmp_path, [{"image": "a", "animal": "cat"}]
    )
    for value in ([{"choices": ["a", "b"]}], [{"rectanglelabels": ["a"]}], True, 1.5, [["a", "b"], "c"]):
        assert "task 1: the label is" in json_refusal(tmp_path, [{"image": "a", "label": value}])


def test_tasks_that_nobody_has_annotated_are_read(tmp_path):
    assert read_json(tmp_path, tasks_of(tmp_path, ["a.png", "b.png"])).unlabeled == ("a.png", "b.png")
    assert read_json(tmp_path, []).unlabeled == ()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('[{"data": ', "is not JSON that Label Studio exports: Expecting value: line 1 column 11"),
        ("{}{}", "is not JSON that Label Studio exports: Extra data: line 1 column 3"),
        ("[" * 100_000, "is not JSON that Label Studio exports"),
        ("[" + "9" * 5000 + "]", "is not JSON that Label Studio exports"),
        ("[1]", "tasks should be objects, not [1]"),
        ('[{"data": []}]', "task 1: data should be objects, not [[]]"),
        ('[{"data": {"id": "1"}, "annotations": [5]}]', "task 1: annotations should be objects, not [5]"),
        ('[{"data": {"id": "1"}, "annotations": {"result": []}}]', "task 1: annotations should be objects, not {'result': []}"),
        ('[{"data": {"id": "1"}, "annotations": [{"result": [5]}]}]', "result should be objects, not [5]"),
        ('[{"data": {"id": "1"}, "annotations": [{"result": [{"type": "choices", "value": {}}]}]}]', "the label is {}"),
    ],
)
def test_json_of_another_make_is_refused_with_the_place(tmp_path, text, problem):
    assert problem in refusal(tmp_path, text, "export.json")


# -- which image it is ---------------------------------------------------------------------------------------------------------

IDS = ["a.png", "cats/b.png", "dogs/b.png", unicodedata.normalize("NFD", "ä.png"), "=1.png", "x y&z.png", "'-q"]


@pytest.mark.parametrize(
    ("name", "position"),
    [
        ("a.png", 0),
        ("'=1.png", 4),
        ("=1.png", 4),
        ("-q", 6),
        (unicodedata.normalize("NFC", "ä.png"), 3),
        ("cats\\b.png", 1),
        ("copy.png", 1),
        ("folder/of/cats/b.png", 1),
        ("C:\\images\\dogs\\b.png", 2),
        ("/data/local-files/?d=images/cats/b.png", 1),
        ("/data/local-files/?d=x%20y%26z.png", 5),
        ("http://localhost:8080/data/local-files/?d=a.png", 0),
        ("/data/upload/3/0f1e2d3c-a.png", 0),
        ("https://host/x%20y%26z.png?token=1/2", 5),
        ("s3://bucket/a.png", 0),
        ("images/x%20y%26z.png", 5),
        ("somewhere/a%CC%88.png", 3),
        ("somewhere/copy.png", 1),
        ("b.png", None),
        ("ba.png", None),
        ("", None),
        ("http://[", None),
    ],
)
def test_an_image_is_found_under_the_names_that_programs_give_it(name, position):
    found, waiting, unknown = match(labels_of({}, [name]), IDS, {"copy.png": "cats/b.png", "lost.png": "gone.png"})
    assert (found, waiting, unknown) == ({}, [] if position is None else [position], [name] if position is None else [])


def test_an_id_as_it_stands_comes_before_every_other_way(tmp_path):
    ids = ["'=a", "=a", "x\\y", "x/y", "%41", "A"]
    labels = labels_of({name: str(position) for position, name in enumerate(ids)})
    assert match(labels, ids)[0] == dict(enumerate("012345"))


def test_a_name_that_could_be_of_two_images_is_unknown():
    assert match(labels_of({"/data/cats/b.png": "cat"}), ["b.png", "cats/b.png"]) == (
        {},
        [],
        ["/data/cats/b.png"],
    )
    assert match(labels_of({"\u00e4": "1"}), ["a\u0308\\x", "a\u0308/x"])[2] == ["\u00e4"]
    assert match(labels_of({"\u212b/x": "1"}), ["A\u030a\\x", "\u00c5\\x"])[2] == ["\u212b/x"]


def test_two_names_of_one_image_must_agree():
    labels = labels_of({"a.png": "cat", "x/a.png": "cat"}, ["copy.png", "y/a.png"])
    assert match(labels, ["a.png"], {"copy.png": "a.png"}) == ({0: "cat"}, [], [])
    labels = labels_of({"a.png": "cat", "copy.png": "dog"}, file="f.csv")
    sentence = conflict(labels, ["a.png"], {"copy.png": "a.png"})
    assert "1 image(s) have different labels: 'a.png' is 'cat' in f.csv and 'copy.png' is 'dog' in f.csv" in sentence


# -- writing CSV ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", FORMULAS)
def test_what_could_be_a_formula_gets_a_sign_in_front(text):
    assert annotations.safe(text) == f"'{text}"
    assert annotations.safe(f"'{text}") == f"''{text}"


@pytest.mark.parametrize("text", ["", "a", "a=1", "1", "'", "'a", "1-1", " a", "#1", "ä", '"=1"'])
def test_what_is_no_formula_stays_as_it_is(text):
    assert annotations.safe(text) == text


def test_a_table_is_written_as_it_should_be(tmp_path):
    rows = [("a", 1, 0.1, 1e-300), ('b"c', 2, np.nan, None), ("=d", 3, -0.5, 0.1 + 0.2)]
    results.write_csv(tmp_path / "new" / "t.csv", [dict(zip(("id", "order", "sup", "score"), row, strict=True)) for row in rows])
    assert (tmp_path / "new" / "t.csv").read_bytes().decode().split("\n") == [
        '"id","order","sup","score"',
        '"a",1,0.1,1e-300',
        '"b""c",2,"",""',
        '"\'=d",3,-0.5,0.30000000000000004',
        "",
    ]


anything = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)
awkward = st.text(st.sampled_from("=+-@'\"\n\r\t ,;ab＝\ufeff{}[]"), min_size=1)
names = anything | awkward | st.sampled_from(FORMULAS).map("'".__add__)
labels_ = st.just("") | names.map(str.strip)


@SAME_FOLDER
@given(st.dictionaries(names, labels_, min_size=1))
def test_a_table_of_any_ids_and_labels_comes_back_as_it_was(tmp_path, table):
    path = tmp_path / "table.csv"
    results.write_csv(path, [{"id": name, "label": label} for name, label in table.items()])
    found, waiting, unknown = match(annotations.read(path), list(table))
    assert found == {position: label for position, label in enumerate(table.values()) if label}
    assert waiting == [position for position, label in enumerate(table.values()) if not label]
    assert unknown == []


@SAME_FOLDER
@given(st.lists(names | st.floats() | st.integers() | st.none(), min_size=1))
def test_no_cell_of_a_table_is_taken_for_a_formula(tmp_path, values):
    path = tmp_path / "table.csv"
    results.write_csv(path, [{"id": value, "n": n} for n, value in enumerate(values)])
    rows = list(csv.reader(io.StringIO(path.read_text(encoding="utf-8"), newline="")))
    assert len(rows) == len(values) + 1 or "\r" in path.read_bytes().decode()
    for cell in (row[0] for row in rows if row):
        if not is_number(cell):
            assert not unicodedata.normalize("NFKC", cell.lstrip())[:1].startswith(("=", "+", "-", "@")), cell
            assert not cell.startswith(("\t", "\r", "\n"))


def is_number(cell):
    try:
        float(cell)
    except ValueError:
        return False
    return True


# -- Label Studio's tasks ------------------------------------------------------------------------------------------------------


def tasks_of(folder, ids):
    rest = {"order": 1, "cluster": 3, "cluster_size": 10, "typicality": 0.1, "sup": np.nan}
    return results.label_studio_tasks([{"id": name, "path": name, **rest} for name in ids], folder)


def test_tasks_say_what_is_known_about_the_picks(tmp_path):
    rest = {"order": 1, "cluster": 3, "cluster_size": 10, "typicality": np.inf, "sup": np.nan, "label": ""}
    [found] = results.label_studio_tasks([{"id": "7", "path": "ä #&+%?.png", **rest}], tmp_path / "my pets")
    image = "/data/local-files/?d=my%20pets/%C3%A4%20%23%26%2B%25%3F.png"
    facts = {"order": 1, "cluster": 3, "cluster_size": 10, "typicality": None, "sup": None}
    assert found == {"data": {"image": image, "supclust_id": "7", **facts}}


def test_the_interface_offers_the_classes():
    classes = ["cat", "<\"a\" & 'b'>", "two\nlines", "ä"]
    view = ElementTree.fromstring(results.label_studio_config(classes))
    assert [(child.tag, child.get("name")) for child in view] == [("Image", "image"), ("Choices", "label")]
    assert view.find("Image").get("value") == "$image"
    assert view.find("Choices").get("toName") == "image"
    assert [child.get("value") for child in view.find("Choices")] == classes
    [choice] = ElementTree.fromstring(results.label_studio_config(["a\x07\ufffe b"])).find("Choices")
    assert choice.get("value") == "a b"  # XML cannot hold the others


@pytest.mark.parametrize("classes", [["a", "a"], ["a", ""], [" a"], ["a\x07"], ["a\udcff"]])
def test_classes_that_make_no_interface_are_refused(classes):
    with pytest.raises(ValueError, match="class"):
        Request(Path("images"), Path("picks"), classes=tuple(classes))


def exported(tasks, answers):
    """What Label Studio's two JSON exports hold after these answers, of which None is skipping and "" no annotation at all."""
    full, short = [], []
    for number, (given_task, answer) in enumerate(zip(tasks, answers, strict=True), start=1):
        results = [choice(answer)] if answer else []
        notes = [] if answer == "" else [{"id": 100 + number, "result": results, "was_cancelled": answer is None}]
        full.append({"id": number, "data": given_task["data"], "annotations": notes, "predictions": [], "drafts": []})
        if answer is not None:
            row = {**given_task["data"], "id": number, "annotation_id": 100 + number if answer else None, "lead_time": 1.5}
            short.append({**row, "label": answer} if answer else row)
    return full, short


@SAME_FOLDER
@given(st.dictionaries(names, st.none() | labels_, min_size=1))
def test_answers_to_tasks_come_back_through_both_exports(tmp_path, answers):
    tasks = tasks_of(tmp_path, answers)
    wanted = {position: label for position, label in enumerate(answers.values()) if label}
    for export in exported(tasks, answers.values()):
        found, waiting, unknown = match(read_json(tmp_path, export), list(answers))
        assert (found, unknown) == (wanted, [])
        assert not set(waiting) & set(wanted)


@SAME_FOLDER
@given(st.lists(names, min_size=1, unique=True))
def test_the_address_alone_finds_the_image_or_nothing(tmp_path, ids):
    for position, given_task in enumerate(tasks_of(tmp_path, ids)):
        found = match(labels_of({given_task["data"]["image"]: "cat"}), ids)[0]
        assert found in ({position: "cat"}, {})


# -- damaged files -------------------------------------------------------------------------------------------------------------


TABLE = 'id,label,note\n"a, b.png",cat,\n2.png,"{""choices"": [""dog""]}",1\n\'=x,,"two\nlines"\n'
EXPORT = [task({"supclust_id": "1", "image": "/data/local-files/?d=a"}, [choice("cat")]), {"id": 5, "image": "b", "label": "dog"}]
VALID = {
    "csv": TABLE.encode(),
    "utf16": TABLE.replace(",", "\t").encode("utf-16"),
    "json": json.dumps(EXPORT).encode(),
}


@SAME_FOLDER
@given(rng=st.randoms(use_true_random=False))
def test_damaged_files_are_read_or_refused_with_their_name(tmp_path, rng):
    path = tmp_path / "damaged.csv"
    for content in VALID.values():
        path.write_bytes(content)
        annotations.read(path)
        path.write_bytes(mutated(content, rng))
        try:
            labels = annotations.read(path)
        except ValueError as error:
            assert str(path) in str(error)  # noqa: PT017  (most files are refused, some are not)
        else:
            with suppress(ValueError):  # where damage made two labels of one image
                match(labels, ["a, b.png", "2.png", "=x"])

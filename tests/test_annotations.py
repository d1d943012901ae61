"""Labels that come back from people: CSV as spreadsheets write it, JSON as Label Studio does, and what goes out to them."""

import csv
import io
import json
import logging
import os
import random
import unicodedata
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from supclust.label import annotations, exports, matching
from supclust.label.annotations import Labels
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


def written(folder, content, name="labels.csv"):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return path


def read(folder, content):
    return annotations.read(written(folder, content))


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
    assert labels == Labels({"a.png": "cat", " c.png ": "dog"}, ("b.png",), str(tmp_path / "labels.csv"))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "\r\r\n"])
def test_every_way_in_which_spreadsheets_write_a_table_is_read(tmp_path, encoding, delimiter, end):
    rows = ["note", "ID ", " Label"], ['"a, b; c"', '"ä\t.png"', '"Käse, blau"'], ["x", "2.png", "cat"], ["", "", ""]
    text = end.join(delimiter.join(row) for row in rows) + end
    assert read(tmp_path, text.encode(encoding)).labels == {"ä\t.png": "Käse, blau", "2.png": "cat"}


def test_utf_16_with_the_other_byte_order_is_read(tmp_path):
    assert read(tmp_path, b"\xfe\xff" + "id,label\n1,cat".encode("utf-16-be")).labels == {"1": "cat"}


def test_a_quoted_field_may_hold_line_ends_and_quotation_marks(tmp_path):
    assert read(tmp_path, 'id,label\n"a\n""b"".png","two\r\nlines"\n').labels == {'a\n"b".png': "two\r\nlines"}


@pytest.mark.parametrize("column", annotations.ID_COLUMNS)
def test_the_ids_stand_in_any_of_the_columns_that_people_name_so(tmp_path, column):
    assert read(tmp_path, f"label,{column.upper()}\ncat,1\n").labels == {"1": "cat"}


@pytest.mark.parametrize("column", annotations.LABEL_COLUMNS)
def test_the_labels_stand_in_any_of_the_columns_that_people_name_so(tmp_path, column):
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
    assert matching.match(labels, ["007", "8", "9"]) == ({0: "3", 1: "4"}, [], [])
    assert matching.match(labels, ["7", "007", "08"]) == ({0: "3", 2: "4"}, [], [])  # the one that is spelt so
    assert matching.match(labels, ["07", "007", "8.png"])[2] == ["7", "8.0"]  # could be two, and is none


def test_blanks_around_an_id_and_a_line_about_the_separator_do_no_harm(tmp_path):
    labels = read(tmp_path, "sep=;\nid;label\n a.png ;x\n")
    assert matching.match(labels, ["a.png"]) == ({0: "x"}, [], [])


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
        assert read(tmp_path, "id,label\n") == Labels({}, (), str(tmp_path / "labels.csv"))
    assert "no labels yet" in caplog.text


def test_missing_columns_are_named_with_those_that_are_there_and_an_example(tmp_path):
    sentence = refusal(tmp_path, "picture,label\n1,cat\n")
    assert "no column of ids" in sentence
    assert "'picture', 'label'" in sentence
    assert sentence.endswith("id,label\ncats/1.png,cat")
    assert "no column of labels" in refusal(tmp_path, "id,animal\n1,cat\n")
    assert "no column of ids" in refusal(tmp_path, '""\n')
    assert "no column of ids" in refusal(tmp_path, ",,,\n,,,\n")
    assert "is not a CSV file" in refusal(tmp_path, "sep=;\n")


def test_two_columns_of_one_name_are_refused(tmp_path):
    assert "several columns 'label'" in refusal(tmp_path, "id,Label,label\n1,cat,dog\n")


def test_rows_of_another_length_are_refused_with_their_number(tmp_path):
    assert "Expected 2 fields in line 4, saw 3" in refusal(tmp_path, 'id,label\n"1\n2",cat\n\n2,cat,dog\n')
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


def test_what_is_no_file_or_cannot_be_read_is_refused(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="is not a file"):
        annotations.read(tmp_path)
    with pytest.raises(ValueError, match=r"nothing\.csv cannot be read: No such file"):
        annotations.read(tmp_path / "nothing.csv")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="is not a file"):
        annotations.read(tmp_path / "pipe")
    monkeypatch.setattr(annotations, "LARGEST", 10)
    assert "has 16 bytes" in refusal(tmp_path, "id,label\n1,cat\n\n")


# -- conflicts -----------------------------------------------------------------------------------------------------------------


def test_one_label_given_twice_is_fine_and_a_label_beats_none(tmp_path):
    labels = read(tmp_path, "id,label\n1,\n1,cat\n1,cat\n2,\n2,\n")
    assert (labels.labels, labels.unlabeled) == ({"1": "cat"}, ("2",))


def test_two_labels_of_one_image_in_one_file_are_refused(tmp_path):
    sentence = refusal(tmp_path, "id,label\n" + "".join(f"{k},cat\n{k},dog\n{k},cow\n" for k in range(7)))
    assert "7 image(s) have different labels: '0' is 'cat' and 'dog', '1' is" in sentence
    assert "'4' is 'cat' and 'dog' and 2 more" in sentence


def test_files_are_merged_unless_they_contradict_each_other():
    first, second = Labels({"1": "cat"}, ("2", "3"), "a.csv"), Labels({"2": "dog", "1": "cat"}, ("1", "4"), "b.json")
    assert annotations.merge([first, second]) == Labels({"1": "cat", "2": "dog"}, ("3", "4"), "a.csv, b.json")
    assert annotations.merge([]) == Labels({}, (), "")
    with pytest.raises(ValueError, match=r"a\.csv, c\.csv: 1 image\(s\) have different labels: '1' is 'cat' and 'cow'\. Keep"):
        annotations.merge([first, Labels({"1": "cow"}, (), "c.csv")])


# -- Label Studio --------------------------------------------------------------------------------------------------------------


def choice(*names, control="label"):
    return {"type": "choices", "from_name": control, "to_name": "image", "value": {"choices": list(names)}}


def task(data, *results, cancelled=False):
    notes = [{"id": k, "result": result, "was_cancelled": cancelled} for k, result in enumerate(results)]
    return {"id": 17, "data": data, "annotations": notes, "predictions": [{"result": [choice("wrong")]}]}


def read_json(folder, tasks):
    return annotations.read(written(folder, json.dumps(tasks), "export.json"))


def json_refusal(folder, tasks):
    return refusal(folder, json.dumps(tasks), "export.json")


def test_the_full_export_is_read_whatever_the_file_is_called(tmp_path):
    tasks = [task({"supclust_id": "1", "id": 5}, [choice("cat ")]), task({"supclust_id": "2"}), task({"id": 3}, [])]
    labels = annotations.read(written(tmp_path, "\ufeff \n" + json.dumps(tasks), "labels.csv"))
    assert (labels.labels, labels.unlabeled) == ({"1": "cat"}, ("2", "3"))


def test_one_task_alone_is_read(tmp_path):
    assert read_json(tmp_path, task({"supclust_id": "1"}, [choice("cat")])).labels == {"1": "cat"}


def test_skipped_tasks_and_predictions_give_no_labels(tmp_path):
    labels = read_json(tmp_path, [task({"supclust_id": "1"}, [choice("cat")], cancelled=True), task({"supclust_id": "2"})])
    assert (labels.labels, labels.unlabeled) == ({}, ("1", "2"))


def test_annotators_may_agree_and_not_contradict_each_other(tmp_path):
    assert read_json(tmp_path, [task({"id": "1"}, [choice("cat")], [choice("cat")], [])]).labels == {"1": "cat"}
    assert "'1' is 'cat' and 'dog'" in json_refusal(tmp_path, [task({"id": "1"}, [choice("cat")], [choice("dog")])])


def test_our_choices_count_where_there_are_others_and_remarks(tmp_path):
    remark = {"type": "textarea", "from_name": "remark", "value": {"text": ["blurred"]}}
    results = [choice("bad", control="quality"), choice("cat"), remark]
    assert read_json(tmp_path, [task({"id": "1"}, results)]).labels == {"1": "cat"}
    assert read_json(tmp_path, [task({"id": "1"}, [remark, choice("cat", control="animal")])]).labels == {"1": "cat"}


def test_what_is_not_one_choice_is_refused_with_the_number_of_the_task(tmp_path):
    fine, rectangle = task({"id": "0"}, [choice("cat")]), {"type": "rectanglelabels", "value": {"rectanglelabels": ["cat"]}}
    assert "task 2: the label is a list of 2" in json_refusal(tmp_path, [fine, task({"id": "1"}, [choice("a", "b")])])
    assert "task 2: the annotation is of type 'rectanglelabels'" in json_refusal(tmp_path, [fine, task({"id": "1"}, [rectangle])])
    assert "2 results with choices" in json_refusal(tmp_path, [task({"id": "1"}, [choice("a"), choice("b")])])
    nested = choice(["animal", "cat"], ["animal", "dog"])
    assert "the label is a list of 2" in json_refusal(tmp_path, [task({"id": "1"}, [nested])])


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
    tasks = exports.label_studio_tasks([{"id": "a.png"}, {"id": "b.png"}])
    assert read_json(tmp_path, tasks).unlabeled == ("a.png", "b.png")
    assert read_json(tmp_path, []).unlabeled == ()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('[{"data": ', "line 1, column 11: this is not JSON"),
        ("{}{}", "line 1, column 3: this is not JSON"),
        ("[" * 100_000, "is not JSON that Label Studio exports"),
        ("[" + "9" * 5000 + "]", "is not JSON that Label Studio exports"),
        ("[1]", "task 1: this is a number"),
        ('[{"data": []}]', "data is a list of 0"),
        ('[{"data": {"id": "1"}, "annotations": [5]}]', "annotations should be a list of objects"),
        ('[{"data": {"id": "1"}, "annotations": {"result": []}}]', "annotations should be a list of objects"),
        ('[{"data": {"id": "1"}, "annotations": [{"result": [5]}]}]', "result should be a list of objects"),
        ('[{"data": {"id": "1"}, "annotations": [{"result": [{"type": "choices", "value": {}}]}]}]', "the label is an object"),
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
    found, waiting, unknown = matching.match(Labels({}, (name,), "f"), IDS, {"copy.png": "cats/b.png", "lost.png": "gone.png"})
    assert (found, waiting, unknown) == ({}, [] if position is None else [position], [name] if position is None else [])


def test_an_id_as_it_stands_comes_before_every_other_way(tmp_path):
    ids = ["'=a", "=a", "x\\y", "x/y", "%41", "A"]
    labels = Labels({name: str(position) for position, name in enumerate(ids)}, (), "f")
    assert matching.match(labels, ids)[0] == dict(enumerate("012345"))


def test_a_name_that_could_be_of_two_images_is_unknown():
    assert matching.match(Labels({"/data/cats/b.png": "cat"}, (), "f"), ["b.png", "cats/b.png"]) == (
        {},
        [],
        ["/data/cats/b.png"],
    )
    assert matching.match(Labels({"\u00e4": "1"}, (), "f"), ["a\u0308\\x", "a\u0308/x"])[2] == ["\u00e4"]
    assert matching.match(Labels({"\u212b/x": "1"}, (), "f"), ["A\u030a\\x", "\u00c5\\x"])[2] == ["\u212b/x"]


def test_two_names_of_one_image_must_agree():
    labels = Labels({"a.png": "cat", "x/a.png": "cat"}, ("copy.png", "y/a.png"), "f.csv")
    assert matching.match(labels, ["a.png"], {"copy.png": "a.png"}) == ({0: "cat"}, [], [])
    labels = Labels({"a.png": "cat", "copy.png": "dog"}, (), "f.csv")
    with pytest.raises(
        ValueError, match=r"f\.csv: 1 image\(s\) .*'a\.png' is 'cat' and 'copy\.png' is 'dog', and they are one image"
    ):
        matching.match(labels, ["a.png"], {"copy.png": "a.png"})


def test_ids_to_match_with_must_be_distinct():
    with pytest.raises(ValueError, match=r"come up again: 'a'"):
        matching.match(Labels({}, (), "f"), ["a", "b", "a"])


def test_matching_a_path_of_a_hundred_thousand_slashes_takes_no_time():
    assert matching.match(Labels({"/" * 100_000: "cat"}, (), "f"), ["a/b"])[2] == ["/" * 100_000]


# -- writing CSV ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", FORMULAS)
def test_what_could_be_a_formula_gets_a_sign_in_front(text):
    assert annotations.safe(text) == f"'{text}"
    assert annotations.safe(f"'{text}") == f"''{text}"


@pytest.mark.parametrize("text", ["", "a", "a=1", "1", "'", "'a", "1-1", " a", "#1", "ä", '"=1"'])
def test_what_is_no_formula_stays_as_it_is(text):
    assert annotations.safe(text) == text


def test_a_table_is_written_as_it_should_be(tmp_path):
    columns = {
        "id": ["a", 'b"c', "=d"],
        "order": np.array([1, 2, 3]),
        "sup": np.array([0.1, np.nan, -0.5]),
        "score": [1e-300, None, 0.1 + 0.2],
    }
    exports.write_csv(tmp_path / "new" / "t.csv", columns)
    assert (tmp_path / "new" / "t.csv").read_bytes().decode().split("\n") == [
        '"id","order","sup","score"',
        '"a",1,0.1,1e-300',
        '"b""c",2,"",""',
        '"\'=d",3,-0.5,0.30000000000000004',
        "",
    ]


@pytest.mark.parametrize("value", ["a\0b", "a\udcff"])
def test_cells_that_no_csv_file_holds_are_refused(tmp_path, value):
    with pytest.raises(ValueError, match=r"t\.csv: 'a\\.* holds signs that are not text"):
        exports.write_csv(tmp_path / "t.csv", {"id": [value]})
    assert not list(tmp_path.iterdir())


anything = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)
awkward = st.text(st.sampled_from("=+-@'\"\n\r\t ,;ab＝\ufeff{}[]"), min_size=1)
names = anything | awkward | st.sampled_from(FORMULAS).map("'".__add__)
labels_ = st.just("") | names.map(str.strip)


@SAME_FOLDER
@given(st.dictionaries(names, labels_, min_size=1))
def test_a_table_of_any_ids_and_labels_comes_back_as_it_was(tmp_path, table):
    path = tmp_path / "table.csv"
    exports.write_csv(path, {"order": range(len(table)), "id": list(table), "label": list(table.values())})
    found, waiting, unknown = matching.match(annotations.read(path), list(table))
    assert found == {position: label for position, label in enumerate(table.values()) if label}
    assert waiting == [position for position, label in enumerate(table.values()) if not label]
    assert unknown == []


@SAME_FOLDER
@given(st.lists(names | st.floats() | st.integers() | st.none(), min_size=1))
def test_no_cell_of_a_table_is_taken_for_a_formula(tmp_path, values):
    path = tmp_path / "table.csv"
    exports.write_csv(path, {"=id": values, "-n": range(len(values))})
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


def test_tasks_say_what_is_known_about_the_picks():
    picks = [
        {
            "id": "a b.png",
            "order": np.int64(1),
            "cluster": 3,
            "cluster_size": 10,
            "typicality": 0.1,
            "sup": float("nan"),
        },
        {"id": "7", "path": "ä#&+%?.png", "sup": -np.inf, "typicality": None, "anything": object()},
    ]
    assert exports.label_studio_tasks(picks) == [
        {
            "data": {
                "image": "/data/local-files/?d=a%20b.png",
                "supclust_id": "a b.png",
                **{"order": 1, "cluster": 3, "cluster_size": 10, "typicality": 0.1, "sup": None},
            }
        },
        {"data": {"image": "/data/local-files/?d=%C3%A4%23%26%2B%25%3F.png", "supclust_id": "7", "typicality": None, "sup": None}},
    ]


def test_tasks_take_another_prefix():
    [found] = exports.label_studio_tasks([{"id": "a.png"}], "https://host/images/")
    assert found["data"]["image"] == "https://host/images/a.png"


def test_the_prefix_of_a_folder_is_its_name_below_the_root(tmp_path):
    assert exports.local_files(tmp_path / "my pets") == "/data/local-files/?d=my%20pets/"


@pytest.mark.parametrize("pick", [{"id": "a\udcff"}, {"id": "a", "path": "\0"}])
def test_picks_that_make_no_task_are_refused_with_their_number(pick):
    with pytest.raises(ValueError, match="pick 2"):
        exports.label_studio_tasks([{"id": "fine"}, pick])


def test_tasks_are_written_as_json_that_every_parser_takes(tmp_path):
    tasks = exports.label_studio_tasks([{"id": "ä", "sup": float("inf")}])
    exports.write_tasks(tmp_path / "tasks.json", tasks)

    def refuse(name):
        raise AssertionError(name)

    content = (tmp_path / "tasks.json").read_bytes()
    assert content.isascii()
    assert json.loads(content, parse_constant=refuse) == tasks


def test_the_interface_offers_the_classes():
    classes = ["cat", "<\"a\" & 'b'>", "two\nlines", "ä"]
    view = ElementTree.fromstring(exports.label_studio_config(classes))
    assert [(child.tag, child.get("name")) for child in view] == [("Image", "image"), ("Choices", "label")]
    assert view.find("Image").get("value") == "$image"
    assert view.find("Choices").get("toName") == "image"
    assert [child.get("value") for child in view.find("Choices")] == classes


@pytest.mark.parametrize("classes", [[], ["a", "a"], ["a", ""], [" a"], ["a\x07"], ["a\udcff"]])
def test_classes_that_make_no_interface_are_refused(classes):
    with pytest.raises(ValueError, match="class"):
        exports.label_studio_config(classes)


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
    picks = [{"id": name, "sup": 0.5} for name in answers]
    exports.write_tasks(tmp_path / "tasks.json", exports.label_studio_tasks(picks))
    tasks = json.loads((tmp_path / "tasks.json").read_bytes())
    wanted = {position: label for position, label in enumerate(answers.values()) if label}
    for export in exported(tasks, answers.values()):
        found, waiting, unknown = matching.match(read_json(tmp_path, export), list(answers))
        assert (found, unknown) == (wanted, [])
        assert not set(waiting) & set(wanted)


@SAME_FOLDER
@given(st.lists(names, min_size=1, unique=True))
def test_the_address_alone_finds_the_image_or_nothing(tmp_path, ids):
    for prefix in (annotations.LOCAL_FILES, exports.local_files(tmp_path)):
        tasks = exports.label_studio_tasks([{"id": name} for name in ids], prefix)
        addresses = tuple(dict.fromkeys(given_task["data"]["image"] for given_task in tasks))
        for address, position in zip(addresses, range(len(ids)), strict=True):
            found = matching.match(Labels({address: "cat"}, (), "f"), ids)[0]
            assert found in ({position: "cat"}, {})


# -- damaged files -------------------------------------------------------------------------------------------------------------


TABLE = 'id,label,note\n"a, b.png",cat,\n2.png,"{""choices"": [""dog""]}",1\n\'=x,,"two\nlines"\n'
EXPORT = [task({"supclust_id": "1", "image": "/data/local-files/?d=a"}, [choice("cat")]), {"id": 5, "image": "b", "label": "dog"}]
VALID = {
    "csv": TABLE.encode(),
    "utf16": TABLE.replace(",", "\t").encode("utf-16"),
    "json": json.dumps(EXPORT).encode(),
    "tasks": json.dumps(exports.label_studio_tasks([{"id": "ä.png", "sup": 0.5}])).encode(),
}


@pytest.mark.parametrize("kind", VALID)
def test_damaged_files_are_read_or_refused_with_their_name(tmp_path, kind):
    rng, path = random.Random(kind), tmp_path / "damaged.csv"
    path.write_bytes(VALID[kind])
    annotations.read(path)
    refused = 0
    for _ in range(1000):
        path.write_bytes(mutated(VALID[kind], rng))
        try:
            labels = annotations.read(path)
        except ValueError as error:
            assert str(path) in str(error)  # noqa: PT017  (most files are refused, some are not)
            refused += 1
        else:
            matching.match(labels, ["a, b.png", "2.png", "=x"])
    assert 100 < refused < 1000

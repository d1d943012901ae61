"""Labels that come back from people: CSV as spreadsheets write it, JSON as Label Studio does, and what goes out to them."""

import csv
import io
import json
import re
import time
import unicodedata
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, unquote
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from supclust.label import annotations, columns, matching, results
from supclust.label.annotations import Columns, Label
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


def labels_of(labels, skipped=(), file="f"):
    return [Label(name, labels.get(name), file, done=name in skipped) for name in (*labels, *skipped)]


def match(labels, ids, aliases=(), folder=None):
    given = labels_of(labels.labels, labels.unlabeled) if isinstance(labels, Said) else labels
    found = matching.match(given, ids, dict(aliases), folder)
    return found.labels, found.done, list(found.unknown)


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
    assert labels == ({"a.png": "cat", "c.png ": "dog"}, ("b.png",))


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


@pytest.mark.parametrize(
    "spell", [str, str.upper, str.title, lambda name: f" {name[:3]}_{name[3:]} ", lambda name: f"{name[:2]} {name[2:]}"]
)
def test_ids_and_labels_stand_in_any_of_the_columns_that_tools_name_so(tmp_path, spell):
    for column in columns.IDS:
        assert read(tmp_path, f"label,{spell(column)}\ncat,1\n").labels == {"1": "cat"}
    for column in columns.LABELS:
        assert read(tmp_path, f"id,{spell(column)}\n1,cat\n").labels == {"1": "cat"}


@pytest.mark.parametrize(
    "name",
    [
        "filename",
        "file_name",
        "filepath",
        "file",
        "path",
        "image",
        "image_path",
        "image_id",
        "name",
        "uuid",
        "key",
        "id",
        "File-Name",
    ],
)
@pytest.mark.parametrize("label", ["label", "labels", "class", "class_name", "label_name", "category", "tag", "dx", "target"])
def test_the_names_of_other_tools_are_known_in_csv_and_json(tmp_path, name, label):
    assert read(tmp_path, f"{name},{label}\na.png,cat\n").labels == {"a.png": "cat"}
    assert read_json(tmp_path, [{name: "a.png", label: "cat"}]).labels == {"a.png": "cat"}
    lines = "".join(json.dumps({name: f"{k}.png", label: "cat"}) + "\n" for k in range(3))
    assert read(tmp_path, lines).labels == {f"{k}.png": "cat" for k in range(3)}


def test_the_likeliest_of_the_known_columns_counts_and_the_others_help(tmp_path):
    text = "y,name,class,file,id,label,supclust_id\n0,n,1,f,i,cat,s\n"
    [found] = annotations.read(written(tmp_path, text))
    assert (found.id, found.label, found.others) == ("s", "cat", ("i", "f", "n"))
    assert read(tmp_path, text.replace("supclust_id", "x").replace("label", "z")).labels == {"i": "1"}
    assert match([found], ["a", "f"])[0] == {1: "cat"}
    numbered = annotations.read(written(tmp_path, "id,file_name,label\n1,2.png,cat\n2,1.png,dog\n"))
    assert match(numbered, ["1.png", "2.png"])[0] == {1: "cat", 0: "dog"}


def test_columns_may_be_named(tmp_path, caplog):
    text, wanted = "photo,id,label,Animal kind\na.png,1,x,cat\n", Columns("photo", "animal_kind")
    assert said(annotations.read(written(tmp_path, text), wanted)).labels == {"a.png": "cat"}
    results = [choice("good", control="quality"), choice("cat")]
    path = written(tmp_path, json.dumps([task({"photo": "a.png", "id": 1}, results)]))
    assert said(annotations.read(path, Columns("photo", "quality"))).labels == {"a.png": "good"}
    assert said(annotations.read(written(tmp_path, "id,label\n1,cat\n"), wanted)).labels == {"1": "cat"}
    assert "has no column 'photo': 'id' is read" in caplog.text
    with pytest.raises(ValueError, match="no column of labels: its columns are 'photo', 'z'; 'animal_kind' is wanted"):
        annotations.read(written(tmp_path, "photo,z\n1,cat\n"), wanted)


def test_a_column_of_zeros_and_ones_for_each_class_is_read(tmp_path):
    table = "image,MEL,NV,UNK\nISIC_1,0.0,1.0,0.0\nISIC_2,1.0,0.0,0.0\nISIC_3,0.0,0.0,0.0\nISIC_4,1,1,0\n"
    found = annotations.read(written(tmp_path, table))
    assert [one.label for one in found] == ["NV", "MEL", None, None]
    assert "line 5: the label is ['MEL', 'NV']. An image has one label" in found[3].problem
    for one, none in (("True", "False"), ("1.000000", "0.000000"), ("x", ""), ("1", "")):
        assert read(tmp_path, f"image,cat,dog\na,{one},{none}\nb,{none},{one}\nc,{none},{none}\n") == (
            {"a": "cat", "b": "dog"},
            ("c",),
        )
    weighed = written(tmp_path, "image,MEL,NV,score_weight\na,1.0,0.0,1.0\nb,0.0,1.0,1.0\n")
    with pytest.raises(ValueError, match="or columns of 0 and 1 that --classes names, is wanted"):
        annotations.read(weighed)
    for classes in (("MEL", "NV"), ("mel", "nv", "unk")):
        assert said(annotations.read(weighed, Columns(classes=classes))).labels == {"a": "MEL", "b": "NV"}
    path = written(tmp_path, "image,caf\u00e9,dog\na,1,0\nb,0,1\n")
    for classes in (("dog",), ("cafe\u0301", "dog"), ("cat", "dog")):
        assert said(annotations.read(path, Columns(classes=classes))).labels == {"a": "caf\u00e9", "b": "dog"}
    for table in ("image,MEL,age\na,1,30\n", "image,note,remark\na,,\n", "image,MEL,NV\n"):
        assert "no column of labels" in refusal(tmp_path, table)


def test_the_table_that_label_studio_exports_is_read(tmp_path):
    header = "annotation_id,annotator,created_at,id,image,label,lead_time,order,supclust_id,updated_at"
    row = '8,1,"2026","3","/data/local-files/?d=a.png","cat",1.5,1,"a.png","2026"'
    assert read(tmp_path, f"{header}\r\n{row}\r\n").labels == {"a.png": "cat"}
    without = header.replace("supclust_id", "other")
    assert read(tmp_path, f"{without}\r\n{row}\r\n").labels == {"/data/local-files/?d=a.png": "cat"}


@pytest.mark.parametrize("cell", ['{"choices": ["a","b"]}', '[{"choices": ["a", "b"]}]', '[{"x": 1, "rectanglelabels": ["a"]}]'])
def test_several_choices_in_one_cell_are_a_problem_of_that_image(tmp_path, cell):
    quoted = cell.replace('"', '""')
    found = annotations.read(written(tmp_path, f'id,label\n0,cat\n1,"{quoted}"\n'))
    assert [one.label for one in found] == ["cat", None]
    assert "line 3: the label is" in found[1].problem


def test_numbers_are_known_again_after_programs_that_read_tables_as_numbers(tmp_path):
    labels = read(tmp_path, "id,label\n7,3.0\n8.0,4\n")
    assert match(labels, ["007", "8", "9"]) == ({0: "3", 1: "4"}, [], [])
    assert match(labels, ["7", "007", "08"]) == ({0: "3", 2: "4"}, [], [])  # the one that is spelt so
    assert match(labels, ["07", "007", "8.png"]) == ({2: "4"}, [], ["7"])  # could be two, and is none


def test_blanks_around_an_id_and_a_line_about_the_separator_do_no_harm(tmp_path):
    labels = read(tmp_path, "sep=;\nid;label\n a.png ;x\n")
    assert match(labels, ["a.png"]) == ({0: "x"}, [], [])


def test_a_header_may_stand_below_blank_rows_and_hold_other_separators_in_quotes(tmp_path):
    assert read(tmp_path, ",,,\nid,label\n1,cat\n").labels == {"1": "cat"}
    assert read(tmp_path, '"a, b, c";label;id\nx;cat;1\n').labels == {"1": "cat"}
    for title in ("Table 1\n", '"Table 1"\r\n', "# exported in June\n\n", "My labels|\n|\n", "sep=|\nTable 1\n"):
        assert read(tmp_path, f"{title}id|label\n1|cat\n").labels == {"1": "cat"}
    start = time.process_time()
    assert "no column" in refusal(tmp_path, f"id{' ' * 50_000}\n" * 20)
    assert time.process_time() - start < 2


@pytest.mark.parametrize(
    "label", ["[a]", "{a}", "{}", "[1]", "[" * 50_000, "007", "1.5", "v1.0", "NaNa", "none of these", "-", "?", "#1", "1."]
)
def test_a_label_may_look_like_anything(tmp_path, label):
    quoted = label.replace('"', '""')
    assert read(tmp_path, f'id,label\n1,"{quoted}"\n').labels == {"1": label}


def test_one_choice_in_a_cell_is_the_label(tmp_path):
    assert read(tmp_path, 'id,label\n1,"{""choices"": [""cat""]}"\n2,"{""choices"": []}"\n').labels == {"1": "cat"}
    assert read(tmp_path, 'id,label\n1,[\'cat\']\n2,[]\n3,"[""dog""]"\n') == ({"1": "cat", "3": "dog"}, ("2",))


def test_the_sign_against_formulas_is_taken_off(tmp_path):
    labels = read(tmp_path, "id,label\n'=a,'-b\n'tis.png,'n'\n''=a,''@\n")
    assert labels.labels == {"=a": "-b", "'tis.png": "'n'", "'=a": "'@"}


@pytest.mark.parametrize(
    "cell",
    [
        *(
            "NA",
            "N/A",
            "#N/A",
            "nan",
            "NaN",
            "None",
            "null",
            "NULL",
            "<NA>",
            " NA ",
            "",
            "  ",
            "-nan",
            "(null)",
            "<null>",
            "NaT",
            "nil",
        ),
        *("\\N", ".", ".a", "#REF!", "#DIV/0!", "#NAME?", "1.#QNAN", "unlabeled"),
    ],
)
def test_what_programs_write_for_a_missing_value_is_no_label_unless_it_is_a_class(tmp_path, caplog, cell):
    path = written(tmp_path, f"id,label\n1,{cell}\n2,cat\n")
    assert said(annotations.read(path)) == ({"2": "cat"}, ("1",))
    assert (f"unless --classes names them: 1 {cell.strip()!r}" in caplog.text) == bool(cell.strip())
    assert said(annotations.read(path, Columns(classes=("cat", cell.strip())))).labels == {"2": "cat"} | (
        {"1": cell.strip()} if cell.strip() else {}
    )


def test_a_choice_may_be_called_none(tmp_path):
    assert read_json(tmp_path, [task({"id": "1"}, [choice("None")])]).labels == {"1": "None"}


def test_labels_are_spelt_in_one_way(tmp_path):
    for label in ("caf\u00e9", "cafe\u0301"):
        assert read(tmp_path, f"id,label\n1,{label}\n").labels == {"1": "caf\u00e9"}
        assert read_json(tmp_path, [task({"id": "1"}, [choice(label)])]).labels == {"1": "caf\u00e9"}


@pytest.mark.parametrize(
    "text", ['id, label\n"a, b.png", "cat"\n', 'id ; label\n"a, b.png"; cat\n', '"id",\t"label"\n"a, b.png", cat \n']
)
def test_blanks_after_the_separator_do_no_harm(tmp_path, text):
    assert read(tmp_path, text.replace("\t", " ")).labels == {"a, b.png": "cat"}


def test_a_header_alone_is_fine(tmp_path):
    assert read(tmp_path, "id,label\n") == ({}, ())


def test_missing_columns_are_named_with_those_that_are_there_and_an_example(tmp_path):
    sentence = refusal(tmp_path, "bild,label\n1,cat\n")
    assert "no column of ids" in sentence
    assert "'bild', 'label'" in sentence
    assert sentence.endswith("id,label\ncats/1.png,cat")
    assert "no column of labels" in refusal(tmp_path, "id,animal\n1,cat\n")
    assert "no column of ids" in refusal(tmp_path, '""\n')
    assert "no column of ids" in refusal(tmp_path, ",,,\n,,,\n")
    assert "no column of ids" in refusal(tmp_path, "sep=;\n")


def test_two_columns_of_one_name_are_refused(tmp_path):
    assert "several columns 'label'" in refusal(tmp_path, "id,Label,label\n1,cat,dog\n")


def test_rows_that_are_too_long_are_refused_with_their_number(tmp_path):
    assert "line 5: more fields than the 2 of the header. Name all columns, and put text with ',' in quotes" in refusal(
        tmp_path, 'id,label\n"1\n2",cat\n\n2,cat,dog\n'
    )


def test_what_is_empty_at_the_end_of_a_row_may_be_missing_or_too_much(tmp_path):
    assert read(tmp_path, "id;label;path;order\n1;cat;x;1\n2;dog\n3\n4;cow;;;;\n") == ({"1": "cat", "2": "dog", "4": "cow"}, ("3",))
    assert read(tmp_path, "order,id,label\n1,a,cat\n2,b\n") == ({"a": "cat"}, ("b",))


def test_rows_and_tasks_that_cannot_be_read_are_left_out_with_their_place(tmp_path):
    assert "line 2: nothing says which image this is: 'id' must be" in refusal(tmp_path, "id,label\n,dog\n")
    broken = [{"data": None}, {"data": {"text": "hm"}}, {"data": {"image": None}}, {"data": {"image": "b"}, "annotations": [5]}]
    for text in ("id,label\n,dog\na,cat\n", *(json.dumps([one, task({"image": "a"}, [choice("cat")])]) for one in broken)):
        found = matching.match(annotations.read(written(tmp_path, text)), ["a", "b"], {})
        assert (found.labels, found.problems) == ({0: "cat"}, {})
        [(where, reason)] = found.unknown.items()
        assert re.search("labels.csv, (line 2|task 1)", where)
        assert reason == annotations.BROKEN


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
    with zipfile.ZipFile(tmp_path / "workbook.xlsx", "w", zipfile.ZIP_DEFLATED) as workbook:
        workbook.writestr("xl/workbook.xml", "<x/>")
    assert "Save the table as 'CSV UTF-8'" in refusal(tmp_path, (tmp_path / "workbook.xlsx").read_bytes())


def test_what_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(ValueError, match="cannot be read: Is a directory"):
        annotations.read(tmp_path)
    with pytest.raises(ValueError, match=r"nothing\.csv cannot be read: No such file"):
        annotations.read(tmp_path / "nothing.csv")


@pytest.mark.parametrize(("number", "said"), [(0, "0 images"), (1, "1 image"), (2, "2 images"), (2000, "2,000 images")])
def test_of_one_thing_there_is_no_plural(number, said):
    assert annotations.counted(number, "image") == said
    assert annotations.counted(number, "class", "classes") == said.replace("images", "classes").replace("image", "class")


# -- several labels of an image ------------------------------------------------------------------------------------------------


def test_one_label_given_twice_is_fine_and_a_label_beats_none(tmp_path):
    labels = annotations.read(written(tmp_path, "id,label\n1,\n1,cat\n1,cat\n2,\n2,\n"))
    assert match(labels, ["1", "2"]) == ({0: "cat"}, [], [])


def test_the_majority_counts_and_a_tie_is_left_out_with_where_it_stands(tmp_path):
    path = written(tmp_path, "id,label\n1,cat\n1,dog\n2,cat\n2,dog\n2,cat\n")
    found = matching.match(annotations.read(path), ["1", "2"], {})
    assert found.labels == {1: "cat"}
    assert found.problems == {"1": f"different labels: 'cat' in {path} and 'dog' in {path}"}
    several = labels_of({"1": "cat"}, ["2"], "a.csv") + labels_of({"2": "dog", "1": "cow"}, file="c.csv")
    found = matching.match(several, ["1", "2"], {})
    assert (found.labels, found.done) == ({1: "dog"}, [])
    assert found.problems == {"1": "different labels: 'cat' in a.csv and 'cow' in c.csv"}


@pytest.mark.parametrize(
    ("given", "label"),
    [
        ([("cat", False), ("cat", False), ("dog", False)], "cat"),
        ([("cat", False), ("cat", False), ("dog", True)], "dog"),
        ([("cat", True), ("dog", True), ("dog", False), ("dog", False)], None),
        ([("cat", False), ("dog", False)], None),
        ([("cat", False), ("cat", False), ("dog", False), ("dog", False), ("cow", False)], None),
        ([(None, False), ("dog", False)], "dog"),
    ],
)
def test_of_several_annotators_ground_truth_counts_else_the_majority(tmp_path, given, label):
    notes = [{"result": [choice(one)] if one else [], "ground_truth": truth} for one, truth in given]
    path = written(tmp_path, json.dumps([{"data": {"image": "a.png"}, "annotations": notes}]))
    found = matching.match(annotations.read(path), ["a.png"], {})
    assert found.labels == ({0: label} if label else {})
    assert (found.problems == {}) == (label is not None)
    if not any(truth for _, truth in given):
        rows = [{"image": "a.png", "id": 7, "annotator": k, "annotation_id": k, "choice": one} for k, (one, _) in enumerate(given)]
        assert matching.match(annotations.read(written(tmp_path, json.dumps(rows))), ["a.png"], {}).labels == found.labels
        text = "annotation_id,id,image,choice\n" + "".join(f"{k},7,a.png,{one or ''}\n" for k, (one, _) in enumerate(given))
        assert matching.match(annotations.read(written(tmp_path, text)), ["a.png"], {}).labels == found.labels


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
    assert read_json(tmp_path, {"data": {"image": "1"}, "annotations": [{"result": [choice("cat")]}]}).labels == {"1": "cat"}
    assert read_json(tmp_path, {"classes": 5, "labels": {"1": "cat"}}).labels == {"1": "cat"}


def test_skipped_tasks_and_predictions_give_no_labels(tmp_path):
    labels = read_json(tmp_path, [task({"supclust_id": "1"}, [choice("cat")], cancelled=True), task({"supclust_id": "2"})])
    assert (labels.labels, labels.unlabeled) == ({}, ("1", "2"))


def test_only_what_was_picked_or_skipped_is_done(tmp_path):
    tasks = [
        task({"image": "0"}),
        task({"image": "1"}, [choice("cat")], cancelled=True),
        task({"image": "2"}, []),
        task({"image": "3"}, [choice("cat")]),
    ]
    tasks += [task({"image": "4", "supclust_id": "4"})]
    path, ids = written(tmp_path, json.dumps(tasks)), list("012345")
    assert match(annotations.read(path), ids) == ({3: "cat"}, [1, 4], [])
    assert match(annotations.read(written(tmp_path, "id,label\n0,cat\n1,\n2,\n")), ids) == ({0: "cat"}, [], [])
    assert match(annotations.read(written(tmp_path, "id,label,cluster_size\n0,cat,7\n1,,7\n")), ids) == ({0: "cat"}, [1], [])
    old = [
        {"id": 1, "data": {"image": "0"}, "completions": [{"result": [choice("cat")]}]},
        {"data": {"image": "1"}, "completions": [{"skipped": True}]},
    ]
    assert match(annotations.read(written(tmp_path, json.dumps(old))), ids) == ({0: "cat"}, [1], [])


def test_our_choices_count_where_there_are_others_and_remarks(tmp_path):
    remark = {"type": "textarea", "from_name": "remark", "value": {"text": ["blurred"]}}
    results = [choice("bad", control="quality"), choice("cat"), remark]
    assert read_json(tmp_path, [task({"id": "1"}, results)]).labels == {"1": "cat"}
    assert read_json(tmp_path, [task({"id": "1"}, [remark, choice("cat", control="animal")])]).labels == {"1": "cat"}


@pytest.mark.parametrize(
    ("results", "problem"),
    [
        ([choice("a", "b")], "the label is [{'choices': ['a', 'b']}]"),
        ([{"type": "rectanglelabels", "value": {"rectanglelabels": ["cat"]}}], "the label is [{'rectanglelabels': ['cat']}]"),
        ([{"type": "textarea", "value": {"text": ["blurred"]}}], "the label is [{'text': ['blurred']}]"),
        ([choice("a"), choice("b")], "the label is [{'choices': ['a']}, {'choices': ['b']}]"),
        ([choice(["animal", "cat"], ["animal", "dog"])], "the label is [{'choices': [['animal', 'cat']"),
        ([{"type": "choices", "value": {}}], "the label is [{}]"),
    ],
)
def test_what_is_not_one_choice_is_a_problem_of_that_task(tmp_path, results, problem):
    path = written(tmp_path, json.dumps([task({"id": "0"}, [choice("cat")]), task({"id": "1"}, results)]))
    found = matching.match(annotations.read(path), ["0", "1"], {})
    assert (found.labels, found.done, list(found.problems)) == ({0: "cat"}, [], ["1"])
    assert f"{path}, task 2: {problem}" in found.problems["1"]


def test_an_image_is_known_by_the_address_if_by_nothing_else(tmp_path):
    tasks = [task({"image": "/data/local-files/?d=a%20b.png", "order": 1}, [choice("cat")])]
    assert read_json(tmp_path, tasks).labels == {"/data/local-files/?d=a%20b.png": "cat"}
    for data in ({"id": True}, {"id": ""}, {"image": ["a"]}):
        assert "task 1: nothing says which image this is" in json_refusal(tmp_path, [task(data)])
    for data in ({"order": 1.5}, {}):
        assert "task 1 has no column of ids: its columns are" in json_refusal(tmp_path, [task(data)])


def test_the_short_export_is_read(tmp_path):
    about = {"annotator": 1, "annotation_id": 5, "id": 99}
    tasks = [
        {"image": "/a.png", "supclust_id": "1", "choice": "cat", **about},
        {"image": "/b.png", "label": "dog", **about},
        {"image": "/c.png", **about, "annotation_id": None},
        {"image": "/d.png", "label": {"choices": ["cow"]}, **about},
        {"image": "/e.png", "label": 3, **about},
    ]
    labels = read_json(tmp_path, tasks)
    assert (labels.labels, labels.unlabeled) == ({"1": "cat", "/b.png": "dog", "/d.png": "cow", "/e.png": "3"}, ("/c.png",))


def test_the_short_export_of_another_name_of_the_choices_is_refused(tmp_path):
    assert "no column of labels: its columns are 'image', 'animal'" in json_refusal(tmp_path, [{"image": "a", "animal": "cat"}])
    for value in ([{"choices": ["a", "b"]}], [{"rectanglelabels": ["a"]}], 1.5, float("inf"), [["a", "b"], "c"]):
        [found] = annotations.read(written(tmp_path, json.dumps([{"image": "a", "label": value}])))
        assert "task 1: the label is" in found.problem


@pytest.mark.parametrize(
    "value",
    [
        {"a.png": "cat", "b.png": 1, "c.png": None},
        {"a.png": {"label": "cat"}, "b.png": {"label": 1.0}, "c.png": {"label": float("nan")}},
        {"image": ["a.png", "b.png", "c.png"], "label": ["cat", 1, None]},
        {"name": {"0": "a.png", "1": "b.png", "2": "c.png"}, "label": {"0": "cat", "1": "1", "2": None}},
        {"0": {"name": "a.png", "label": "cat"}, "1": {"name": "b.png", "label": "1"}, "2": {"name": "c.png", "label": None}},
        [{"image": {"path": f"{name}.png", "bytes": None}, "label": one} for name, one in (("a", "cat"), ("b", 1), ("c", None))],
        {"data": [{"file": f"{name}.png", "label": one} for name, one in (("a", "cat"), ("b", 1), ("c", None))]},
        {"classes": ["dog", "cat"], "labels": {"a.png": 1, "b.png": "1", "c.png": None}},
        {"labels": {"a.png": {"label": "cat", "confidence": 0.5}, "b.png": {"label": "1"}, "c.png": None}},
        {
            "samples": [
                {"filepath": f"{name}.png", "tags": ["train"], "ground_truth": one}
                for name, one in (("a", {"label": "cat"}), ("b", {"label": "1"}), ("c", None))
            ]
        },
    ],
)
def test_json_of_others_is_read(tmp_path, value):
    labels = read_json(tmp_path, value)
    assert (labels.labels, labels.unlabeled) == ({"a.png": "cat", "b.png": "1"}, ("c.png",))


def test_a_storage_of_label_studio_holds_annotations(tmp_path):
    stored = {"id": 3, "result": [choice("cat")], "was_cancelled": False, "task": {"id": 17, "data": {"image": "a.png"}}}
    assert read_json(tmp_path, stored).labels == read_json(tmp_path, [stored]).labels == {"a.png": "cat"}


def test_what_prodigy_rejects_is_no_label_and_what_it_ignores_is_done(tmp_path):
    """Its tasks name a label that is accepted or rejected, or accept some of several options."""
    said = [("a", "accept", "cat"), ("b", "reject", "cat"), ("c", "ignore", "cat"), ("d", "reject", "cat"), ("d", "accept", "dog")]
    tasks = [{"image": f"pets/{name}.png", "label": label, "answer": answer, "_input_hash": 5} for name, answer, label in said]
    options = {"options": [{"id": "cat", "text": "Cat"}, {"id": "dog", "text": "Dog"}], "answer": "accept"}
    tasks += [
        {"image": f"{name}.png", "accept": chosen, **options} for name, chosen in (("e", ["dog"]), ("f", []), ("g", ["cat", "dog"]))
    ]
    tasks += [{"image": "data:image/png;base64,aGk/YQ==", "path": "/pets/h.png", "label": "cow", "answer": "accept"}]
    path = written(tmp_path, "\n".join(map(json.dumps, tasks)), "prodigy.jsonl")
    found = matching.match(annotations.read(path), [f"{name}.png" for name in "abcdefgh"], {}, Path("/pets"))
    assert found.labels == {0: "cat", 3: "dog", 4: "dog", 7: "cow"}
    assert (found.done, list(found.problems), found.unknown) == ([2], ["g.png"], {})
    [bare] = annotations.read(written(tmp_path, json.dumps([{"image": "data:,x", "label": "a"}, *tasks[:1]])))[:1]
    assert (bare.problem, "nothing says which image" in bare.id) == (annotations.BROKEN, True)


def test_coco_is_named(tmp_path):
    coco = {"images": [{"id": 1, "file_name": "a.png"}], "annotations": [{"image_id": 1, "category_id": 1}], "categories": []}
    assert "is COCO, which labels boxes in images" in json_refusal(tmp_path, coco)


def test_tasks_that_nobody_has_annotated_are_read(tmp_path):
    assert read_json(tmp_path, tasks_of(tmp_path, ["a.png", "b.png"])).unlabeled == ("a.png", "b.png")
    assert read_json(tmp_path, []).unlabeled == ()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('[{"data": ', "is not JSON that can be read: Expecting value: line 1 column 11"),
        ("{}{}", "is not JSON that can be read: Extra data: line 1 column 3"),
        ('{"id": "1"}\n{"id": ', "line 2, is not JSON that can be read"),
        ("[" * 100_000, "is not JSON that can be read"),
        ("[" + "9" * 5000 + "]", "is not JSON that can be read"),
        ("[1]", "tasks should be objects, not [1]"),
        ('[{"data": []}]', "task 1: data should be objects, not [[]]"),
        ('[{"data": {"id": "1"}, "annotations": [5]}]', "task 1: annotations should be objects, not [5]"),
        ('[{"data": {"id": "1"}, "annotations": {"result": []}}]', "task 1: annotations should be objects, not {'result': []}"),
        ('[{"data": {"id": "1"}, "annotations": [{"result": [5]}]}]', "result should be objects, not [5]"),
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


NESTED = ["cat/001.jpg", "dog/001.jpg", "dog/my photo (1).jpg", "dog/ISIC_2.jpg", "dog/a&b.png", "007.png"]


@pytest.mark.parametrize(
    ("name", "position", "how"),
    [
        ("cat/001.jpg", 0, ""),
        ("pets/dog/001.jpg", 1, ""),
        ("./dog/001.jpg", 1, ""),
        ("../pets/dog/001.jpg", 1, ""),
        ("/mnt/other/pets/dog/001.jpg", 1, ""),
        ("C:\\data\\pets\\dog\\001.jpg", 1, ""),
        ("pets%5Cdog%5C001.jpg", 1, ""),
        ("/data/local-files/?d=pets/dog/a&b.png", 4, ""),
        ("/data/local-files/?d=pets/dog/a%26b.png&x=1", 4, ""),
        ("/mnt/animals/dog/001.jpg", 1, "by a part"),  # of a machine where the folder has another name
        ("s3://bucket/animals/dog/001.jpg", 1, "by a part"),
        ("my photo (1).jpg", 2, "by a part"),
        ("ISIC_2", 3, "by a part"),
        ("dog/ISIC_2", 3, "by a part"),
        ("isic_2.JPG", 3, "by a part"),
        ("7", 5, "by a part"),
        ("/data/upload/3/1a2b3c4d-my_photo_1.jpg", 2, "by a part"),
        ("1a2b3c4d-my_photo_1.jpg", 2, "by a part"),
        ("/data/upload/1a2b3c4d-aaaa-bbbb-cccc-1a2b3c4d5e6f-ISIC_2.jpg", 3, "by a part"),
        ("/tasks/1/presign/?fileuri=czM6Ly9iL2RvZy9JU0lDXzIuanBn", 3, ""),  # s3://b/dog/ISIC_2.jpg
        ("001.jpg", None, matching.UNCLEAR),
        ("001", None, matching.UNCLEAR),
        ("upload/3/1a2b3c4d-ISIC_2.jpg", 3, "by a part"),
        ("cow/001.jpg", None, matching.ELSEWHERE),
        ("upload/ISIC_2.jpg", None, matching.ELSEWHERE),
        ("plants/dog/001.jpg", None, matching.ELSEWHERE),
        ("cat/ISIC_2.jpg", None, matching.ELSEWHERE),
        ("/home/me/plants/cow/001.jpg", None, matching.ELSEWHERE),
        ("/data/upload/3/1a2b3c4d-002.jpg", None, matching.UNKNOWN),
        ("ISIC_2.png", 3, "by a part"),
        ("cat/001.png", 0, "by a part"),
        ("001.png", None, matching.UNCLEAR),
        ("cow/001.png", None, matching.ELSEWHERE),
        ("isic_2_jpg.rf.0a1b2c3d4e5f.jpg", 3, "by a part"),
        ("/media/pets/dog/001.jpg?v=2", 1, ""),
        ("002", None, matching.UNKNOWN),
        ("my_photo_1_ZoqW18z.jpg", 2, "by a part"),  # Django's name of a second upload
        ("/data/upload/3/ISIC_2_AbC12x7.jpg", 3, "by a part"),
        ("001_AbC12x7.jpg", None, matching.UNCLEAR),
        ("ISIC_2_morning.jpg", None, matching.UNKNOWN),
        ("ISIC_2_image01.jpg", None, matching.UNKNOWN),
        ("cow_001.jpg", None, matching.UNKNOWN),
        ("cow/cat_001.jpg", None, matching.UNKNOWN),
    ],
)
def test_as_many_folders_agree_as_both_paths_have(name, position, how):
    found = matching.match([Label(name, "x", "f")], NESTED, {}, Path("/home/me/pets"))
    assert found.labels == ({} if position is None else {position: "x"})
    assert found.unknown == ({name: how} if position is None else {})
    assert found.by_name == ({name: NESTED[position]} if how == "by a part" else {})


def test_images_of_the_folder_beside_are_others(tmp_path):
    (tmp_path / "dog").mkdir()
    (tmp_path / "dog" / "001.jpg").touch()
    (tmp_path / "pets").symlink_to(tmp_path / "cat")
    for name in ("dog/001.jpg", str(tmp_path / "dog" / "001.jpg"), "..\\dog\\001.jpg"):
        assert match(labels_of({name: "dog"}), ["001.jpg"], folder=tmp_path / "cat") == ({}, [], [name])
    (tmp_path / "cat").mkdir()
    for name in ("cat/001.jpg", "pets/001.jpg", "001.jpg", "/other/machine/001.jpg"):
        assert match(labels_of({name: "cat"}), ["001.jpg"], folder=tmp_path / "pets")[0] == {0: "cat"}


def test_a_hundred_thousand_paths_take_seconds():
    ids = [f"class{k % 100}/IMG_{k:06d}.jpg" for k in range(100_000)]
    for spell in ("/home/x/pics/{}".format, lambda name: name[-14:-4], lambda name: f"none/{name}/at all"):
        labels = [Label(spell(name), "x", "f") for name in ids]
        start = time.process_time()
        found = matching.match(labels, ids, {}, Path("/data/pics"))
        assert time.process_time() - start < 10  # two, on an idle core
        assert len(found.labels) in (len(ids), 0)


@pytest.mark.parametrize(
    "name", ["_" * 100_000, "_aB" * 30_000, "data/upload/" * 8_000, "." * 100_000, "a/" * 5_000, "a://" * 20_000]
)
def test_a_name_without_end_takes_no_time(name):
    start = time.process_time()
    assert match([Label(name, "x", "f")], ["a.png"])[2] == [name]
    assert time.process_time() - start < 5


def test_an_id_as_it_stands_comes_before_every_other_way(tmp_path):
    ids = ["'=a", "=a", "x\\y", "x/y", "%41", "A"]
    labels = labels_of({name: str(position) for position, name in enumerate(ids)})
    assert match(labels, ids)[0] == dict(enumerate("012345"))


def test_a_name_that_could_be_of_two_images_is_unknown():
    assert match(labels_of({"b": "cat"}), ["b.png", "cats/b.png", "b.jpg"])[2] == ["b"]
    assert match(labels_of({"/data/cats/b.png": "cat"}), ["b.png", "cats/b.png"])[0] == {1: "cat"}  # as much agrees as can
    assert match(labels_of({"\u00e4": "1"}), ["a\u0308\\x", "a\u0308/x"])[2] == ["\u00e4"]
    assert match(labels_of({"\u212b/x": "1"}), ["A\u030a\\x", "\u00c5\\x"])[2] == ["\u212b/x"]


def test_columns_that_mean_different_images_by_parts_of_their_names_mean_none():
    label = Label("1", "cat", "f", ("2.jpeg",))
    assert matching.match([label], ["1.png", "2.png"], {}).unknown == {"1": matching.UNCLEAR}
    assert matching.match([label._replace(others=("2.png",))], ["1.png", "2.png"], {}).labels == {1: "cat"}


def test_two_names_of_one_image_must_agree():
    labels = labels_of({"a.png": "cat", "x/a.png": "cat"}, ["copy.png", "y/a.png"])
    assert match(labels, ["a.png"], {"copy.png": "a.png"}) == ({0: "cat"}, [], [])
    found = matching.match(labels_of({"a.png": "cat", "copy.png": "dog"}, file="f.csv"), ["a.png"], {"copy.png": "a.png"})
    assert found.problems == {"a.png": "different labels: 'cat' in f.csv and 'dog' in f.csv"}


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
    found, waiting, unknown = match(annotations.read(path, Columns(classes=tuple(table.values()))), list(table))
    assert found == {position: unicodedata.normalize("NFC", label) for position, label in enumerate(table.values()) if label}
    assert (waiting, unknown) == ([], [])


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
    return results.label_studio_tasks([{"id": name, "path": folder / name, **rest} for name in ids], folder)


def test_tasks_say_what_is_known_about_the_picks(tmp_path):
    rest = {"order": 1, "cluster": 3, "cluster_size": 10, "typicality": np.inf, "sup": np.nan, "label": ""}
    [found] = results.label_studio_tasks([{"id": "7", "path": tmp_path / "my pets" / "ä #&+%?.png", **rest}], tmp_path / "my pets")
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


@pytest.mark.parametrize("classes", [["a", ""], [" a"], ["a\x07"], ["a\udcff"]])
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
    wanted = {position: unicodedata.normalize("NFC", label) for position, label in enumerate(answers.values()) if label}
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


# -- what Label Studio calls images of its own machine -------------------------------------------------------------------------

FOLDER = "my images 100% äö"
SERVED = ["a/same.png", "b/same.png", "b/50% ü #1.png", "top.png"]
ROOTS = {  # document root, seen from the folder around the images -> how it calls them
    "the folder around them": lambda name: f"{FOLDER}/{name}",
    "further up": lambda name: f"photos of 2024/{FOLDER}/{name}",
    "the images' folder": lambda name: name,
}
SPELLINGS = {
    "quoted": quote,
    "as it is": str,
    "back-slashes": lambda path: path.replace("/", "\\"),
    "quoted back-slashes": lambda path: quote(path.replace("/", "\\")),
    "quoted all": lambda path: quote(path, safe=""),
}


@pytest.mark.parametrize("root", ROOTS)
@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("host", ["", "http://localhost:8080"])
def test_tasks_that_label_studio_made_itself_find_their_images(tmp_path, root, spelling, host):
    """A synchronised storage: the export has addresses, and no id of ours."""
    folder = tmp_path / "photos of 2024" / FOLDER
    addresses = [f"{host}/data/local-files/?d={SPELLINGS[spelling](ROOTS[root](name))}" for name in SERVED]
    export = [task({"image": address}, [choice(name)]) for address, name in zip(addresses, SERVED, strict=True)]
    path = written(tmp_path, json.dumps(export), "export.json")
    found = matching.match(annotations.read(path), SERVED, {}, folder)
    assert (found.labels, found.unknown) == (dict(enumerate(SERVED)), {})


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_document_root_below_the_images_finds_what_is_unique_there(tmp_path, spelling):
    addresses = {"same.png": "/data/local-files/?d=same.png", "ü": f"/data/local-files/?d={SPELLINGS[spelling]('50% ü #1.png')}"}
    found = matching.match(labels_of(dict(zip(addresses.values(), addresses, strict=True))), SERVED, {}, tmp_path / FOLDER)
    assert (found.labels, found.unknown) == ({2: "ü"}, {addresses["same.png"]: "of several images"})


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_our_tasks_come_back_whatever_becomes_of_the_address(tmp_path, spelling):
    tasks = tasks_of(tmp_path / FOLDER, SERVED)
    for given_task in tasks:
        prefix, path = given_task["data"]["image"].split("?d=")
        given_task["data"]["image"] = f"{prefix}?d={SPELLINGS[spelling](unquote(path))}"
    for export in exported(tasks, SERVED):
        given = annotations.read(written(tmp_path, json.dumps(export), "export.json"))
        found = matching.match(given, SERVED, {}, tmp_path / FOLDER)
        assert (found.labels, found.unknown) == (dict(enumerate(SERVED)), {})


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


# --- what might be taken for a label ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "table",
    [
        "image,is_train,flash,emotion\na.png,1,0,happy\nb.png,0,1,sad\n",  # a column of another kind
        "image,is_train,flash\na.png,1,1\nb.png,0,1\n",  # two classes in a row
    ],
)
def test_columns_of_0_and_1_that_are_no_classes_are_not_taken_for_them(tmp_path, table):
    with pytest.raises(ValueError, match="has no column of labels"):
        annotations.read(written(tmp_path, table))


@pytest.mark.parametrize("asked", [None, "label"])
def test_another_choice_of_a_task_is_not_taken_for_the_label_that_is_missing(tmp_path, asked):
    tasks = [task({"image": "a.png"}, [choice("cat")]), task({"image": "b.png"}, [choice("sharp") | {"from_name": "quality"}])]
    found = annotations.read(written(tmp_path, json.dumps(tasks), "q.json"), annotations.Columns(label=asked))
    assert {one.id: one.label for one in found if one.label} == {"a.png": "cat"}


@pytest.mark.parametrize("cell", ["#NV", "#¡REF!", "--", "(blank)", "n.a."])
def test_what_stands_for_nothing_is_no_label(tmp_path, cell):
    assert [one.label for one in annotations.read(written(tmp_path, f"id,label\na,{cell}\nb,cat\n"))] == [None, "cat"]


def test_an_image_of_embeddings_that_is_found_without_its_folders_is_counted():
    found = matching.match(labels_of({"holiday/a.jpg": "cat"}), ["a.jpg"], {})
    assert (found.labels, found.by_name) == ({0: "cat"}, {"holiday/a.jpg": "a.jpg"})


def test_a_task_without_data_does_not_refuse_the_others(tmp_path):
    found = annotations.read(written(tmp_path, json.dumps([task({"image": "a.png"}, [choice("cat")]), {"id": 1}]), "q.json"))
    assert [(one.id, one.problem) for one in found if one.problem] == [(f"{tmp_path / 'q.json'}, task 2 has no data", "broken")]
    assert {one.id: one.label for one in found if one.label} == {"a.png": "cat"}

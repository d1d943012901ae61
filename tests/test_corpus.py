"""Files that readers once fell over, as small as they get: each is refused with a sentence, or read rightly."""

from pathlib import Path

import pytest

from tests.readers import READERS
from tests.torture.inputs import fault

CORPUS = Path(__file__).with_name("corpus")
FILES = sorted(file for file in CORPUS.glob("*/*") if file.is_file())


@pytest.mark.parametrize("file", FILES, ids=[f"{file.parent.name}/{file.name}" for file in FILES])
def test_what_readers_fell_over_is_refused_or_read_rightly(tmp_path, file, recwarn, caplog, capfd):
    assert fault(READERS[file.parent.name], tmp_path, file.read_bytes()) == ""
    assert not recwarn.list
    assert not [record for record in caplog.records if not record.name.startswith("supclust")]
    assert capfd.readouterr() == ("", "")


def test_a_fault_is_seen(tmp_path):
    reader = READERS["npy"]
    [content, *_] = reader.seeds()

    def check(path):
        raise {b"1": AssertionError("other numbers"), b"2": KeyError("a"), b"3": ValueError("no name")}[path.read_bytes()]

    broken = type(reader)(reader.name, reader.file, reader.seeds, reader.damage, check, "")
    found = [fault(broken, tmp_path, one) for one in (b"1", b"2", b"3")]
    assert [one.partition(" ")[0] for one in found] == ["wrong:", "KeyError", "from"]
    assert fault(reader, tmp_path, content) == ""

"""Reading in parts equals reading at once, wherever the parts end."""

import json

import pytest

from tubelet.data import json_stream
from tubelet.data.json_stream import list_pieces, stream_json

CONTENT = {"info": {"year": 1.5}, "n": 12, "videos": [{"a": [1, {"b": "}, {"}]}, {}, 7], "none": None, "empty": []}


@pytest.fixture
def file(tmp_path):
    return tmp_path / "file.json"


@pytest.mark.parametrize("chunk", [1, 2, 7, 1000])
@pytest.mark.parametrize("indent", [None, 2])
def test_an_object(file, chunk, indent, monkeypatch):
    monkeypatch.setattr(json_stream, "CHUNK", chunk)
    file.write_text(json.dumps(CONTENT, indent=indent) + "\n")
    expected = [("info", CONTENT["info"]), ("n", 12), *(("videos", v) for v in CONTENT["videos"]), ("none", None)]
    assert list(stream_json(file)) == expected


@pytest.mark.parametrize("chunk", [1, 1000])
def test_a_list(file, chunk, monkeypatch):
    monkeypatch.setattr(json_stream, "CHUNK", chunk)
    for content in ([], [12, 3.25, None, "ä"], [[1, [2]], {"a": 1}]):
        file.write_text(json.dumps(content, ensure_ascii=False))
        assert list(stream_json(file)) == [(None, element) for element in content]


@pytest.mark.parametrize("text", ["", "[1, 2", "[1 2]", "[1,]", "[1] 2", '{"a": [1}', '{"a" 1}', "nonsense", "12"])
def test_broken(file, text):
    file.write_text(text)
    with pytest.raises(ValueError, match=r"file\.json is not JSON"):
        list(stream_json(file))


@pytest.mark.parametrize("size", [1, 10, 64, 10_000])
@pytest.mark.parametrize("separators", [(",", ":"), (" ,\n", " : ")])
def test_pieces(file, size, separators):
    content = [{"key": i, "list": [{"size": [1, 2], "text": '"}, {"key":'}, None]} for i in range(9)]
    file.write_text(json.dumps(content, separators=separators))
    pieces = list(list_pieces(file, max(size, 30)))
    assert [entry for piece in pieces for entry in json.loads(piece)] == content
    assert len(pieces) > 4 or size > 100


@pytest.mark.parametrize("text", ["[]", "[1, 2]", '{"a": 1}', "[{}, {}]"])
def test_what_cannot_be_cut_comes_whole(file, text):
    file.write_text(text)
    assert [json.loads(piece) for piece in list_pieces(file, 100)] == [json.loads(text)]

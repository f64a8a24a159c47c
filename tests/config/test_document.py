import math
import time
from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ensemble.config.document import parse, read_text
from ensemble.errors import UsageError


def plain(text: str):
    node, problems = parse(text, "f.yaml")
    assert not problems
    return node.plain()


def complaints(text: str) -> list[str]:
    return [str(problem) for problem in parse(text, "f.yaml")[1]]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1e5", 1e5),
        ("-1.5E+3", -1500.0),
        (".5", 0.5),
        ("010", 10),
        ("0o10", 8),
        ("0x1F", 31),
        ("-3", -3),
        ("1_000", "1_000"),
        ("1:30", "1:30"),
        ("2001-01-01", "2001-01-01"),
        ("no", "no"),
        ("on", "on"),
        ("Yes", "Yes"),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("'1'", "1"),
        ("!!str 12", "12"),
        ("!!int '3'", 3),
        (".inf", math.inf),
        ("-.inf", -math.inf),
    ],
)
def test_scalars_follow_the_core_schema_of_yaml_1_2(text, value):
    found = plain(f"a: {text}")["a"]
    assert found == value
    assert type(found) is type(value)


def test_a_number_that_yaml_1_2_reads_as_not_a_number_is_one():
    assert math.isnan(plain("a: .nan")["a"])


def test_keys_and_values_know_their_line_and_column():
    node, _ = parse("a:\n  b: [1, 22]\n", "f.yaml")
    inner = node.value["a"]
    assert str(inner.keys["b"]) == "f.yaml:2:3"
    assert str(inner.value["b"].value[1].position) == "f.yaml:2:10"


def test_a_duplicate_key_is_refused_with_both_lines():
    assert complaints("a: 1\nb: 2\na: 3\n") == ["f.yaml:3:1: a: key 'a' is given twice, at lines 1 and 3"]


@pytest.mark.parametrize("tag", ["!!python/object:os.system", "!mine", "!!binary", "!!set", "!!timestamp"])
def test_tags_beyond_plain_values_are_refused(tag):
    [line] = complaints(f"a: {tag} x")
    assert line.startswith(f"f.yaml:1:4: a: the tag {tag} is refused")


def test_python_objects_are_never_built(tmp_path: Path):
    victim = tmp_path / "made"
    assert complaints(f"a: !!python/object/apply:os.mkdir ['{victim}']")
    assert not victim.exists()


def test_an_alias_bomb_is_refused_without_being_walked():
    lines = ["a0: &a0 [" + ", ".join("x" * 9) + "]"]
    lines += [f"a{i}: &a{i} [" + ", ".join([f"*a{i - 1}"] * 9) + "]" for i in range(1, 40)]
    start = time.process_time()
    with pytest.raises(UsageError, match=r"^f\.yaml:\d+:\d+: more than 100000 values"):
        parse("\n".join(lines), "f.yaml")
    assert time.process_time() - start < 1  # fault C5 asks for a second; walking would take years


def test_an_alias_within_its_own_anchor_is_refused():
    with pytest.raises(UsageError, match="an alias inside its own anchor"):
        parse("a: &a [*a]", "f.yaml")


def test_aliases_stand_for_their_anchor():
    assert plain("a: &x {b: 1}\nc: *x") == {"a": {"b": 1}, "c": {"b": 1}}


@pytest.mark.parametrize("levels", [200, 100_000])  # beyond 1,000 PyYAML's own limit may speak first
def test_deep_nesting_is_refused(levels):
    with pytest.raises(UsageError, match=r"f\.yaml:1.*(nested deeper than|nesting depth)"):
        parse("[" * levels, "f.yaml")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a:\n\tb: 1", "2:1: a tab"),
        ("a:\n  - b\n\t- c", "3:1: a tab"),
        ("a: [1,\n", "2:1: "),
        ("a: 'x", "1:"),
        ("a: 1\n---\nb: 2", "2:1: "),
        ("a: *b", "1:4: found undefined alias"),
        ("a: \x07", "1:4: a character that YAML does not allow"),
    ],
)
def test_broken_syntax_is_one_line_with_its_position(text, words):
    with pytest.raises(UsageError) as caught:
        parse(text, "f.yaml")
    assert str(caught.value).startswith("f.yaml:" + words)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["1: a", "null: a", "true: a", "? [a]\n: b", "<<: {a: 1}"])
def test_keys_that_are_no_text_and_merge_keys_are_refused(text):
    assert len(complaints(text)) == 1


def test_a_number_too_long_to_read_is_a_problem_and_no_crash():
    assert len(complaints("a: " + "9" * 5000)) == 1


def test_byte_order_mark_and_crlf_are_fine(tmp_path: Path):
    path = tmp_path / "a.yaml"
    path.write_bytes(b"\xef\xbb\xbfa: 1\r\nb:\r\n  c: x\r\n")
    node, _ = parse(read_text(path), "a.yaml")
    assert node.plain() == {"a": 1, "b": {"c": "x"}}
    assert str(node.keys["a"]) == "a.yaml:1:1"


def test_bytes_that_are_no_utf_8_are_refused_with_their_position(tmp_path: Path):
    path = tmp_path / "a.yaml"
    path.write_bytes(b"a: 1\nb: caf\xe9\n")
    with pytest.raises(UsageError, match=r"a\.yaml:2:7: not UTF-8 text"):
        read_text(path)


def test_a_missing_file_a_folder_and_a_huge_file_are_refused(tmp_path: Path):
    with pytest.raises(UsageError, match="No such file"):
        read_text(tmp_path / "none.yaml")
    with pytest.raises(UsageError, match="directory"):
        read_text(tmp_path)
    with (tmp_path / "data.h5").open("wb") as stream:
        stream.truncate(10_000_000)
    with pytest.raises(UsageError, match="larger than 4 MB"):
        read_text(tmp_path / "data.h5")


text = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Cn", "Co"]), max_size=12)
keys = text.filter(lambda key: key != "<<")  # YAML 1.1's merge key, which is refused
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63) + 1, 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | text
)
values = st.recursive(scalars, lambda v: st.lists(v, max_size=4) | st.dictionaries(keys, v, max_size=4), max_leaves=12)


def float_text(dumper: yaml.Dumper, value: float) -> yaml.Node:
    return dumper.represent_scalar("tag:yaml.org,2002:float", repr(value))


class Dumper(yaml.SafeDumper):
    pass


Dumper.add_representer(float, float_text)
Dumper.add_representer(str, lambda dumper, value: dumper.represent_scalar("tag:yaml.org,2002:str", value, style='"'))


@given(st.dictionaries(keys, values, max_size=4))
def test_what_is_written_is_read_back(value):
    assert plain(yaml.dump(value, Dumper=Dumper, allow_unicode=True)) == value


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused_in_words(content):
    with suppress(UsageError):  # any other exception is a crash
        parse(content, "f.yaml")

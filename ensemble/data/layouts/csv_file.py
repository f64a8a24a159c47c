"""CSV files: the separator, the header and the decimal mark are found from the first lines; pyarrow reads the rest.

A column that is mostly numbers is refused with file, line and column of the first other value. A column of text is left
out with a notice. Lines that begin with # before the table are comments; the last of them may be the header. A column
without a name and values is none: a separator at the end of each line makes one. A column with a value in the first row
alone is a single value. Tables that spaces divide are read with tabs in their place.
"""

import codecs
import csv
import io
import itertools
import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from ensemble.data.layouts.container import check_size
from ensemble.data.layouts.table import Table
from ensemble.errors import DataError
from ensemble.text import first_line, plural

SUFFIXES = (".csv", ".tsv", ".txt", ".dat")
_SEPARATORS = ",;\t"
_SPACES = " "
_HEAD_LINES = 50
_HEAD_BYTES = 1 << 20
_IN_MEMORY = 3  # bytes in memory for a byte of text, about: the text itself and float64 columns
_MOSTLY = 0.5  # share of numbers above which a column of text is one of numbers with mistakes
_MISSING = ("", "nan", "NaN", "NAN", "NA", "N/A", "n/a", "#N/A", "null", "NULL", "None", "-nan", "-NaN")
_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+([eE][+-]?\d+)?")


@dataclass(frozen=True)
class _Format:
    """How the text is a table."""

    separator: str
    comma: bool  # whether "1,5" is a number
    comments: int  # lines before the table
    header: bool  # whether its first line has the names
    names: list[str]
    unnamed: frozenset[int] = frozenset()  # columns that the header leaves without a name

    @property
    def delimiter(self) -> str:
        """The character between cells, once spaces are tabs."""
        return "\t" if self.separator == _SPACES else self.separator

    def number(self, text: str) -> float | None:
        """Return the text as a number, NaN where it is missing; None for anything else."""
        text = text.strip()
        if text in _MISSING:
            return math.nan
        try:
            # Python takes 1_000 for a number.
            return None if "_" in text else float(text.replace(",", ".") if self.comma else text)
        except ValueError:
            return None


def looks_like_text(head: bytes) -> bool:
    """Return whether the first bytes of a file are text, and neither a web page nor a pointer of git-lfs."""
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return True
    return b"\0" not in head and not head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith((b"<", b"version https://git-lfs"))


def open_csv(path: Path) -> Table:
    """Read a CSV file; DataError with the line of what cannot be read, or when it is larger than the limit."""
    check_size(path, "its table", _IN_MEMORY * path.stat().st_size)
    form = _format(path)
    table = _read(path, form)
    if not table.num_rows:
        raise DataError(f"{path}: holds 0 rows")
    for number, field in enumerate(table.schema):
        if pa.types.is_string(field.type):
            table = table.set_column(number, field.name, _checked(path, form, table, field.name))
    # One type for all numbers: "1" and "1.0" are the same column in the files of one data set.
    schema = pa.schema([(field.name, _float_type(field.type)) for field in table.schema])
    table = table.cast(schema)
    numbers = [i for i, field in enumerate(schema) if pa.types.is_floating(field.type)]
    unnamed = [i for i in numbers if table[i].null_count == table.num_rows and i in form.unnamed]
    table = table.select([i for i in range(len(schema)) if i not in unnamed])
    single = [n for n in table.schema.names if table[n].null_count == table.num_rows - 1 > 0 and table[n][0].is_valid]

    def load(key: str) -> pa.ChunkedArray:
        return table.column(key)[:1] if key in single else table.column(key)

    return Table(path, table.schema, table.num_rows, load)


def _float_type(kind: pa.DataType) -> pa.DataType:
    plain = pa.types.is_integer(kind) or pa.types.is_boolean(kind) or pa.types.is_null(kind)
    return pa.float64() if plain else kind


def _format(path: Path) -> _Format:
    """Find separator, decimal mark, comments and header."""
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(f"{path}: text in UTF-16; save it as UTF-8")
    try:
        # The last character may be cut in the middle.
        text = head.decode("utf-8-sig", errors="strict" if len(head) < _HEAD_BYTES else "ignore")
    except UnicodeDecodeError as error:
        line = head[: error.start].count(b"\n") + 1
        raise DataError(f"{path}:{line}: not UTF-8; save the table as UTF-8 (iconv -f latin1 -t utf-8)") from error
    lines = text.splitlines()
    comments = len(list(itertools.takewhile(lambda line: line.startswith("#") or not line.strip(), lines)))
    body = [line for line in lines[comments : comments + _HEAD_LINES] if line.strip()]
    if not body:
        raise DataError(f"{path}: holds no table")
    separator = _separator(path, body)
    if not any(mark in line for mark in _SEPARATORS for line in body) and len(body[-1].split()) > 1:
        separator = _SPACES
    rows = _cells(path, body, separator)
    comma = separator != "," and any(_DECIMAL_COMMA.fullmatch(cell.strip()) for row in rows[1:] for cell in row)
    form = _Format(separator, comma, comments, False, [])
    header = _is_header(rows, form)
    if header and len(rows) == 1:
        raise DataError(f"{path}: holds 0 rows")
    names = rows[0] if header else _commented_names(lines[:comments], separator, len(rows[0]))
    unnamed = frozenset(number for number, name in enumerate(names) if not name.strip())
    return _Format(separator, comma, comments, header, _names(path, names, comments + 1), unnamed)


def _cells(path: Path, lines: list[str], separator: str) -> list[list[str]]:
    """Return the cells of lines; DataError where a cell is longer than any number or name."""
    if separator == _SPACES:
        return [line.split() for line in lines]
    try:
        return list(csv.reader(lines, delimiter=separator))
    except csv.Error as error:
        raise DataError(f"{path}: text, but no table of numbers ({error}); write its arrays as CSV or npz") from error


def _separator(path: Path, lines: list[str]) -> str:
    """Return the separator that divides all lines alike, or else the most frequent of the first."""

    def rank(mark: str) -> tuple[bool, int]:
        counts = {len(row) for row in _cells(path, lines, mark)}
        return len(counts) == 1 and counts != {1}, lines[0].count(mark)

    # With a decimal comma, commas may divide all lines alike too: a semicolon or a tab in the first line is meant.
    marks = [mark for mark in "\t;" if mark in lines[0]] or list(_SEPARATORS)
    return max(marks, key=rank)


def _is_header(rows: list[list[str]], form: _Format) -> bool:
    """Return whether the first row has names: it holds no number, or words where the second row has numbers."""
    first = [form.number(cell) is None for cell in rows[0]]
    if not any(first):
        return False
    if all(text or not cell.strip() for text, cell in zip(first, rows[0], strict=True)) or len(rows) < 2:
        return True
    second = [form.number(cell) is None for cell in rows[1]]
    return first != second


def _commented_names(comments: list[str], separator: str, width: int) -> list[str]:
    """Return the names in the last comment, as numpy.savetxt writes them, or [] * width."""
    last = next((line.lstrip("# ").rstrip() for line in reversed(comments) if line.startswith("#")), "")
    for cells in (last.split(separator), last.split()):
        if len(cells) == width:
            return cells
    return [""] * width


def _names(path: Path, cells: list[str], line: int) -> list[str]:
    names = [cell.strip() or f"column{number}" for number, cell in enumerate(cells)]
    twice = next((name for name, count in Counter(names).items() if count > 1), None)
    if twice is not None:
        numbers = [str(number + 1) for number, name in enumerate(names) if name == twice]
        raise DataError(
            f"{path}:{line}: two columns are called '{twice}' ({' and '.join(numbers)}); rename one in that line"
        )
    return names


def _read(path: Path, form: _Format) -> pa.Table:
    try:
        return pyarrow.csv.read_csv(
            io.BytesIO(_with_tabs(path)) if form.separator == _SPACES else path,
            pyarrow.csv.ReadOptions(
                skip_rows=form.comments + form.header, column_names=form.names, use_threads=False, block_size=64 << 20
            ),
            pyarrow.csv.ParseOptions(
                delimiter=form.delimiter,
                newlines_in_values=form.separator != _SPACES,
                # A line of spaces, as some programs end a file with, is no row.
                invalid_row_handler=lambda row: "error" if row.text.strip() else "skip",
            ),
            pyarrow.csv.ConvertOptions(
                decimal_point="," if form.comma else ".", null_values=_MISSING, strings_can_be_null=True
            ),
        )
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(_why_unreadable(path, form, error)) from error


def _with_tabs(path: Path) -> bytes:
    """Return the text with one tab for each run of spaces between cells."""
    return b"\n".join(b"\t".join(line.split()) for line in path.read_bytes().removeprefix(codecs.BOM_UTF8).splitlines())


def _why_unreadable(path: Path, form: _Format, error: Exception) -> str:
    """Name the line that pyarrow stumbled over."""
    for line, row in _rows(path, form):
        if len(row) != len(form.names):
            return (
                f"{path}:{line}: {plural(len(row), 'value')} where the table has "
                f"{plural(len(form.names), 'column')} ({', '.join(form.names[:6])})"
            )
    return f"{path}: not a readable CSV file ({first_line(error)})"


def _rows(path: Path, form: _Format) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows below the header, each with the line in the file on which it begins."""
    content = (_with_tabs(path) if form.separator == _SPACES else path.read_bytes()).decode("utf-8-sig", "replace")
    lines = io.StringIO(content, newline="")
    for _ in range(form.comments):
        next(lines)
    reader = csv.reader(lines, delimiter=form.delimiter)
    begins = form.comments + 1
    for number, row in enumerate(reader):
        blank = not row or (len(row) == 1 < len(form.names) and not row[0].strip())
        if not blank and not (number == 0 and form.header):
            yield begins, row
        begins = form.comments + reader.line_num + 1


def _checked(path: Path, form: _Format, table: pa.Table, name: str) -> pa.ChunkedArray:
    """Return a column of text, as numbers where all of it are; DataError where only most of it are."""
    column = table[name]
    counts = {each["values"]: each["counts"] for each in pc.value_counts(column.drop_null()).to_pylist()}
    # Beside decimal commas a point divides thousands: 1.234 would be read a thousand times too small.
    commas = form.comma and any("," in value for value in counts)
    wrong = {value for value in counts if form.number(value) is None or (commas and "." in value)}
    if not wrong:
        # pyarrow reads no number with spaces behind it.
        return pa.chunked_array([[None if each is None else form.number(each) for each in column.to_pylist()]])
    if sum(counts[value] for value in wrong) >= (1 - _MOSTLY) * sum(counts.values()):
        return column
    index = form.names.index(name)
    line, row = next((line, row) for line, row in _rows(path, form) if row[index] in wrong)
    raise DataError(_bad_number(path, form, line, row, index))


def _bad_number(path: Path, form: _Format, line: int, row: list[str], index: int) -> str:
    text = [cell for cell in row if form.number(cell) is None]
    if line == form.comments + form.header + 1 and len(text) > len(row) / 2:
        return f"{path}:{line}: a row of units below the header ({', '.join(text[:4])}); remove that line"
    return f"{path}:{line}:{index + 1}: '{row[index]}' is no number (column {form.names[index]})"

"""What a file is that no reader takes, and the way out: from its first bytes, and its name where those do not tell."""

from pathlib import Path

PICKLED = (".pkl", ".pickle", ".pt", ".pth", ".pt2", ".joblib", ".dill")
_HDF5_SUFFIXES = (".h5", ".hdf5", ".hdf", ".he5")
_READ = "read are HDF5, npz, MATLAB (.mat), .csv and .parquet"
_UNPACK = "unpack it first, and give the files inside"
_SHOWN = 8  # names of a folder or an archive

POINTER = b"version https://git-lfs"
WHY_POINTER = "a pointer of git-lfs, not the data: run `git lfs pull` in its repository"

# First bytes: what it is, and what to do. Longer signatures come before those that they begin with.
_SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (POINTER, WHY_POINTER),
    (
        b"\x93NUMPY",
        "a single npy array names no features; put arrays into one npz: numpy.savez('data.npz', "
        "state=numpy.load('observations.npy'), control=numpy.load('actions.npy'))",
    ),
    (b"\x1f\x8b", f"compressed by gzip: {_UNPACK} (gunzip, tar -xzf)"),
    (b"BZh", f"compressed by bzip2: {_UNPACK} (bunzip2, tar -xjf)"),
    (b"\xfd7zXZ\x00", f"compressed by xz: {_UNPACK} (unxz, tar -xJf)"),
    (b"\x28\xb5\x2f\xfd", f"compressed by zstd: {_UNPACK} (unzstd)"),
    (b"7z\xbc\xaf\x27\x1c", f"a 7z archive: {_UNPACK} (7z x)"),
    (b"Rar!\x1a\x07", f"a rar archive: {_UNPACK} (unrar x)"),
    (b"ARROW1\x00\x00", "an Arrow file; write it as Parquet (pyarrow.parquet.write_table)"),
    (b"\xff\xff\xff\xff", "an Arrow stream; write it as Parquet (pyarrow.parquet.write_table)"),
    (b"CDF\x01", "NetCDF 3; convert it to NetCDF 4, which is HDF5 (nccopy -k nc4)"),
    (b"CDF\x02", "NetCDF 3; convert it to NetCDF 4, which is HDF5 (nccopy -k nc4)"),
    (b"\x0e\x03\x13\x01", "HDF4; convert it to HDF5 (h4toh5)"),
    (b"#ROSBAG V", "a ROS bag; write its topics as arrays of one length, as HDF5 or Parquet"),
    (b"\x89MCAP0", "an MCAP recording; write its topics as arrays of one length, as HDF5 or Parquet"),
    (b"\xd0\xcf\x11\xe0", "an Excel workbook; save the sheet as CSV"),
    (b"SQLite format 3\x00", "an SQLite database; write a table of it as CSV or Parquet"),
)
_WEB_PAGE = (b"<!doctype html", b"<html", b"<head", b"<?xml")
_TAR_MARK, _TAR_AT = b"ustar", 257


def why_pickled() -> str:
    """Say that pickles are not read."""
    return "pickled data is not read; write it as HDF5 or with numpy.savez"


def why_no_npz(names: list[str]) -> str:
    """Say what a zip archive without arrays is."""
    if any(name == "xl/workbook.xml" for name in names):
        return "an Excel workbook; save the sheet as CSV"
    return f"a zip archive without arrays: {_UNPACK} (it has {', '.join(names[:_SHOWN]) or 'nothing'})"


def why_unreadable(path: Path, head: bytes) -> str:
    """Say what a file is, from its first bytes `head`, and the way to a file that is read."""
    # Protocols 2 to 5 of pickle begin with this byte; older ones are text and end below.
    if head.startswith(b"\x80") and head[1:2] and head[1] in range(2, 6):
        return why_pickled()
    known = next((text for signature, text in _SIGNATURES if head.startswith(signature)), None)
    if known:
        return known
    if head[_TAR_AT : _TAR_AT + len(_TAR_MARK)] == _TAR_MARK:
        return f"a tar archive: {_UNPACK} (tar -xf)"
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:32].lower()
    if start.startswith(_WEB_PAGE):
        return (
            "a web page, not the data: open the link in a browser, log in if it asks to, and download the file itself"
        )
    size = path.stat().st_size
    if path.suffix.lower() in _HDF5_SUFFIXES:
        return f"not an HDF5 file, or truncated at its start ({size} bytes)"
    if path.suffix.lower() == ".mat":
        return f"not a MATLAB file of version 5 or later ({size} bytes); in MATLAB: save(name, '-v7.3')"
    if path.name == "info.json" and path.absolute().parent.name == "meta":
        return f"the description of a LeRobot data set; give the folder: {path.parent.parent}"
    if start.startswith((b"{", b"[")):
        return "JSON; write its arrays as HDF5, npz or Parquet"
    return f"of no known format ({size} bytes); {_READ}"

"""What is known of the processor, and what a record says of it."""

import json

import pytest

from benchmarks import records
from llmbook import processor

CPUINFO = """processor\t: 0
vendor_id\t: {vendor}
model name\t: a processor: the newest
flags\t\t: fpu {flags}

processor\t: 1
vendor_id\t: {vendor}
flags\t\t: fpu {flags}
"""


@pytest.mark.parametrize(
    ("flags", "units"),
    [
        ("avx2 avx512f", "avx512f"),
        ("avx512f avx512_bf16 avx2", "avx512_bf16"),
        ("avx2 avx512f avx512_bf16 amx_bf16", "amx_bf16"),
        ("avx512_bf16_of_another_name", ""),
    ],
)
def test_the_maker_and_the_widest_units_are_read(tmp_path, flags, units):
    path = tmp_path / "cpuinfo"
    path.write_text(CPUINFO.format(vendor="GenuineMaker", flags=flags))
    assert processor.maker(path) == "GenuineMaker"
    assert processor.widest_units(path) == units


def test_without_linux_s_file_python_is_asked(tmp_path, monkeypatch):
    monkeypatch.setattr("platform.processor", lambda: "Family 25 of Maker")
    assert processor.maker(tmp_path / "none") == "Family 25 of Maker"
    assert processor.widest_units(tmp_path / "none") == ""
    (tmp_path / "arm").write_text("Features\t: fp asimd\n")
    assert processor.maker(tmp_path / "arm") == "Family 25 of Maker"
    assert processor.widest_units(tmp_path / "arm") == ""


def test_a_record_names_what_is_known(monkeypatch):
    monkeypatch.setattr(processor, "maker", lambda: "Maker")
    monkeypatch.setattr(processor, "widest_units", lambda: "")
    assert records.surroundings("x")["machine"].endswith(" cores, Maker")


def test_a_record_is_renamed_into_place(tmp_path):
    path = tmp_path / "one.json"
    records.keep({"a": 1}, path)
    records.keep({"a": 2}, path)
    assert json.loads(path.read_text()) == {"a": 2}
    assert [found.name for found in tmp_path.iterdir()] == ["one.json"]

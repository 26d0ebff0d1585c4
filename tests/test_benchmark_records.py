"""What a record says of the machine, and how it is kept."""

import json

import pytest

from benchmarks import records

CPUINFO = """processor\t: 0
vendor_id\t: {vendor}
model name\t: a processor: the newest
flags\t\t: fpu {flags}

processor\t: 1
vendor_id\t: {vendor}
flags\t\t: fpu {flags}
"""


@pytest.mark.parametrize(
    ("vendor", "flags", "expected"),
    [
        ("Maker", "avx2 avx512f", ["Maker", "avx512f"]),
        ("Maker", "avx512f avx512_bf16 avx2", ["Maker", "avx512_bf16"]),
        ("Other", "avx2 avx512f avx512_bf16 amx_bf16", ["Other", "amx_bf16"]),
        ("Maker", "avx512_bf16_of_another_name", ["Maker"]),
    ],
)
def test_a_record_names_the_maker_and_the_widest_units(
    tmp_path, vendor, flags, expected
):
    path = tmp_path / "cpuinfo"
    path.write_text(CPUINFO.format(vendor=vendor, flags=flags))
    assert records.processor(path) == expected


def test_without_linux_s_file_a_record_says_nothing_of_units(tmp_path):
    assert records.processor(tmp_path / "cpuinfo") == []
    (tmp_path / "cpuinfo").write_text("Features\t: fp asimd\n")  # on ARM
    assert records.processor(tmp_path / "cpuinfo") == []


def test_a_record_is_renamed_into_place(tmp_path):
    path = tmp_path / "one.json"
    records.keep({"a": 1}, path)
    records.keep({"a": 2}, path)
    assert json.loads(path.read_text()) == {"a": 2}
    assert [found.name for found in tmp_path.iterdir()] == ["one.json"]

"""What is told of the machine."""

import pytest

from dfc_numba.support.environment import processor_of

X86 = "processor\t: 0\nvendor_id\t: GenuineIntel\nmodel name\t: Intel(R) Xeon(R) Platinum 8592+\n\nprocessor\t: 1\n"
ARM = "processor\t: {0}\nBogoMIPS\t: 243.75\nCPU implementer\t: {1}\nCPU architecture: 8\nCPU part\t: {2}\nCPU revision\t: 1\n\n"


@pytest.mark.parametrize(
    "cores, name",
    [
        ([("0x41", "0xd0c")] * 4, "ARM Neoverse N1"),
        ([("0x41", "0xd4f")], "ARM Neoverse V2"),
        ([("0x41", "0xd03")] * 2 + [("0x41", "0xd08")] * 2, "ARM Cortex-A53 + ARM Cortex-A72"),
        ([("0x51", "0xC00")], "ARM implementer 0x51, part 0xc00"),
        ([], ""),
    ],
)
def test_an_arm_processor_is_named_by_maker_and_design(cores, name):
    assert processor_of("".join(ARM.format(i, *core) for i, core in enumerate(cores))) == name


def test_another_processor_is_named_by_its_model():
    assert processor_of(X86) == "Intel(R) Xeon(R) Platinum 8592+"

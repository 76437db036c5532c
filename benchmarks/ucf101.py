"""UCF101: 101 human actions, each video as its middle frame."""

from __future__ import annotations

from benchmarks._origins import MIRROR, sentences, split_file
from harness.types import Dataset, Remote

dataset = Dataset(
    name="ucf101",
    title="UCF101",
    templates=("a photo of a person doing {}.",),
    archives=(
        Remote(
            file="ucf101.zip",
            urls=(MIRROR + "ucf101.zip",),
            by_hand="The frames that all of the field uses are CoOp's UCF-101-midframes.zip, which a browser can fetch "
            "from https://drive.google.com/file/d/10Jqome3vtUA2keJkNanAiFpgbyC9Hc2O/view; this mirror is "
            "another person's.",
        ),
    ),
    split_file=split_file(
        "split_zhou_UCF101.json",
        bytes=1557485,
        sha256="d78cb834f7c5792ceaff2c5ee2d7c76a9e4086e48a3a6b01232989d29cbefdd8",
        git_blob="ea87e3de7b4f6f00fdd77618e34a23508b4c5590",
    ),
    roots=("ucf101/UCF-101-midframes",),
    counts=(7639, 1898, 3783),
    classes=101,
    prompt_sets={
        "openai": tuple(
            f"a {kind} of {article} person {doing}{{}}."
            for doing in ("", "using ", "doing ", "during ", "performing ", "practicing ")
            for article in ("a", "the")
            for kind in ("photo", "video", "example", "demonstration")
        ),
        "cupl": sentences(
            "CuPL_prompts_ucf101.json",
            bytes=211913,
            sha256="f685a1d6e8b1316a4f70554d2913c9fb58050af80c96004e6c7b40515488f9e4",
        ),
    },
    licence="none stated; videos from YouTube",
    citation="K. Soomro, A. R. Zamir, M. Shah: UCF101: A Dataset of 101 Human Actions Classes from Videos in the Wild. "
    "CRCV-TR-12-01, 2012.",
    note="Official test list 01; CoOp divided the official training list 80/20. Middle frames taken with another "
    "decoder have other pixels. OpenAI's list has two neighbouring pairs of classes swapped. Frames of "
    "Handstand_Pushups are named v_HandStandPushups, in another case. torchvision has no frames.",
)

"""Episodes, dataset files and clips for training. docs/file_format.md specifies the file format."""

from worldmodel.common.files import atomic_path, check_free_space
from worldmodel.data.clips import Batch, ClipSampler
from worldmodel.data.dataset import Dataset
from worldmodel.data.episode import Episode
from worldmodel.data.header import Header, PolicyRecord
from worldmodel.data.merging import merge
from worldmodel.data.parts import PartWriter, read_part, read_part_header
from worldmodel.data.preview import contact_sheet, gif
from worldmodel.data.sealing import seal
from worldmodel.data.splits import SPLITS, split_of
from worldmodel.data.summary import format_summary, summarize
from worldmodel.data.verification import VerifyReport, verify

__all__ = [
    "SPLITS",
    "Batch",
    "ClipSampler",
    "Dataset",
    "Episode",
    "Header",
    "PartWriter",
    "PolicyRecord",
    "VerifyReport",
    "atomic_path",
    "check_free_space",
    "contact_sheet",
    "format_summary",
    "gif",
    "merge",
    "read_part",
    "read_part_header",
    "seal",
    "split_of",
    "summarize",
    "verify",
]

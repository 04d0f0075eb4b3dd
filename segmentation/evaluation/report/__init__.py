"""The page that an evaluation leaves behind: one HTML file and its pictures, which work from a folder."""

from segmentation.evaluation.report.pictures import Example
from segmentation.evaluation.report.sections import write_page

__all__ = ["Example", "write_page"]

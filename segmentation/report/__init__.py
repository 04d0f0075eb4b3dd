"""The page that an evaluation leaves behind: one HTML file and its pictures, which work from a folder."""

from segmentation.report.page import write_page
from segmentation.report.pictures import Example

__all__ = ["Example", "write_page"]

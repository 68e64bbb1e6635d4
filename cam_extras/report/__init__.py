"""Reports: figures, tables and pages."""

from cam_extras.report.compare import compare, comparison_table, write_comparison
from cam_extras.report.gallery import Picture, overlay, pictures_of, save_gallery
from cam_extras.report.html import write_report
from cam_extras.report.tables import list_table, save_csv, summary_table

__all__ = [
    "Picture",
    "compare",
    "comparison_table",
    "list_table",
    "overlay",
    "pictures_of",
    "save_csv",
    "save_gallery",
    "summary_table",
    "write_comparison",
    "write_report",
]

"""Report: figures and tables that a person can look at."""

from cam_extras.report.gallery import Picture, save_gallery
from cam_extras.report.tables import list_table, save_csv, summary_table

__all__ = ["Picture", "list_table", "save_csv", "save_gallery", "summary_table"]

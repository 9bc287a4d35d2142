"""Reports: a result is turned into rows, and rows into an HTML page or a terminal table."""

from sartor.report.html import render, write_report
from sartor.report.picture import picture, write_picture
from sartor.report.run_reader import read_record, read_result
from sartor.report.text import summary

__all__ = ["picture", "read_record", "read_result", "render", "summary", "write_picture", "write_report"]

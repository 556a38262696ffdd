"""A DICOM node that scores chest radiographs and CT series and returns the result to the PACS."""

__version__ = "0.1.0"

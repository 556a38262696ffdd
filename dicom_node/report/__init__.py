"""The report stage: predictions become DICOM result objects, built once and checked."""

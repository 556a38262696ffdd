"""Alembic's entry: always given an open connection by `Database.upgrade`."""

from alembic import context

from dicom_node.store.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,
)
context.run_migrations()

"""Files at any URI: local paths, ``s3://`` and other object stores that fsspec knows.

Nothing here leans on rename across a store: an object is written whole, and a local file appears whole. A store's
endpoint, region and credentials are found the way every AWS client finds them (environment, ``~/.aws``, role). What a
store throttles, drops or answers with 5xx is tried again, with exponential backoff and jitter (botocore's "standard");
what still fails is a TemporaryError, and all else that a disk or a store refuses an InputError.
"""

from llmemb.storage.checksums import checksum, checksum_file, fingerprint
from llmemb.storage.compare_and_swap import has_conditional_put, swap
from llmemb.storage.failures import explained, is_temporary
from llmemb.storage.filesystem import is_local
from llmemb.storage.listing import Entry, content_key, exists, glob, list_files, list_folders, list_tree, size
from llmemb.storage.objects import (
    check_writable,
    copy,
    local_copy,
    open_read,
    read_bytes,
    read_json,
    remove,
    upload,
    write_bytes,
    write_json,
)
from llmemb.storage.on_disk import zeros_on_disk
from llmemb.storage.parquet import (
    PARQUET_OPTIONS,
    entry,
    entry_uri,
    parse_table,
    read_batches,
    read_schema,
    read_table,
    table_bytes,
    write_table,
    write_tables,
)
from llmemb.storage.paths import absolute, check_no_password, join, name
from llmemb.storage.pointer import point, pointed_at

__all__ = [
    "PARQUET_OPTIONS",
    "Entry",
    "absolute",
    "check_no_password",
    "check_writable",
    "checksum",
    "checksum_file",
    "content_key",
    "copy",
    "entry",
    "entry_uri",
    "exists",
    "explained",
    "fingerprint",
    "glob",
    "has_conditional_put",
    "is_local",
    "is_temporary",
    "join",
    "list_files",
    "list_folders",
    "list_tree",
    "local_copy",
    "name",
    "open_read",
    "parse_table",
    "point",
    "pointed_at",
    "read_batches",
    "read_bytes",
    "read_json",
    "read_schema",
    "read_table",
    "remove",
    "size",
    "swap",
    "table_bytes",
    "upload",
    "write_bytes",
    "write_json",
    "write_table",
    "write_tables",
    "zeros_on_disk",
]

"""Importing this registers the tasks, for tools that can only import.

    seqio_cache_tasks --module_import=mt3.registered_tasks --tasks=...
    utils.DatasetConfig.module = 'mt3.registered_tasks'

The data root is `MT3_DATA_DIR` (`gs://` for the public buckets), folders with cached
tasks are those in `MT3_TASK_CACHE_DIRS`. Nothing is read until a task is.
"""

from mt3 import tasks

REGISTERED = tasks.register()

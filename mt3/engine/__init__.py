"""The embedded training engine: `mt3 train` without T5X and TensorFlow.

The modules here carry the names that T5X's gin files bind (`train`, `utils`,
`trainer`, `partitioning`, `adafactor`, `optimizers`, `gin_utils`), with T5X's
function names and parameters, so that the files in `gin/` run on either engine.
`launch` maps the module name `t5x` to this package for its process.
"""

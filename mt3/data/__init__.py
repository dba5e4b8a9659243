"""From stored records to tf.data and seqio.

TensorFlow is imported here and in the four data modules above: `preprocessors`,
`mixing`, `tasks`, `registered_tasks`.
"""

"""Python objects as files: a DataFrame as Parquet, a dict as JSON, and back.

codec says how (`encode`, `decode`); metadata is what an author adds to a file. Packages such as
pandas, pyarrow, numpy and polars are imported when an object of theirs is met, never before.
"""

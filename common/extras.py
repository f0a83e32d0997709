"""Packages that only some uses need: pyproject.toml groups them in extras."""

# What is imported -> the smallest extra that installs it
EXTRA_OF = {
    "apache_beam": "store",
    "dask": "dask",
    "distributed": "dask",
    "duckdb": "mimic-iv",
    "gcsfs": "gcs",
    "grpc": "store",
    "h5py": "convert",
    "highdicom": "pacs",
    "huggingface_hub": "convert",
    "openvino": "openvino",
    "orjson": "serve",
    "prometheus_client": "serve",
    "pyarrow": "tables",
    "pybase64": "serve",
    "requests": "pacs",
    "s3fs": "s3",
    "safetensors": "convert",
    "tensorboardX": "train",
    "tensorflow": "tensorflow",
    "tensorflow_datasets": "store",
    "starlette": "explore",
    "umap": "explore",
    "uvicorn": "explore",
}


def advice(error: ImportError) -> str | None:
    """What to install, where an import failed for want of an extra; None where it did not."""
    # fsspec words its own errors, and keeps Python's as the cause
    missing = error if isinstance(error, ModuleNotFoundError) else error.__cause__
    package = (getattr(missing, "name", None) or "").partition(".")[0]
    if package not in EXTRA_OF:
        return None
    extra = EXTRA_OF[package]
    return (
        f"this needs {package}, which is not installed: pip install 'cxr-embeddings[{extra}]', "
        f"or in a clone pip install -e '.[{extra}]'"
    )

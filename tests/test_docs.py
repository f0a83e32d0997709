"""README and docs name only what is there: files, headings, options, Python names."""

import dataclasses
import pathlib
import re

import pytest

import cxr_embeddings
from cxr_embeddings.configs.schema import EmbedConfig, EvaluateConfig, HeadConfig, PreprocessConfig
from cxr_embeddings.configs.schema_pretraining import PretrainConfig
from cxr_embeddings.configs.schema_sites import SitesConfig

ROOT = pathlib.Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("notebooks/*.ipynb")])
CONFIGS = (EmbedConfig, PreprocessConfig, HeadConfig, EvaluateConfig, PretrainConfig, SitesConfig)
PAGE = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def fields(config, prefix="config"):
    """Every option of a config, in full."""
    for field in dataclasses.fields(config):
        name, value = f"{prefix}.{field.name}", getattr(config, field.name)
        yield name
        if dataclasses.is_dataclass(value):
            yield from fields(value, name)


def anchors(page):
    """What GitHub calls the headings of a page."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE):
        yield re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def test_the_readme_is_read_in_three_minutes():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 180


@PAGE
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        path, _, anchor = link.partition("#")
        if path.startswith("http"):
            continue
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@PAGE
def test_options_and_names_are_those_of_the_code(page):
    known = {name for config in CONFIGS for name in fields(config())}
    text = page.read_text()
    assert {name.rstrip(".") for name in re.findall(r"--(config\.[\w.]+)", text)} <= known
    assert {*re.findall(r"\bcxr\.(\w+)", text)} <= {*cxr_embeddings.__all__}

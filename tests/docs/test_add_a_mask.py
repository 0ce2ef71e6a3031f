"""The mask of docs/add_a_mask.md, held to the contract of all masks."""

import importlib.util
import sys
from pathlib import Path

import pytest

from core.configuring.config import components, composed, flatten, load
from core.masks import MASKS
from core.types import Mask
from tests.core.masks import test_masks as contract
from tests.docs.blocks import DOCS, blocks, commands

FILE, LINE = blocks("add_a_mask.md", "python")
CONTRACT = [
    contract.test_the_same_seed_gives_the_same_mask_and_another_seed_another,
    contract.test_the_global_generators_are_neither_read_nor_moved,
    contract.test_context_and_target_are_disjoint_distinct_patches_of_the_grid,
    contract.test_index_sets_are_int64_rows_in_raster_order_and_valid_is_bool,
    contract.test_lengths_depend_on_neither_batch_size_nor_step_unless_asked_for,
    contract.test_samples_of_a_batch_differ,
]


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> type[Mask]:
    """The document's file imported, and its line added to MASKS."""
    path = tmp_path / "rows.py"
    path.write_text(FILE, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("rows_of_the_document", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    for name, mask in eval("{" + LINE + "}", vars(module)).items():  # our own document's line
        monkeypatch.setitem(MASKS, name, mask)
    return MASKS["rows"]


@pytest.mark.parametrize("check", CONTRACT, ids=lambda check: check.__name__)
def test_the_document_s_mask_keeps_the_contract_of_all_masks(rows, check):
    for grid in contract.GRIDS:
        check(rows(), grid)


def test_the_document_s_mask_hides_every_place_sometimes(rows):
    contract.test_the_last_row_and_column_are_sometimes_hidden_and_sometimes_seen("rows")


def test_the_document_s_command_resolves_to_it(rows):
    for known in (components, composed):
        known.cache_clear()
    (train,) = [words for module, words in commands("add_a_mask.md") if module == "core.train"]
    flat = flatten(load(train))
    assert (flat["mask"], flat["mask.ratio"]) == ("rows", 0.5)


def test_the_files_it_names_are_there():
    root = DOCS.parent
    assert (root / "core/masks/__init__.py").is_file() and (root / "tests/core/masks").is_dir()

"""Pages replace pages of ours and nothing else."""

import pytest

from resnetv2.errors import ConfigError
from resnetv2.pages.render import check_page, render_page


def test_a_page_of_ours_may_be_replaced(tmp_path):
    page = tmp_path / "page.html"
    check_page(page)
    render_page(page, "resnetv2.pages/base.html.j2")
    check_page(page)


@pytest.mark.parametrize("content", [b"", b"<!doctype html><title>theirs</title>", bytes(2000)])
def test_a_file_that_is_no_page_of_ours_is_refused_and_stays(content, tmp_path):
    page = tmp_path / "page.html"
    page.write_bytes(content)
    with pytest.raises(ConfigError, match=r"page\.html is there already, and is no page of resnetv2: choose another"):
        check_page(page)
    assert page.read_bytes() == content


def test_a_folder_or_a_link_to_nothing_is_no_page_of_ours(tmp_path):
    (tmp_path / "folder.html").mkdir()
    (tmp_path / "link.html").symlink_to(tmp_path / "nothing")
    for name in ("folder.html", "link.html"):
        with pytest.raises(ConfigError, match="is there already"):
            check_page(tmp_path / name)

"""From pictures to findings: what is told, how bad it is, and that the data is only read."""

import os
import shutil

import numpy as np
import pytest
from pictures import encode, noise, write_dataset, write_picture
from PIL import Image
from runs import SETTINGS, TINY, write_colours

import resnetv2
from resnetv2.data.check import KINDS, SEVERITIES, check_pictures
from resnetv2.data.index import read_index
from resnetv2.errors import ConfigError, DataError, Error


def smooth(seed, side=64):
    """Return a picture of soft spots, unlike every other seed's."""
    return noise(20, 20, seed).resize((side, side), Image.Resampling.BICUBIC)


@pytest.fixture
def data(tmp_path):
    """Return a folder with nothing to find: 12, 3 and 3 different pictures of each of two classes."""
    root = tmp_path / "data"
    for c, name in enumerate(("cat", "dog")):
        for s, (split, count) in enumerate((("train", 12), ("val", 3), ("test", 3))):
            for i in range(count):
                write_picture(root / split / name / f"{i}.png", smooth(1000 * c + 100 * s + i))
    return root


def findings(data, **options):
    """Return {kind: finding} of a check."""
    return {finding.kind: finding for finding in resnetv2.check(data, **options).findings}


def paths(finding):
    return [item.path for item in finding.items]


def test_sound_data_has_no_finding(data):
    report = resnetv2.check(data)
    assert report.findings == ()
    assert report.ok
    assert report.pictures == report.statistics["readable"] == 36
    assert report.classes == {name: {"train": 12, "val": 3, "test": 3} for name in ("cat", "dog")}
    assert report.statistics["formats"] == {"PNG": 36}
    assert report.statistics["width"] == {"min": 64, "p5": 64, "median": 64, "p95": 64, "max": 64}


def test_an_unreadable_picture_is_an_error_or_left_out_a_warning(data):
    (data / "train" / "cat" / "3.png").write_bytes(b"")
    report = resnetv2.check(data)
    assert not report.ok
    (finding,) = report.findings
    assert (finding.kind, finding.severity) == ("unreadable", "error")
    assert (finding.items[0].path, finding.items[0].note) == ("train/cat/3.png", "the file is empty")
    report = resnetv2.check(data, on_bad_image="skip")
    assert report.ok
    assert report.findings[0].severity == "warning"
    assert report.statistics["readable"] == 35


@pytest.mark.parametrize(
    ("copy", "kind"),
    [
        ("train/cat/copy.png", "duplicate"),
        ("val/cat/copy.png", "leak"),
        ("train/dog/copy.png", "conflict"),
        ("train/cat/copy.jpg", "duplicate_near"),
        ("test/cat/copy.jpg", "leak_near"),
        ("train/dog/copy.jpg", "conflict_near"),
    ],
)
def test_a_copy_is_told_by_where_it_lies(data, copy, kind):
    Image.open(data / "train" / "cat" / "5.png").save(data / copy)
    found = findings(data)
    assert list(found) == [kind]
    assert sorted(paths(found[kind])) == sorted([copy, "train/cat/5.png"])
    assert {item.group for item in found[kind].items} == {1}
    assert found[kind].severity == ("note" if kind.startswith("duplicate") else "warning")


def test_a_copy_in_another_class_of_another_split_is_told_as_both(data):
    shutil.copy(data / "train" / "cat" / "5.png", data / "test" / "dog" / "copy.png")
    shutil.copy(data / "train" / "cat" / "6.png", data / "test" / "dog" / "second.png")
    found = findings(data)
    assert set(found) == {"conflict", "leak"}
    for finding in found.values():
        assert finding.groups == 2
        assert [item.group for item in finding.items] == [1, 1, 2, 2]


def test_a_leak_to_the_pixel_is_told_as_one_beside_a_near_copy(data):
    original = data / "train" / "cat" / "5.png"
    shutil.copy(original, data / "val" / "cat" / "copy.png")
    Image.open(original).save(data / "train" / "cat" / "saved.jpg")
    found = findings(data)
    assert sorted(paths(found["leak"])) == ["train/cat/5.png", "val/cat/copy.png"]
    assert sorted(paths(found["leak_near"])) == ["train/cat/5.png", "train/cat/saved.jpg", "val/cat/copy.png"]
    assert set(found) == {"leak", "leak_near"}


def test_pictures_that_teach_little_are_told(data):
    cat = data / "train" / "cat"
    write_picture(cat / "blank.png", Image.new("RGB", (64, 64), (9, 200, 9)))
    write_picture(cat / "tiny.png", noise(31, 64))
    write_picture(cat / "narrow.png", noise(60, 241))
    write_picture(cat / "dark.png", smooth(7001).point(lambda v: v // 10))
    write_picture(cat / "bright.png", smooth(7002).point(lambda v: 239 + v // 16))
    write_picture(cat / "wide.png", noise(240, 60))  # four times, not more
    (cat / "really.gif").write_bytes(encode(noise(40, 40)))
    found = findings(data)
    assert {kind: paths(finding) for kind, finding in found.items()} == {
        kind: [f"train/cat/{'really.gif' if kind == 'ending' else kind + '.png'}"]
        for kind in ("blank", "tiny", "narrow", "dark", "bright", "ending")
    }
    assert found["tiny"].items[0].note == "31×64"
    assert found["ending"].items[0].note == "holds PNG"


def test_the_sizes_of_classes_are_told(tmp_path):
    splits = {"train": {"a": 111, "b": 10, "c": 9}, "val": {"a": 2, "b": 1, "c": 1}, "test": {"a": 1, "c": 1}}
    write_dataset(tmp_path, splits)
    found = findings(tmp_path)
    assert [item.label for item in found["few"].items] == ["c"]
    assert [item.label for item in found["imbalance"].items] == ["a", "c"]
    assert [(item.label, item.note) for item in found["unmeasured"].items] == [("b", "none in test")]


def test_data_without_a_test_split_is_not_blamed_class_by_class(tmp_path):
    write_dataset(tmp_path, {"train": {"a": 10, "b": 10}, "val": {"a": 2, "b": 2}})
    assert "unmeasured" not in findings(tmp_path)


def test_what_lies_beside_the_classes_is_told(data, tmp_path):
    write_picture(data / "train" / "lost.png", smooth(50))
    write_picture(tmp_path / "elsewhere" / "far.png", smooth(51))
    write_picture(data / "train" / ".hidden" / "x.png", smooth(52))
    (data / "readme.txt").write_text("not a picture")
    (data / "train" / "cat" / "link.png").symlink_to(tmp_path / "elsewhere" / "far.png")
    (data / "train" / "cat" / "inner.png").symlink_to(data / "train" / "cat" / "0.png")
    (data / "train" / "cat" / "more").symlink_to(tmp_path / "elsewhere")
    (data / "train" / "dog" / "round").symlink_to(data)
    (data / "train" / "bird").symlink_to(tmp_path / "elsewhere")
    write_picture(tmp_path / "birds" / "deep" / "down" / "b.png", smooth(53))
    (data / "train" / "wren").symlink_to(tmp_path / "birds")
    found = findings(data)
    assert paths(found["stray"]) == ["train/lost.png"]
    assert paths(found["link"]) == ["train/cat/more"]
    assert paths(found["loop"]) == ["train/dog/round"]
    assert paths(found["outside"]) == ["train/bird", "train/cat/link.png", "train/wren"]


def test_strange_names_are_told_and_harmless(data):
    cat = os.fsencode(data / "train" / "cat")
    for name in (b"caf\xe9.png", "caf\u00e9 \U0001f600.png".encode(), b"new\nline.png", b"-rf.png", b"a\tb.png"):
        with open(cat + b"/" + name, "wb") as file:  # noqa: PTH123  a name of bytes
            file.write(encode(smooth(len(name))))
    found = findings(data)
    assert [os.fsencode(path) for path in paths(found["name"])] == [b"train/cat/caf\xe9.png"]
    assert "unreadable" not in found


def test_a_file_that_goes_away_under_the_check_is_told(data, monkeypatch):
    from resnetv2 import diagnosis

    def read_and_remove(path, group_by):
        index = read_index(path, group_by)
        (data / "train" / "cat" / "4.png").unlink()
        return index

    monkeypatch.setattr(diagnosis, "read_index", read_and_remove)
    (finding,) = resnetv2.check(data).findings
    assert finding.items[0].path == "train/cat/4.png"
    assert finding.items[0].note.startswith("No such file")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_told(data):
    (data / "train" / "cat" / "4.png").chmod(0)
    (finding,) = resnetv2.check(data).findings
    assert finding.items[0].note == "Permission denied"


@pytest.mark.parametrize("name", ["data.zip", "data.tar.gz"])
def test_an_archive_is_refused_and_not_unpacked(data, name):
    kind = {"data.zip": "zip", "data.tar.gz": "gztar"}[name]
    archive = shutil.make_archive(data.parent / "data", kind, data)
    before = sorted(data.parent.iterdir())
    with pytest.raises(DataError, match="archives must be unpacked first"):
        resnetv2.check(archive)
    assert sorted(data.parent.iterdir()) == before


def test_thousands_of_classes_are_checked(tmp_path):
    picture = encode(smooth(1))
    for i in range(2500):
        folder = tmp_path / "data" / f"class {i}"
        folder.mkdir(parents=True)
        (folder / "a.png").write_bytes(picture)
    report = resnetv2.check(tmp_path / "data", html=tmp_path / "page.html")
    found = {finding.kind: finding for finding in report.findings}
    assert len(found["few"].items) == len(report.classes) == len(found["conflict"].items) == 2500
    assert "… and 2,440 more classes" in (tmp_path / "page.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_folder_of_a_hundred_thousand_classes_is_checked(tmp_path):
    for i in range(100_000):
        source = tmp_path / f"{i // 50_000}.png"  # ext4 has 65,000 links to a file at most
        if not source.exists():
            source.write_bytes(encode(smooth(1)))
        (tmp_path / "data" / f"{i}").mkdir(parents=True)
        os.link(source, tmp_path / "data" / f"{i}" / "a.png")
    report = resnetv2.check(tmp_path / "data")
    found = {finding.kind: finding for finding in report.findings}
    assert len(report.classes) == report.statistics["readable"] == len(found["few"].items) == 100_000
    assert list(report.classes)[:3] == ["0", "1", "2"]


def test_a_manifest_is_checked_as_a_folder_is(data):
    rows = [f"{p.relative_to(data).as_posix()},{p.parent.name},{p.parent.parent.name}" for p in data.rglob("*.png")]
    manifest = data / "list.csv"
    manifest.write_text("\n".join(["image_path,label,split", *rows]))
    report = resnetv2.check(manifest)
    assert report.findings == ()
    assert report.classes == resnetv2.check(data).classes


def listing(root):
    return {p: (p.lstat().st_mtime_ns, p.lstat().st_size, p.lstat().st_mode) for p in (root, *root.rglob("*"))}


def test_the_data_is_only_read(data, tmp_path):
    (data / "train" / "cat" / "half.png").write_bytes(encode(smooth(1))[:200])
    before = listing(data)
    for path in data.rglob("*"):
        path.chmod(0o555 if path.is_dir() else 0o444)
    data.chmod(0o555)
    try:
        locked = listing(data)
        resnetv2.check(data, html=tmp_path / "page.html", on_bad_image="skip")
        assert listing(data) == locked
    finally:
        for path in (data, *data.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
    assert listing(data).keys() == before.keys()


def test_a_page_inside_the_data_is_refused(data):
    with pytest.raises(ConfigError, match="lies inside"):
        resnetv2.check(data, html=data / "page.html")


def test_a_page_that_cannot_be_written_is_one_error(data, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(Error, match="cannot write"):
        resnetv2.check(data, html=tmp_path / "file" / "page.html")


def test_an_unknown_policy_is_refused_with_the_nearest(data):
    with pytest.raises(ConfigError, match="did you mean 'skip'"):
        resnetv2.check(data, on_bad_image="skipp")


def test_the_report_is_plain_values_with_the_worst_first(data):
    (data / "train" / "cat" / "bad.png").write_bytes(b"x")
    shutil.copy(data / "train" / "cat" / "5.png", data / "train" / "cat" / "copy.png")
    shutil.copy(data / "train" / "cat" / "6.png", data / "val" / "cat" / "copy.png")
    values = resnetv2.check(data).to_dict()
    assert [finding["kind"] for finding in values["findings"]] == ["unreadable", "leak", "duplicate"]
    assert values["findings"][1]["groups"] == 1
    assert values["findings"][2] == {
        "kind": "duplicate",
        "severity": "note",
        "what": KINDS["duplicate"].what,
        "advice": KINDS["duplicate"].advice,
        "count": 2,
        "groups": 1,
        "items": [
            {"path": f"train/cat/{name}.png", "label": "cat", "split": "train", "group": 1} for name in ("5", "copy")
        ],
    }


def test_every_kind_has_a_severity_a_name_and_advice():
    for kind in KINDS.values():
        assert kind.severity in SEVERITIES
        assert kind.what
        assert kind.advice.endswith((".", "?"))


def test_what_training_would_refuse_is_an_error_of_the_check(tmp_path, capsys):
    from resnetv2.cli import main

    for name in ("a", "b", "c"):
        for i in range(4):
            write_picture(tmp_path / "data" / name / f"{i}.png", smooth(10 * ord(name) + i))
    for picture in (tmp_path / "data" / "b").iterdir():
        picture.write_bytes(b"")
    page = tmp_path / "page.html"
    report = resnetv2.check(tmp_path / "data", on_bad_image="skip", html=page)
    assert not report.ok
    assert {f.kind: f.severity for f in report.findings if f.kind in ("untrainable", "unreadable")} == {
        "untrainable": "error",
        "unreadable": "warning",
    }
    assert "It can be trained on" not in page.read_text()
    shutil.rmtree(tmp_path / "data" / "b")
    shutil.rmtree(tmp_path / "data" / "c")
    assert main(["check", str(tmp_path / "data")]) == 2
    assert "there is one class only, 'a'" in capsys.readouterr().out
    for picture in (tmp_path / "data" / "a").iterdir():
        picture.write_bytes(b"")
    assert not resnetv2.check(tmp_path / "data", on_bad_image="skip").ok


# --- train and evaluate ---


@pytest.fixture
def colours(tmp_path):
    root = write_colours(tmp_path / "colours", train=6, val=3, test=3)
    (root / "train" / "red" / "000.png").write_bytes(b"")
    (root / "test" / "blue" / "001.png").write_bytes(encode(noise(40, 40), "JPEG")[:1200])
    return root


def test_training_refuses_unreadable_pictures_and_names_the_way_out(colours, tmp_path):
    with pytest.raises(DataError, match="2 of 36 pictures cannot be read") as caught:
        resnetv2.train(colours, out=tmp_path / "run", set=TINY, **SETTINGS)
    assert "000.png: the file is empty" in str(caught.value)
    assert "--on-bad-image skip" in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_training_without_them_says_which_trains_on_the_others_and_resumes(colours, tmp_path, capsys):
    import json

    run = tmp_path / "run"
    result = resnetv2.train(colours, out=run, on_bad_image="skip", set=TINY, **{**SETTINGS, "epochs": 1})
    said = capsys.readouterr().err
    assert "left out: train/red/000.png: the file is empty" in said
    assert json.loads((run / "config.json").read_text())["on_bad_image"] == "skip"
    found = json.loads((run / "check.json").read_text(encoding="utf-8"))["findings"]
    assert [item["path"] for item in found[0]["items"]] == ["test/blue/001.png", "train/red/000.png"]
    rows = (run / "index.csv").read_text()
    assert "train/red/000.png" not in rows
    assert rows.count("\n") == 1 + 34
    assert resnetv2.train(colours, out=run, resume=True) == result
    (colours / "train" / "red" / "001.png").write_bytes(b"")  # what the run reads must stay
    with pytest.raises(DataError, match="1 of 34 pictures cannot be read"):
        resnetv2.train(colours, out=run, resume=True)


def test_a_resumed_run_does_not_advise_to_leave_pictures_out(tmp_path):
    data, run = write_colours(tmp_path / "colours", train=6, val=3, test=0), tmp_path / "run"
    resnetv2.train(data, out=run, set=TINY, **{**SETTINGS, "epochs": 1})
    (data / "train" / "red" / "000.png").write_bytes(b"")
    with pytest.raises(DataError, match="Bring back") as caught:
        resnetv2.train(data, out=run, resume=True)
    assert "skip" not in str(caught.value)


def test_evaluation_leaves_them_out_on_demand_and_lists_them(colours, tmp_path):
    model = resnetv2.train(colours, out=tmp_path / "run", on_bad_image="skip", set=TINY, **{**SETTINGS, "epochs": 1})
    with pytest.raises(DataError, match="cannot read"):
        resnetv2.evaluate(model.best, colours)
    report = resnetv2.evaluate(model.best, colours, on_bad_image="skip")
    assert report["n"] == 8
    assert [entry["path"] for entry in report["skipped"]] == ["test/blue/001.png"]
    assert report["skipped"][0]["reason"].startswith("damaged picture")
    assert resnetv2.evaluate(model.best, colours, split="all", on_bad_image="skip")["n"] == 34


def test_a_class_without_a_readable_picture_cannot_be_trained(colours, tmp_path):
    for path in colours.glob("*/red/*.png"):
        path.write_bytes(b"")
    with pytest.raises(DataError, match="class 'red' has no picture that can be read"):
        resnetv2.train(colours, out=tmp_path / "run", on_bad_image="skip", set=TINY, **SETTINGS)


def test_where_no_picture_can_be_read_skipping_is_an_error(colours, tmp_path):
    for path in colours.rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(DataError, match="36 of 36"):
        resnetv2.train(colours, out=tmp_path / "run", on_bad_image="skip", set=TINY, **SETTINGS)


@pytest.mark.parametrize("count", [20, 21, 45])
def test_beyond_twenty_unreadable_pictures_are_counted(tmp_path, count):
    write_dataset(tmp_path / "data", {"train": {"a": 50, "b": 4}, "val": {"a": 1, "b": 1}})
    for path in sorted((tmp_path / "data" / "train" / "a").iterdir())[:count]:
        path.write_bytes(b"")
    with pytest.raises(DataError) as caught:
        resnetv2.train(tmp_path / "data", out=tmp_path / "run", set=TINY, **SETTINGS)
    lines = str(caught.value).splitlines()
    assert lines[0] == f"{count} of 56 pictures cannot be read:"
    assert sum(line.endswith("the file is empty") for line in lines) == 20
    assert (f"  … and {count - 20} more" in lines) == (count > 20)
    assert np.all([line.startswith("  ") for line in lines[1:-1]])


def test_numbers_may_differ_in_pictures_that_are_nearly_the_same_but_not_in_the_same_picture(tmp_path):
    picture = noise(12, 12).resize((96, 96))
    near = picture.resize((90, 90)).resize((96, 96))
    for name, image in (("0", picture), ("1", near), ("2", picture), ("3", noise(96, 96))):
        write_picture(tmp_path / f"{name}.png", image)
    for column, labels, expected in (
        ("target", {0: 1, 1: 2, 2: 1, 3: 4}, set()),
        ("target", {0: 1, 2: 2, 3: 4}, {"conflict"}),
        ("labels", {0: "a", 1: "a|b", 2: "a", 3: ""}, {"conflict_near"}),
    ):
        rows = [f"image_path,{column}", *(f"{i}.png,{label}" for i, label in labels.items())]
        (tmp_path / "list.csv").write_text("\n".join(rows))
        _, _, report = check_pictures(read_index(tmp_path / "list.csv"), tmp_path / "list.csv")
        found = {finding.kind for finding in report.findings}
        assert found & {"conflict", "conflict_near"} == expected
        assert report.to_dict()["task"] == ("regression" if column == "target" else "multilabel")

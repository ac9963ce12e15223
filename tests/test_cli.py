"""The command line as a user meets it: real processes, their output and exit codes."""

import argparse
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest
from runs import SETTINGS, TINY, command, write_colours

import resnetv2
from resnetv2.cli import COMMANDS, main, make_parser
from resnetv2.cli.show import print_table
from resnetv2.errors import Error
from resnetv2.inference import predict_each


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_colours(tmp_path_factory.mktemp("data") / "colours", train=4, val=2, test=2)


@pytest.fixture(scope="module")
def model(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    return resnetv2.train(data, out=out, set=TINY, **{**SETTINGS, "epochs": 1}).best


def subparsers():
    actions = [a for a in make_parser()._actions if isinstance(a, argparse._SubParsersAction)]
    return actions[0].choices


def test_help_lists_every_command_and_each_has_help():
    names = [module.__name__.rsplit(".", 1)[-1].replace("_", "-") for module in COMMANDS]
    assert sorted(subparsers()) == sorted(names)
    top = command("--help").stdout
    for name, parser in subparsers().items():
        assert re.search(rf"^    {name}\s", top, re.MULTILINE)
        assert "usage: resnetv2" in parser.format_help()


@pytest.mark.parametrize(
    "name",
    [
        *("train", "check", "evaluate", "calibrate", "predict", "verify", "info", "demo", "fetch", "convert", "pack"),
        *("embed", "search"),
    ],
)
def test_every_command_equals_one_public_function_with_the_same_argument_names(name):
    options = {action.dest for action in subparsers()[name]._actions} - {"help", "json"}
    parameters = set(inspect.signature(getattr(resnetv2, name)).parameters) - {"progress"}
    assert options == parameters


def test_an_unknown_command_and_an_unknown_option_exit_with_2_in_one_line():
    for words in (["trian"], ["models", "--jsno"], []):
        done = command(*words)
        assert done.returncode == 2
        assert done.stdout == ""
        assert done.stderr.count("\n") == 1
        assert "error:" in done.stderr


def test_an_unknown_option_names_the_help_of_its_command():
    done = command("models", "--jsno")
    expected = "resnetv2 models: error: unrecognized arguments: --jsno (see resnetv2 models --help)\n"
    assert (done.returncode, done.stderr) == (2, expected)


def test_version():
    assert command("--version").stdout == f"resnetv2 {resnetv2.__version__}\n"


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["models"], ["models", "--json"], ["--version"]])
def test_starting_imports_neither_torch_nor_numpy(words):
    code = f"import sys; from resnetv2.cli import main\ntry: main({words!r})\nexcept SystemExit: pass\n"
    code += "heavy = {'torch', 'numpy', 'PIL', 'sklearn', 'safetensors'} & set(sys.modules); assert not heavy, heavy"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_what_needs_no_torch_works_where_torch_cannot_be_imported(model, data, tmp_path):
    blocked = tmp_path / "blocked"
    (blocked / "torch").mkdir(parents=True)
    (blocked / "torch" / "__init__.py").write_text(
        "raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')"
    )
    path = os.pathsep.join([str(blocked), os.environ.get("PYTHONPATH", "")])
    for words in (["info", model], ["models"], ["check", data, "--html", tmp_path / "page.html"]):
        assert command(*words, PYTHONPATH=path).returncode == 0
    for words in (["predict", model, data / "test"], ["evaluate", model, data], ["verify", model]):
        done = command(*words, PYTHONPATH=path)
        assert done.returncode == 0, done.stderr
    done = command("predict", model, data / "test", "--runtime", "torch", PYTHONPATH=path)
    assert done.returncode == 2
    assert 'pip install "resnetv2[train]"' in done.stderr
    assert "Traceback" not in done.stderr
    done = command("train", data, "--out", tmp_path / "run", PYTHONPATH=path)
    assert done.returncode == 2
    assert 'pip install "resnetv2[train]"' in done.stderr


def test_models_lists_filters_and_refuses_what_matches_nothing():
    listed = json.loads(command("models", "--json").stdout)
    assert [entry["name"] for entry in listed["architectures"]] == resnetv2.list_models()
    assert [entry["name"] for entry in listed["weights"]] == resnetv2.list_models(pretrained=True)
    whole = command("models", "resnet50v2.keras_in1k").stdout
    assert "md5:3ef43a0b657b3be2300d5770ece849e0" in whole
    assert "belongs to 299 pixels" in whole
    assert "25,549,352" in command("models", "resnet50v2").stdout
    done = command("models", "vgg*")
    assert done.returncode == 2
    assert "no architecture and no published weights match 'vgg*'" in done.stderr


def test_check_prints_a_table_or_json_and_exits_with_2_on_an_error_alone(data, tmp_path):
    done = command("check", data)
    assert done.returncode == 0
    assert done.stdout.startswith("24 pictures in 3 classes, 24 readable\n")
    bad = shutil.copytree(data, tmp_path / "bad")
    (bad / "train" / "red" / "000.png").write_bytes(b"")
    done = command("check", bad)
    assert done.returncode == 2
    assert "cannot be read" in done.stdout
    assert "000.png (the file is empty)" in done.stdout
    done = command("check", bad, "--on-bad-image", "skip", "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["findings"][0]["items"][0]["note"] == "the file is empty"


def test_train_evaluate_predict_verify_and_info_from_the_shell(data, tmp_path):
    run = tmp_path / "run"
    flags = ["--arch", "resnet18v2", "--image-size", "32", "--batch-size", "8", "--epochs", "1"]
    done = command("train", data, "--out", run, *flags, "--set", "model.width_factor=0.25", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["best"] == str(run / "best.safetensors")
    assert "epoch 1/1" in done.stderr
    model = run / "best.safetensors"

    report = json.loads(command("evaluate", model, data, "--json").stdout)
    assert {"n", "top1", "top1_ci95", "top5", "per_class", "confusion"} <= set(report)
    text = command("evaluate", model, data).stdout
    assert "top-1" in text
    assert "6 pictures of split test" in text

    lines = command("predict", model, data / "test", "--json", "--top", "2").stdout.splitlines()
    assert len(lines) == 6
    answer = json.loads(lines[0])
    assert set(answer) == {"path", "label", "probability", "top"}
    assert len(answer["top"]) == 2

    assert command("verify", model).stdout.startswith("ok  ")
    assert json.loads(command("verify", model, "--json").stdout)["ok"] is True
    assert json.loads(command("info", model, "--json").stdout)["classes"] == ["blue", "green", "red"]
    assert "preprocessing" in command("info", model).stdout


def test_predict_answers_the_others_and_exits_with_2_when_a_picture_cannot_be_read(model, data, tmp_path):
    bad = tmp_path / "bad\nname.png"
    bad.write_bytes(b"x")
    good = data / "test" / "red" / "000.png"
    done = command("predict", model, bad, good, "--json")
    assert done.returncode == 2
    first, second = map(json.loads, done.stdout.splitlines())
    assert first["path"] == str(bad)
    assert "not a picture" in first["error"]
    assert second["label"] in ("red", "green", "blue")
    table = command("predict", model, bad, good)
    assert table.returncode == 2
    assert "bad\\nname.png" in table.stdout


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not take such names")
def test_a_file_name_that_is_no_utf8_is_answered(model, data, tmp_path):
    name = os.fsencode(tmp_path) + b"/caf\xe9.png"
    shutil.copy(data / "test" / "red" / "000.png", name)
    for flags in ([], ["--json"]):
        done = command("predict", model, tmp_path, *flags)
        assert done.returncode == 0, done.stderr
        assert "udce9" in done.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["evaluate", "{model}", "{data}/nothing"], "no such folder or CSV file"),
        (["evaluate", "{data}", "{data}"], "is a folder; a file such as"),
        (["evaluate", "{model}", "{data}", "--device", "gpu"], "device 'gpu' cannot be used here"),
        (["predict", "{model}.gone", "{data}"], "no such file"),
        (["verify", "{data}/test/red/000.png"], "is no readable model file"),
        (["info", "{data}/test/red/000.png"], "is no readable model file"),
        (["train", "{data}/train/red", "--out", "{tmp}/r"], "no pictures in"),
        (["train", "{data}", "--out", "{tmp}/r", "--set", "lr"], "--set takes key=value, got 'lr'"),
        (["train", "{data}", "--out", "{tmp}/r", "--set", "ls=0.1"], "unknown setting 'ls'"),
        (["train", "{data}", "--out", "{tmp}/r", "--set", "epochs=many"], "epochs must be"),
        (["train", "{data}", "--out", "{tmp}/r", "--image-size", "16"], "a whole number of at least 32"),
    ],
)
def test_what_a_user_can_mend_is_one_message_exit_2_and_no_traceback(model, data, tmp_path, words, message):
    words = [word.format(model=model, data=data, tmp=tmp_path) for word in words]
    done = command(*words)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.startswith(f"resnetv2 {words[0]}: error: ")
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["check", ""], "data"),
        (["train", "", "--out", "r"], "data"),
        (["predict", "model", "a.png", ""], "pictures"),
        (["evaluate", "", "data", "--html", ""], "model, html"),
        (["compare", "a", "b", "--data", ""], "data"),
        (["calibrate", "model", "", "--out", "c.safetensors"], "data"),
    ],
)
def test_a_word_of_no_letters_is_refused_and_is_not_this_folder(words, named, capsys):
    assert main(words) == 2
    assert capsys.readouterr().err.startswith(f"resnetv2 {words[0]}: error: {named}: expected a name, got an empty")


def test_a_reader_that_goes_away_is_no_error(model, data):
    full = [sys.executable, "-m", "resnetv2", "models", "--json"]
    with subprocess.Popen(full, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        errors = process.stderr.read()
        process.wait(timeout=60)
    assert b"Traceback" not in errors
    assert b"BrokenPipe" not in errors


def test_what_is_to_mend_is_said_even_where_the_reader_of_the_output_went_away(monkeypatch, capsys):
    def run(_):
        print("some of it")
        raise Error("mend it")

    parser = argparse.ArgumentParser()
    parser.set_defaults(run=run, command="command")
    monkeypatch.setattr("resnetv2.cli.make_parser", lambda: parser)
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as output:  # noqa: PTH123  a descriptor
        monkeypatch.setattr(sys, "stdout", output)
        assert main([]) == 2
    assert capsys.readouterr().err == "resnetv2 command: error: mend it\n"


FULL = Path("/dev/full")


@pytest.mark.skipif(not FULL.exists(), reason="only Linux has a device that is always full")
@pytest.mark.parametrize("words", [["models"], ["models", "--json"], ["--help"], ["--version"], ["predict"], ["info"]])
def test_output_that_finds_no_room_is_one_line_and_exit_2(words, model, data):
    more = {"predict": [str(model), str(data / "test"), "--json"], "info": [str(model)]}.get(words[0], [])
    with FULL.open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "resnetv2", *words, *more],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    *said, last = done.stderr.splitlines()
    assert (done.returncode, "Traceback" in done.stderr, "ignored" in done.stderr) == (2, False, False)
    assert last.endswith("error: cannot write the output: No space left on device")
    assert all(line.startswith("runtime: ") for line in said)


@pytest.mark.skipif(not FULL.exists(), reason="only Linux has a device that is always full")
@pytest.mark.parametrize(
    ("words", "code"), [("predict {model} {data}/test --json", 0), ("info nothing", 2), ("trian", 2)]
)
@pytest.mark.parametrize("errors", ["2>/dev/full", "2>&-"])
def test_talk_that_cannot_be_written_changes_neither_the_answer_nor_the_exit_code(errors, words, code, model, data):
    line = f"{sys.executable} -m resnetv2 {words.format(model=model, data=data)}"
    heard, unheard = (
        subprocess.run(["sh", "-c", f"{line} {to}"], stdout=subprocess.PIPE, check=False)
        for to in ("2>/dev/null", errors)
    )
    assert (unheard.returncode, unheard.stdout) == (heard.returncode, heard.stdout)
    assert unheard.returncode == code


@pytest.mark.skipif(os.name == "nt", reason="a shell's >&-")
def test_a_closed_output_is_no_error(model):
    done = subprocess.run(
        ["sh", "-c", f"{sys.executable} -m resnetv2 info {model} --json >&-"], stderr=subprocess.PIPE, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_table_has_every_cell_whatever_it_holds(capsys):
    print_table(("a", "b"), [("[red]x[/red]", "1"), (":smile:", "20"), ("\x1b[31m", "3")])
    out = capsys.readouterr().out
    assert "[red]x[/red]" in out
    assert ":smile:" in out
    assert "\\x1b[31m" in out


# --- Ctrl-C ---


def test_what_was_answered_before_ctrl_c_is_printed(model, data, monkeypatch, capsys):
    def stopped(*arguments, **options):
        yield from islice(predict_each(*arguments, **options), 2)
        raise KeyboardInterrupt

    monkeypatch.setattr("resnetv2.inference.predict_each", stopped)
    assert main(["predict", str(model), str(data / "test"), "--device", "cpu"]) == 130
    assert len(re.findall(r"\.png", capsys.readouterr().out)) == 2


STOPPED_WHILE_LOADING = """
import os, signal, sys
class Stop:
    def find_spec(self, name, *_):
        if name == sys.argv[1]:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGINT)
signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever runs the tests may ignore it
sys.meta_path.insert(0, Stop())
from resnetv2.__main__ import run
sys.argv = ["resnetv2", "check", sys.argv[2]]
run()
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT of this kind")
@pytest.mark.parametrize("module", ["resnetv2.cli", "resnetv2.cli.pack", "rich.console", "numpy", "PIL.Image"])
def test_ctrl_c_while_modules_load_ends_without_a_traceback(data, module):
    script = STOPPED_WHILE_LOADING.replace("sys.argv[1]", repr(module))
    done = subprocess.run(
        [sys.executable, "-c", script, "-", str(data)], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.stderr == ""
    assert done.returncode == 130

"""The package's surface: its names, and what importing it costs."""

import subprocess
import sys

import resnetv2


def test_all_lists_the_public_names_sorted_and_each_of_them_works():
    assert resnetv2.__all__ == sorted(resnetv2.__all__)
    assert set(resnetv2.__all__) == {*resnetv2._PUBLIC, "__version__"}
    for name in resnetv2.__all__:
        assert getattr(resnetv2, name) is not None
    assert dir(resnetv2) == resnetv2.__all__


def test_every_public_function_and_class_is_documented():
    for name in resnetv2._PUBLIC:
        assert (getattr(resnetv2, name).__doc__ or "").strip(), name


def test_a_name_that_does_not_exist_is_an_attribute_error():
    assert not hasattr(resnetv2, "nothing_of_this_name")


def test_importing_the_package_imports_nothing_heavy():
    code = "import sys, resnetv2; heavy = {'torch', 'numpy', 'PIL', 'rich'} & set(sys.modules); assert not heavy, heavy"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_functions_stay_functions_after_their_modules_were_imported():
    code = (
        "import resnetv2.training.run, resnetv2.evaluation.run, resnetv2.inference, resnetv2;"
        "assert all(callable(getattr(resnetv2, n)) for n in ('train', 'evaluate', 'predict', 'verify', 'info', 'load'))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

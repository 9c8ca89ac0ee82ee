"""Finding the class: which file, which class, and what is said when there is none or too many."""

import textwrap

import numpy as np
import pytest

from penstock.errors import LoadError
from penstock.runtimes.base import LoadOptions
from penstock.runtimes.custom import framework
from penstock.sdk.discovery import find_class

ONE = """
import penstock
class One(penstock.Model):
    def predict(self, payload): return 1
"""


def test_a_folder_has_model_py(folder):
    cls, where = find_class(folder(model=ONE, other="raise RuntimeError"))
    assert (cls.__name__, where.name) == ("One", where.name)


def test_a_file_is_taken_as_it_is(folder):
    assert find_class(folder(anything=ONE) / "anything.py")[0].__name__ == "One"


def test_the_only_file_of_a_folder_will_do(folder):
    assert find_class(folder(anything=ONE))[0].__name__ == "One"


@pytest.mark.parametrize(
    "name", ["two:Two", "two.py:Two", "two.Two", "two.py:Outer.Inner", "two:One"]
)
def test_a_class_may_be_named(folder, name):
    where = folder(
        model=ONE,
        two="""
        from model import One
        class Two:
            def predict(self, p): return 2
        class Outer:
            class Inner:
                def predict(self, p): return 2
        """,
    )
    assert find_class(where, name)[0].__name__ == name.rpartition(":")[2].rpartition(".")[2]
    assert find_class(where / "two.py", "Two")[0].__name__ == "Two"


def test_a_module_in_a_package_of_the_folder(folder, tmp_path):
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg" / "__init__.py").write_text("")
    (tmp_path / "pkg" / "inner.py").write_text(textwrap.dedent(ONE))
    assert find_class(tmp_path, "pkg.inner:One")[0].__name__ == "One"
    assert find_class(tmp_path, "pkg.inner.One")[0].__name__ == "One"


def test_a_subclass_goes_before_its_base_and_before_classes_without_one(folder):
    where = folder(
        model="""
        import penstock
        class Base(penstock.Model):
            def predict(self, p): return 1
        class Real(Base):
            pass
        class Helper:
            def predict(self, p): return 1
        """
    )
    assert find_class(where)[0].__name__ == "Real"


def test_an_imported_model_counts_where_none_is_defined(folder):
    assert find_class(folder(base=ONE, model="from base import One"))[0].__name__ == "One"


def test_an_abstract_class_is_no_model(folder):
    where = folder(
        model="""
        import abc, penstock
        class Real(penstock.Model):
            def predict(self, p): return 1
        class Skeleton(penstock.Model, abc.ABC):
            @abc.abstractmethod
            def missing(self): ...
        """
    )
    assert find_class(where)[0].__name__ == "Real"


@pytest.mark.parametrize(
    ("files", "name", "message"),
    [
        ({}, None, "no model.py and no other Python file"),
        ({"a": ONE, "b": ONE}, None, r"but a.py, b.py\. Say which with the option class"),
        ({"model": "x = 1"}, None, "model.py has no subclass of penstock.Model and no class with"),
        (
            {"model": ONE + ONE.replace("One", "Two")},
            None,
            r"several models: One, Two\. .*model.py:One",
        ),
        ({"model": ONE}, "Two", r"model.py has no class Two\. Its classes: One"),
        ({"model": ONE}, "model:Two", "has no class Two"),
        ({"model": ONE + "f = 1\n"}, "f", "f in model.py is no class"),
        ({"model": ONE + "class N: pass\n"}, "N", "N in model.py has no predict"),
        ({"model": ONE}, "nope.py:One", r"nope.py is not in the model's folder\. It has model.py"),
        ({"model": ONE}, "nope:One", r"there is no module nope\. It has model.py"),
        ({"model": "\n1 / 0"}, None, "model.py line 2: ZeroDivisionError: division by zero"),
        ({"model": "def ("}, None, "model.py line 1: SyntaxError"),
        ({"model": "import no_such_thing"}, None, "line 1: ModuleNotFoundError: No module named"),
        ({"model": "import helper", "helper": "1 / 0"}, None, "model.py line 1: ZeroDivisionError"),
        ({"model": "raise SystemExit(2)"}, None, "model.py line 1: SystemExit: 2"),
    ],
)
def test_what_cannot_be_found_is_said_in_one_line(folder, files, name, message):
    with pytest.raises(LoadError, match=message) as caught:
        find_class(folder(**files), name)
    assert "\n" not in str(caught.value)


def test_a_path_that_is_not_there(tmp_path):
    with pytest.raises(LoadError, match="does not exist"):
        find_class(tmp_path / "nope")
    (tmp_path / "model.bin").write_bytes(b"x")
    with pytest.raises(LoadError, match=r"model\.bin is no Python file"):
        find_class(tmp_path / "model.bin")


def test_the_traceback_of_a_failed_import_goes_to_the_log(folder, caplog):
    with pytest.raises(LoadError):
        find_class(folder(model="def f():\n    return {}['x']\nf()"))
    assert "KeyError: 'x'" in caplog.text
    assert "in f" in caplog.text


def test_a_failed_import_can_be_tried_again(folder):
    with pytest.raises(LoadError):
        find_class(folder(model="1 / 0"))
    assert find_class(folder(model=ONE + "\n# longer"))[0].__name__ == "One"


def test_two_models_with_files_of_the_same_names_stay_apart(tmp_path):
    runtimes = []
    for n in (1, 2):
        where = tmp_path / str(n)
        where.mkdir()
        (where / "helper.py").write_text(f"VALUE = {n}\n")
        (where / "model.py").write_text(
            "import numpy as np, penstock\n"
            "from helper import VALUE\n"
            "class M(penstock.Model):\n"
            "    def predict(self, x: np.ndarray): return x * VALUE\n"
        )
        runtimes.append(framework.load(where, LoadOptions("m")))
    got = [r.predict({"x": np.array([10])}, {})["output-0"].tolist() for r in runtimes]
    assert got == [[10], [20]]


def test_a_file_named_like_a_library_shadows_nothing(folder):
    import json

    where = folder(json=ONE, random=ONE)
    assert find_class(where / "json.py")[0].__name__ == "One"
    import json as again

    assert again is json


def test_classes_of_a_model_can_be_pickled(folder):
    import pickle

    where = folder(
        model="""
        import dataclasses, penstock
        @dataclasses.dataclass
        class State:
            n: int
        class M(penstock.Model):
            def predict(self, payload): return 1
            state = State(3)
        """
    )
    cls, _ = find_class(where)
    assert pickle.loads(pickle.dumps(cls.state)).n == 3

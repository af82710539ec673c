"""The shape of the code, read from its syntax trees: levels, cycles, size, and completeness of the tables."""

import ast
import importlib
import inspect
import re
from pathlib import Path

import pytest

import pyro_dgm
from pyro_dgm import models, transforms

from .zoo import MODELS
from .zoo_transforms import TRANSFORMS

PACKAGE = Path(pyro_dgm.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
LEVELS = {
    "_version": 0, "_config": -1, "_shapes": -1, "_archive": 0, "nn": 0, "datasets": 0, "plots": 0,
    "transforms": 1,
    "distributions": 2,
    "models.base": 3, "models.parametric": 3.5, "models.mixture": 3.5,
    "models.tractable": 4, "models.approximate": 4, "models.implicit": 4, "models": 4.5,
    "objectives": 5, "mcmc": 5, "guides": 5,
    "training": 6, "evaluation": 6, "io": 6,
    "tasks": 7,
    "": 8,
}  # fmt: skip
every_file = pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))


def module_name(path):
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def place(name):
    """The longest entry of LEVELS that contains a module."""
    while name not in LEVELS:
        name = name.rpartition(".")[0]
    return name


def imports(path, text=None):
    """The package's own modules that a file (or a text in its place) imports, relative to the package."""
    tree = ast.parse(path.read_text() if text is None else text)
    package = list(path.relative_to(PACKAGE).parts[:-1])
    lazy = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            lazy.update(id(n) for n in ast.walk(node))
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            lazy.update(id(n) for n in ast.walk(node))
    for node in ast.walk(tree):
        if id(node) in lazy:
            continue
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1] + (node.module.split(".") if node.module else [])
            for alias in node.names:
                inner = [*base, alias.name]
                is_module = PACKAGE.joinpath(*inner).is_dir() or PACKAGE.joinpath(*inner).with_suffix(".py").is_file()
                yield ".".join(inner if is_module else base)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "pyro_dgm":
            yield node.module.partition(".")[2]


def upward_imports(path, text=None):
    own = place(module_name(path))
    targets = [t for t in imports(path, text) if place(t) != own]
    return [f"{own} imports {t}" for t in targets if LEVELS[place(t)] >= LEVELS[own]]


@every_file
def test_imports_run_down_the_levels(path):
    assert not upward_imports(path)


def test_a_wrong_import_would_be_noticed():
    path = PACKAGE / "transforms" / "wrong.py"
    assert upward_imports(path, "from ..models.base import GenerativeModel") == ["transforms imports models.base"]
    assert upward_imports(path, "def lazily():\n    from ..models import NSF") == []
    assert upward_imports(PACKAGE / "models" / "implicit" / "gan.py", "from ..approximate import VAE")
    found = {t for p in FILES for t in imports(p)}
    assert {"nn", "transforms", "models.base", "objectives"} <= found


def test_no_import_cycles():
    graph = {}
    for path in FILES:
        name = module_name(path)
        inside = {t for t in imports(path) if t != name}
        graph[name] = {
            t
            for t in inside
            if PACKAGE.joinpath(*t.split(".")).with_suffix(".py").is_file() or path.name != "__init__.py"
        }
    done, active = set(), []

    def visit(name):
        assert name not in active, f"cycle: {' -> '.join([*active, name])}"
        if name in done:
            return
        active.append(name)
        for target in graph.get(name, ()):
            visit(target)
        active.pop()
        done.add(name)

    for name in graph:
        visit(name)


@every_file
def test_no_asserts_no_star_imports_no_bare_except(path):
    for node in ast.walk(ast.parse(path.read_text())):
        assert not isinstance(node, ast.Assert), f"line {node.lineno}: raise ValueError instead"
        if isinstance(node, ast.ImportFrom):
            assert all(a.name != "*" for a in node.names)
        assert not (isinstance(node, ast.ExceptHandler) and node.type is None)


@every_file
def test_files_and_functions_stay_short(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 350
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            body = node.end_lineno - node.body[0].lineno + 1
            documented = ast.get_docstring(node) is not None
            if documented:
                body -= node.body[0].end_lineno - node.body[0].lineno + 1
            assert body <= 50, f"{node.name} has {body} lines"


@every_file
def test_modules_teach(path):
    text = ast.get_docstring(ast.parse(path.read_text()))
    minimum = 1 if path.name.startswith("_") else 5
    if path.parts[-2] in ("tractable", "approximate", "implicit", "training") and path.name == "__init__.py":
        minimum = 1
    assert text and len(text.splitlines()) >= minimum


@every_file
def test_no_bare_factory_calls(path):
    """Outside constructors, a new tensor says where it lives, so that a default device elsewhere does no harm."""
    factories = {"zeros", "ones", "empty", "full", "tensor", "arange", "linspace", "logspace", "eye", "rand", "randn",
                 "randint", "randperm", "Tensor", "FloatTensor", "as_tensor"}  # fmt: skip
    for function in ast.walk(ast.parse(path.read_text())):
        if not isinstance(function, ast.FunctionDef) or function.name == "__init__":
            continue
        for node in ast.walk(function):
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            if called.startswith("torch.") and called.removeprefix("torch.") in factories:
                assert any(k.arg in ("device", None) for k in node.keywords), f"line {node.lineno}: {called}"


def final_models():
    abstract = {"GenerativeModel", "TractableModel", "ApproximateModel", "ImplicitModel", "EnergyBasedModel"}
    return set(models.__all__) - abstract


def test_every_public_model_has_a_row():
    assert final_models() == {name.split("-")[0] for name in MODELS}


def test_every_public_transform_has_a_row():
    apart = {"Transform", "Conditioned", "Univariate", "as_transform", "invert"}  # abstract, or made by others
    parts = {p for name in TRANSFORMS for p in name.split("-")}
    assert set(transforms.__all__) - apart <= parts


def test_every_public_model_is_in_the_readme():
    readme = (PACKAGE.parent / "README.md").read_text()
    for name in final_models():
        assert re.search(rf"`{name}`", readme), f"{name} has no row in the README's table"


@pytest.mark.parametrize("package", ["nn", "transforms", "distributions", "models", "objectives", "guides", "mcmc",
                                     "training", "evaluation", "plots", "datasets", "tasks",
                                     "distributions.heads"])  # fmt: skip
def test_all_is_complete_and_documented(package):
    module = importlib.import_module(f"pyro_dgm.{package}")
    assert len(set(module.__all__)) == len(module.__all__)
    for name in module.__all__:
        assert hasattr(module, name), name
        if inspect.isclass(getattr(module, name)) or inspect.isfunction(getattr(module, name)):
            assert inspect.getdoc(getattr(module, name)), f"{package}.{name} has no docstring"


def test_classes_are_abstract_or_final():
    """No class of ours inherits from a class of ours that users construct."""
    abstract = {"Transform", "Univariate", "GenerativeModel", "TractableModel", "ApproximateModel", "ImplicitModel",
                "FlowModel", "LatentVariableModel", "FlowGuide", "Objective", "ImportanceWeighted", "AdversarialLoss",
                "AdversarialGame", "FDivergence", "CriticPenalty",
                "Configured", "Move",
                "Numerical", "RationalQuadratic", "Conditioner", "Walk", "NaiveWalk", "NADEWalk", "Orderless", "Head",
                "_Mixture", "AutoregressiveModel", "OneOrder", "ManyOrders", "OrderlessModel", "RasterNetwork",
                "_Contextual", "_InUnits", "_Independent", "Advising", "LSTMLayer", "LSTMWalk", "Kept",
                "HierarchicalModel", "IncompleteDataModel", "VariationalAutoencoder", "EnergyBasedModel",
                "LatentEnergyModel", "Contrast", "VisibleUnits", "HiddenUnits", "AdversarialModel", "StochasticNetwork",
                "_WithTask", "OneSite", "OpposedGame", "Counted"}  # fmt: skip
    defined, bases = set(), []
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                defined.add(node.name)
                bases += [(node.name, ast.unparse(b)) for b in node.bases]
    # ELBO is also the name of Pyro's class, imported as PyroELBO
    wrong = [(c, b) for c, b in bases if b in defined and b not in abstract]
    assert not wrong


def test_published_models_cite_their_paper():
    for name in final_models() - {
        "NormalizingFlow",
        "Autoregressive",
        "Mixture",
        "StandardNormal",
        "DiagonalNormal",
        "GaussianMixture",
        "IndependentBernoulli",
        "Factorized",
    }:
        cls = getattr(models, name)
        text = inspect.getdoc(cls) + inspect.getdoc(inspect.getmodule(cls))
        assert re.search(r"\d{4},\s+arXiv:\d{4}\.\d{4,5}", text), f"{name} cites no paper"

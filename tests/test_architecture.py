"""The shape of the package, read from its source: floors, doors, circles, sizes and things nobody may do.

Imports inside functions count like those at the top. Each rule has a companion that shows it a source that breaks it.
"""

import ast
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = {str(path.relative_to(ROOT)): path.read_text() for path in sorted((ROOT / "ensemble").rglob("*.py"))}

FLOORS = {
    "__init__": 0,
    "schema": 0,
    "streams": 0,
    "errors": 0,
    "machine": 0,
    "versions": 0,
    "text": 0,
    "config": 1,
    "store": 1,
    "run_directory": 2,
    "lock": 1,
    "signals": 1,
    "search_log": 2,
    "tokenizers": 2,
    "data": 3,
    "models": 3,
    "reporting": 3,
    "search": 3,
    "simulation": 4,
    "open_loop": 5,
    "training": 6,
    "study": 7,
    "closed_loop": 7,
    "planning": 8,
    "tinypi0": 8,
    "cli": 9,
    "__main__": 9,
}
APART = {("training", "reporting")}  # components whose import is no way, though it would go down
FRONT = "ensemble/__init__.py"  # anybody asks it for the version; what it hands out from above, it imports when asked
SHARED_FLOORS = {0, 9}  # small modules that may lean on a neighbour, without a circle

DOORS = {
    "h5py": ("ensemble/data/",),
    "optuna": ("ensemble/search/",),
    "gymnasium": ("ensemble/simulation/",),
    "mujoco": ("ensemble/simulation/",),
    "ray": ("ensemble/data/loading.py", "ensemble/training/worker.py", "ensemble/study/"),
    "matplotlib": ("ensemble/reporting/figures/", "ensemble/closed_loop/figure.py", "ensemble/tinypi0/export_run.py"),
    "jinja2": ("ensemble/reporting/render/",),
    "markupsafe": ("ensemble/reporting/render/",),
    "tokenizers": ("ensemble/tokenizers/byte_pairs.py",),
    "torch": (
        "ensemble/models/",
        "ensemble/open_loop/",
        "ensemble/training/",
        "ensemble/study/",
        "ensemble/closed_loop/",
        "ensemble/planning/",
        "ensemble/tinypi0/",
        "ensemble/data/windows.py",
    ),
    "wandb": ("ensemble/training/loggers.py",),
    "mlflow": ("ensemble/training/loggers.py",),
    # Nothing is unpickled, nowhere.
    **dict.fromkeys(("pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"), ()),
}
UNPICKLERS = ("ensemble/tinypi0/weight_files.py",)  # foreign weights come in here, and only as tensors
FAMILY_HOMES = ("ensemble/config/", "ensemble/models/", "ensemble/tinypi0/")  # the last is about exactly two families
FAMILY_CLASSES = {"GPTDynamicsConfig", "TransformerPolicyConfig", "Pi0Config", "Pi0FastConfig"}
FAMILY_CLASSES |= {"FamilyConfig", "DynamicsConfig", "PolicyConfig"}
FAMILY_NAMES = {"gpt_dynamics", "pi0", "pi0_fast"}
DRAWERS = {"utils", "util", "helpers", "misc", "common"}
LONGEST_FILE = 400
LONGEST_FUNCTION = 80
SHORT_FILE = 60
FULL_FOLDER = 26  # files on one level

Sources = Mapping[str, str]
FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef


def module_name(path: str) -> str:
    """ensemble/config/base.py -> ensemble.config.base; ensemble/config/__init__.py -> ensemble.config."""
    return path.removesuffix(".py").replace("/", ".").removesuffix(".__init__")


def imports(path: str, source: str, modules: set[str]) -> Iterator[tuple[int, str]]:
    """Every imported module with its line: statements anywhere, and import_module or __import__ of a literal."""
    package = module_name(path).split(".") if path.endswith("__init__.py") else module_name(path).split(".")[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            inner = [f"{origin}.{alias.name}" for alias in node.names]
            yield from ((node.lineno, name if name in modules else origin) for name in inner)
        elif isinstance(node, ast.Call) and (name := literal_import(node)):
            yield node.lineno, name


def literal_import(node: ast.Call) -> str | None:
    function = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    if function in {"import_module", "__import__"} and node.args and isinstance(node.args[0], ast.Constant):
        return str(node.args[0].value)
    return None


def inner_imports(sources: Sources) -> Iterator[tuple[str, int, str]]:
    """All imports but those of the package's front, which has a rule of its own."""
    return ((path, line, name) for path, line, name in all_imports(sources) if path != FRONT)


def all_imports(sources: Sources) -> Iterator[tuple[str, int, str]]:
    modules = {module_name(path) for path in sources}
    for path, source in sources.items():
        yield from ((path, line, name) for line, name in imports(path, source, modules))


def component(module: str) -> str:
    """The part of the package that stands on a floor: ensemble.config.base -> config."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def imports_that_do_not_go_down(sources: Sources) -> list[str]:
    found = [f"{path}: stands on no floor" for path in sources if component(module_name(path)) not in FLOORS]
    for path, line, name in inner_imports(sources):
        above, below = component(module_name(path)), component(name)
        if name.split(".")[0] != "ensemble" or above == below or above not in FLOORS:
            continue
        allowed = FLOORS[above] if FLOORS[above] in SHARED_FLOORS else FLOORS[above] - 1
        if FLOORS.get(below, 99) > allowed or (above, below) in APART:
            found.append(f"{path}:{line}: {above} (floor {FLOORS[above]}) imports {below} (floor {FLOORS.get(below)})")
    return found


def imports_through_no_door(sources: Sources) -> list[str]:
    return [
        f"{path}:{line}: {name} is imported only by {', '.join(DOORS[name.split('.')[0]]) or 'nobody'}"
        for path, line, name in all_imports(sources)
        if not path.startswith(DOORS.get(name.split(".")[0], ""))
    ]


def import_circles(sources: Sources) -> list[str]:
    modules = {module_name(path) for path in sources}
    graph: dict[str, set[str]] = {module: set() for module in modules}
    for path, _, name in inner_imports(sources):
        if name in modules and name != module_name(path):
            graph[module_name(path)].add(name)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return [" <- ".join(error.args[1])]
    return []


def eager_imports_of_the_front(sources: Sources) -> list[str]:
    """Our own modules that `import ensemble` itself would import; beside functions, only TYPE_CHECKING may."""
    statements = ast.parse(sources.get(FRONT, "")).body
    lazy = [node for node in statements if isinstance(node, FunctionNode) or is_for_types(node)]
    eager = "\n".join(ast.unparse(node) for node in statements if node not in lazy)
    modules = {module_name(path) for path in sources}
    return [f"{FRONT}: {name}" for _, name in imports(FRONT, eager, modules) if name.split(".")[0] == "ensemble"]


def is_for_types(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING" and not node.orelse


def drawers(sources: Sources) -> list[str]:
    return [path for path in sources if DRAWERS & set(module_name(path).split("."))]


def long_files(sources: Sources) -> list[str]:
    lengths = {path: len(source.splitlines()) for path, source in sources.items()}
    return [f"{path}: {length} lines" for path, length in lengths.items() if length > LONGEST_FILE]


def short_files_of_one_importer(sources: Sources) -> list[str]:
    """Modules that belong to the only one that uses them; commands of the CLI are listed, not used."""
    importers: dict[str, set[str]] = {module_name(path): set() for path in sources}
    for path, _, name in all_imports(sources):
        importers.get(name, set()).add(path)
    return [
        f"{path}: {len(source.splitlines())} lines, imported by {', '.join(importers[module_name(path)])} alone"
        for path, source in sources.items()
        if len(source.splitlines()) < SHORT_FILE
        and len(importers[module_name(path)]) == 1
        and not path.endswith("__init__.py")
        and not path.startswith("ensemble/cli/")
    ]


def full_folders(sources: Sources) -> list[str]:
    counts = Counter(str(Path(path).parent) for path in sources)
    return [f"{folder}: {count} files" for folder, count in counts.items() if count > FULL_FOLDER]


def functions(source: str) -> Iterator[FunctionNode]:
    return (node for node in ast.walk(ast.parse(source)) if isinstance(node, FunctionNode))


def long_functions(sources: Sources) -> list[str]:
    lengths = [
        (f"{path}:{node.lineno}: {node.name}", (node.end_lineno or node.lineno) - node.lineno + 1)
        for path, source in sources.items()
        for node in functions(source)
    ]
    return [f"{name} has {length} lines" for name, length in lengths if length > LONGEST_FUNCTION]


# Where the code of others runs, which may raise anything and stops nothing: the handler, to the letter.
FOREIGN_CODE = {"ensemble/training/loggers.py: except (Exception, SystemExit) as error:\n    return error"}


def swallowed_exceptions(sources: Sources) -> list[str]:
    """Handlers of everything that don't end by raising it again, itself or as the cause of an error of ours."""
    return [
        f"{path}:{node.lineno}: catches everything"
        for path, source in sources.items()
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ExceptHandler) and catches_everything(node) and not raises_again(node)
        if f"{path}: {ast.unparse(node)}" not in FOREIGN_CODE
    ]


def catches_everything(handler: ast.ExceptHandler) -> bool:
    caught = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return any(kind is None or getattr(kind, "id", "") in {"Exception", "BaseException"} for kind in caught)


def raises_again(handler: ast.ExceptHandler) -> bool:
    last = handler.body[-1]
    return isinstance(last, ast.Raise) and (last.exc is None or getattr(last.cause, "id", "") == handler.name)


def undocumented_functions(sources: Sources) -> list[str]:
    return [
        f"{path}:{node.lineno}: {node.name} has no docstring"
        for path, source in sources.items()
        for node in public_functions(ast.parse(source))
        if ast.get_docstring(node) is None
    ]


def public_functions(scope: ast.Module | ast.ClassDef) -> Iterator[FunctionNode]:
    """Functions of a module, and methods of its public classes, whose names don't begin with an underscore."""
    for node in scope.body:
        if isinstance(node, FunctionNode) and not node.name.startswith("_") and not is_overload(node):
            yield node
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from public_functions(node)


def is_overload(node: FunctionNode) -> bool:
    return any(getattr(decorator, "id", "") == "overload" for decorator in node.decorator_list)


def unpickling_calls(sources: Sources) -> list[str]:
    """`torch.load`, and what switches the guards of other loaders off."""
    return [
        f"{path}:{node.lineno}: {ast.unparse(node)[:60]}"
        for path, source in sources.items()
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and (unguarded(node) or (is_torch_load(node) and not is_the_door(path, node)))
    ]


def is_torch_load(call: ast.Call) -> bool:
    return ast.unparse(call.func) == "torch.load"


def is_the_door(path: str, call: ast.Call) -> bool:
    """The one file that reads foreign weights, saying itself that it takes tensors only."""
    return path in UNPICKLERS and any(word.arg == "weights_only" for word in call.keywords)


def unguarded(call: ast.Call) -> bool:
    settings = {word.arg: getattr(word.value, "value", None) for word in call.keywords}
    return settings.get("allow_pickle", False) is not False or settings.get("weights_only", True) is not True


def family_switches(sources: Sources) -> list[str]:
    """Decisions by a family's name or class where a family should say by itself what it is."""
    return [
        f"{path}:{node.lineno}: {ast.unparse(node)[:60]}"
        for path, source in sources.items()
        if not path.startswith(FAMILY_HOMES)
        for node in ast.walk(ast.parse(source))
        if is_family_switch(node)
    ]


def is_family_switch(node: ast.AST) -> bool:
    """`x.family == ..`, `family in ..`, `match family`, `isinstance(x, Pi0Config | ..)`."""
    if isinstance(node, ast.Compare):
        sides = (node.left, *node.comparators)
        decides = any(isinstance(op, ast.Eq | ast.NotEq | ast.In | ast.NotIn | ast.Is | ast.IsNot) for op in node.ops)
        groups = all(is_said_family(side) for side in sides)  # two models of one family, whichever it is
        return decides and not groups and any(is_said_family(s) or is_family_name(s) for s in sides)
    if isinstance(node, ast.Match):
        return is_said_family(node.subject)
    called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
    return called in {"isinstance", "issubclass"} and bool(FAMILY_CLASSES & names_in(node))


def is_said_family(node: ast.expr) -> bool:
    """`family`, `x.family` or `x["family"]`."""
    item = node.slice if isinstance(node, ast.Subscript) else None
    return "family" in {getattr(node, "id", None), getattr(node, "attr", None), getattr(item, "value", None)}


def is_family_name(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value in FAMILY_NAMES


def names_in(node: ast.AST) -> set[str]:
    return {getattr(part, "id", getattr(part, "attr", "")) for part in ast.walk(node)}


RULES = {
    "imports go down only": imports_that_do_not_go_down,
    "the package's front imports nothing of ours": eager_imports_of_the_front,
    "a library is imported behind its door only": imports_through_no_door,
    "imports make no circle": import_circles,
    "no module is a drawer": drawers,
    f"a file has at most {LONGEST_FILE} lines": long_files,
    f"a file of under {SHORT_FILE} lines with one importer belongs to it": short_files_of_one_importer,
    f"a folder has at most {FULL_FOLDER} files on a level": full_folders,
    f"a function has at most {LONGEST_FUNCTION} lines": long_functions,
    "no handler swallows every exception": swallowed_exceptions,
    "a public function has a docstring": undocumented_functions,
    "nothing is unpickled": unpickling_calls,
    "only config/ and models/ switch on a model's family": family_switches,
}


@pytest.mark.parametrize("rule", RULES)
def test_the_package_keeps_the_rule(rule: str) -> None:
    assert not RULES[rule](SOURCES), rule


def test_the_rules_read_the_whole_package() -> None:
    assert {"ensemble/schema.py", "ensemble/config/base.py", "ensemble/training/loggers.py"} <= SOURCES.keys()


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("ensemble/config/base.py", "from ensemble.training.loop import run"),
        ("ensemble/config/base.py", "from ensemble import search"),
        ("ensemble/config/base.py", "from ..data import windows"),
        ("ensemble/data/windows.py", "from ensemble.models.layers import bmm"),  # a neighbour on the same floor
        ("ensemble/store.py", "def late():\n    import ensemble.cli.main"),
        ("ensemble/store.py", "import importlib\nimportlib.import_module('ensemble.study.study')"),
        ("ensemble/attic.py", ""),
        ("ensemble/cli/main.py", "import ensemble.attic"),
        ("ensemble/training/loop.py", "from ensemble.reporting.report import show"),
    ],
)
def test_an_import_that_goes_up_is_found(path: str, source: str) -> None:
    elsewhere = {
        f"ensemble/{name}.py": ""
        for name in (
            "training/loop",
            "search/__init__",
            "data/windows",
            "models/layers",
            "cli/main",
            "reporting/report",
        )
    }
    assert len(imports_that_do_not_go_down({**elsewhere, path: source})) == 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("ensemble/config/base.py", "import torch"),
        ("ensemble/data/shards.py", "from torch import nn"),
        ("ensemble/training/loop.py", "import ray.train"),
        ("ensemble/reporting/results.py", "def f():\n    import optuna"),
        ("ensemble/reporting/contents.py", "import jinja2"),
        ("ensemble/simulation/pendulum.py", "import h5py"),
        ("ensemble/training/rows.py", "import wandb"),
        ("ensemble/store.py", "import pickle"),
        ("ensemble/study/study.py", "from cloudpickle import loads"),
        ("ensemble/models/base.py", "__import__('mujoco')"),
    ],
)
def test_a_library_behind_the_wrong_door_is_found(path: str, source: str) -> None:
    assert len(imports_through_no_door({path: source})) == 1


def test_a_library_behind_its_own_door_is_fine() -> None:
    sources = {"ensemble/data/windows.py": "import torch", "ensemble/data/loading.py": "import ray\nimport numpy"}
    assert imports_through_no_door(sources) == []


def test_a_circle_is_found_even_inside_a_function() -> None:
    circle = {
        "ensemble/data/a.py": "from ensemble.data import b",
        "ensemble/data/b.py": "def f():\n    from ensemble.data.a import g",
    }
    assert len(import_circles(circle)) == 1


def test_a_front_that_imports_what_it_hands_out_is_found() -> None:
    handed_out = "from ensemble.training.load import load"
    assert len(eager_imports_of_the_front({FRONT: handed_out})) == 1
    assert len(eager_imports_of_the_front({FRONT: f"if True:\n    {handed_out}"})) == 1
    assert eager_imports_of_the_front({FRONT: f"def __getattr__(name):\n    {handed_out}"}) == []
    assert eager_imports_of_the_front({FRONT: f"if TYPE_CHECKING:\n    {handed_out}"}) == []


def test_a_drawer_is_found() -> None:
    assert drawers({"ensemble/data/utils.py": "", "ensemble/data/splits.py": ""}) == ["ensemble/data/utils.py"]


def test_a_long_file_and_a_long_function_are_found() -> None:
    body = "def f():\n" + "    x = 1\n" * LONGEST_FUNCTION
    assert len(long_functions({"ensemble/a.py": body})) == 1
    assert len(long_files({"ensemble/a.py": "x = 1\n" * (LONGEST_FILE + 1)})) == 1
    assert long_files({"ensemble/a.py": "x = 1\n" * LONGEST_FILE}) == []


def test_a_short_file_with_one_importer_is_found() -> None:
    sources = {"ensemble/a.py": "x = 1", "ensemble/b.py": "from ensemble.a import x", "ensemble/c.py": "x = 1\n" * 60}
    assert [line.split(":")[0] for line in short_files_of_one_importer(sources)] == ["ensemble/a.py"]
    assert short_files_of_one_importer({**sources, "ensemble/d.py": "from ensemble.a import x"}) == []


def test_a_full_folder_is_found() -> None:
    files = {f"ensemble/data/f{number}.py": "" for number in range(FULL_FOLDER + 1)}
    assert full_folders(files) == [f"ensemble/data: {FULL_FOLDER + 1} files"]


@pytest.mark.parametrize("kind", ["", " Exception", " BaseException", " (OSError, Exception)", " Exception as error"])
def test_a_swallowed_exception_is_found(kind: str) -> None:
    assert len(swallowed_exceptions({"ensemble/a.py": f"try:\n    f()\nexcept{kind}:\n    g()"})) == 1
    assert swallowed_exceptions({"ensemble/a.py": f"try:\n    f()\nexcept{kind}:\n    g()\n    raise"}) == []
    assert len(swallowed_exceptions({"ensemble/a.py": f"try:\n    f()\nexcept{kind}:\n    raise E from None"})) == 1


def test_an_exception_may_become_the_cause_of_another() -> None:
    translated = "try:\n    f()\nexcept Exception as error:\n    raise E(error) from error"
    assert swallowed_exceptions({"ensemble/a.py": translated}) == []


def test_a_public_function_without_a_docstring_is_found() -> None:
    source = "def f(): ...\ndef _g(): ...\nclass C:\n    def m(self): ...\n    def __len__(self): ..."
    assert len(undocumented_functions({"ensemble/a.py": source})) == 2


@pytest.mark.parametrize(
    "call", ["torch.load(path)", "np.load(path, allow_pickle=True)", "read(path, weights_only=False)"]
)
def test_a_call_that_unpickles_is_found(call: str) -> None:
    assert len(unpickling_calls({"ensemble/a.py": call})) == 1
    assert unpickling_calls({"ensemble/a.py": "np.load(path, allow_pickle=False)"}) == []


def test_foreign_weights_are_read_by_one_file_and_as_tensors_only() -> None:
    guarded = "torch.load(path, weights_only=True)"
    assert unpickling_calls({UNPICKLERS[0]: guarded}) == []
    assert len(unpickling_calls({"ensemble/training/load.py": guarded})) == 1
    for call in ("torch.load(path)", "torch.load(path, weights_only=False)"):
        assert len(unpickling_calls({UNPICKLERS[0]: call})) == 1


@pytest.mark.parametrize(
    "switch",
    [
        'if model.family == "pi0_fast": pass',
        'if record["model"]["family"] in POLICIES: pass',
        "if family not in POLICIES: pass",
        'if "pi0" == name: pass',
        "match model.family:\n    case _: pass",
        "assert isinstance(model, Pi0Config | policy.Pi0FastConfig)",
        "assert isinstance(model, config.GPTDynamicsConfig)",
    ],
)
def test_a_switch_on_a_family_is_found(switch: str) -> None:
    assert len(family_switches({"ensemble/training/setup.py": switch})) == 1
    assert family_switches({"ensemble/models/base.py": switch}) == []


def test_what_a_family_declares_may_decide() -> None:
    declared = 'if model.task == "policy" and model.chunk_tokenizer: label = f"{model.family} {model.window}"'
    grouped = "best = next(each for each in ranked if each.family == family)"
    assert family_switches({"ensemble/training/setup.py": f"{declared}\n{grouped}"}) == []


@pytest.mark.parametrize("module", ["ensemble", "ensemble.config.experiment", "ensemble.reporting.results"])
def test_importing_it_loads_neither_torch_nor_ray(module: str) -> None:
    assert heavy_modules_after(f"import {module}") == set()


def test_the_check_of_heavy_imports_sees_torch() -> None:
    assert heavy_modules_after("import torch") >= {"torch"}


def heavy_modules_after(statement: str) -> set[str]:
    code = f"{statement}\nimport sys\nprint(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {"torch", "ray", "optuna", "mujoco"} & set(run.stdout.split())

"""Which of a student's own statements go into the reference, and what is said of those that do not.

It takes imports of what is in ALLOWED, or of modules that the reference imports from; functions and classes; and
assignments that only build a value which these use: from literals, names that are there, attributes, operators, lambdas
and calls of what is in BUILDERS. An `if` or `try` around such statements stays around them. Nothing else runs, so a
notebook may train, plot and open files as it likes. Names that the reference has keep the reference's meaning.
"""

import ast
import builtins
import copy
import importlib
import importlib.util
import re
import sys
from functools import cache

from minipeft.classroom.engine.reading import functions, is_empty, names_of, simplified, spot

ALLOWED = {
    "__future__", "abc", "collections", "contextlib", "copy", "dataclasses", "einops", "enum", "functools", "itertools",
    "math", "numbers", "numpy", "operator", "random", "re", "statistics", "string", "torch", "typing", "warnings",
}  # fmt: skip  # what an added import may bring, beside the modules that the reference imports from
VALUE = "a value"  # what a name stands for that is given a number, a text, a tensor ...
BUILDERS = re.compile(
    r"abs|bool|bytes|complex|dict|float|frozenset|int|len|list|max|min|object|pow|range|round|set|slice|str|sum|tuple"
    r"|type|zip|enumerate|reversed|a value\..+|(math|operator|typing|collections)\..+"
    r"|functools\.(partial|partialmethod)|dataclasses\.field"
    r"|(torch|numpy)\.(tensor|array|as_?(tensor|array)|arange|linspace|zeros|ones|full|eye|sqrt|exp|log|prod|sum|finfo"
    r"|iinfo|device|Size|Generator|dtype|float(16|32|64)|u?int(8|16|32|64))|torch\.cuda\.is_available"
    r"|torch\.nn\.(GELU|ReLU|SiLU|Tanh|Sigmoid|Softmax|LeakyReLU|Identity|Dropout)"
)  # calls that run nothing of the student's own
RUN = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp | ast.NamedExpr | ast.Await | ast.Yield


class Additions:
    """What a student added to the reference, and what is left out of it.

    extra: [(name of the reference's class or None, node)]. refused, missing: [(what, name that it gives, node)] of
    imports that are not allowed, or not installed. blocked: {statement inside an `if` or `try`: what of the reference
    it would define}. left: other statements that are not taken.
    """

    def __init__(self, tree, reference):
        self.known, self.extra, self.blocked = functions(reference), [], {}
        self.refused, self.missing, self.left = [], [], []
        classes = [node.name for node in reference.body if isinstance(node, ast.ClassDef)]
        imports = [node for node in reference.body if isinstance(node, ast.ImportFrom)]
        self.modules = {node.module for node in imports}  # from which a solution may import more
        self.means = {name: name for name in dir(builtins)}  # {name: what it stands for, "torch.nn", or None}
        for node in reference.body:
            self.note(node)
        self.used = wanted(tree, self.known)
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and node.name in classes:
                outer, prefix = self.means, f"{node.name}."
                self.means = outer | {n.removeprefix(prefix): None for n in self.known if n.startswith(prefix)}
                self.extra += [(node.name, part) for part in self.taken(node.body, prefix)]
                self.means = outer
            else:
                self.extra += [(None, part) for part in self.taken([node])]

    def taken(self, body, prefix="", inside=False):
        """Those statements of a body that are taken. prefix: of a class; inside: of an `if` or `try`?"""
        kept = []
        for node in body:
            more = self.one(node, prefix, inside)
            for new in more:
                self.note(new)
            kept += more
        return kept

    def one(self, node, prefix, inside):
        """A statement as it is taken: [] if it is not."""
        if isinstance(node, ast.Import | ast.ImportFrom):
            return self.imported(node, inside)
        if names := [prefix + name for name in names_of(node) if prefix + name in self.known]:
            self.blocked |= {node: names} if inside else {}
            return []
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            return [node]
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            return self.taken(node.body, prefix, True)
        if isinstance(node, ast.Try) or (isinstance(node, ast.If) and self.builds(node.test)):
            return self.block(node, prefix)
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value and names_of(node) and self.builds(node.value):
            if isinstance(node, ast.AnnAssign) and not prefix:  # nobody evaluates the annotation
                node = ast.copy_location(ast.Assign([node.target], node.value), node)
            if prefix or self.used & set(names_of(node)):
                return [node]
        if not isinstance(node, ast.Pass) and not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):
            self.left.append(node)
        return []

    def block(self, node, prefix):
        """An `if` or `try` with what is taken inside it; [] if that is nothing."""
        new, some = copy.copy(node), False
        new.handlers = [copy.copy(handler) for handler in getattr(node, "handlers", ())]
        for part in (new, *new.handlers):
            for name in ("body", "orelse", "finalbody"):
                if there := getattr(part, name, None):
                    kept = self.taken(there, prefix, True)
                    setattr(part, name, kept or [ast.copy_location(ast.Pass(), node)])
                    some |= bool(kept)
        return [new] if some else []

    def imported(self, node, inside):
        """An import with the names that it may bring. One that a `try` is around may fail."""
        kept = []
        for alias in node.names:
            module = ("." * node.level + (node.module or "")) if isinstance(node, ast.ImportFrom) else alias.name
            name = (alias.asname or alias.name).partition(".")[0]
            what = f"{alias.name} from {module}" if isinstance(node, ast.ImportFrom) else module
            if module.partition(".")[0] not in ALLOWED and module not in self.modules:
                self.refused += [(what, name, node)] if name not in self.means else []
            elif not inside and not installed(module.partition(".")[0]):
                self.missing.append((what, name, node))
            elif module != "__future__":  # which is for annotations alone
                kept.append(alias)
        if not kept:
            return []
        new = copy.copy(node)
        new.names = kept
        return [new]

    def note(self, node):
        """From here on its names are there; a second name of something means the same."""
        if isinstance(node, ast.If | ast.Try):
            for part in inner(node):
                self.note(part)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            origin = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
            for alias in node.names:
                if alias.name == "*":
                    self.means |= {n: origin + n for n in dir(importlib.import_module(node.module)) if n[0] != "_"}
                else:
                    whole = alias.name if alias.asname or origin else alias.name.partition(".")[0]
                    self.means[(alias.asname or whole).partition(".")[0]] = origin + whole
        else:
            means = self.meaning(node.value) if isinstance(node, ast.Assign) else None
            self.means |= dict.fromkeys(names_of(node), means)

    def meaning(self, value):
        """What another name stands for; what a partial calls; a kind of tuple is made by a call of `collections`."""
        if isinstance(value, ast.Name | ast.Attribute | ast.Lambda):
            return self.path(value)
        called = self.path(value.func) if isinstance(value, ast.Call) else None
        if called == "functools.partial":
            return self.path(value.args[0]) if value.args else None
        return called if called in ("collections.namedtuple", "typing.NamedTuple") else VALUE

    def path(self, node):
        """What a name or attribute stands for, "torch.nn.GELU" for `nn.GELU`; None if that is not known."""
        if isinstance(node, ast.Attribute):
            before = self.path(node.value)
            return before and f"{before}.{node.attr}"
        if isinstance(node, ast.Subscript):
            return VALUE if self.path(node.value) == VALUE else None
        return self.means.get(node.id) if isinstance(node, ast.Name) else None

    def builds(self, node):
        """Does this expression only build a value, of names that are there, and run nothing of the student's own?"""
        todo = [node]
        while todo:
            node = todo.pop()
            if isinstance(node, RUN) or (isinstance(node, ast.Call) and not self.may_call(node.func)):
                return False
            if isinstance(node, ast.Name) and node.id not in self.means:
                return False
            if isinstance(node, ast.Lambda):
                todo += [*node.args.defaults, *filter(None, node.args.kw_defaults)]
            else:
                todo += ast.iter_child_nodes(node)
        return True

    def may_call(self, function):
        root = root_of(function)
        if isinstance(root, ast.Name):
            return bool(BUILDERS.fullmatch(self.path(function) or ""))
        return root is not function  # a method of a value that is built here


def root_of(node):
    """`x` of `x.y[0].z`."""
    while isinstance(node, ast.Attribute | ast.Subscript | ast.Starred):
        node = node.value
    return node


def wanted(tree, known):
    """The global names that functions, classes and answers of the student's use, also by way of other names."""
    used = {name for name in known if "." not in name}
    for node in reversed(tree.body):
        defines = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        if defines or used & {name for part in [node, *inner(node)] for name in names_of(part)}:
            used |= free(node)
    return used


def free(node):
    """The names that a statement looks up and does not set itself."""
    if isinstance(node, ast.ClassDef):
        return set().union(*map(free, ast.iter_child_nodes(node)))
    read, own = set(), set()
    for n in ast.walk(node):
        if isinstance(n, ast.Name):
            (read if isinstance(n.ctx, ast.Load) else own).add(n.id)
        elif isinstance(n, ast.arg):
            own.add(n.arg)
    return read - own


def sets(node):
    """The names that a statement sets or changes."""
    found = set()
    for n in ast.walk(node):
        if isinstance(getattr(n, "ctx", None), ast.Store):
            found.add(getattr(root_of(n), "id", None))
        elif isinstance(n, ast.Expr) and isinstance(n.value, ast.Call) and isinstance(n.value.func, ast.Attribute):
            found.add(getattr(root_of(n.value.func), "id", None))
    return found


def inner(node):
    """The statements of an `if` or `try`, in all its branches, and in those inside them."""
    if not isinstance(node, ast.If | ast.Try):
        return []
    bodies = [node.body, node.orelse, *(h.body for h in getattr(node, "handlers", ())), getattr(node, "finalbody", [])]
    return [part for body in bodies for statement in body for part in (statement, *inner(statement))]


@cache
def installed(module):
    return module in sys.modules or importlib.util.find_spec(module) is not None


def insert(body, extra, first):
    """Put statements into a body at `first`, or behind what they need while it runs; they keep their order."""
    within, added = {name: free(node) for node in extra for name in names_of(node)}, []
    for node in extra:
        needs, new = set(), needed(node)
        while new - needs:  # a function that is called needs what stands in it
            needs |= new
            new = set().union(*(within.get(name, ()) for name in new))
        behind = [i + 1 for i, n in enumerate(body) if any(needs & set(names_of(p)) for p in (n, *inner(n)))]
        place = max([first, *behind])
        while place < len(body) and body[place] in added:
            place += 1
        body.insert(place, node)
        added.append(node)


def needed(node):
    """The names that a statement looks up while it runs, and not later, when its functions are called."""
    if isinstance(node, ast.Name):
        return {node.id}
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
        inside = [*node.args.defaults, *filter(None, node.args.kw_defaults), *getattr(node, "decorator_list", ())]
    else:
        inside = ast.iter_child_nodes(node)
    return set().union(*map(needed, inside))


# -- what is said of the rest ------------------------------------------------------------------------------------------


MISSED = (
    "your solution uses: outside functions and classes only values of literals, operators and calls like math.sqrt or "
    "torch.tensor are taken; set it inside a function"
)


def notes(text, tree, reference, stubs, found):
    """Sentences on whatever of a student's text is left out or stands for something else here. found: its Additions."""
    lines = text.split("\n")

    def at(*nodes):
        places = list(dict.fromkeys(str(spot(lines, node.lineno)) for node in nodes))
        return f"line{'s' if len(places) > 1 else ''} {', '.join(places[:4])}{' and more' if len(places) > 4 else ''}"

    def imports(some):
        return f"import of {', '.join(dict.fromkeys(what for what, *_ in some))} in {at(*(n for *_, n in some))}"

    if found.refused:
        yield f"left out: {imports(found.refused)}, which a solution may not use"
    if found.missing:
        yield f"left out: {imports(found.missing)}, which is not installed here; torch can do without it"
    for cell in tree.left_out:
        yield f"left out: code cell {cell.number}, which is not Python: {cell.why}"
    missed, quiet = {}, []
    for node in (n for n in found.left if ast.dump(n) not in statements_of(reference)):
        if names := [n for n in sets(node) & found.used if found.means.get(n) in (None, VALUE)]:
            missed[node] = sorted(names)
        else:
            quiet.append(node)
    for nodes, why in ((found.blocked, "stands inside an `if` or `try`"), (missed, MISSED)):
        if nodes:
            names = dict.fromkeys(name for some in nodes.values() for name in some)
            yield f"left out: {', '.join(names)} in {at(*nodes)}, which {why}"
    if quiet:
        many = f"{len(quiet)} statement{'s' if quiet[1:] else ''}"
        yield f"not run: {many} outside functions and classes, in {at(*quiet)}"
    yield from replaced(tree, reference, stubs, at)
    pairs = [n for n in ast.walk(tree) if isinstance(n, ast.Assert) and isinstance(n.test, ast.Tuple) and n.test.elts]
    if pairs:
        yield f"always true: `assert` of a pair in brackets, in {at(*pairs)}"


def replaced(tree, reference, stubs, at):
    """Sentences on what the reference has otherwise: heads of classes, kinds of functions, other bodies."""
    ours, heads, bodies = functions(simply(reference)), {}, {}
    for name, (_, node) in functions(tree).items():
        if name not in ours:
            continue
        other = ours[name][1]
        if isinstance(node, ast.ClassDef) and isinstance(other, ast.ClassDef):
            heads |= {name: node} if head(node) != head(other) else {}
        elif name in stubs:
            if kind(name, node) != kind(name, other):
                yield f"{name} in {at(node)} is {kind(name, node)}, where the exercise has {kind(name, other)}"
        elif not is_empty(node) and ast.dump(node) != ast.dump(other):
            bodies[name] = node
    if heads:
        yield f"bases and decorators of {', '.join(heads)}, in {at(*heads.values())}, are those of the exercise here"
    if bodies:
        yield f"not used: your {', '.join(bodies)} in {at(*bodies.values())}, for which this exercise does not ask"


@cache
def simply(reference):
    return simplified(copy.deepcopy(reference))


@cache
def statements_of(reference):
    return {ast.dump(node) for node in reference.body}


def head(node):
    return [ast.dump(part) for part in (*node.decorator_list, *node.bases, *node.keywords)]


def kind(name, node):
    if isinstance(node, ast.AsyncFunctionDef):
        return "an async function"
    names = {getattr(d, "id", None) for d in getattr(node, "decorator_list", ())}
    plain = "a method" if "." in name else "a function"
    return next((f"a {kind}" for kind in ("property", "staticmethod", "classmethod") if kind in names), plain)

"""Which submissions are nearly the same: the same bodies, whatever their local names, comments and types are.

Only what a student wrote is compared, not what the given file brings. Short bodies can hardly be written in two ways,
so this is a reason to look, never a proof.
"""

import ast
import copy
import hashlib
from dataclasses import dataclass

from minipeft.classroom.engine import reading, taken

SHARE, LEAST = 0.8, 80  # of what two students wrote, in nodes of the syntax tree, so much must be alike


@dataclass
class Alike:
    """Students whose solutions of an exercise are nearly the same. whole: byte for byte. ours: as minipeft's own."""

    exercise: str
    students: list[str]
    whole: bool
    ours: bool
    right: bool


def bodies(text, exercise, seed=None):
    """{function: [hash, number of nodes]} of what a text adds to the empty file; {} if it cannot be told."""
    try:
        tree = reading.parsed(text)
        found = reading.functions(tree)
        wanted = {name: found[name][1] for name in reading.written(tree, exercise.stubs)}
        added = taken.Additions(tree, exercise.tree(seed)).extra
        wanted |= {f"{owner or ''}+{node.name}": node for owner, node in added if isinstance(node, ast.FunctionDef)}
        functions = {name: node for name, node in wanted.items() if isinstance(node, ast.FunctionDef)}
        return {name: fingerprint(node) for name, node in functions.items()}
    except (reading.Unreadable, RecursionError, MemoryError, ValueError):
        return {}


def fingerprint(function):
    """[hash, number of nodes] of a function without its docstring, its types and the names of what is local to it."""
    body = copy.deepcopy(reading.statements(function))
    local = [a.arg for a in ast.walk(function.args) if isinstance(a, ast.arg)]
    inside = [node for statement in body for node in ast.walk(statement)]
    local += [n.id for n in inside if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]
    local += [n.arg for n in inside if isinstance(n, ast.arg)]
    numbers = {name: f"local {i}" for i, name in enumerate(dict.fromkeys(local))}
    for node in inside:
        if isinstance(node, ast.Name):
            node.id = numbers.get(node.id, node.id)
        if isinstance(node, ast.arg):
            node.arg, node.annotation = numbers[node.arg], None
    told = "\n".join(ast.dump(statement) for statement in body)
    return [hashlib.sha256(told.encode(errors="surrogatepass")).hexdigest()[:16], len(inside)]


def nearly(one, other):
    """Is most of the larger of two {function: [hash, size]} in the other?"""
    most = max(sum(size for _, size in mine.values()) for mine in (one, other))
    same = sum(size for name, (mark, size) in one.items() if other.get(name, [None])[0] == mark)
    return most >= LEAST and same >= SHARE * most


def alike(results, reference):
    """[Alike] among the Results. reference(exercise): the bodies of minipeft's own file."""
    found = []
    for exercise in dict.fromkeys(r.exercise for r in results):
        mine = [r for r in results if r.exercise == exercise and r.bodies]
        ours = reference(exercise)
        for several in together(mine):
            if len(several) > 1:
                found.append(
                    Alike(
                        exercise,
                        [r.student for r in several],
                        len({r.key for r in several}) == 1,
                        any(nearly(r.bodies, ours) for r in several),
                        all(all(r.groups.values()) for r in several),
                    )
                )
    return sorted(found, key=lambda group: (group.right, group.ours))  # what is wrong alike tells most


def together(results):
    """The results in groups: each is nearly the same as another one of its group."""
    groups = []
    for result in results:
        near = [group for group in groups if any(nearly(result.bodies, other.bodies) for other in group)]
        groups = [group for group in groups if group not in near] + [[r for group in near for r in group] + [result]]
    return groups

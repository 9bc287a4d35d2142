"""Find out by trial cuts on meta tensors which groups can be cut in the model's own class.

The axes say which units may be removed, but a forward with `x.view(-1, 400)` cannot run with another size. A trial cut
that fails at an operator is answered by the first of these that lets it run further:

1. Two operators claim one attribute with different sizes: the attribute holds the other one's size.
2. The two sizes are stated by one number: the groups are tied, they keep equal counts.
3. An attribute that equals a width by chance is left alone.
4. The forward of the module is rewritten.
5. An attribute that must equal a product of several groups: its group becomes a grid of theirs.
6. The groups at the operator are frozen, with the operator as the reason.

What was found for one block holds for every block that is built alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from torch import nn

from sartor.borrow import uncollected
from sartor.structure.axes import Axis, find, leaves, refined, unrefined
from sartor.structure.calls import Op
from sartor.structure.graph import Graph
from sartor.structure.masks import Masks
from sartor.structure.solver import read_again
from sartor.structure.stated_sizes import Stated
from sartor.structure.subgraph import joined, without_groups
from sartor.surgery.attributes import Claim, Claims, Place, alike_sizes, leaves_to_refine, pairs_to_tie
from sartor.surgery.blocks import Blocks, lineage
from sartor.surgery.program import Program
from sartor.surgery.rewrite import Rewriting
from sartor.surgery.shape_check import Mismatch, ShapeCheck
from sartor.surgery.tape import CannotRewrite, Tape, keep_tape
from sartor.surgery.trials import TRIALS, Trials
from sartor.types import Reason, Rewrite
from sartor.wrappers import unwrapped

_END = (TRIALS, 0)
_MOST = 8  # suspects that are frozen on trial


@dataclass(frozen=True)
class _State:
    """What the search has decided so far."""

    ties: tuple[frozenset[str], ...] = ()
    holders: Mapping[Place, int | None] = field(default_factory=dict)
    rewritten: tuple[str, ...] = ()
    gone: Mapping[str, str] = field(default_factory=dict)  # group -> reason

    def tied(self, more: Iterable[frozenset[str]]) -> _State:
        return replace(self, ties=(*self.ties, *(t for t in more if len(t) > 1)))

    def held(self, more: Mapping[Place, int | None]) -> _State:
        return replace(self, holders={**self.holders, **more})

    def without(self, more: Mapping[str, str]) -> _State:
        return replace(self, gone={**self.gone, **more})

    def renamed(self, names: Mapping[str, str]) -> _State:
        """The same for groups of other names: old -> new."""
        ties = (frozenset(names.get(n, n) for n in t) for t in self.ties)
        return replace(self, ties=tuple(ties), gone={names.get(n, n): why for n, why in self.gone.items()})

    def is_tied(self, names: Iterable[str]) -> bool:
        """Whether the groups must keep equal counts already; of one group, whether with any other."""
        wanted = set(names)
        return any(wanted <= set(t) for t in joined([tuple(t) for t in self.ties]))


@dataclass(frozen=True)
class _Problem:
    """The first operator that does not run, and how far the trials came."""

    reach: tuple[int, int]  # (trial, operator)
    what: Mismatch

    def solved_by(self, after: _Problem | None) -> bool:
        """Whether the trials came further after a change."""
        return after is None or after.reach > self.reach


@uncollected()
def probe(model: nn.Module, graph: Graph, rewrite: Rewrite = "free") -> Graph:
    """The graph without the groups that cannot be cut in this class; these are frozen, with the reason.

    Args:
        model: the traced model.
        graph: of it.
        rewrite: which forwards may be rewritten: "free" those that stay as general as they were, "allow" all, "never"
            none. `Graph.rewritten` of the result names them, with what each no longer takes.
    """
    return _Search(unwrapped(model).module, graph, rewrite).result()


class _Search:
    def __init__(self, model: nn.Module, graph: Graph, rewrite: Rewrite):
        self.model, self.graph = model, graph
        self.ops = graph.every_op
        self.claims = Claims.of(model, graph)
        self.trials = Trials(graph, self.claims)
        self.writer = _Rewriter(model, graph, rewrite)
        self.shapes = ShapeCheck(model)

    @cached_property
    def blocks(self) -> Blocks:
        """Which modules are built alike."""
        return Blocks(self.model, self.graph)

    def result(self) -> Graph:
        state = _State(ties=tuple(frozenset(t) for t in self.graph.ties))
        problem = self.attempt(state)
        while problem is not None:
            state, problem = self.step(state, problem)
        probed = without_groups(self.graph, dict(state.gone), [set(t) for t in state.ties])
        fixed = {path: self.writer.fixed[path] for path in self.writer.outer(state)}
        probed = replace(probed, holders=dict(state.holders), rewritten=fixed)
        keep_tape(self.writer.graph, probed)
        return probed

    def step(self, state: _State, problem: _Problem) -> tuple[_State, _Problem | None]:
        """The state after the first change that lets the trials come further."""
        for change in self.changes(state, problem):
            after = self.attempt(change)
            if problem.solved_by(after):
                return change, after
        for path in lineage(self.ops[problem.what.op].path):  # an operator outside of modules belongs to the next one
            if not self.writer.may(path, state):
                continue
            changed = replace(state, rewritten=(*state.rewritten, path, *self.blocks.alike(path)))
            try:
                after = self.attempt(changed)
            except CannotRewrite as e:
                self.writer.refused[path] = str(e)
                continue
            if problem.solved_by(after):
                return changed, after
            self.writer.refused[path] = "the rewritten forward does not run either"
        for change in self.grids(state, problem):
            after = self.attempt(change)
            if problem.solved_by(after):
                return change, after
        return self.frozen(state, problem)

    def attempt(self, state: _State) -> _Problem | None:
        """The first problem of the trial cuts; None: all run.

        Where no operator states a size that a cut changes, no two of them can be equal by chance: one trial is enough.
        """
        for i in range(TRIALS if self.claims.stated or state.rewritten else 1):
            masks = self.trials.masks(i, state.ties, state.gone)
            attributes = self.claims.values(self.model, masks, state.holders)
            programs = self.writer.programs(masks, state)
            problem = self.shapes.problem(self.graph, masks, attributes, programs)
            if problem is not None:
                return _Problem((i, problem.op), problem)
        return None

    def changes(self, state: _State, problem: _Problem) -> Iterator[_State]:
        """Changes of attributes and ties that may let the failing operator run, the most likely first."""
        failing = problem.what.op
        if failing < len(self.ops):
            op = self.ops[failing]
            for which, (place, size) in enumerate(self.claims.at(op)):
                claim = self.claims.holding(place, state.holders)
                if claim is not None and not alike_sizes(claim.size, size):
                    yield from self.decisions(state, failing, which, place, claim)
            for place in self.changed(state, problem):
                yield from self.other_claims(state, place)
                yield state.held({p: None for p in self.places_alike(place)})
            for place in self.places_around(op):
                ties = self.ties_of(place, state)
                if ties and not all(map(state.is_tied, ties)):
                    alike = [t for p in self.places_alike(place) for t in self.ties_of(p, state)]
                    yield state.tied(alike)
                yield from self.refinements(state, [c for p in self.places_alike(place) for c in self.pairs(p, state)])
        suspects = self.suspects(state, failing)
        equal = [n for n in suspects if self.graph.groups[n].units == self.graph.groups[suspects[0]].units]
        module = self.ops[min(failing, len(self.ops) - 1)].path
        near = [n for op in self.ops[:failing] if op.path == module for n in _groups_at(op, self.trials.names)]
        sized = [n for n in near if equal and self.graph.groups[n].units == self.graph.groups[equal[0]].units]
        for tie in (equal, *([equal[0], n] for n in dict.fromkeys(sized))):  # as in `reshape(x.shape[1], -1)`
            if len(set(tie)) > 1 and not state.is_tied(tie) and not state.gone.keys() & set(tie):
                yield state.tied([frozenset(tie)])

    def decisions(self, state: _State, failing: int, which: int, place: Place, claim: Claim) -> Iterator[_State]:
        """An operator and the present holder claim one attribute with different sizes."""
        held: dict[Place, int | None] = {}
        conflicts: list[tuple[Stated, Stated]] = []
        for other in self.places_alike(place):
            at = failing if other == place else self.blocks.counterpart(failing, place[0], other[0])
            theirs = list(self.claims.at(self.ops[at])) if at is not None else []
            if at is None or which >= len(theirs) or theirs[which][0] != other:
                continue
            size, holding = theirs[which][1], self.claims.holding(other, state.holders)
            held[other] = None if size.fixed else self.claims.number(other, size)
            if holding is not None:
                conflicts.append((holding.size, size))
        if place not in state.holders:
            yield state.held(held)
        ties = [t for pair in conflicts for t in self.tie(*pair)]
        if ties:
            yield state.tied(ties)
        yield from self.refinements(state, conflicts)

    def other_claims(self, state: _State, place: Place) -> Iterator[_State]:
        """The attribute holds a size that another operator claims, or the same operator at another place."""
        holding, alike = self.claims.holding(place, state.holders), self.places_alike(place)
        for i, claim in enumerate(self.claims.by_value[place]):
            if claim is holding or claim.size.fixed:
                continue
            held: dict[Place, int | None] = {place: i}
            for other in alike[1:]:
                theirs = self.claims.by_value[other]
                at = self.blocks.counterpart(claim.op, place[0], other[0])
                if i < len(theirs) and theirs[i].op == at and not theirs[i].size.fixed:
                    held[other] = i
            yield state.held(held)

    def grids(self, state: _State, problem: _Problem) -> Iterator[_State]:
        """Leaves become grids of the leaves whose product they must equal: where no rewriting leaves them free."""
        if problem.what.op < len(self.ops):
            places = [q for p in self.places_around(self.ops[problem.what.op]) for q in self.places_alike(p)]
            yield from self.refinements(state, [c for p in places for c in self.pairs(p, state)], grids=True)

    def refinements(
        self, state: _State, conflicts: Sequence[tuple[Stated, Stated]], *, grids: bool = False
    ) -> Iterator[_State]:
        """Leaves get the structure of the size that they must equal, and their parts are tied."""
        by_pair = [(pair, leaves_to_refine(*pair, grids=grids)) for pair in conflicts]
        to_refine = dict(found for _, of_pair in by_pair for found in of_pair)
        names = {leaf: self.trials.names.get(leaf) for leaf in to_refine}
        if not to_refine or any(n is None or n in state.gone or state.is_tied([n]) for n in names.values()):
            return
        before = dict(self.trials.names)
        for leaf, like in to_refine.items():
            refined(leaf, like, Reason("one number"))
        self.read_again()
        renamed = {old: self.trials.names[leaf] for leaf, old in before.items() if leaf in self.trials.names}
        yield state.renamed(renamed).tied(t for pair, of_pair in by_pair if of_pair for t in self.tie(*pair))
        for leaf in to_refine:  # it did not help
            unrefined(leaf)
        self.read_again()

    def read_again(self) -> None:
        """The groups anew, after leaves were refined. The one factor of a leaf that can be cut takes its name."""
        self.graph = read_again(self.graph)
        self.trials = Trials(self.graph, self.claims)

    def tie(self, a: Stated, b: Stated) -> list[frozenset[str]]:
        """The ties that make two sizes equal; none if no tie does."""
        pairs = pairs_to_tie(a, b)
        if pairs is None or any(leaf not in self.trials.names for pair in pairs for leaf in pair):
            return []
        return [frozenset(self.trials.names[leaf] for leaf in pair) for pair in pairs]

    def pairs(self, place: Place, state: _State) -> list[tuple[Stated, Stated]]:
        """The size that an attribute holds, with every other one that it is claimed for."""
        holding = self.claims.holding(place, state.holders)
        claims = () if holding is None else self.claims.by_value.get(place, ())
        return [(holding.size, c.size) for c in claims if holding is not None]

    def ties_of(self, place: Place, state: _State) -> list[frozenset[str]]:
        """The ties that make all claims on an attribute equal."""
        return [t for pair in self.pairs(place, state) for t in self.tie(*pair)]

    def places_alike(self, place: Place) -> list[Place]:
        """The place, and the same attribute of every module that is built alike."""
        path, *rest = place
        others = [(p, *rest) for p in self.blocks.alike(path)]
        return [place, *(p for p in others if p in self.claims.by_value)]

    def places_around(self, op: Op) -> list[Place]:
        """Claimed places in the module that calls an operator and in the modules around it."""
        around = lineage(op.path)
        return [p for path in around for p in self.claims.by_value if p[0] == path]

    def changed(self, state: _State, problem: _Problem) -> list[Place]:
        """Attributes around the failing operator that the trial changed by value; first those whose number it got."""
        masks = self.trials.masks(problem.reach[0], state.ties, state.gone)
        found: list[tuple[bool, Place]] = []
        for place in self.places_around(self.ops[problem.what.op]):
            claim = None if place in state.holders else self.claims.holding(place, state.holders)
            if claim is not None and claim.size.new(masks) != place[2]:
                found.append((claim.size.new(masks) not in problem.what.sizes, place))
        return [place for _, place in sorted(found, key=lambda x: x[0])]

    def suspects(self, state: _State, failing: int) -> list[str]:
        """Groups carried by the operator that fails, or by the nearest operator that carries any."""
        ops = self.ops
        for i in [*range(min(failing, len(ops) - 1), -1, -1), *range(failing + 1, len(ops))]:
            found = [n for n in _groups_at(ops[i], self.trials.names) if n not in state.gone]
            if found:
                return found
        return []

    def frozen(self, state: _State, problem: _Problem) -> tuple[_State, _Problem | None]:
        """The state without the one group at the failing operator that lets it run, or without all of them."""
        failing = problem.what.op
        suspects = self.suspects(state, failing) or [n for n in self.graph.leaves if n not in state.gone]
        if not suspects:
            return state, None
        reason = self.writer.reason(problem.what)
        best: tuple[tuple[int, int], _State, _Problem | None] | None = None
        for name in suspects[:_MOST]:
            changed = state.without({name: reason})
            after = self.attempt(changed)
            reach = _END if after is None else after.reach
            if best is None or reach > best[0]:
                best = (reach, changed, after)
        assert best is not None
        if best[0] > problem.reach:
            return best[1], best[2]
        for changed, after in self.frozen_but_one_kind(state, suspects, reason):
            if problem.solved_by(after):
                return changed, after
        changed = state.without(dict.fromkeys(suspects, reason))  # leaving out any single one does not help
        return changed, self.attempt(changed)

    def frozen_but_one_kind(
        self, state: _State, suspects: Sequence[str], reason: str
    ) -> Iterator[tuple[_State, _Problem | None]]:
        """The state without the suspects of all kinds but one (heads, for example), and changes that this allows."""
        for kind in dict.fromkeys(self.graph.groups[n].kind for n in suspects):
            others = [n for n in suspects if self.graph.groups[n].kind != kind]
            if not others:
                return
            changed = state.without(dict.fromkeys(others, reason))
            after = self.attempt(changed)
            yield changed, after
            if after is not None:
                yield from ((more, self.attempt(more)) for more in self.changes(changed, after))


class _Rewriter:
    """Modules whose forward is rewritten, and modules where that is not possible."""

    def __init__(self, model: nn.Module, graph: Graph, rewrite: Rewrite):
        self.model, self.graph, self.rewrite = model, graph, rewrite
        self.refused: dict[str, str] = {}
        self.fixed: dict[str, tuple[str, ...]] = {}  # module path -> what its rewritten forward does not take
        self._tape: Tape | None = None

    def may(self, path: str, state: _State) -> bool:
        """Whether rewriting this module was not tried yet."""
        if self.rewrite == "never":
            self.refused[path] = "forwards are not rewritten here (rewrite='never')"
        return path not in state.rewritten and path not in self.refused

    def reason(self, problem: Mismatch) -> str:
        """Why groups that meet at this operator cannot be cut."""
        why = self.refused.get(self.graph.every_op[problem.op].path)
        text = f"the forward states its size where no attribute holds it: {problem.message}"
        return f"{text}; and {why}" if why else text

    def programs(self, masks: Masks, state: _State) -> dict[str, Program]:
        """The rewritten forwards under these masks; of nested modules only the outer one."""
        outer = self.outer(state)
        if not outer:
            return {}
        if self._tape is None:
            self._tape = Tape.of(self.model, self.graph)
        rewriting = Rewriting(self._tape, masks)
        programs = {p: rewriting.program(p) for p in outer}
        self.fixed.update((p, program.fixed) for p, program in programs.items())
        limited = next((p for p, program in programs.items() if program.fixed), None)
        if self.rewrite == "free" and limited is not None:
            raise CannotRewrite(
                f"the forward of module {limited!r} rewritten {'; '.join(self.fixed[limited])} (rewrite='allow' cuts "
                "nevertheless)"
            )
        return programs

    def outer(self, state: _State) -> list[str]:
        """The rewritten modules that lie in no other one."""
        paths = dict.fromkeys(state.rewritten)
        return [p for p in paths if not any(q != p and (not q or p.startswith(f"{q}.")) for q in paths)]


def _groups_at(op: Op, names: dict[Axis, str]) -> list[str]:
    ins = [leaf for v in op.inputs for a in v.axes for leaf in map(find, leaves(a)) if leaf in names]
    outs = [leaf for v in op.outputs for a in v.axes for leaf in map(find, leaves(a)) if leaf in names]
    new = [leaf for leaf in outs if leaf not in set(ins)]
    return [names[leaf] for leaf in dict.fromkeys(new or outs + ins)]

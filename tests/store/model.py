"""A model of how run directories are claimed, small enough to try every order of the steps of
several workers. A step is what others see at once: one look, one rename. A worker that crashes is
one that takes no more steps.

:class:`Numbered` is the protocol of :mod:`forcelaw.store.claim`, with switches that leave parts of
it out; :class:`Renamed` the one before it, which had two winners now and then.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

DEAD = -1  # the holder at the beginning, which is gone and stale


@dataclass(frozen=True)
class Worker:
    at: str = "look"
    number: int = 0  # of the claim that it saw, then of its own
    left: int = 2  # writes to do


@dataclass(frozen=True)
class World:
    """claims: number -> (holder, released, whether its work folder is there). claim: holder of the
    older protocol's one claim. winners: of each number. begun: the highest number whose holder has
    begun. wrong: what must not happen, once it has."""

    workers: tuple[Worker, ...]
    claims: tuple[tuple[int, bool, bool], ...] = ((DEAD, False, True),)
    claim: int | None = DEAD
    winners: tuple[tuple[int, int], ...] = ()
    begun: int = 1
    wrong: str = ""

    def with_worker(self, k: int, worker: Worker) -> World:
        return replace(self, workers=(*self.workers[:k], worker, *self.workers[k + 1 :]))

    def won(self, k: int, number: int) -> World:
        twice = any(n == number for n, _ in self.winners)
        wrong = f"claim {number} has two winners" if twice else self.wrong
        return replace(self, winners=tuple(sorted({*self.winners, (number, k)})), wrong=wrong)

    def set_claim(self, number: int, value: tuple[int, bool, bool]) -> World:
        return replace(self, claims=(*self.claims[: number - 1], value, *self.claims[number:]))


@dataclass
class Numbered:
    """impatient: any claim may look stale at any time, as to hosts whose leases are over. Without
    fence, or exclusive, that part is left out: the removal of work folders, the rename that fails
    where the number is taken."""

    impatient: bool = True
    fence: bool = True
    exclusive: bool = True

    def next(self, world: World, k: int) -> Iterator[World]:
        """The worlds after the next step of worker ``k``."""
        yield from getattr(self, world.workers[k].at)(world, k, world.workers[k])

    def go(self, world: World, k: int, at: str, **changes: Any) -> World:
        return world.with_worker(k, replace(world.workers[k], at=at, **changes))

    def look(self, world: World, k: int, me: Worker) -> Iterator[World]:
        yield self.go(world, k, "judge", number=len(world.claims))

    def judge(self, world: World, k: int, me: Worker) -> Iterator[World]:
        gone = me.number == 0 or me.number > len(world.claims)
        holder, released, _ = (DEAD, True, False) if gone else world.claims[me.number - 1]
        free = released or holder == DEAD
        if free or self.impatient:
            yield self.go(world, k, "move", number=me.number + 1)
        if not free:
            yield self.go(world, k, "end")

    def move(self, world: World, k: int, me: Worker) -> Iterator[World]:
        taken = me.number <= len(world.claims)
        if taken and self.exclusive:
            yield self.go(world, k, "end")
            return
        if taken:
            world = world.set_claim(me.number, (k, False, True))
        else:
            world = replace(world, claims=(*world.claims, (k, False, True)))
        yield self.go(world.won(k, me.number), k, "clear")

    def clear(self, world: World, k: int, me: Worker) -> Iterator[World]:
        """Take away one work folder of a lower claim; begin when there is none."""
        if self.fence:
            for number, (holder, released, work) in enumerate(world.claims[: me.number - 1], 1):
                if work:
                    yield world.set_claim(number, (holder, released, False))
                    return
        yield self.go(replace(world, begun=max(world.begun, me.number)), k, "check")

    def check(self, world: World, k: int, me: Worker) -> Iterator[World]:
        lost = self._lost(world, k, me)
        yield self.go(world, k, "end" if lost else "write" if me.left else "let_go")

    def write(self, world: World, k: int, me: Worker) -> Iterator[World]:
        """The rename out of the work folder: fails where that is gone."""
        mine = me.number <= len(world.claims) and world.claims[me.number - 1]
        if not mine or mine[0] != k or not mine[2]:
            yield self.go(world, k, "end")
            return
        wrong = f"{me.number} writes after {world.begun}" if world.begun > me.number else ""
        world = replace(world, wrong=world.wrong or wrong)
        yield self.go(world, k, "check", left=me.left - 1)

    def let_go(self, world: World, k: int, me: Worker) -> Iterator[World]:
        yield self.go(world.set_claim(me.number, (k, True, False)), k, "end")

    def end(self, world: World, k: int, me: Worker) -> Iterator[World]:
        return iter(())

    def _lost(self, world: World, k: int, me: Worker) -> bool:
        if len(world.claims) != me.number:
            return True
        holder, _, work = world.claims[me.number - 1]
        return holder != k or not work


class Renamed(Numbered):
    """One claim: a stale one is renamed away, and made anew with mkdir."""

    def look(self, world: World, k: int, me: Worker) -> Iterator[World]:
        if world.claim is None:
            yield self.go(replace(world, claim=k).won(k, 1), k, "check")
        else:
            yield self.go(world, k, "judge")

    def judge(self, world: World, k: int, me: Worker) -> Iterator[World]:
        stale = world.claim in (None, DEAD)
        if stale or self.impatient:
            yield self.go(world, k, "move")
        if not stale:
            yield self.go(world, k, "end")

    def move(self, world: World, k: int, me: Worker) -> Iterator[World]:
        """Rename whatever claim is there now."""
        at = "end" if world.claim is None else "make"
        yield self.go(replace(world, claim=None), k, at)

    def make(self, world: World, k: int, me: Worker) -> Iterator[World]:
        if world.claim is None:
            yield self.go(replace(world, claim=k).won(k, 1), k, "check")
        else:
            yield self.go(world, k, "end")

    def check(self, world: World, k: int, me: Worker) -> Iterator[World]:
        yield self.go(world, k, "end")


def explore(protocol: Numbered, workers: int = 3, dead: bool = True) -> tuple[int, str]:
    """Try every order: the number of different worlds, and the first thing that went wrong."""
    start = World((Worker(),) * workers)
    if not dead:
        start = replace(start, claims=(), claim=None, begun=0)
    seen, waiting = {start}, [start]
    while waiting:
        world = waiting.pop()
        if all(worker.at == "end" for worker in world.workers) and not world.winners:
            return len(seen), "nobody won"
        for k in range(workers):
            for after in protocol.next(world, k):
                if after.wrong:
                    return len(seen), after.wrong
                if after not in seen:
                    seen.add(after)
                    waiting.append(after)
    return len(seen), ""

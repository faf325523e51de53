"""Several ranks as threads of one process: quick, and each can be killed at any place."""

import os
import threading

from qkov import agreement, distributed, links
from validation.store import system


class Mortal:
    """A link of a rank that may be dead, and then says nothing more, nor hears anything.

    Args:
        link: The link of a living rank.
    """

    def __init__(self, link):
        self._link, self.dead = link, False
        self.rank, self.size = link.rank, link.size

    def gather(self, data):
        """As the link."""
        self._live()
        return self._link.gather(data)

    def broadcast(self, array, source):
        """As the link."""
        self._live()
        self._link.broadcast(array, source)

    def close(self):
        """As the link."""
        self._link.close()

    def die(self):
        """Tell nobody; the others find the link closed."""
        self.dead = True
        self._link.close()
        raise system.Killed

    def _live(self):
        if self.dead:
            raise system.Killed


def run(size, work, *, timeout=60):
    """Call ``work(ranks, link)`` on every rank; return what each returned, or the error that ended it."""
    results = [None] * size

    def one(link):
        try:
            results[link.rank] = work(distributed.Ranks(agreement.Agreement(link)), link)
        except BaseException as error:  # noqa: BLE001 - it is the result
            results[link.rank] = error
            link.close()

    made = [Mortal(link) for link in links.Threads.make(size, timeout)]
    threads = [threading.Thread(target=one, args=(link,), name=name_of(link.rank)) for link in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout)
        if thread.is_alive():
            raise TimeoutError(f"{thread.name} hangs")
    return results


def succeeded(results):
    """Return results; raise the first error among them."""
    for one in results:
        if isinstance(one, BaseException):
            raise one
    return results


def name_of(rank):
    """Name of a rank's thread."""
    return f"rank {rank}"


def by_rank(acts):
    """Return ``act(name, call, arguments)`` for ``system.installed``, that of the rank whose thread asks.

    Args:
        acts: ``{rank: act}``; for others things are as usual.
    """
    named = {name_of(rank): act for rank, act in acts.items()}

    def act(name, call, arguments):
        found = named.get(threading.current_thread().name)
        return call(*arguments) if found is None else found(name, call, arguments)

    return act


def dying(link, at):
    """Have a rank die at its ``at``-th change of a file (from 0), half-way if it is a write; see ``system.stopping``."""
    done = 0

    def act(name, call, arguments):
        nonlocal done
        done += 1
        if done <= at or name == "close":
            return call(*arguments)
        if done == at + 1 and name == "write":
            os.write(arguments[0], arguments[1][: len(arguments[1]) // 2])
        link.die()

    return act

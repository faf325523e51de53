"""Several ranks as threads of one process: quick, and each step can be made to fail."""

import threading

from qkov import agreement, links
from qkov.distributed import Ranks


class Killed(BaseException):
    """Ends a rank as SIGKILL does: nothing it holds is told to others, and its links are gone."""


def run(size, work, timeout=60):
    """Call ``work(ranks)`` on every rank; return what each returned, or the error that ended it."""
    results = [None] * size

    def one(link):
        try:
            results[link.rank] = work(Ranks(agreement.Agreement(link)))
        except BaseException as error:  # noqa: BLE001 - it is the result
            results[link.rank] = error
            link.close()

    threads = [threading.Thread(target=one, args=(link,)) for link in links.Threads.make(size, timeout)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout)
        assert not thread.is_alive(), "a rank hangs"
    return results


def succeeded(results):
    """Return results; raise the first error among them."""
    for one in results:
        if isinstance(one, BaseException):
            raise one
    return results

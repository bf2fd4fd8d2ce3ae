"""Who gets the tasks of a Ray: the supervisors' book-keeping, with a cluster of objects instead of a Ray."""

import pickle
import types

from scripts.data.processes import Task
from scripts.data.ray_engine import _Crew


class Lost(Exception):
    """Of a supervisor whose machine is gone."""


class Call:
    """A method of a supervisor: calling it gives what `Cluster` answers."""

    def __init__(self, member, kind):
        self.member, self.kind = member, kind

    def options(self, **options):
        return self

    def remote(self, *args):
        return self.member, self.kind, *args


class Member:
    def __init__(self, name):
        self.name, self.do, self.ready = name, Call(self, "do"), Call(self, "ready")
        self.is_lost = False


class Cluster:
    """A supervisor whose machine is lost never comes back: the others have the CPUs."""

    exceptions = types.SimpleNamespace(RayError=Lost, RayTaskError=KeyError)

    def __init__(self, first, second):
        self.first, self.second = first, second

    def wait(self, answers, *, num_returns, timeout):
        """The first one's answers before the second one's, which dies at its task."""
        answered = [a for a in answers if not a[0].is_lost]
        assert answered, "all wait for a supervisor that finds no CPU"
        return sorted(answered, key=lambda a: a[0].name)[:1], []

    def get(self, answer):
        member, kind, *work = answer
        if member is self.second and kind == "do":
            member.is_lost = True
            raise Lost
        return ("result", {"did": pickle.loads(work[0]), "by": member.name}) if work else None


def test_an_idle_supervisor_takes_the_task_of_a_lost_one():
    first, second = Member("1"), Member("2")
    crew = _Crew(Cluster(first, second), [Task("a", "a")])
    crew.idle = [first]
    task, attempt = crew.waiting.popleft()
    crew.running[second.do.remote(pickle.dumps(task.work))] = second, (task, attempt)
    found = []
    while not crew.is_done():
        finished = crew.next()
        found += [] if finished is None else [finished]
    assert [(task.key, message) for task, message in found] == [("a", ("result", {"did": "a", "by": "1"}))]


def test_who_finds_nothing_waiting_is_idle():
    first, second = Member("1"), Member("2")
    crew = _Crew(Cluster(first, second), [Task("a", "a")])
    for member in (first, second):
        crew._ask_whether_ready(member)
    assert crew.next() is None  # the first one has a task
    assert crew.next()[1] == ("result", {"did": "a", "by": "1"})
    assert crew.is_done() and crew.idle == [first]

import threading

from tickflight_server.store.arrivals import Arrivals


def test_a_reader_wakes_when_a_row_after_its_own_is_there() -> None:
    arrivals = Arrivals()
    threading.Thread(target=arrivals.tell, args=(1, 5, 1_000)).start()
    assert arrivals.wait(4, 60.0)
    assert not arrivals.wait(5, 0.0)


def test_a_reader_that_is_to_stop_waits_no_longer() -> None:
    arrivals = Arrivals()
    stopped = threading.Event()

    def stop() -> None:
        stopped.set()
        arrivals.wake()

    threading.Thread(target=stop).start()
    assert not arrivals.wait(0, 60.0, stopped.is_set)


def test_a_row_is_durable_since_the_commit_that_had_it() -> None:
    arrivals = Arrivals()
    arrivals.tell(11, 20, 1_000)
    arrivals.tell(21, 30, 2_000)
    assert [arrivals.durable_us(seq) for seq in (10, 11, 20, 21, 30, 31)] == [0, 1_000, 1_000, 2_000, 2_000, 0]


def test_of_old_commits_no_time_is_made_up() -> None:
    arrivals = Arrivals()
    for seq in range(1, 10_001):
        arrivals.tell(seq, seq, seq)
    assert arrivals.durable_us(1) == 0
    assert arrivals.durable_us(10_000) == 10_000

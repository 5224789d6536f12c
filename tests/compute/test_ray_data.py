import os

from llmemb.compute.ray_data import quiet_actor_pools

ALARM = b"E core_worker.cc: Actor 'x' has constructor arguments in the object store and max_restarts > 0. If the\n"


def test_of_what_native_code_says_one_false_alarm_alone_is_kept_back(capfd):
    with quiet_actor_pools():
        os.write(2, b"before\n" + ALARM + b"E core_worker.cc: a real error\n" + b"cut off")
    os.write(2, b"\nafter\n")
    assert capfd.readouterr().err == "before\nE core_worker.cc: a real error\ncut off\nafter\n"

"""Where work is computed: the Ray it joins, the devices and nodes there, its tasks and its training workers."""

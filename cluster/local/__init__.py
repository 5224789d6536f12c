"""A Ray cluster of several nodes on this machine, for tests and for anybody without another one."""
